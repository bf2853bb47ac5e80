"""Where the facade's tests find models, and how they open them without probing the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import airpy
from airpy import AutoModel, _core
from airpy.auto_model import open_model

DEMO = Path(airpy.__file__).parent / "assets" / "demo-q8_0.gguf"
GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_NAMES = sorted(path.stem for path in GOLDEN.glob("*.npz"))
# With layers that have a state of fixed size.
RECURRENT = ["falcon-h1", "falcon-h1-plain", "granitehybrid", "granitehybrid-moe", "lfm2", "lfm2moe", "mamba2", "nemotron-h",
             "nemotron-h-latent", "nemotron-h-moe", "qwen3next", "qwen35",
             "qwen35moe"]
RATES: dict[str, Any] = {
    "disk": 1e9, "block_bytes": 1 << 20, "depth": 4, "memory": 1e10, "product": {"Q8_0": 8e9, "F32": 8e9},
    "product_columns": {"Q8_0": 8e10, "F32": 8e10}, "link": 5e9, "device": 5e11,
    "device_context": _core.DEVICE_CONTEXT,  # whatever GPU there is
}  # fmt: skip
STREAMED = {"io": "direct", "max_ram": 6 << 20}  # of the demo model: some of it stays, whatever the tokenizer takes


def load(path: str | os.PathLike[str] = DEMO, **options: Any) -> airpy.Model:
    """An open model under RATES, silent; the CPU's, unless a device is named."""
    named = {} if options.keys() & {"device", "device_map"} else {"device": "cpu"}
    return AutoModel.from_pretrained(path, **{"bandwidths": RATES, "progress": False, **named, **options})


def load_from(source: str, **given: Any) -> airpy.Model:
    """The demo model on a tampered disk, streamed."""
    return open_model(DEMO, {**STREAMED, **given}, bandwidths=RATES, progress=False, source=source)


def golden(name: str) -> Path:
    return GOLDEN / "models" / f"{name}.gguf"


def run_python(code: str, *arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """A child with this Python, the tests' folder in its path, and bandwidths given."""
    env = {**os.environ, "AIRPY_BANDWIDTHS": json.dumps(RATES), **kwargs.pop("env", {})}
    folders = [str(Path(__file__).parent), str(Path(airpy.__file__).parents[1]), env.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(folders)
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, env=env, **kwargs)


def tool(name: str) -> str | None:
    """A program beside this Python, or on the path."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


ENCODERS = GOLDEN / "encoders"
ENCODER_NAMES = sorted(path.stem for path in ENCODERS.glob("*.npz"))


def encoder(name: str) -> Path:
    return ENCODERS / f"{name}.gguf"
