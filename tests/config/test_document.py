"""Hostile and broken YAML: refused with its place, in bounded work."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.config.document import MAX_ALIASES, MAX_BYTES, MAX_DEPTH, MAX_NODES, Node, parse

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3:1", "twice"),
        ("a: !!python/object/apply:os.system ['true']\n", "f:1:4", "tag"),
        ("a: !thing x\n", "f:1:4", "tag"),
        ("a: !!str 1\n", "f:1:4", "tag"),
        ("a: 1\n---\nb: 2\n", "f:2:1", "second document"),
        ("%YAML 1.1\n---\na: yes\n", "f:2:1", "directive"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "f:3:3", "merge"),
        ("a: *nothing\n", "f:1:4", "anchor"),
        ("a: &x 1\nb: &x 2\n", "f:2:4", "twice"),
        ("a: &x [*x]\n", "f:1:8", "anchor"),
        ("1: a\n", "f:1:1", "not text"),
        ("? [a, b]\n: c\n", "f:1:3", "not text"),
        ("a: [1, 2\n", "f:2:1", "not YAML"),
        ("a: b: c\n", "f:1:5", "not YAML"),
        ("\tx: 1\n", "f:1:1", "not YAML"),
        ("a: \x07\n", "f", "not YAML"),
        (BOMB, r"f:\d+:\d+", "more than"),
        ("[" * 100_000, rf"f:1:{MAX_DEPTH + 1}", "deep"),
        ("a: &x 1\nb: [" + "*x, " * (MAX_ALIASES + 1) + "*x]", r"f:2:\d+", "aliases"),
        ("[" + "1, " * (MAX_NODES + 1) + "1]", r"f:1:\d+", "values"),
    ],
)
def test_refused_with_its_place(text: str, place: str, says: str) -> None:
    with pytest.raises(AegisError) as caught:
        parse(text.encode(), "f")
    assert caught.value.kind is ErrorKind.USAGE
    assert re.fullmatch(place, caught.value.data["place"]), caught.value.message
    assert caught.value.message.startswith(caught.value.data["place"] + ": ")
    assert says in caught.value.message


def test_too_large_and_not_utf8() -> None:
    with pytest.raises(AegisError) as caught:
        parse(b"#" * (MAX_BYTES + 1), "f")
    assert caught.value.kind is ErrorKind.TOO_LARGE
    with pytest.raises(AegisError) as caught:
        parse(b"a: \xff\n", "f")
    assert "UTF-8" in caught.value.message


def test_scalars_follow_the_core_schema() -> None:
    root = parse(b"a: no\nb: 010\nc: true\nd: 1.5\ne: ~\nf: '1'\ng: 1_000\nh: 2026-01-01\ni: .inf\nj: 0x1f\n", "f")
    assert root is not None
    assert isinstance(root.value, dict)
    values = {key: node.value for key, node in root.value.items()}
    expected = {"a": "no", "b": 10, "c": True, "d": 1.5, "e": None, "f": "1", "g": "1_000", "h": "2026-01-01", "i": ".inf", "j": "0x1f"}
    assert values == expected
    assert root.value["d"].place == ("f", 4, 4)


def test_aliases_stand_for_what_they_name() -> None:
    root = parse(b"a: &x [1, 2]\nb: *x\n", "f")
    assert root is not None
    assert isinstance(root.value, dict)
    b = root.value["b"].value
    assert isinstance(b, list)
    assert [node.value for node in b] == [1, 2]


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "~\n"])
def test_empty(text: str) -> None:
    assert parse(text.encode(), "f") is None


def test_worst_cases_cost_bounded_work() -> None:
    """Quadratic work would outlast the timeout of the test by far."""
    for text in (BOMB, "[" * MAX_BYTES, "#" * MAX_BYTES, "a: '" + "x" * (MAX_BYTES - 10) + "'", "a: " + "x " * (MAX_BYTES // 2 - 10)):
        with contextlib.suppress(AegisError):
            parse(text.encode(), "f")


@given(st.binary(max_size=300) | st.text(alphabet="ab:-[]{}&*!#|>'\"\n ,?%~1.", max_size=120).map(str.encode))
def test_never_fails_otherwise(content: bytes) -> None:
    with contextlib.suppress(AegisError):
        found = parse(content, "f")
        assert found is None or isinstance(found, Node)
