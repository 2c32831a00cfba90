"""The map of attacks: every class is there, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAP = (ROOT / "docs" / "attacks.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", MAP)))
#: Classes whose target is not built.
LATER = {2}


def test_every_class_has_tests() -> None:
    rows = {int(row[1]): row[0] for row in re.finditer(r"^\| (\d+) \|.*$", MAP, re.MULTILINE)}
    assert set(rows) == set(range(1, 26))
    for number, row in rows.items():
        assert number in LATER or "::test_" in row, f"case {number} has no test"
    assert MAP.count("::test_") > 100


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_what_is_named_exists(path: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    missing = [name for where, name in NAMED if where == path and name not in functions]
    assert not missing
