"""The parts that take a stranger's words, fed with anything: they never raise what nobody expects, and what they make fits."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.guest.agent.mcp import Broken, Refused
from aegis.guest.agent.mcp.machine import MODERN, Machine, headers, is_modern
from aegis.guest.agent.mcp.results import output
from aegis.guest.agent.mcp.schemas import named, parameters
from aegis.guest.agent.tools.output import LIMIT
from aegis.tether.jsontext import dumps_text

_WORDS = st.sampled_from(
    ["type", "properties", "items", "anyOf", "$ref", "$defs", "required", "enum", "text", "content", "image", "data", "mimeType", "method",
     "id", "result", "error", "code", "uri", "object", "array", "string", "isError", "structuredContent", "resource", "additionalProperties"]
) | st.text(max_size=5)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS, inner, max_size=5),
    max_leaves=20,
)


@given(_JSON)
def test_any_answer_is_understood_or_passed_over(value: Any) -> None:
    machine = Machine()
    answer = machine.take(value)
    if answer is not None:
        assert len(answer) == 2
    if isinstance(answer, tuple) and isinstance(answer[1], Refused):
        is_modern(answer[1])
    machine.discovered(value)
    if not (isinstance(value, dict) and value.get("protocolVersion") == "2025-11-25"):
        with pytest.raises(Broken):
            machine.initialized(value)


@given(_JSON)
def test_any_result_becomes_text_and_pictures(value: Any) -> None:
    made = output(value)
    assert made.text
    assert len(made.text) <= LIMIT
    for kind, data in made.pictures:
        assert kind.startswith("image/")
        assert base64.b64decode(data, validate=True)


@given(_JSON)
def test_any_schema_becomes_one_that_providers_take(value: Any) -> None:
    made = parameters(value)
    assert made["type"] == "object"
    assert not {"anyOf", "oneOf", "allOf", "$ref", "enum"} & made.keys()
    dumps_text(made)
    _check(made)


def _check(schema: dict[str, Any]) -> None:
    """The shape that every draft of JSON Schema wants."""
    kinds = schema.get("type", "object")
    assert set(kinds if isinstance(kinds, list) else [kinds]) <= {"string", "integer", "number", "boolean", "object", "array", "null"}
    assert set(schema.get("required", [])) <= schema.get("properties", {}).keys()
    for name, one in schema.get("properties", {}).items():
        assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name)
        _check(one)
    for one in [*schema.get("anyOf", []), *schema.get("$defs", {}).values()]:
        _check(one)
    if "items" in schema:
        _check(schema["items"])


def test_a_real_schema_keeps_its_meaning() -> None:
    given = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "where", "minLength": 1},
            "kind": {"enum": ["a", "b"], "default": "a", "x-extra": True},
            "deep": {"$ref": "#/$defs/Node"},
            "lost": {"$ref": "#/$defs/Nothing"},
            "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "list": {"type": "array"},
        },
        "required": ["path"],
        "additionalProperties": False,
        "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}},
    }
    made = parameters(given)
    assert made == {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "where", "minLength": 1},
            "kind": {"enum": ["a", "b"], "default": "a"},
            "deep": {"$ref": "#/$defs/Node"},
            "lost": {},
            "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "list": {"type": "array", "items": {}},
        },
        "required": ["path"],
        "additionalProperties": False,
        "$defs": given["$defs"],
    }


@given(st.lists(st.tuples(st.text(max_size=40), st.text(min_size=1, max_size=100)), max_size=20))
def test_names_are_short_and_of_one_tool(tools: list[tuple[str, str]]) -> None:
    taken: set[str] = {"read", "bash"}
    for server, tool in tools:
        if name := named(server, tool, taken):
            assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)
            assert not name.lower().startswith("aegis")
            taken.add(name)


def test_headers_of_a_call() -> None:
    machine = Machine()
    machine.version = MODERN
    schema = {
        "properties": {
            "region": {"x-mcp-header": "Region"},
            "in": {"properties": {"n": {"x-mcp-header": "N"}}},
            "bad": {"x-mcp-header": "a\r\nb"},
        }
    }
    message = machine.request("tools/call", {"name": "tö", "arguments": {"region": "eu\r\nx: y", "in": {"n": True}, "bad": "z"}})
    found = headers(message, MODERN, schema)
    assert found == {
        "mcp-protocol-version": MODERN,
        "mcp-method": "tools/call",
        "mcp-name": f"=?base64?{base64.b64encode('tö'.encode()).decode()}?=",
        "mcp-param-Region": f"=?base64?{base64.b64encode(b'eu' + bytes([13, 10]) + b'x: y').decode()}?=",
        "mcp-param-N": "true",
    }
    assert headers(message, "2025-11-25", schema) == {"mcp-protocol-version": "2025-11-25"}
