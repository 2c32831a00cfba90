"""The table of what acts, and what content makes something harmless."""

from __future__ import annotations

import pytest

from aegis.services.guarding.classes import CONTAINERS, RULES, TABLE, container_rule, interesting, rule_of
from aegis.services.guarding.gitfiles import entries, harmless_config, harmless_modules, harmless_pointer, hooks_path
from aegis.services.guarding.judging import judge
from aegis.services.guarding.model import Item


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        (".envrc", "direnv"),
        ("a/b/c/d/.envrc", "direnv"),
        (".mcp.json", "MCP servers"),
        ("x/.cursor/mcp.json", "MCP servers"),
        (".claude/settings.json", "Claude Code"),
        (".claude/hooks/deep/er.sh", "Claude Code"),
        (".claude/commands/x.md", "instructions"),
        ("AGENTS.md", "instructions"),
        ("sub/CLAUDE.md", "instructions"),
        (".gemini/settings.json", "Gemini CLI"),
        (".opencode/plugin/x.js", "OpenCode"),
        (".opencode/agent/x.md", "instructions"),
        (".codex/config.toml", "Codex"),
        (".vscode/tasks.json", "editor tasks"),
        (".vscode/launch.json", "editor"),
        ("p.code-workspace", "editor settings"),
        (".idea/startup.xml", "IDE tasks"),
        (".idea/misc.xml", "editor"),
        (".aegis/agents/x.yaml", "Aegis"),
        (".gitmodules", "git submodules"),
        ("envrc", None),
        ("x.envrc", None),
        ("Makefile", None),
        ("tasks.json", None),
        ("vscode/tasks.json", None),
        ("README.md", None),
    ],
)
def test_paths(path: str, rule: str | None) -> None:
    found = rule_of(path)
    assert (found.name if found else None) == rule
    name = path.rpartition("/")[2]
    if rule is not None:
        assert interesting(name) or not CONTAINERS.isdisjoint(path.split("/"))


def test_the_table_is_whole() -> None:
    assert len(RULES) == len(TABLE)
    assert {rule.does for rule in TABLE} == {"hold", "tell"}
    assert container_rule(".claude").does == "hold"
    assert container_rule(".vscode").does == "hold"
    assert container_rule(".aegis").does == "tell"


ORDINARY = b"""[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
[user]
\tname = a b
\temail = "a@b"
[remote "origin"]
\turl = https://github.com/a/b.git
\tfetch = +refs/heads/*:refs/remotes/origin/*
[branch "main"]
\tremote = origin
\tmerge = refs/heads/main
"""


def test_an_ordinary_configuration_is_harmless() -> None:
    assert harmless_config(ORDINARY, b"")
    assert harmless_config(b"", b"")
    assert entries(ORDINARY) is not None


@pytest.mark.parametrize(
    "more",
    [
        b"[core]\n\tfsmonitor = touch x\n",
        b"[CORE]\n\tFsMonitor = touch x\n",
        b"[core] fsmonitor = touch x\n",
        b"[core]\n\tfsmonitor\n",
        b"[core]\n\thooksPath = evil\n",
        b"[core]\n\tsshCommand = x\n",
        b"[core]\n\tworktree = ../../..\n",
        b"[include]\n\tpath = evil\n",
        b'[includeIf "gitdir:."]\n\tpath = evil\n',
        b'[filter "x"]\n\tclean = evil\n',
        b'[diff "x"]\n\ttextconv = evil\n',
        b"[alias]\n\tst = !evil\n",
        b'[remote "origin"]\n\turl = ext::sh -c evil\n',
        b'[remote "origin"]\n\turl = ../evil\n',
        b'[remote "origin"]\n\turl = --upload-pack=evil\n',
        b'[remote "origin"]\n\tuploadpack = evil\n',
        b'[url "ext::sh"]\n\tinsteadOf = https\n',
        b'[submodule "x"]\n\tupdate = !evil\n',
        b"[user]\n\tname = a\\\n[core]\n",
        b"[user]\n\tname = a\\\n\tfsmonitor = x\n",
        b"[core.]\nfsmonitor = x\n",
        b"[gpg]\n\tprogram = evil\n",
        b"[credential]\n\thelper = !evil\n",
        b"\xef\xbb\xbf[core]\n\tfsmonitor = x\n",
        b"[user]\n\tname = \xff\n",
    ],
)
def test_what_runs_or_leads_away_is_not(more: bytes) -> None:
    assert not harmless_config(more, b"")
    assert not harmless_config(ORDINARY + more, ORDINARY)
    assert not harmless_config(b"fsmonitor = x\n", b"")  # of no section


def test_what_was_there_before_may_stay() -> None:
    before = ORDINARY + b'[filter "lfs"]\n\tclean = git-lfs clean -- %f\n'
    assert harmless_config(before + b"[user]\n\tname = x\n", before)
    assert not harmless_config(before + b'[filter "lfs"]\n\tclean = evil\n', before)


def test_pointers_of_git() -> None:
    assert harmless_pointer(".git/worktrees/x/commondir", b"../..\n")
    assert not harmless_pointer(".git/commondir", b"../..\n")
    assert not harmless_pointer(".git/worktrees/x/commondir", b"../../evil\n")
    assert harmless_pointer("sub/.git", b"gitdir: ../.git/modules/sub\n")
    assert harmless_pointer("tree/.git", b"gitdir: /workspace/.git/worktrees/tree\n")
    for text in (b"gitdir: ../evil", b"gitdir: /tmp/.git/modules/x", b"gitdir: ../../.git/modules/x", b"gitdir: ../.git/objects/x", b"x"):
        assert not harmless_pointer("sub/.git", text), text
    assert not harmless_pointer("sub/.git", b"gitdir: ../.git/modules/../../evil")
    assert not harmless_pointer("sub/.git", b"gitdir: ../.git/modules/m/objects/evil")


def test_submodules_and_hooks_paths() -> None:
    assert harmless_modules(b'[submodule "x"]\n\tpath = x\n\turl = https://x/y\n', b"")
    assert not harmless_modules(b'[submodule "x"]\n\tupdate = !evil\n', b"")
    assert hooks_path(b'[core]\n\thooksPath = a\n[core] hookspath = "b c"\n') == "b c"
    assert hooks_path(ORDINARY) == ""


def item(rule: str, path: str = "x", kind: str = "file") -> Item:
    return Item(path, rule, kind, 0o644, 0, 0, 1, 1, 1, "d")


@pytest.mark.parametrize(
    ("rule", "content", "does"),
    [
        ("git config", ORDINARY, "off"),
        ("git config", b"[core]\nfsmonitor=x", "hold"),
        ("git hook", b"x", "hold"),
        ("git directory", b"gitdir: ../evil", "hold"),
        ("direnv", b"", "hold"),
        ("editor tasks", b'{"tasks": [{"label": "build", "command": "make"}]}', "tell"),
        ("editor tasks", b'{"tasks": [{"runOptions": {"runOn": "folderOpen"}}]}', "hold"),
        ("editor tasks", b'{"tasks": [{"run\\u004fptions": {}}]}', "hold"),
        ("editor settings", b'{"editor.formatOnSave": true, "[python]": {"editor.tabSize": 4}}', "tell"),
        ("editor settings", b'{"python.defaultInterpreterPath": "./evil"}', "hold"),
        ("editor settings", b'{"x.y": "${workspaceFolder}/evil"}', "hold"),
        ("instructions", b"x", "tell"),
        ("Aegis", b"x", "tell"),
    ],
)
def test_judging(rule: str, content: bytes, does: str) -> None:
    assert judge(item(rule), content, b"", "hold") == does
    assert judge(item(rule), content, b"", "tell") == ("off" if does == "off" else "tell")
    assert judge(item(rule), content, b"", "off") == "off"


def test_what_cannot_be_read_gets_the_strictest() -> None:
    assert judge(item("editor tasks", kind="other"), None, b"", "hold") == "hold"
    assert judge(item("git config", kind="link"), None, b"", "hold") == "hold"
    assert judge(item("instructions", kind="link"), None, b"", "hold") == "tell"
