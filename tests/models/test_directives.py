import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.models.speaking import DIALECTS, Asked, Speaker

from aegis.core.clock import ManualClock
from aegis.models import Dialect, ModelRequest, Usage
from aegis.models.names import SCRIPTS
from aegis.models.scripted import ScriptedProvider
from aegis.models.usage import observe

INTERRUPTED = "[You were interrupted: go on.]"
COMMAND = {"type": "object", "properties": {"command": {"type": "string"}}}


class Hasty(ManualClock):
    async def sleep(self, seconds: float) -> None:
        return


class Talk(Speaker):
    """A conversation with a scripted model, as a program would carry it on."""

    def __init__(
        self, dialect: Dialect, model: str = "directives", *, stream: bool = False, tools: tuple[str, ...] = ("bash", "mcp__x__add")
    ) -> None:
        super().__init__(dialect, model, dict.fromkeys(tools, COMMAND), stream=stream)
        self.provider = ScriptedProvider(clock=Hasty())

    def says(self, *texts: str, images: tuple[str, ...] = ()) -> "Talk":
        self.user(*texts, images=images)
        return self

    def result(self, *pairs: tuple[Asked, str]) -> "Talk":
        self.results(*((call, text, True) for call, text in pairs))
        return self

    async def raw(self) -> tuple[int, bytes]:
        response = await self.provider.stream(self.request(), None)
        return response.status, b"".join([data async for data in response.body])

    async def ask(self) -> tuple[str, list[Asked]]:
        """Text and calls of the next answer, which joins the conversation."""
        status, body = await self.raw()
        assert status == 200, body
        return self.take(body)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_echo(dialect: Dialect) -> None:
    assert await Talk(dialect, "echo").says("one").says("two\nthree").ask() == ("echo: two\nthree", [])
    assert await Talk(dialect).says("no directives").ask() == ("echo: no directives", [])


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_one_step_for_each_round_of_tools(dialect: Dialect) -> None:
    talk = Talk(dialect).says(
        '[[say hello]] [[call bash {"command": "[[ -f x ]] && echo ]]"}]] [[call add {"a": 1}]] [[par]] [[call bash]]'
        " [[lastresult]] [[say bye]]"
    )
    text, [call] = await talk.ask()
    assert (text, call[1:]) == ("hello", ("bash", {"command": "[[ -f x ]] && echo ]]"}))
    text, calls = await talk.result((call, "ran")).ask()
    assert [c[1:] for c in calls] == [("mcp__x__add", {"a": 1}), ("bash", {})]
    assert dialect == "gemini" or len({c.id for c in [call, *calls]}) == 3
    talk.result(*((c, f"result {i}") for i, c in enumerate(calls)))
    assert await talk.ask() == ("result: result 1bye", [])


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_interruption_goes_on_with_the_next_step(dialect: Dialect) -> None:
    talk = Talk(dialect).says("[[call bash {}]] [[call bash {}]] [[say end]]")
    _, [call] = await talk.ask()
    talk.result((call, "unknown: interrupted")).says(INTERRUPTED)
    _, [call] = await talk.ask()
    talk.result((call, "fine")).says("[You were interrupted again]")
    assert await talk.ask() == ("end", [])
    assert await talk.says(INTERRUPTED).ask() == ("end", [])
    assert await talk.says("thank you").ask() == ("echo: thank you", [])
    assert await talk.says("[[say new]]").ask() == ("new", [])


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_recall_and_what_programs_wrap_around(dialect: Dialect) -> None:
    talk = Talk(dialect).says("first [[say x]]")
    await talk.ask()
    talk.says("<system-reminder>[[say wrong]]</system-reminder>second")
    await talk.ask()
    text, _ = await talk.says("[[recall]]").ask()
    assert text == "recall: first say x | second"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("[[call nothing {}]]", "there is no tool `nothing` here"),
        ("[[call bash {oops]]", "cannot read the directive"),
        ("[[call bash [1]]]", "cannot read the directive"),
        ("[[slow x y]]", "cannot read the directive"),
        ("[[error]]", "cannot read the directive"),
        ("[[hang]]", "cannot read the directive"),
        ("[[par]]", "done"),
        ("[[say unfinished", "done"),
    ],
)
async def test_directives_that_make_no_sense_are_answered(text: str, answer: str) -> None:
    said, calls = await Talk("anthropic").says(text).ask()
    assert said.startswith(answer)
    assert not calls


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_errors_and_how_often(dialect: Dialect) -> None:
    talk = Talk(dialect).says("[[error 529 2]] [[say at last]]")
    assert [(await talk.raw())[0] for _ in range(3)] == [529, 529, 200]
    status, body = await Talk(dialect).says("[[error 429]]").raw()
    error = json.loads(body)["error"]
    assert (status, error.get("type", error.get("status"))) == (429, "RESOURCE_EXHAUSTED" if dialect == "gemini" else "rate_limit_error")


async def test_hang_sends_nothing_until_it_is_over() -> None:
    clock = ManualClock()
    talk = Talk("anthropic", stream=True).says("[[hang 60]] [[say back]]")
    talk.provider = ScriptedProvider(clock=clock)
    task = asyncio.ensure_future(talk.raw())
    await asyncio.sleep(0)
    await clock.advance(59)
    assert not task.done()
    await clock.advance(2)
    assert b"back" in (await task)[1]


async def test_slow_text_comes_in_pieces() -> None:
    clock = ManualClock()
    talk = Talk("anthropic", stream=True).says("[[slow 3 100]]")
    response = await ScriptedProvider(clock=clock).stream(talk.request(), None)
    got: list[bytes] = []

    async def all_of_it() -> None:
        async for data in response.body:
            if b"text_delta" in data:
                got.append(data)

    task = asyncio.ensure_future(all_of_it())
    await asyncio.sleep(0)
    await clock.advance(0.15)
    assert len(got) == 1
    await clock.advance(1)
    await task
    assert len(got) == 3


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_usage_is_estimated_and_readable(dialect: Dialect, stream: bool) -> None:
    talk = Talk(dialect, "echo", stream=stream).says("x" * 4000)
    _, body = await talk.raw()
    observer = observe(dialect, "text/event-stream" if stream else "application/json")
    observer.feed(body)
    usage = observer.usage()
    assert isinstance(usage, Usage)
    assert usage.input == len(talk.request().body) // 4
    assert usage.output == 1001


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_the_same_request_has_the_same_answer(dialect: Dialect) -> None:
    talk = Talk(dialect, stream=True).says("[[think hm]] [[call bash {}]]")
    assert await talk.raw() == await talk.raw()


async def test_unknown_models_and_bodies() -> None:
    status, body = await Talk("anthropic", "ecko").says("x").raw()
    assert status == 404
    assert b"echo" in body
    for bad in (b"", b"[]", b"{}", b'{"messages": 5}', b"\xff", b'{"a":' * 100_000):
        request = ModelRequest(dialect="openai", path="/chat/completions", body=bad, model="echo")
        assert (await ScriptedProvider().stream(request, None)).status == 400


async def test_huge_input() -> None:
    big = "[[say x]] " * 100_000 + "y" * 20_000_000
    for model in ("echo", "directives", "demo"):
        status, body = await Talk("anthropic", model, stream=True).says(big).raw()
        assert status == 200
        assert body.endswith(b'data: {"type":"message_stop"}\n\n')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=5), x, max_size=4),
)
KEYS = st.sampled_from(
    ["role", "content", "type", "text", "tool_calls", "function", "name", "arguments", "tool_use_id", "id", "input", "parts", "args",
     "functionCall", "functionResponse", "response", "inlineData", "mimeType", "output", "call_id", "image_url", "source", "data",
     "functionDeclarations", "parametersJsonSchema", "parameters", "properties", "required", "tools", "$ref", "anyOf", "minItems"]
)  # fmt: skip
VALUES = st.sampled_from(
    ["user", "assistant", "model", "tool", "text", "tool_use", "tool_result", "function_call", "function_call_output", "message", "image",
     "input_image", "namespace", "object", "array", "string", "[[call bash {}]]", "[[call write {}]]", "[[call =x {}]]", "[[par]]",
     "[[images]]", "fix the tests"]
)  # fmt: skip
ODD = st.recursive(VALUES | JSON, lambda x: st.lists(x, max_size=4) | st.dictionaries(KEYS, x, max_size=5))


@given(messages=st.lists(ODD, max_size=6), rest=st.lists(ODD, min_size=4, max_size=4), stream=st.booleans(), model=st.sampled_from(SCRIPTS))
def test_odd_requests_get_some_answer(messages: Any, rest: list[Any], stream: bool, model: str) -> None:
    tools, schema, system, more = rest
    for dialect in DIALECTS:
        said = dict.fromkeys(("messages", "input", "contents"), messages)
        shaped = {
            "generationConfig": {"responseSchema": schema},
            "response_format": schema,
            "text": {"format": schema},
            "output_config": more,
        }
        named = dict.fromkeys(("system", "systemInstruction", "instructions"), system)
        body = json.dumps({**said, **shaped, **named, "tools": tools, "stream": stream, "stream_options": more}).encode()
        path = ":streamGenerateContent" if stream else ":generateContent"

        async def ask(dialect: Dialect = dialect, body: bytes = body, path: str = path) -> int:
            request = ModelRequest(dialect=dialect, path=path, body=body, model=model)
            response = await ScriptedProvider(clock=Hasty()).stream(request, None)
            async for _ in response.body:
                pass
            return response.status

        assert asyncio.run(ask()) == 200
