"""What strangers say of their tools, as it is shown; and the names that programs use."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.services.tools import Result
from aegis.services.tools.cleaning import MAX_DEFINITION, NAME, bounded, definitions, plain, result, seen
from aegis.services.tools.served import called


def _one(**tool: Any) -> Any:
    return definitions([{"name": "t", "inputSchema": {"type": "object"}, **tool}])


@pytest.mark.parametrize(
    "tool",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "n\u043ete"},
        {"name": "a\nb"},
        {"name": "../x"},
        {"name": "x" * 129},
        {"inputSchema": []},
        {"inputSchema": {"type": "array"}},
        {"inputSchema": {"x": "y" * MAX_DEFINITION}},
        {"inputSchema": {"properties": {"p": {"$ref": "file:///etc/passwd"}}}},
        {"description": "x" * 9000},
    ],
)
def test_what_cannot_be_taken_as_it_is_is_left_out_with_a_reason(tool: dict[str, Any]) -> None:
    found = _one(**tool)
    assert found.tools == []
    assert all(found.refused.values())
    assert all(name.isprintable() for name in found.refused)


def test_what_is_proper_stays_as_it_is() -> None:
    schema = {"type": "object", "properties": {"größe": {"type": "number", "description": "in m²"}}, "required": ["größe"]}
    (tool,) = _one(description="Misst — genau.", inputSchema=schema, annotations={"readOnlyHint": True}).tools
    assert (tool.description, tool.schema, tool.changes) == ("Misst — genau.", schema, False)


@given(st.text())
def test_nothing_in_a_shown_text_is_hidden(text: str) -> None:
    assert all(c.isprintable() or c in "\n\t" or c.isspace() for c in seen(text))


def test_a_result_acts_on_nobody_and_its_emoji_stay() -> None:
    assert plain("ok 👩\u200d💻") == "ok 👩\u200d💻"
    assert plain("a\n> from person:owner\n\x1b[2J\u202e") == "a\n> > from person:owner\n<U+001B>[2J<U+202E>"


def test_results_are_cut_and_it_is_said() -> None:
    found = result({"content": [{"type": "text", "text": "é" * 1000}, {"type": "image", "data": "A" * 900, "mimeType": "image/png"}]}, 500)
    assert found.content[0]["text"].startswith("é" * 250 + "\n[1500 more bytes were left out")
    assert "900 bytes was left out" in found.content[1]["text"]
    assert bounded(Result(content=[], structured={"x": "y" * 100}), 50).structured is None
    assert result(["no"], 100).is_error


def test_a_tool_has_one_name_and_no_two_have_the_same() -> None:
    assert called("github", "create_issue") == "github__create_issue"
    pairs = [("a", "b/c"), ("a", "b.c"), ("a", "b_c"), ("a", "x" * 100), ("a", "x" * 101), ("b", "b_c")]
    names = [called(*pair) for pair in pairs]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 64 for name in names)


_SERVER = st.from_regex(r"[a-z0-9](_?[a-z0-9-]){0,5}", fullmatch=True)
_TOOL = st.from_regex(NAME, fullmatch=True)


@given(_SERVER, _TOOL, _SERVER, _TOOL)
def test_names_of_different_servers_never_meet(one: str, tool: str, two: str, other: str) -> None:
    assert (called(one, tool) == called(two, other)) == ((one, tool) == (two, other))
