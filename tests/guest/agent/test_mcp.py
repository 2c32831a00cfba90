"""The agent's MCP servers: commands beside it and URLs on loopback, in both eras of the protocol, with good and bad manners."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from model_server import ModelServer, Say, call, text
from tests.kit import mcp_server
from tests.kit.mcp_server import PNG, McpServer

Start = Callable[..., AgentProcess]
FILE = str(Path(mcp_server.__file__))
DONE = Say([text("done")])


def command(name: str, *words: str, **fields: Any) -> dict[str, Any]:
    """A server that the agent starts."""
    return {"name": name, "command": [getattr(sys, "_base_executable", sys.executable), "-I", "-S", FILE, *words], **fields}


class Web:
    """A server in this process, at `url`."""

    def __init__(self, era: str = "both", *manners: str) -> None:
        self.server = McpServer(era, *manners)
        self.http = mcp_server.web(self.server)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/mcp"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def given(self, name: str = "web", **fields: Any) -> dict[str, Any]:
        return {"name": name, "url": self.url, "headers": {"authorization": "Bearer b"}, **fields}


@pytest.fixture
def web() -> Iterator[Callable[..., Web]]:
    served: list[Web] = []

    def make(*words: str) -> Web:
        served.append(Web(*words))
        return served[-1]

    yield make
    for one in served:
        one.http.shutdown()
        one.http.server_close()


def offered(server: ModelServer, n: int = -1) -> list[str]:
    """The tools that the model was told of."""
    return [tool["name"] for tool in server.requests[n]["tools"]]


def notes(agent: AgentProcess) -> list[str]:
    return [frame["text"] for frame in agent.frames if frame["type"] == "note"]


def told(agent: AgentProcess) -> str:
    """What the model was told in the place of a user, without what one said."""
    return "\n".join(b["text"] for m in agent.records if m["role"] == "user" and not m.get("ids") for b in m["content"])


@pytest.mark.parametrize(
    "words",
    [("both",), ("modern",), ("legacy",), ("legacy", "frail"), ("both", "pages"), ("both", "slow")],
    ids=lambda words: "-".join(words),
)
def test_a_command(start: Start, server: ModelServer, words: tuple[str, ...]) -> None:
    agent = start(Say([call("kit__add", {"a": 1, "b": 2})]), DONE, mcp=[command("kit", *words)])
    assert agent.turn("go")["text"] == "done"
    [result] = agent.results()
    assert (result["ok"], result["output"], result["name"]) == (True, "3", "kit__add")
    assert offered(server)[:7] == ["read", "write", "edit", "list", "glob", "grep", "bash"]
    tool = next(tool for tool in server.requests[0]["tools"] if tool["name"] == "kit__add")
    assert tool == {"name": "kit__add", "description": "does add", "input_schema": mcp_server.NUMBERS}
    assert not notes(agent)
    assert not told(agent)


@pytest.mark.parametrize(
    "words",
    [("modern",), ("legacy",), ("legacy", "sessions"), ("both", "sse"), ("legacy", "sse", "cuts", "sessions"), ("both", "once")],
    ids=lambda words: "-".join(words),
)
def test_a_url(start: Start, web: Callable[..., Web], words: tuple[str, ...]) -> None:
    kit = web(*words)
    agent = start(Say([call("web__add", {"a": 1, "b": 2}), call("web__add", {"a": 3, "b": 4}, "t2")]), DONE, mcp=[kit.given()])
    assert agent.turn("go")["text"] == "done"
    assert [r["output"] for r in agent.results()] == ["3", "7"]
    assert all(headers["authorization"] == "Bearer b" for headers in kit.server.headers)
    assert not notes(agent)
    assert agent.close() == 0
    if "modern" in words:
        assert kit.server.headers[-1]["mcp-name"] == "add"
        assert not [m for m in kit.server.seen if m["method"] == "initialize"]


def test_both_dialects_are_told_and_a_session_goes_on(start: Start, server: ModelServer, web: Callable[..., Web]) -> None:
    """The session of the server is forgotten between two turns: the agent begins another one and nothing is lost."""
    kit = web("legacy", "sessions")
    steps = [Say([call("web__add", {"a": 1, "b": 2})]), DONE, Say([call("web__add", {"a": 3, "b": 4})]), DONE]
    agent = start(*steps, dialect="openai", mcp=[kit.given()])
    agent.turn("go")
    kit.http.sessions.clear()  # type: ignore[attr-defined]
    agent.turn("again", turn="t2")
    assert [r["output"] for r in agent.results()] == ["3", "7"]
    assert [m["method"] for m in kit.server.seen].count("initialize") == 2
    function = next(t["function"] for t in server.requests[0]["tools"] if t["function"]["name"] == "web__add")
    assert function["parameters"] == mcp_server.NUMBERS


def test_what_does_not_start_is_told_once_and_fails_no_turn(start: Start, server: ModelServer, workspace: Path) -> None:
    free = socket.create_server(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    broken = [
        command("dead", "both", "dead"),
        {"name": "none", "command": [str(workspace / "nothing-there")]},
        {"name": "gone", "url": f"http://127.0.0.1:{port}/mcp"},
        {"name": "far", "url": "https://example.com/mcp"},
        command("kit"),
    ]
    agent = start(DONE, DONE, Say([call("kit__add", {"a": 1, "b": 2}), call("dead__add", {}, "t2")]), DONE, mcp=broken)
    assert agent.turn("go")["outcome"] == "completed"
    assert [note.split("`")[1] for note in notes(agent)] == ["dead", "none", "gone", "far"]
    assert "there is no such thing here" in notes(agent)[0]
    assert "cannot run" in notes(agent)[1]
    first = told(agent)
    assert all(word in first for word in ("`dead`", "No such file", "not reachable", "loopback"))
    assert first in str(server.requests[0]["messages"]).replace("\\n", "\n").replace("\\'", "'")
    agent.turn("again", turn="t2")
    agent.turn("again", turn="t3")
    assert told(agent) == first
    assert [r["ok"] for r in agent.results()] == [True, False]
    assert "there is no tool `dead__add`" in agent.results()[1]["output"]
    assert "kit__add" in agent.results()[1]["output"]


def test_one_that_never_answers_holds_up_one_turn_only(start: Start, web: Callable[..., Web]) -> None:
    agent = start(DONE, DONE, limits={"tool_seconds": 0.3}, mcp=[command("mute", "both", "mute"), web("both", "mute").given("still")])
    agent.turn("go")
    agent.turn("again", turn="t2")
    assert sorted(notes(agent)) == [f"MCP server `{name}`: did not start within 0.3 s" for name in ("mute", "still")]
    assert [f.get("state") for f in agent.frames].count("starting MCP servers") == 1
    assert told(agent).count("did not start") == 2


@pytest.mark.parametrize("dialect", ["anthropic", "openai"])
def test_a_picture_is_shown(start: Start, server: ModelServer, dialect: str) -> None:
    content = [{"type": "text", "text": "see"}, {"type": "image", "data": PNG, "mimeType": "image/png"}]
    steps = [Say([call("kit__echo", {"result": {"content": content}}), call("list", {}, "t2")]), DONE, DONE]
    agent = start(*steps, dialect=dialect, mcp=[command("kit")])
    agent.turn("go")
    assert agent.results()[0]["output"] == "see\n[picture 1: image/png, 40 bytes]"
    block = next(b for m in agent.records if m["role"] == "tool" for b in m["content"] if b["type"] == "image")
    assert "data" not in block
    assert PNG in str(server.requests[1]["messages"])
    if dialect == "anthropic":
        assert [b["type"] for b in server.requests[1]["messages"][-1]["content"]] == ["tool_result", "tool_result", "image"]
    # The next process knows of it, and that it is gone; the tools of a server that is gone too are no trouble in the past.
    again = start(DONE, dialect=dialect, history=agent.records)
    assert again.turn("and?", turn="t2")["outcome"] == "completed"
    assert "a picture was here" in str(server.requests[-1]["messages"])
    assert "kit__echo" in str(server.requests[-1]["messages"])
    assert "kit__echo" not in str(server.requests[-1]["tools"])


RESULTS: list[tuple[Any, bool, str]] = [
    ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, True, "a\nb"),
    ({"content": [{"type": "text", "text": "it failed"}], "isError": True}, False, "it failed"),
    ({"content": [], "isError": True}, False, "error: it failed and said nothing"),
    ({"content": [], "structuredContent": {"n": [1, "x"]}}, True, '{"n":[1,"x"]}'),
    ({"content": [{"type": "text", "text": "one"}], "structuredContent": {"n": 1}}, True, "one"),
    ({}, True, "(no output)"),
    ({"content": [{"type": "resource", "resource": {"uri": "x://y", "text": "inside"}}]}, True, "[x://y]\ninside"),
    ({"content": [{"type": "resource_link", "uri": "x://y", "name": "n\x1b[2J"}]}, True, "[a link: x://y n [2J]"),
    ({"content": [{"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}]}, True, "[audio that cannot be shown: audio/wav]"),
    (
        {"content": [{"type": "image", "data": "AAAA", "mimeType": "image/svg+xml"}]},
        True,
        "[a picture that cannot be shown: image/svg+xml]",
    ),
    ({"content": [{"type": "image", "data": "", "mimeType": "image/png"}]}, True, "[an empty picture]"),
    ({"content": [7, None, {"type": 9}, {"type": "text", "text": 5}], "isError": "yes"}, True, "[something that cannot be shown: ]"),
    ({"resultType": "input_required", "inputRequests": {}}, False, "error: the server wants something from a person first"),
    ({"content": [{"type": "text", "text": "x" * 200_000}]}, True, "xxx"),
]


def test_results(start: Start) -> None:
    calls = [call("kit__echo", {"result": given}, f"t{n}") for n, (given, _, _) in enumerate(RESULTS)]
    agent = start(Say(calls), DONE, mcp=[command("kit")])
    agent.turn("go")
    for (_, ok, output), result in zip(RESULTS, agent.results(), strict=True):
        assert result["ok"] == ok
        assert result["output"].startswith(output)
        assert len(result["output"]) <= 50_000
    assert agent.results()[-1]["truncated"]


def test_errors_and_arguments(start: Start, server: ModelServer) -> None:
    calls = [call("kit__gone", {}, "a"), call("kit__add", "{broken", "b"), call("kit__add", {"a": 1}, "c")]
    agent = start(Say(calls), Say([call("kit__add", {"a": 1, "b": 1}, "d")]), DONE, mcp=[command("kit", "legacy")])
    agent.turn("go")
    outputs = [r["output"] for r in agent.results()]
    assert "there is no tool" in outputs[0]
    assert "not valid JSON" in outputs[1]
    assert '"required":["a","b"]' in outputs[1]
    assert "no 'b'" in outputs[2]
    assert outputs[3] == "2"


def test_the_offer_follows_what_a_server_says(start: Start, server: ModelServer, web: Callable[..., Web]) -> None:
    kit = web("legacy", "sse")
    calls = [call("kit__change", {}, "a"), call("web__change", {}, "b")]
    agent = start(Say(calls), DONE, DONE, mcp=[command("kit"), kit.given()])
    agent.turn("go")
    assert not {"kit__new0", "web__new0"} & set(offered(server, 0))
    assert {"kit__new0", "web__new0"} <= set(offered(server, 1))
    assert notes(agent) == [f"MCP server `{name}`: has other tools than before" for name in ("kit", "web")]
    before = offered(server, 1)
    agent.turn("more", turn="t2")
    assert offered(server, 2) == before


def test_what_a_server_asks_and_says_beside_its_answer(start: Start, web: Callable[..., Web]) -> None:
    kit = web("legacy", "sse")
    calls = [call("kit__asks", {}, "a"), call("kit__stray", {}, "b"), call("kit__add", {"a": 1, "b": 1}, "c"), call("web__asks", {}, "d")]
    agent = start(Say(calls), DONE, mcp=[command("kit"), kit.given()])
    agent.turn("go")
    assert [r["output"] for r in agent.results()] == ["asked", "this", "2", "asked"]
    assert {"jsonrpc": "2.0", "id": "ping-1", "result": {}} in kit.server.seen
    assert [m["error"]["code"] for m in kit.server.seen if m.get("id") == "roots-1"] == [-32601]


def test_the_environment_and_the_place(start: Start, workspace: Path) -> None:
    names = ["SET", "AEGIS_TOKEN", "HOME"]
    calls = [call("kit__env", {"name": name}, name) for name in names]
    agent = start(Say(calls), DONE, mcp=[command("kit", env={"SET": "to this"})])
    agent.turn("go")
    assert [r["output"] for r in agent.results()] == ["to this", "(unset)", str(workspace)]


def test_leave_is_asked_but_for_what_aegis_itself_says_only_reads(start: Start, web: Callable[..., Web]) -> None:
    own, other = web("modern"), web("modern")
    calls = [call("aegis__add", {"a": 1, "b": 2}, "a"), call("kit__add", {"a": 1, "b": 2}, "b"), call("kit__add", {"a": 5, "b": 5}, "c")]
    agent = start(Say(calls), DONE, mcp=[own.given("aegis", own=True), other.given("kit")], approvals="ask")
    agent.begin("go")
    asked = agent.until("ask")
    assert (asked["tool"], asked["input"]) == ("kit__add", {"a": 1, "b": 2})
    agent.send("answer", id=asked["id"], allow=True, input={"a": 10, "b": 20})
    asked = agent.until("ask")
    agent.send("answer", id=asked["id"], allow=False, reason="no more")
    agent.until("finished")
    outputs = [r["output"] for r in agent.results()]
    assert outputs[0] == "3"
    assert outputs[1] == '[A person changed the arguments to {"a":10,"b":20}]\n30'
    assert outputs[2] == "error: `kit__add` was not allowed: no more"
    assert other.server.calls == 1


def test_own_verbs_keep_their_names_and_nobody_else_has_them(start: Start, server: ModelServer, web: Callable[..., Web]) -> None:
    own, other = web("modern"), web("modern")
    own.server.extra = ["aegis_list_sessions", "aegis_bad name", "read"]
    other.server.extra = ["aegis_list_sessions", "_list_sessions"]
    agent = start(DONE, mcp=[own.given("aegis", own=True), other.given("aegis_"), other.given("read")], permission="read")
    agent.turn("go")
    names = offered(server)
    assert "bash" in names
    assert "edit" not in names
    assert [n for n in names if n.startswith("aegis_") and not n.startswith("aegis__")] == ["aegis_list_sessions"]
    assert {"aegis__read", "aegis__aegis_bad_name", "mcp_aegis___add", "mcp_aegis___aegis_list_sessions", "read__add"} <= set(names)
    assert names.count("read") == 1
    assert [m["method"] for m in own.server.seen] == ["tools/list"]  # nothing has to be agreed with it
