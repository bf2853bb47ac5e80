"""What every test stands on: the installed package. The tree's airpy/ hides it only where the extension was built into it (the
release preset)."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Python puts the current folder, here the tree, before everything for -m and -c: for `python -m pytest` and for tests' child processes.
os.environ["PYTHONSAFEPATH"] = "1"
if not (ROOT / "airpy" / "_core.abi3.so").exists():
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]

# Started in the background of a script, it would be deaf to Ctrl-C, and so would its children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
