"""docs/models.md has the architectures that there are, and says of each what it is checked against."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from models import ENCODER_NAMES, GOLDEN, GOLDEN_NAMES

from airpy import _core

sys.path.insert(0, str(GOLDEN))
import encoder_families
from families import VARIANTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def rows(name="models"):
    table = PAGE.read_text().split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0].splitlines()[2:]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in table)}


def test_its_rows_are_the_architectures():
    both = {**rows(), **rows("encoders")}
    assert [arch for arch in _core.ARCHITECTURES if arch in both] == list(_core.ARCHITECTURES)
    assert list(rows()) == [arch for arch in _core.ARCHITECTURES if arch in rows()]


def test_there_is_a_golden_model_for_every_variant():
    assert sorted(VARIANTS) == GOLDEN_NAMES
    assert sorted(encoder_families.VARIANTS) == ENCODER_NAMES


@pytest.mark.parametrize("arch", rows("encoders"))
def test_a_row_says_what_the_encoder_was_checked_against(arch):
    models, classes, variants, error = rows("encoders")[arch]
    of_arch = {name: variant for name, variant in encoder_families.VARIANTS.items() if variant.arch == arch}
    assert models
    assert set(classes.split(", ")) == {variant.model for variant in of_arch.values()}
    assert variants.split(", ") == list(of_arch)
    assert 0 < float(error) <= 1e-10


@pytest.mark.parametrize("arch", rows())
def test_a_row_says_what_the_architecture_was_checked_against(arch):
    models, classes, variants, error, tokens = rows()[arch]
    of_arch = {name: variant for name, variant in VARIANTS.items() if variant.arch == arch}
    assert models
    assert classes.split(", ") == sorted({variant.family for variant in of_arch.values()})
    assert variants.split(", ") == list(of_arch)
    assert 0 < float(error) <= 1e-10
    assert tokens == "24 of 24"
