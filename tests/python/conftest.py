"""What is tested is the installed package: the tree's airpy/ hides it only where the extension was built into it (the release preset)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Python puts the current folder, here the tree, before everything for -m and -c: for `python -m pytest` and for tests' child processes.
os.environ["PYTHONSAFEPATH"] = "1"
if not (ROOT / "airpy" / "_core.abi3.so").exists():
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]
