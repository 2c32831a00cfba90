"""What the scripted models do so that foreign programs can be driven by them: their tools, their side requests, their habits."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.models.speaking import DIALECTS, Asked, Speaker

from aegis.core.clock import ManualClock
from aegis.models import Dialect, ModelRequest
from aegis.models.scripted import ScriptedProvider
from aegis.models.scripted.reading import read
from aegis.models.scripted.schemas import smallest


def schema(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": kind} for name, kind in properties.items()}, "required": list(required)}


#: Tools as the programs declare them, as far as it matters.
CLAUDE = {
    "Bash": schema("command", command="string", description="string"),
    "Edit": schema("file_path", "old_string", "new_string", file_path="string", old_string="string", new_string="string"),
    "Read": schema("file_path", file_path="string"),
    "Write": schema("file_path", "content", file_path="string", content="string"),
    "mcp__bus__send_note": schema(),
}
GEMINI = {
    "run_shell_command": schema("command", command="string"),
    "replace": schema("file_path", "instruction", file_path="string", old_string="string", new_string="string", instruction="string"),
    "read_file": schema("file_path", file_path="string"),
    "write_file": schema("file_path", "content", file_path="string", content="string"),
    "glob": schema("pattern", pattern="string"),
}
OPENCODE = {
    "bash": schema("command", "description", command="string", description="string"),
    "edit": schema("filePath", filePath="string", oldString="string", newString="string"),
    "read": schema("filePath", filePath="string"),
    "write": schema("content", "filePath", filePath="string", content="string"),
    "glob": schema("pattern", pattern="string"),
}
CODEX = {"exec_command": schema("cmd", cmd="string")}


def provider() -> ScriptedProvider:
    return ScriptedProvider(clock=ManualClock())


async def answer(speaker: Speaker, *texts: str, **more: Any) -> tuple[str, list[Asked]]:
    speaker.user(*texts, **more)
    response = await provider().stream(speaker.request(), None)
    assert response.status == 200
    return speaker.take(b"".join([data async for data in response.body]))


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        (CLAUDE, {"write": ("Write", {"file_path": "a", "content": "b"}), "bash": ("Bash", {"command": "ls"}),
                  "edit": ("Edit", {"file_path": "a", "old_string": "x", "new_string": "y"}), "read": ("Read", {"file_path": "a"})}),
        (GEMINI, {"write": ("write_file", {"file_path": "a", "content": "b"}), "bash": ("run_shell_command", {"command": "ls"}),
                  "edit": ("replace", {"file_path": "a", "old_string": "x", "new_string": "y", "instruction": "scripted"}),
                  "read": ("read_file", {"file_path": "a"}), "glob": ("glob", {"pattern": "*"})}),
        (OPENCODE, {"write": ("write", {"filePath": "a", "content": "b"}), "bash": ("bash", {"command": "ls", "description": "scripted"}),
                    "edit": ("edit", {"filePath": "a", "oldString": "x", "newString": "y"}), "read": ("read", {"filePath": "a"})}),
        (CODEX, {"bash": ("exec_command", {"cmd": "ls"}),
                 "write": ("exec_command", {"cmd": "apply_patch <<'EOF'\n*** Begin Patch\n*** Add File: a\n+b\n*** End Patch\nEOF"})}),
    ],
    ids=["claude", "gemini", "opencode", "codex"],
)  # fmt: skip
async def test_a_purpose_finds_the_tool_and_the_names_of_its_arguments(
    tools: dict[str, dict[str, Any]], expected: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    given = {
        "write": {"path": "a", "content": "b"},
        "bash": {"command": "ls"},
        "edit": {"path": "a", "old": "x", "new": "y"},
        "read": {"path": "a"},
        "glob": {"pattern": "*"},
    }
    for purpose, (name, arguments) in expected.items():
        _, [call] = await answer(Speaker("anthropic", "directives", tools), f"[[call {purpose} {json.dumps(given[purpose])}]]")
        assert (call.name, call.input) == (name, arguments)


async def test_what_a_script_leaves_out_of_a_purpose_stays_out() -> None:
    """So that a script can make a program refuse a call."""
    _, [call] = await answer(Speaker("anthropic", "directives", CLAUDE), "[[call write {}]]")
    assert call.input == {}


async def test_a_shell_that_takes_words_gets_words() -> None:
    tools = {"shell": {"type": "object", "properties": {"command": {"type": "array", "items": {"type": "string"}}}}}
    _, [call] = await answer(Speaker("responses", "directives", tools), '[[call bash {"command": "ls -l"}]]')
    assert call.input == {"command": ["bash", "-lc", "ls -l"]}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_name_can_be_forced_and_the_end_of_a_name_is_enough(dialect: Dialect) -> None:
    _, [forced, ended] = await answer(
        Speaker(dialect, "directives", CLAUDE), '[[call =mcp__none__x {"a": 1}]] [[par]] [[call bus_send_note {"b": 2}]]'
    )
    assert (forced.name, forced.input) == ("mcp__none__x", {"a": 1})
    assert (ended.name, ended.input) == ("mcp__bus__send_note", {"b": 2})


async def test_a_namespace_of_tools_is_called_by_both_names() -> None:
    speaker = Speaker("responses", "directives", {})
    speaker.more["tools"] = [{"type": "namespace", "name": "mcp__probe", "tools": [{"type": "function", "name": "add", "parameters": {}}]}]
    speaker.user('[[call probe_add {"a": 1}]]')
    response = await provider().stream(speaker.request(), None)
    output = json.loads(b"".join([data async for data in response.body]))["output"]
    assert (output[0]["namespace"], output[0]["name"]) == ("mcp__probe", "add")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_each_text_of_a_message_is_a_turn_of_its_own(dialect: Dialect) -> None:
    speaker = Speaker(dialect, "directives", {})
    assert await answer(speaker, "[[error 400]]", "<system-reminder>[[say no]]</system-reminder>", "[[say yes]]") == ("yes", [])
    assert await answer(speaker, "<session_context>a b</session_context>", "[[recall]]") == ("recall: error 400 | say yes", [])


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_calls_without_words_are_steps(dialect: Dialect) -> None:
    speaker = Speaker(dialect, "directives", CLAUDE)
    text, [call] = await answer(speaker, '[[call bash {"command": "1"}]] [[call bash {"command": "2"}]] [[say end]]')
    assert text == ""
    for expected in ("2", None):
        speaker.results((call, "done", True))
        response = await provider().stream(speaker.request(), None)
        text, calls = speaker.take(b"".join([data async for data in response.body]))
        assert [each.input["command"] for each in calls] == ([expected] if expected else [])
        call = calls[0] if calls else call
    assert text == "end"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_images_are_seen(dialect: Dialect) -> None:
    speaker = Speaker(dialect, "directives", {})
    assert (await answer(speaker, "look [[images]]", images=("image/png", "image/jpeg")))[0] == "2 images: image/png, image/jpeg"
    assert (await answer(speaker, "and now [[images]]"))[0] == "0 images"
    assert (await answer(speaker, "[[images]]", images=("image/webp",)))[0] == "1 image: image/webp"


def test_an_image_counts_as_a_fixed_number_of_tokens() -> None:
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 4_000_000}}
    body = json.dumps({"messages": [{"role": "user", "content": [block]}]}).encode()
    assert read("anthropic", body).size < 10_000


SCHEMA = {"type": "object", "properties": {"choice": {"enum": ["flash", "pro"]}, "why": {"type": "string"}}, "required": ["choice"]}


@pytest.mark.parametrize(
    ("dialect", "wanted"),
    [
        ("anthropic", {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
        ("openai", {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}),
        ("responses", {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}}),
        ("gemini", {"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": SCHEMA}}),
        ("gemini", {"generationConfig": {"responseMimeType": "application/json", "responseSchema": SCHEMA}}),
    ],
)
async def test_a_program_that_wants_a_shape_gets_one(dialect: Dialect, wanted: dict[str, Any]) -> None:
    speaker = Speaker(dialect, "directives", {})
    speaker.more = wanted
    text, calls = await answer(speaker, "[[hang 1000]] [[error 500]] route this")
    assert (json.loads(text), calls) == ({"choice": "flash"}, [])


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("where", ["system", "user"])
async def test_a_title_is_given_whatever_the_conversation_asks_for(dialect: Dialect, where: str) -> None:
    asked = "You are a title generator."
    system: dict[Dialect, dict[str, Any]] = {
        "anthropic": {"system": [{"type": "text", "text": asked}]},
        "openai": {},
        "responses": {"instructions": asked},
        "gemini": {"systemInstruction": {"parts": [{"text": asked}]}},
    }
    speaker = Speaker(dialect, "directives", {})
    if where == "system":
        speaker.more = system[dialect]
        if dialect == "openai":
            speaker.messages.append({"role": "system", "content": asked})
    texts = ("Generate a title for this conversation:",) if where == "user" else ()
    text, calls = await answer(speaker, *texts, '[[hang 1000]] [[call bash {"command": "x"}]]')
    assert (text, calls) == ("Scripted conversation", [])


@pytest.mark.parametrize(
    "stopped",
    [
        lambda speaker, call: speaker.user("[Request interrupted by user for tool use]"),
        lambda speaker, call: speaker.results((call, "[Operation Cancelled] Reason: User cancelled the operation.", False)),
        lambda speaker, call: speaker.results((call, "(no output)\n\n<shell_metadata>\nUser aborted the command\n</shell_metadata>", True)),
        lambda speaker, call: None,
    ],
)
async def test_after_a_person_stopped_a_script_the_next_words_are_new(stopped: Any) -> None:
    speaker = Speaker("openai", "directives", CLAUDE)
    _, [call] = await answer(speaker, '[[call bash {"command": "sleep 100"}]] [[say never]]')
    stopped(speaker, call)
    assert await answer(speaker, "hello") == ("echo: hello", [])


async def test_words_in_the_middle_of_a_script_do_not_end_it() -> None:
    speaker = Speaker("anthropic", "directives", CLAUDE)
    _, [call] = await answer(speaker, '[[call bash {"command": "1"}]] [[say end]]')
    speaker.results((call, "done", True))
    assert await answer(speaker, "by the way") == ("end", [])


async def test_an_error_is_not_met_again_by_the_next_words() -> None:
    speaker = Speaker("anthropic", "directives", {})
    speaker.user("[[error 400]]")
    assert (await provider().stream(speaker.request(), None)).status == 400
    assert await answer(speaker, "hello") == ("echo: hello", [])


async def test_repetitions_of_a_request_are_counted_though_its_body_changes() -> None:
    mine = provider()
    statuses = []
    for number in range(3):
        speaker = Speaker("anthropic", "directives", {})
        speaker.more = {"metadata": {"attempt": number}}
        speaker.user("[[error 529 2]] [[say at last]]")
        statuses.append((await mine.stream(speaker.request(), None)).status)
    assert statuses == [529, 529, 200]


@pytest.mark.parametrize(
    ("path", "key", "dialect"),
    [
        ("/v1/messages/count_tokens", "input_tokens", "anthropic"),
        ("/v1beta/models/g:countTokens", "totalTokens", "gemini"),
    ],
)
async def test_tokens_are_counted(path: str, key: str, dialect: Dialect) -> None:
    request = ModelRequest(dialect=dialect, path=path, body=b"x" * 400, model="g")
    response = await provider().stream(request, None)
    assert json.loads(b"".join([data async for data in response.body])) == {key: 100}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}, {"a": "scripted", "b": 0}),
        ({"type": "OBJECT", "properties": {"a": {"type": "BOOLEAN"}}, "required": ["a"]}, {"a": False}),
        ({"type": ["string", "null"]}, "scripted"),
        ({"type": "array", "items": {"type": "number", "minimum": 2.5}, "minItems": 2}, [2.5, 2.5]),
        ({"type": "array", "items": {}, "minItems": "1"}, [None]),
        ({"anyOf": [{"const": 7}, {"type": "string"}]}, 7),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "integer", "exclusiveMinimum": 3}}}, 4),
        ({"$ref": "#"}, None),
        ({"type": "string", "minLength": 10, "maxLength": 12}, "scripted.."),
        ({"type": "integer", "maximum": -5}, -5),
        ({"allOf": [{"type": "string"}, {"enum": ["x"]}]}, "x"),
        ({}, None),
    ],
)
def test_the_smallest_value_of_a_schema(schema: dict[str, Any], value: Any) -> None:
    assert smallest(schema) == value


@given(
    body=st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["type", "items", "enum", "anyOf", "$ref", "minimum", "required", "minItems", "maxLength"]), x, max_size=4),
    )
)  # fmt: skip
def test_odd_schemas_have_some_value(body: Any) -> None:
    json.dumps(smallest(body))
