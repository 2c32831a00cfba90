"""The schema of rules knows every action that the gate is asked about, so that a rule can name it."""

from __future__ import annotations

import re
from pathlib import Path

from aegis.services.gate.rules import words

SRC = Path(__file__).resolve().parents[2] / "src" / "aegis"
_ASKED = re.compile(r'\b(?:check|decide|pass_through|passing|_authorize)\(\s*[\w.()\[\]]+(?:\([^()]*\))?,\s*"([a-z]+\.[a-z_]+)"')


def test_every_action_can_be_named() -> None:
    asked = {
        action for part in ("services", "daemon") for file in (SRC / part).rglob("*.py") for action in _ASKED.findall(file.read_text())
    }
    assert len(asked) > 15
    assert asked <= set(words()["action"])
