"""A hub on this machine: as much of huggingface.co's HTTP as its library asks for, over folders. It can be told to fail."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class Hub:
    """repositories: name → folder. asked: method and path of each request. ranges: file and first byte of each that was sent.
    private: names that need the token "secret". cut: of file names, after how many bytes the connection ends, once."""

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        self.asked: list[tuple[str, str]] = []
        self.ranges: list[tuple[str, int]] = []
        self.private: set[str] = set()
        self.cut: dict[str, int] = {}
        self.url = ""

    def files(self, name: str) -> list[Path]:
        return sorted(path for path in self.repositories[name].rglob("*") if path.is_file())

    def commit(self, name: str) -> str:
        text = "".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in self.files(name))
        return hashlib.sha1(text.encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append((self.command, path))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name = "/".join(parts[2:4])
            if self._allowed(name):
                self._describe(name, parts[4:])
        elif "resolve" in parts:
            name = "/".join(parts[:2])
            if self._allowed(name):
                self._file(name, "/".join(parts[4:]), body)
        else:
            self._send(404, b"{}")

    def _allowed(self, name: str) -> bool:
        secret = self.headers.get("Authorization") == "Bearer secret"
        if name not in self.hub.repositories or (name in self.hub.private and not secret):
            self._send(404, b'{"error":"Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            return False
        return True

    def _describe(self, name: str, rest: list[str]) -> None:
        if rest[:1] == ["revision"] and rest[1] not in ("main", "old", self.hub.commit(name)):
            self._send(404, b'{"error":"Revision not found"}', {"X-Error-Code": "RevisionNotFound"})
            return
        root = self.hub.repositories[name]
        names = [str(path.relative_to(root)) for path in self.hub.files(name)]
        if rest[:1] == ["tree"]:
            rows = [{"type": "file", "path": n, "size": (root / n).stat().st_size, "oid": self._etag(root / n)} for n in names]
            self._send(200, json.dumps(rows).encode())
            return
        answer = {"id": name, "modelId": name, "sha": self.hub.commit(name), "private": name in self.hub.private, "tags": [],
                  "siblings": [{"rfilename": n} for n in names]}  # fmt: skip
        self._send(200, json.dumps(answer).encode())

    def _etag(self, path: Path) -> str:
        return hashlib.sha1(path.read_bytes()).hexdigest()

    def _file(self, name: str, file: str, body: bool) -> None:
        path = self.hub.repositories[name] / file
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = path.read_bytes()
        start = int(self.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")[0] or 0)
        if body:
            self.hub.ranges.append((file, start))
        headers = {"ETag": f'"{self._etag(path)}"', "X-Repo-Commit": self.hub.commit(name), "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, data[start:], headers, self.hub.cut.pop(file, None) if body else None)

    def _send(self, code: int, data: bytes, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Type": "application/json", **(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:cut])
            if cut is not None:
                self.close_connection = True


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
