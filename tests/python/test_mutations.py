"""The table of seeded mistakes stays in step with the sources; tests/mutations/run.py, which plants them, runs by itself."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "mutations"))
from table import MUTATIONS  # noqa: E402


def test_every_mistake_applies_once_and_has_a_test_to_catch_it():
    assert len(MUTATIONS) >= 40
    assert len({m.name for m in MUTATIONS}) == len(MUTATIONS)
    for m in MUTATIONS:
        assert (ROOT / "csrc" / m.file).read_text().count(m.old) == 1, m.name
        assert m.old != m.new, m.name
        killers = [*ROOT.glob(f"tests/*/{m.killer}.c")]
        assert len(killers) == 1, m.name
        tests = [line for line in killers[0].read_text().splitlines() if line.startswith(("TEST(", "    RUN("))]
        assert any(m.test in line for line in tests), m.name
