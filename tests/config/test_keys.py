"""The table of keys and the strictness of its kinds."""

from __future__ import annotations

import re

import pytest

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.config.document import parse
from aegis.services.config.keys import KEYS, find
from aegis.services.config.reading import Values, read


def values(text: str) -> dict[str, object]:
    into = Values({}, {})
    read(parse(text.encode(), "f"), into)
    return {key: value.value for key, value in into.leaves.items()}


@pytest.mark.parametrize(
    ("text", "value"),
    [("512M", 512 * 2**20), ("1G", 2**30), ("64K", 65536), ("1GiB", 2**30), ("2T", 2 * 2**40)],
)
def test_sizes(text: str, value: int) -> None:
    assert values(f"defaults: {{limits: {{memory: {text}}}}}") == {"defaults.limits.memory": value}


@pytest.mark.parametrize(("text", "value"), [("60s", 60), ("5m", 300), ("1h", 3600), ("500ms", 0.5), ("1.5h", 5400), ("2d", 172800)])
def test_durations(text: str, value: float) -> None:
    assert values(f"defaults: {{limits: {{turn: {text}}}}}") == {"defaults.limits.turn": value}


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("agents:\n  a:\n    modle: x/y\n", "f:3:5", "unknown key `modle` in `agents.a`"),
        ("agent:\n  a: {}\n", "f:1:1", "unknown key `agent`"),
        ("agents:\n  a:\n    limits:\n      memory: 512\n", "f:4:15", "`512` is not a size"),
        ("agents: {a: {limits: {memory: 512m}}}", "f:1:31", "not a size"),
        ("agents: {a: {limits: {memory: 0M}}}", "f:1:31", "not a size"),
        ("agents: {a: {limits: {turn: 60}}}", "f:1:29", "not a time"),
        ("agents: {a: {limits: {turn: 0s}}}", "f:1:29", "over zero"),
        ("agents: {a: {limits: {turn: 1h30m}}}", "f:1:29", "not a time"),
        ("agents: {a: {limits: {cpus: 0}}}", "f:1:29", "not a number"),
        ("agents: {a: {limits: {cpus: true}}}", "f:1:29", "`true`|true is not"),
        ("agents: {a: {limits: {pids: 1.5}}}", "f:1:29", "not a whole number"),
        ("agents: {a: {limits: {required: 'yes'}}}", "f:1:33", "`yes` is not `true` or `false`"),
        ("agents: {a: {sandbox: docker}}", "f:1:23", "`docker` is not `process` or `bwrap`"),
        ("agents: {a: {permission: exec}}", "f:1:26", "`read` or `write`"),
        ("agents: {a: {env: {A: 1}}}", "f:1:23", "`1` is not text"),
        ("agents: {a: {env: {A B: x}}}", "f:1:20", "cannot be a name"),
        ("agents: {a: {env: [A]}}", "f:1:19", "a list is not a mapping"),
        ("agents: {a.b: {}}", "f:1:10", "cannot be a name"),
        ("agents: {'': {}}", "f:1:10", "cannot be a name"),
        ("agents: [a]", "f:1:9", "a list is not a mapping"),
        ("agents: {a: x}", "f:1:13", "`x` is not a mapping"),
        ("[]", "f:1:1", "a list is not a mapping"),
        ("agents: {a: {secrets: A}}", "f:1:23", "not a list"),
        ("agents: {a: {secrets: ['A:file']}}", "f:1:24", "`NAME` or `NAME:env`"),
        ("agents: {a: {secrets: [A, 'A:env']}}", "f:1:27", "twice"),
        ("agents: {a: {mounts: [{target: /x}]}}", "f:1:23", "without `path`"),
        ("agents: {a: {mounts: [{path: /x, target: y}]}}", "f:1:42", "absolute"),
        ("agents: {a: {mounts: [{path: /x, write: true}]}}", "f:1:34", "unknown key `write`"),
        ("agents: {a: {system: ''}}", "f:1:22", "not text"),
        ("agents: {a: {model: }}", "f:1:20", "nothing is not"),
        ("models: {m: {model: plain}}", "f:1:21", "`provider/model`"),
        ("providers: {p: {base_url: 'file:///etc'}}", "f:1:27", "address"),
        ("providers: {p: {base_url: 'http://me:pw@host/v1'}}", "f:1:27", "without user name"),
        ("providers: {Lab: {}}", "f:1:13", "cannot be a name"),
        ("version: 2", "f:1:10", "whole number"),
        ("NAME: 1", "f:1:1", "unknown key"),
    ],
)
def test_wrong_values_are_named_with_their_place(text: str, place: str, says: str) -> None:
    with pytest.raises(AegisError) as caught:
        values(text)
    assert caught.value.kind is ErrorKind.USAGE
    assert caught.value.data["place"] == place, caught.value.message
    assert says in caught.value.message or re.search(says, caught.value.message), caught.value.message


def test_the_nearest_key_is_suggested() -> None:
    with pytest.raises(AegisError) as caught:
        values("agents: {a: {modle: x/y}}")
    assert caught.value.hint == "did you mean `model`?"
    assert caught.value.data["nearest"] == "model"


def test_messages_hold_no_control_characters() -> None:
    with pytest.raises(AegisError) as caught:
        values('agents: {a: {"x\\e[31m\\u202ey": 1}}')
    assert caught.value.message.isprintable()


def test_every_key_is_found_by_a_concrete_name_and_has_a_meaning() -> None:
    for key in KEYS:
        assert find(key.name.replace("NAME", "x").replace("PROVIDER", "x").replace("VARIABLE", "X")) is key
        assert key.meaning.endswith(".")
        assert key.kind.form
    assert find("agents.x") is None
    assert find("agents.x.nothing") is None
    assert find("version.x") is None


def test_variables_are_unique() -> None:
    variables = [key.variable for key in KEYS if key.variable]
    assert len(variables) == len(set(variables))
    assert "AEGIS_DEFAULTS_MODEL" in variables
    assert "AEGIS_DEFAULT_AGENT" in variables
