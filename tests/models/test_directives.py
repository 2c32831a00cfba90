import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.core.clock import ManualClock
from aegis.models import Dialect, ModelRequest, Usage
from aegis.models.scripted import ScriptedProvider
from aegis.models.usage import observe

DIALECTS: list[Dialect] = ["anthropic", "openai"]
INTERRUPTED = "[You were interrupted: go on.]"


class Hasty(ManualClock):
    async def sleep(self, seconds: float) -> None:
        return


class Talk:
    """A conversation with a scripted model, as a program would carry it on."""

    def __init__(
        self, dialect: Dialect, model: str = "directives", *, stream: bool = False, tools: tuple[str, ...] = ("bash", "mcp__x__add")
    ) -> None:
        self.dialect = dialect
        self.model = model
        self.stream = stream
        self.tools = tools
        self.messages: list[dict[str, Any]] = []
        self.provider = ScriptedProvider(clock=Hasty())

    def user(self, text: str) -> "Talk":
        self.messages.append({"role": "user", "content": text})
        return self

    def result(self, *pairs: tuple[str, str]) -> "Talk":
        if self.dialect == "anthropic":
            blocks = [{"type": "tool_result", "tool_use_id": ident, "content": [{"type": "text", "text": text}]} for ident, text in pairs]
            self.messages.append({"role": "user", "content": blocks})
        else:
            self.messages += [{"role": "tool", "tool_call_id": ident, "content": text} for ident, text in pairs]
        return self

    def body(self) -> bytes:
        schema = {"type": "object", "properties": {"command": {"type": "string"}}}
        if self.dialect == "anthropic":
            tools: list[dict[str, Any]] = [{"name": name, "input_schema": schema} for name in self.tools]
        else:
            tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name in self.tools]
        return json.dumps(
            {
                "model": self.model,
                "messages": self.messages,
                "tools": tools,
                "stream": self.stream,
                "stream_options": {"include_usage": True},
            }
        ).encode()

    async def raw(self) -> tuple[int, bytes]:
        path = "/v1/messages" if self.dialect == "anthropic" else "/chat/completions"
        response = await self.provider.stream(ModelRequest(dialect=self.dialect, path=path, body=self.body(), model=self.model), None)
        return response.status, b"".join([data async for data in response.body])

    async def ask(self) -> tuple[str, list[tuple[str, str, dict[str, Any]]]]:
        """Text and calls of the next answer, which joins the conversation."""
        status, body = await self.raw()
        assert status == 200, body
        answer = json.loads(body)
        if self.dialect == "anthropic":
            self.messages.append({"role": "assistant", "content": answer["content"]})
            calls = [(b["id"], b["name"], b["input"]) for b in answer["content"] if b["type"] == "tool_use"]
            return "".join(b["text"] for b in answer["content"] if b["type"] == "text"), calls
        message = answer["choices"][0]["message"]
        self.messages.append(message)
        calls = [(c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls", [])]
        return message["content"] or "", calls


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_echo(dialect: Dialect) -> None:
    assert await Talk(dialect, "echo").user("one").user("two\nthree").ask() == ("echo: two\nthree", [])
    assert await Talk(dialect).user("no directives").ask() == ("echo: no directives", [])


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_one_step_for_each_round_of_tools(dialect: Dialect) -> None:
    talk = Talk(dialect).user(
        '[[say hello]] [[call bash {"command": "[[ -f x ]] && echo ]]"}]] [[call add {"a": 1}]] [[par]] [[call bash]]'
        " [[lastresult]] [[say bye]]"
    )
    text, [call] = await talk.ask()
    assert (text, call[1:]) == ("hello", ("bash", {"command": "[[ -f x ]] && echo ]]"}))
    text, calls = await talk.result((call[0], "ran")).ask()
    assert [c[1:] for c in calls] == [("mcp__x__add", {"a": 1}), ("bash", {})]
    assert len({c[0] for c in [call, *calls]}) == 3
    talk.result(*((c[0], f"result {i}") for i, c in enumerate(calls)))
    assert await talk.ask() == ("result: result 1bye", [])


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_interruption_goes_on_with_the_next_step(dialect: Dialect) -> None:
    talk = Talk(dialect).user("[[call bash {}]] [[call bash {}]] [[say end]]")
    _, [call] = await talk.ask()
    talk.result((call[0], "unknown: interrupted")).user(INTERRUPTED)
    _, [call] = await talk.ask()
    talk.result((call[0], "fine")).user("[You were interrupted again]")
    assert await talk.ask() == ("end", [])
    assert await talk.user(INTERRUPTED).ask() == ("end", [])
    assert await talk.user("thank you").ask() == ("echo: thank you", [])
    assert await talk.user("[[say new]]").ask() == ("new", [])


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_recall_and_what_programs_wrap_around(dialect: Dialect) -> None:
    talk = Talk(dialect).user("first [[say x]]")
    await talk.ask()
    talk.user("<system-reminder>[[say wrong]]</system-reminder>second")
    await talk.ask()
    text, _ = await talk.user("[[recall]]").ask()
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
    said, calls = await Talk("anthropic").user(text).ask()
    assert said.startswith(answer)
    assert not calls


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_errors_and_how_often(dialect: Dialect) -> None:
    talk = Talk(dialect).user("[[error 529 2]] [[say at last]]")
    assert [(await talk.raw())[0] for _ in range(3)] == [529, 529, 200]
    status, body = await Talk(dialect).user("[[error 429]]").raw()
    assert (status, json.loads(body)["error"]["type"]) == (429, "rate_limit_error")


async def test_hang_sends_nothing_until_it_is_over() -> None:
    clock = ManualClock()
    talk = Talk("anthropic", stream=True).user("[[hang 60]] [[say back]]")
    talk.provider = ScriptedProvider(clock=clock)
    task = asyncio.ensure_future(talk.raw())
    await asyncio.sleep(0)
    await clock.advance(59)
    assert not task.done()
    await clock.advance(2)
    assert b"back" in (await task)[1]


async def test_slow_text_comes_in_pieces() -> None:
    clock = ManualClock()
    talk = Talk("anthropic", stream=True).user("[[slow 3 100]]")
    request = ModelRequest(dialect="anthropic", path="/v1/messages", body=talk.body(), model="directives")
    response = await ScriptedProvider(clock=clock).stream(request, None)
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
    talk = Talk(dialect, "echo", stream=stream).user("x" * 4000)
    _, body = await talk.raw()
    observer = observe(dialect, "text/event-stream" if stream else "application/json")
    observer.feed(body)
    usage = observer.usage()
    assert isinstance(usage, Usage)
    assert usage.input == len(talk.body()) // 4
    assert usage.output == 1001


async def test_the_same_request_has_the_same_answer() -> None:
    talk = Talk("openai", stream=True).user("[[think hm]] [[call bash {}]]")
    assert await talk.raw() == await talk.raw()


async def test_unknown_models_and_bodies() -> None:
    status, body = await Talk("anthropic", "ecko").user("x").raw()
    assert status == 404
    assert b"echo" in body
    for bad in (b"", b"[]", b"{}", b'{"messages": 5}', b"\xff", b'{"a":' * 100_000):
        request = ModelRequest(dialect="openai", path="/chat/completions", body=bad, model="echo")
        assert (await ScriptedProvider().stream(request, None)).status == 400


async def test_huge_input() -> None:
    big = "[[say x]] " * 100_000 + "y" * 20_000_000
    for model in ("echo", "directives", "demo"):
        status, body = await Talk("anthropic", model, stream=True).user(big).raw()
        assert status == 200
        assert body.endswith(b'data: {"type":"message_stop"}\n\n')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=5), x, max_size=4),
)
KEYS = st.sampled_from(["role", "content", "type", "text", "tool_calls", "function", "name", "arguments", "tool_use_id", "id", "input"])
VALUES = st.sampled_from(["user", "assistant", "tool", "text", "tool_use", "tool_result", "[[call bash {}]]", "[[par]]", "fix the tests"])
ODD = st.recursive(VALUES | JSON, lambda x: st.lists(x, max_size=4) | st.dictionaries(KEYS, x, max_size=5))


@given(messages=st.lists(ODD, max_size=6), tools=ODD, stream=st.booleans(), model=st.sampled_from(["echo", "directives", "demo"]))
def test_odd_requests_get_some_answer(messages: Any, tools: Any, stream: bool, model: str) -> None:
    for dialect in DIALECTS:
        body = json.dumps({"messages": messages, "tools": tools, "stream": stream}).encode()

        async def ask(dialect: Dialect = dialect, body: bytes = body) -> int:
            response = await ScriptedProvider(clock=Hasty()).stream(ModelRequest(dialect=dialect, path="/", body=body, model=model), None)
            async for _ in response.body:
                pass
            return response.status

        assert asyncio.run(ask()) == 200
