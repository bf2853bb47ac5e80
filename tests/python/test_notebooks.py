"""The notebooks as they lie in the repository; .ci/run executes them."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_the_notebooks_are_there():
    assert [path.name[:3] for path in NOTEBOOKS] == ["01_", "02_", "03_", "04_"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_outputs_and_teaches(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert set(book["metadata"]) == {"kernelspec", "language_info"} and book["metadata"]["kernelspec"]["name"] == "python3"
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    prose = [cell for cell in book["cells"] if cell["cell_type"] == "markdown"]
    assert len(code) + len(prose) == len(book["cells"]) and len(prose) >= len(code) // 2
    for cell in code:
        assert cell["outputs"] == [] and cell["execution_count"] is None and cell["metadata"] == {}
        ast.parse("".join(cell["source"]))
    assert prose[0]["source"][0].startswith("# ")
    links = [link for cell in prose for link in re.findall(r"\]\(([^)]+\.ipynb)\)", "".join(cell["source"]))]
    assert all((FOLDER / link).is_file() for link in links)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_needs_nothing_beside_it(path):
    """Who downloads one, and installs airpy, can run it: it imports what is installed and looks for no file of the repository."""
    code = ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    trees = [node for text in code for node in ast.walk(ast.parse(text))]
    names = {alias.name for node in trees if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in trees if isinstance(node, ast.ImportFrom) and node.module}
    known = {"airpy", "airllm", "matplotlib", "numpy", "tokenizers", "torch", "IPython"} | sys.stdlib_module_names
    assert {name.partition(".")[0] for name in names} <= known
    assert not re.search(r"sys\.path|\.\./", "\n".join(code))


def test_the_ci_executes_them():
    assert "pytest --nbmake" in (FOLDER.parent / ".ci" / "run").read_text()
