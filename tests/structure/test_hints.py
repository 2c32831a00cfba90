"""A hint names the next command, so the command must be there."""

from __future__ import annotations

import re

import pytest
from tests.structure.house import SRC

from aegis.cli.commands import ROOT

_COMMAND = re.compile(r"`aegis ((?:[a-z]+)(?: [a-z]+)?)(?=[ `])")


def named() -> dict[str, str]:
    """Command -> a file that names it in a text for people."""
    found: dict[str, str] = {}
    for path in sorted((SRC / "aegis").rglob("*.py")):
        for words in _COMMAND.findall(path.read_text()):
            found.setdefault(words, str(path.relative_to(SRC)))
    return found


@pytest.mark.parametrize(("words", "where"), named().items())
def test_a_command_that_is_named_is_there(words: str, where: str) -> None:
    first, _, second = words.partition(" ")
    assert first in ROOT.rows or first in ROOT.groups, f"{where} names `aegis {words}`"
    table = ROOT.groups.get(first)
    if table is not None and second:
        assert second in table.rows, f"{where} names `aegis {words}`"
