"""Budgets in files: each layer's stand by themselves, and no project loosens what the home bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.budgets.model import Budget
from aegis.services.budgets.setting import Wish, merged
from aegis.services.config.bounds import budgets
from aegis.services.config.document import parse
from aegis.services.config.layers import Layer, Layers, built_in
from aegis.services.config.reading import Values, read

HOME = """
defaults:
  limits: {usd: 2}
budgets:
  daily: {usd: 10, window: 24h}
  coders: {scope: agent, agent: coder, tokens: 1000}
agents:
  coder:
    limits: {tokens: 5000}
"""
PROJECT = """
budgets:
  daily: {usd: 1000, window: 24h, warn: 0.5}
agents:
  coder:
    limits: {usd: 100, tokens: 400}
"""


def values(text: str) -> Values:
    found = Values({}, {})
    read(parse(text.encode(), "file.yaml"), found)
    return found


def test_a_project_cannot_loosen_what_the_home_bounds(tmp_path: Path) -> None:
    layers = Layers([Layer("project", values(PROJECT), tmp_path), Layer("user", values(HOME), tmp_path), built_in()], ("native",))
    config = layers.config(tmp_path, "x")
    found = [(b.name, b.scope, b.usd, b.tokens, b.window, b.warn, b.declared_in) for b in config.budgets]
    assert found == [
        ("daily", "home", 10_000_000, None, 86_400.0, 0.8, None),
        ("coders", "agent", None, 1000, None, 0.8, None),
        ("daily", "project", 1_000_000_000, None, 86_400.0, 0.5, str(tmp_path)),
    ]
    bound = config.agents["coder"].budget
    assert (bound.usd, bound.tokens) == (2_000_000, 400)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x: {}", "bounds nothing"),
        ("x: {usd: 0}", "not an amount"),
        ("x: {usd: .nan}", "not an amount"),
        ("x: {usd: -1}", "not an amount"),
        ("x: {usd: .inf}", "not an amount"),
        ("x: {usd: 1, window: 24}", "not a time"),
        ("x: {usd: 1, window: 1ms}", "too short"),
        ("x: {usd: 1, warn: 2}", "not a number over 0"),
        ("x: {usd: 1, agent: coder}", "bounds a whole"),
        ("x: {usd: 1, scop: home}", "unknown key"),
        ("x: {tokens: 1.5}", "not a whole number"),
        ("x: {scope: home, usd: 1, project: /x}", "bounds the whole home"),
    ],
)
def test_what_is_no_budget_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(AegisError, match=said) as wrong:
        budgets(values(f"budgets:\n  {text}\n"), None, None)
    assert wrong.value.kind is ErrorKind.USAGE
    assert "file.yaml:2" in str(wrong.value)


@pytest.mark.parametrize("text", ["x: {scope: home, usd: 1}", "x: {usd: 1, project: /other}"])
def test_a_project_bounds_itself_alone(text: str, tmp_path: Path) -> None:
    with pytest.raises(AegisError):
        budgets(values(f"budgets:\n  {text}\n"), tmp_path, tmp_path)


def test_what_a_person_sets_changes_what_was_said_and_nothing_else() -> None:
    known = Budget(name="b", scope="agent", agent="coder", usd=1, tokens=5, window=60.0)
    changed = merged("b", known, Wish(usd="2.50", window=None))
    assert (changed.usd, changed.tokens, changed.window, changed.agent, changed.set_by_hand) == (2_500_000, 5, None, "coder", True)
    for wish in (
        Wish(scope="home"),
        Wish(agent="other"),
        Wish(usd=None, tokens=None),
        Wish(usd=-1.0),
        Wish(tokens=0),
        Wish(window=0.1),
        Wish(warn=0),
    ):
        with pytest.raises(AegisError):
            merged("b", known, wish)
    assert merged("new", None, Wish(usd=1.0, agent="coder")).scope == "agent"
    with pytest.raises(AegisError):
        merged("a b", None, Wish(usd=1.0))
