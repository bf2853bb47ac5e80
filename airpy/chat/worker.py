"""The process that renders chat templates: run by path, with Jinja2 and the standard library only.

A template comes from a model file and is hostile until shown otherwise. Jinja2's sandbox keeps it from Python's internals; what
no sandbox bounds (one multiplication can ask for a terabyte or run for a year) the operating system does: this process has
limits on memory and processor time, may write no file and start no process, and whoever started it kills it when time is up.

Requests and replies are JSON on standard input and output, each after its length in eight bytes, little endian:
{"template", "variables", "limits": {"cpu_seconds", "output_chars"}} → {"text" | "error", "last"}. Ends with its input, or after
the reply marked as its last.
"""

import json
import math
import resource
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

# {"path": folders Jinja2 lies in, "memory_bytes": …}; before anything else is imported, for python -I -S knows no packages.
SETTINGS = json.loads(sys.argv[1])
sys.path.extend(SETTINGS["path"])

import jinja2  # noqa: E402
import jinja2.ext  # noqa: E402
import jinja2.sandbox  # noqa: E402
from jinja2 import nodes  # noqa: E402
from jinja2.parser import Parser  # noqa: E402

Templates = dict[str, jinja2.Template]  # by source
MAX_TEMPLATES = 8  # compiled ones kept


class Refused(Exception):
    """What raise_exception() raises: the template's own words."""


class TooLong(Exception):
    """The text passed its limit."""


class Generation(jinja2.ext.Extension):
    """{% generation %} marks the assistant's words for training masks; here it only scopes them, as transformers' does."""

    tags = frozenset({"generation"})  # type: ignore[assignment]  # jinja2 only looks names up

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_spoken"), [], [], body).set_lineno(line)

    def _spoken(self, caller: Callable[[], str]) -> str:
        return caller()


def refuse(message: str) -> NoReturn:
    raise Refused(message)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # transformers' own tojson: Jinja2's escapes for HTML, which no prompt wants.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment() -> jinja2.Environment:
    """Set up as transformers.utils.chat_template_utils does it."""
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = to_json
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return env


def compiled(templates: Templates, source: str) -> jinja2.Template:
    template = templates.pop(source, None) or environment().from_string(source)
    templates[source] = template  # last in, last out
    if len(templates) > MAX_TEMPLATES:
        del templates[next(iter(templates))]
    return template


def render(templates: Templates, request: dict[str, Any]) -> str:
    limits = request["limits"]
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(used.ru_utime + used.ru_stime + limits["cpu_seconds"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
    parts: list[str] = []
    size = 0
    for part in compiled(templates, request["template"]).generate(request["variables"]):
        size += len(part)
        if size > limits["output_chars"]:
            raise TooLong
        parts.append(part)
    return "".join(parts)


def answer(templates: Templates, request: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The reply, and whether this process is fit for another request."""
    try:
        return {"text": render(templates, request)}, True
    except Refused as e:
        return {"error": str(e)}, True
    except jinja2.TemplateSyntaxError as e:
        return {"error": f"the chat template is malformed at line {e.lineno}: {e.message}"}, True
    except TooLong:
        return {"error": f"the chat template wrote more than {request['limits']['output_chars']} characters"}, True
    except MemoryError:
        return {"error": f"the chat template needed more than {SETTINGS['memory_bytes'] >> 20} MiB"}, False
    except RecursionError:
        return {"error": "the chat template is nested or recurses too deeply"}, False
    except Exception as e:  # anything a template can make Python raise, such as a TypeError of its own
        return {"error": f"the chat template failed: {str(e)[:500] or type(e).__name__}"}, True


def read(n: int) -> bytes:
    data = sys.stdin.buffer.read(n)
    if len(data) < n:
        sys.exit(0)
    return data


def write(reply: dict[str, Any]) -> None:
    data = json.dumps(reply).encode()
    sys.stdout.buffer.write(len(data).to_bytes(8, "little") + data)
    sys.stdout.buffer.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asked
    for limit, value in (
        (resource.RLIMIT_AS, SETTINGS["memory_bytes"]),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    write({"ready": True})
    templates: Templates = {}
    fit = True
    while fit:
        request = json.loads(read(int.from_bytes(read(8), "little")))
        reply, fit = answer(templates, request)
        write({**reply, "last": not fit})


main()
