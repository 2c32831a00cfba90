"""The official clients against the broker, with the scripted models behind it and real HTTP between."""

from typing import Any

import pytest

from aegis.core.errors import AegisError, ErrorKind

anthropic = pytest.importorskip("anthropic", reason="the official client is not installed")
openai = pytest.importorskip("openai", reason="the official client is not installed")

TOOL = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}


@pytest.fixture
async def connect(served: Any) -> Any:
    """Makes a client of either kind; all are closed at the end."""
    made: list[Any] = []
    served.client.model = "scripted/directives"

    def make(dialect: str, retries: int = 0) -> Any:
        if dialect == "anthropic":
            made.append(anthropic.AsyncAnthropic(base_url=served.url, api_key=served.client.token, max_retries=retries))
        else:
            made.append(openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=served.client.token, max_retries=retries))
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest.fixture
def claude(connect: Any) -> Any:
    return connect("anthropic")


@pytest.fixture
def gpt(connect: Any) -> Any:
    return connect("openai")


def ask(text: str) -> dict[str, Any]:
    return {"model": "scripted/directives", "messages": [{"role": "user", "content": text}], "max_tokens": 100}


async def test_anthropic_streams(claude: Any, served: Any) -> None:
    options = ask('[[think hm]] [[say hello world]] [[call bash {"command": "ls -l"}]]')
    async with claude.messages.stream(**options, tools=[{"name": "bash", "input_schema": TOOL}]) as stream:
        text = [piece async for piece in stream.text_stream]
        message = await stream.get_final_message()
    assert "".join(text) == "hello world"
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.content[2].input == {"command": "ls -l"}
    assert message.stop_reason == "tool_use"
    assert message.usage.output_tokens == served.recorded[0].usage.output > 0
    assert message.usage.input_tokens == served.recorded[0].usage.input
    assert served.recorded[0].cost_usd == 0.0


async def test_anthropic_whole_and_counting(claude: Any) -> None:
    message = await claude.messages.create(**ask("[[say one]] [[say two]]"))
    assert [block.text for block in message.content] == ["onetwo"]
    counted = await claude.messages.count_tokens(model="scripted/directives", messages=[{"role": "user", "content": "x" * 400}])
    assert 100 < counted.input_tokens < 150
    assert [model.id async for model in claude.models.list()] == ["scripted/directives", "anthropic/claude-x"]


async def test_openai_streams(gpt: Any, served: Any) -> None:
    tools = [{"type": "function", "function": {"name": "bash", "parameters": TOOL}}]
    text, calls, usage = "", "", None
    options = ask('[[say hello world]] [[call bash {"command": "ls -l"}]]')
    stream = await gpt.chat.completions.create(**options, tools=tools, stream=True, stream_options={"include_usage": True})
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            calls += "".join(call.function.arguments or "" for call in choice.delta.tool_calls or [])
            finish = choice.finish_reason
    assert (text, calls, finish) == ("hello world", '{"command":"ls -l"}', "tool_calls")
    assert usage is not None
    assert usage.prompt_tokens == served.recorded[0].usage.input


async def test_openai_whole(gpt: Any) -> None:
    completion = await gpt.chat.completions.create(**ask("[[say one]]"))
    assert completion.choices[0].message.content == "one"
    assert completion.usage.total_tokens > 0
    assert [model.id async for model in gpt.models.list()] == ["scripted/directives", "anthropic/claude-x"]


async def test_errors_are_the_ones_programs_know(claude: Any, gpt: Any, served: Any) -> None:
    with pytest.raises(anthropic.PermissionDeniedError, match="scripted/directives"):
        await claude.messages.create(**ask("x") | {"model": "claude-opus-4"})
    with pytest.raises(openai.PermissionDeniedError, match="scripted/directives"):
        await gpt.chat.completions.create(**ask("x") | {"model": "gpt-5"})
    for code, kinds in (
        (529, (anthropic.InternalServerError, openai.InternalServerError)),
        (429, (anthropic.RateLimitError, openai.RateLimitError)),
    ):
        with pytest.raises(kinds[0]):
            await claude.messages.create(**ask(f"[[error {code}]]"))
        with pytest.raises(kinds[1]):
            await gpt.chat.completions.create(**ask(f"[[error {code}]]"))


async def test_a_reached_budget_is_asked_for_once(served: Any, connect: Any) -> None:
    served.refusal = AegisError(ErrorKind.LIMIT, "the budget is spent")
    with pytest.raises(anthropic.APIStatusError, match="the budget is spent"):
        await connect("anthropic", 5).messages.create(**ask("x"))
    with pytest.raises(openai.APIStatusError, match="the budget is spent"):
        await connect("openai", 5).chat.completions.create(**ask("x"))
    assert len(served.admitted) == 2


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
async def test_a_stream_that_breaks_off_is_an_error_for_clients(served: Any, connect: Any, fake: Any, answers: Any, dialect: str) -> None:
    async def events() -> Any:
        yield b": nothing yet\n\n"
        raise AegisError(ErrorKind.UNREACHABLE, "broke off")

    async def answer(request: Any) -> Any:
        return answers.streamed(events())

    fake.answer = answer
    fake.dialects = frozenset({"anthropic", "openai"})
    served.client.model = "anthropic/claude-x"
    client = connect(dialect)
    create = client.messages.create if dialect == "anthropic" else client.chat.completions.create
    stream = await create(**ask("x") | {"model": "claude-x", "stream": True})
    with pytest.raises((anthropic.APIError, openai.APIError), match="broke off"):
        async for _ in stream:
            pass
    await stream.close()


async def test_responses_stream_and_whole(gpt: Any, served: Any) -> None:
    options = {"model": "scripted/directives", "input": "[[say hello world]]"}
    whole = await gpt.responses.create(**options)
    assert whole.output_text == "hello world"
    text = ""
    async for event in await gpt.responses.create(**options, stream=True):
        if event.type == "response.output_text.delta":
            text += event.delta
        last = event
    assert (text, last.type) == ("hello world", "response.completed")
    assert last.response.usage.input_tokens == served.recorded[1].usage.input > 0
    assert [call.path for call in served.recorded] == ["/responses", "/responses"]


@pytest.mark.parametrize("dialect", ["anthropic", "openai", "responses"])
async def test_a_limit_that_lasts_is_asked_for_once(served: Any, connect: Any, fake: Any, answers: Any, dialect: str) -> None:
    async def answer(request: Any) -> Any:
        return answers.whole(b'{"error":{"message":"spent","code":"insufficient_quota"}}', 429, ("retry-after", "1"))

    fake.answer = answer
    fake.dialects = frozenset({dialect})
    served.client.model = "anthropic/claude-x"
    client = connect(dialect, 5)
    create = {"anthropic": lambda: client.messages, "openai": lambda: client.chat.completions, "responses": lambda: client.responses}[
        dialect
    ]()
    asked = {"model": "claude-x", "input": "x"} if dialect == "responses" else ask("x") | {"model": "claude-x"}
    with pytest.raises((anthropic.APIStatusError, openai.APIStatusError), match="usage limit of model provider `anthropic`") as caught:
        await create.create(**asked)
    assert caught.value.status_code == 402
    assert len(fake.seen) == len(served.recorded) == 1
