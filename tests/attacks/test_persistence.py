"""Cases 16 and 17: what an agent leaves in a workspace for the person's own git, editor or Aegis to run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.conftest import Box
from tests.conftest import RealDaemon

Make = Callable[..., Box]

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(where: Path, *args: str) -> str:
    """The person's own git on the host, with nobody's configuration."""
    env = {"PATH": os.environ["PATH"], "HOME": str(where.parent), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
    who = ("-c", "user.name=p", "-c", "user.email=p@localhost", "-c", "safe.directory=*", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *who, *args], cwd=where, env=env, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout + done.stderr


def repository(where: Path) -> Path:
    where.mkdir()
    git(where, "init", "-q", ".")
    (where / "file").write_text("1\n")
    git(where, "add", "file")
    git(where, "commit", "-qm", "one")
    return where


def used_by_the_person(where: Path, *more: str) -> None:
    """What a person does in a repository after the agent worked there."""
    for command in ("status", "diff", "log -1", "add -A", "commit -qm two --allow-empty", "checkout -q -b x", *more):
        git(where, *command.split())


def test_hooks_and_configuration_cannot_be_written(box: Make, tmp_path: Path) -> None:
    work, ran = repository(tmp_path / "repo"), tmp_path / "ran"
    before = (work / ".git" / "config").read_bytes()
    a = box(workspace=work)
    hook = f"printf '#!/bin/sh\\ntouch {ran}\\n'"
    for script in (
        f"{hook} > .git/hooks/pre-commit",
        f"{hook} > .git/hooks/post-checkout && chmod +x .git/hooks/post-checkout",
        "mv .git/hooks .git/h && mkdir .git/hooks",
        "mv .git .g && cp -r .g .git",
        "rm -rf .git/hooks",
        "ln -sf /tmp .git/hooks",
        f"git config core.fsmonitor 'touch {ran}'",
        f"git config core.sshCommand 'touch {ran}'",
        "git config core.hooksPath evil",
        "echo '[core]' >> .git/config",
        "mv .git/config .git/c",
        "cp .git/config x && mv x .git/config",
        "rm .git/config",
    ):
        assert a.sh(script).code != 0, script
    a.sh(f"mkdir -p evil && {hook} > evil/pre-commit; chmod +x evil/*; {hook} > .git/hooks/pre-push; {hook} > .git/h/pre-commit")
    assert (work / ".git" / "config").read_bytes() == before
    used_by_the_person(work)
    assert not ran.exists()


def test_hooks_that_are_not_there_yet(box: Make, tmp_path: Path) -> None:
    """A repository made without hooks gets an empty, protected folder for them."""
    work, ran = repository(tmp_path / "repo"), tmp_path / "ran"
    shutil.rmtree(work / ".git" / "hooks")
    a = box(workspace=work)
    assert a.sh("echo x > .git/hooks/pre-commit").code != 0
    assert a.sh("mkdir .git/hooks; rm -rf .git/hooks; mv .git/hooks x").code != 0
    used_by_the_person(work)
    assert not ran.exists()
    about = (work / ".git" / "hooks").stat()
    assert about.st_uid == (work / ".git").stat().st_uid
    assert list((work / ".git" / "hooks").iterdir()) == []


def test_an_agent_with_read_adds_no_folder(box: Make, tmp_path: Path) -> None:
    work = repository(tmp_path / "repo")
    shutil.rmtree(work / ".git" / "hooks")
    box(workspace=work, permission="read")
    assert not (work / ".git" / "hooks").exists()


def test_a_worktree_cannot_reach_its_main_repository(box: Make, tmp_path: Path) -> None:
    """Case 17: the main repository is not there, and the pointer to it cannot be turned elsewhere."""
    main = repository(tmp_path / "main")
    git(main, "worktree", "add", "-q", str(tmp_path / "tree"))
    a = box(workspace=tmp_path / "tree")
    for script in (
        "echo 'gitdir: /workspace/evil' > .git",
        "rm .git",
        "mv .git x",
        "ln -sf evil .git",
        f"ls {main}",
        f"echo x > {main}/.git/hooks/pre-commit",
        "git update-ref refs/heads/main HEAD",
        "git worktree remove --force .",
    ):
        assert a.sh(script).code != 0, script
    assert (tmp_path / "tree" / ".git").read_text().strip().endswith(".git/worktrees/tree")


def test_declarations_cannot_be_written_and_new_ones_have_no_effect(box: Make, house: RealDaemon, tmp_path: Path) -> None:
    """Existing ones are read-only; those that an agent makes are asked about before they count."""
    work = tmp_path / "project"
    (work / ".aegis" / "agents").mkdir(parents=True)
    (work / ".aegis.yaml").write_text("agents: {x: {permission: read}}\n")
    (work / ".aegis" / "agents" / "y.yaml").write_text("permission: read\n")
    a = box(workspace=work)
    for script in (
        "echo x >> .aegis.yaml",
        "rm .aegis.yaml",
        "mv .aegis.yaml x",
        "cp .aegis.yaml y && mv y .aegis.yaml",
        "echo 'sandbox: process' > .aegis/agents/evil.yaml",
        "mv .aegis z",
        "rm -rf .aegis",
        "touch .aegis/new.md",
        "chmod 777 .aegis",
    ):
        assert a.sh(script).code != 0, script
    empty = tmp_path / "empty"
    b = box("b", workspace=empty)
    assert b.sh("printf 'agents: {agent: {sandbox: process}}\\n' > .aegis.yaml").code == 0
    from aegis.core.errors import AegisError, ErrorKind

    with pytest.raises(AegisError) as caught:
        house.start("c", sandbox=None, project=str(empty))
    assert caught.value.kind is ErrorKind.DENIED
    assert {one["handle"] for one in house.client.instances.all()} == {"a", "b"}


EVIL_REPOSITORY = (
    "git init -q evil && cd evil && git config user.email a@a && git config user.name a && echo x > f && git add f && git commit -qm x"
)


def held(a: Box) -> dict[str, dict[str, Any]]:
    """What is put aside of an instance after a look, by path."""
    return {item["path"]: item for item in a.client.held.look(a.handle)}


def test_a_nested_repository_runs_nothing_of_the_agents(box: Make, tmp_path: Path) -> None:
    work, ran = repository(tmp_path / "repo"), tmp_path / "ran"
    a = box(workspace=work)
    made = a.sh(
        f"{EVIL_REPOSITORY} && git config core.fsmonitor 'touch {ran}; false' && printf 'touch {ran}' > .git/hooks/post-checkout"
        f" && chmod +x .git/hooks/post-checkout && cd .. && git add evil && mkdir -p d/e/f && cp -r evil/.git d/e/f/bare"
    )
    assert made.code == 0, made
    assert held(a).keys() == {f"{where}/{name}" for where in ("evil/.git", "d/e/f/bare") for name in ("config", "hooks/post-checkout")}
    used_by_the_person(work)
    used_by_the_person(work / "evil")
    git(work / "d/e/f/bare", "status")
    assert not ran.exists()
    assert "x" in git(work / "evil", "log", "--format=%s").split(), "the work itself is there"


def test_git_cannot_be_turned_elsewhere(box: Make, tmp_path: Path) -> None:
    """By `commondir`, by a pointer to a repository of the agent's, by a link."""
    work, ran = repository(tmp_path / "repo"), tmp_path / "ran"
    a = box(workspace=work)
    evil = f"cp -r .git evil; printf '[core]\\n\\tfsmonitor = \"touch {ran}; false\"\\n' >> evil/config"
    a.sh(f"{evil}; cp -r evil .git/objects/evil; echo ../evil > .git/commondir; mkdir sub tub")
    a.sh("echo 'gitdir: ../.git/objects/evil' > sub/.git; ln -s ../evil tub/.git")
    assert held(a).keys() >= {".git/commondir", "evil/config", "sub/.git", "tub/.git"}
    for where in (work, work / "sub", work / "tub"):
        git(where, "status")
    assert not ran.exists()


def test_a_workspace_without_a_repository_gets_none_that_acts(box: Make, tmp_path: Path) -> None:
    """An ordinary one is left alone; what git runs is not."""
    work, ran = tmp_path / "plain", tmp_path / "ran"
    a = box(workspace=work)
    assert (
        a.sh("git init -q . && git config user.name a && git config user.email a@a && echo x > f && git add f && git commit -qm x").code
        == 0
    )
    assert held(a) == {}
    assert a.sh(f"git config core.fsmonitor 'touch {ran}; false'").code == 0
    assert held(a).keys() == {".git/config"}
    git(work, "status")
    assert not ran.exists()
    assert "repositoryformatversion" in (work / ".git" / "config").read_text(), "what was in order is back"
    assert "fsmonitor" not in (work / ".git" / "config").read_text()


def test_hooks_that_are_a_link(box: Make, tmp_path: Path) -> None:
    work = repository(tmp_path / "repo")
    shutil.rmtree(work / ".git" / "hooks")
    (work / ".git" / "hooks").symlink_to("../githooks")
    (work / "githooks").mkdir()
    (work / "githooks" / "pre-push").write_text("person\n")
    a = box(workspace=work)
    a.sh("echo x > githooks/pre-commit; echo x > githooks/pre-push; mkdir own; echo x > own/post-commit")
    assert held(a).keys() == {"githooks/pre-commit", "githooks/pre-push"}
    assert (work / "githooks" / "pre-push").read_text() == "person\n"
    a.sh("rm .git/hooks; ln -s ../own .git/hooks")
    assert ".git/hooks" in held(a)
    assert os.readlink(work / ".git" / "hooks") == "../githooks"


ACTING = (
    ".envrc",
    ".mcp.json",
    ".vscode/tasks.json",
    ".claude/settings.json",
    "deep/er/and/deeper/.gemini/settings.json",
    ".codex/hooks.json",
)
AUTOMATIC = '{"tasks": [{"runOptions": {"runOn": "folderOpen"}}]}'


def test_what_other_programs_act_on(box: Make, tmp_path: Path) -> None:
    """What was there is back, what was not is gone, and a person can have both."""
    for name, there in (("was", True), ("was-not", False)):
        work = tmp_path / name
        for path in ACTING:
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            if there:
                (work / path).write_text("person\n")
        a = box(name, workspace=work)
        a.sh("; ".join(f"echo '{AUTOMATIC}' > {path}" for path in ACTING))
        found = held(a)
        assert found.keys() == set(ACTING)
        for path in ACTING:
            assert (work / path).read_text() == "person\n" if there else not os.path.lexists(work / path)
        one = found[".envrc"]
        assert AUTOMATIC in a.client.held.get(one["id"])["diff"]
        a.client.held.decide(one["id"], release=True)
        assert (work / ".envrc").read_text() == f"{AUTOMATIC}\n"
        a.client.held.decide(found[".mcp.json"]["id"], release=False)
        assert held(a).keys() == set(ACTING) - {".envrc", ".mcp.json"}, "what a person released is his"


def test_ordinary_work_is_left_alone(box: Make, tmp_path: Path) -> None:
    """What people have agents write is told, not taken away."""
    work = repository(tmp_path / "repo")
    a = box(workspace=work)
    a.sh("echo x | tee AGENTS.md CLAUDE.md Makefile .gitignore; mkdir -p .vscode .claude/commands; echo x > .claude/commands/x.md")
    a.sh("""echo '{"editor.formatOnSave": true}' > .vscode/settings.json; echo '{"tasks": [{"command": "make"}]}' > .vscode/tasks.json""")
    a.sh("git add -A; git -c user.name=a -c user.email=a@a commit -qm x; git worktree add -q .trees/x; git branch y")
    assert held(a) == {}
    assert (work / "AGENTS.md").read_text() == "x\n"
    events = a.client.events(0, instance="a", types=("instance.held",))["events"]
    assert {event["data"]["path"] for event in events} == {
        *("AGENTS.md", "CLAUDE.md", ".claude/commands/x.md", ".vscode/settings.json", ".vscode/tasks.json"),
        *(".trees/x/AGENTS.md", ".trees/x/CLAUDE.md", ".trees/x/.claude/commands/x.md"),
        *(".trees/x/.vscode/settings.json", ".trees/x/.vscode/tasks.json"),
    }
    assert {event["data"]["state"] for event in events} == {"told"}


def test_a_turn_leaves_nothing_behind_that_acts(box: Make, house: RealDaemon, tmp_path: Path) -> None:
    """Before the end of a turn is told, also in the sandbox that is none; the audit has a record of each."""
    a = box(workspace=tmp_path / "w", sandbox="process")
    done = a.ask(f"[[call bash {json.dumps({'command': 'echo evil > .envrc'})}]] [[say done]]")
    assert done["outcome"] == "completed", done
    assert not (a.workspace / ".envrc").exists()
    (one,) = a.client.held.list(instance="a")
    assert one["turn"] is not None
    records = [row for row in house.client.audit(limit=1000) if row["action"] == "workspace.hold" and row["resource"].endswith("w/.envrc")]
    assert len(records) == 1
    assert records[0]["principal"] == "system:daemon"


def test_when_a_sandbox_is_frozen_stops_and_starts(box: Make, tmp_path: Path) -> None:
    """What the person does while nobody can write there is never held."""
    a = box(workspace=tmp_path / "w")
    (a.workspace / ".envrc").write_text("as a program that goes on after its turn\n")
    a.client.instances.act("a", "pause")
    assert not (a.workspace / ".envrc").exists()
    a.sh("echo two > .mcp.json")
    a.client.instances.act("a", "disable")
    assert {item["path"] for item in a.client.held.list(instance="a")} == {".envrc", ".mcp.json"}
    (a.workspace / ".envrc").write_text("person\n")
    a.client.instances.act("a", "start")
    assert len(held(a)) == 2
    assert (a.workspace / ".envrc").read_text() == "person\n"


def test_what_a_person_does_meanwhile(box: Make, tmp_path: Path) -> None:
    """His hooks are his. git replaces its configuration by renaming, which takes the mount inside away: then a look is what is left."""
    work = repository(tmp_path / "repo")
    a = box(workspace=work)
    (work / ".git" / "hooks" / "pre-commit").write_text("mine\n")
    git(work, "config", "user.name", "me")
    assert held(a) == {}
    assert (work / ".git" / "hooks" / "pre-commit").read_text() == "mine\n"
    a.sh("git config core.fsmonitor evil")
    held(a)
    config = (work / ".git" / "config").read_text()
    assert "evil" not in config
    assert "name = me" in config


def test_an_agent_that_turns_the_guard_off_needs_a_person(box: Make, tmp_path: Path) -> None:
    """`guard` is a key of the declaration, which is asked about."""
    work = tmp_path / "w"
    a = box(workspace=work)
    a.sh("printf 'agents: {agent: {guard: off}}\\n' > .aegis.yaml; echo x > .envrc")
    assert held(a).keys() == {".envrc"}
    assert any("STAYS" in line for line in a.client.config.trust(work)["summary"])


def test_links_in_the_way_lead_nowhere(box: Make, tmp_path: Path) -> None:
    """A directory that becomes a link to outside, before and after the look, and in the moment of a release."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".envrc").write_text("person\n")
    a = box(workspace=tmp_path / "w")
    a.sh("mkdir d; echo x > d/.envrc")
    one = held(a)["d/.envrc"]
    (a.workspace / "d").rmdir()
    (a.workspace / "d").symlink_to(outside)
    from aegis.core.errors import AegisError

    with pytest.raises(AegisError):
        a.client.held.decide(one["id"], release=True)
    assert held(a).keys() == {"d/.envrc"}
    assert (outside / ".envrc").read_text() == "person\n"
    (a.workspace / "d").unlink()
    (a.workspace / "d").mkdir()
    (a.workspace / "d" / ".envrc").symlink_to(outside / ".envrc")
    assert a.client.held.look("a")
    with pytest.raises(AegisError, match=r"something else|was held"):
        (a.workspace / "d" / ".envrc").write_text("other\n")
        a.client.held.decide(one["id"], release=True)
    assert (outside / ".envrc").read_text() == "person\n"


def test_many_at_once(box: Make, tmp_path: Path) -> None:
    a = box(workspace=tmp_path / "w")
    a.sh(
        "git init -q .; for i in $(seq 400); do echo x > .git/hooks/h$i; done; mkdir -p $(printf 'd/%.0s' $(seq 60)); cd d/d/d/d; echo x > .envrc"
    )
    found = a.client.held.look("a")
    assert len(found) >= 100  # a page
    assert [path.name for path in (a.workspace / ".git" / "hooks").iterdir() if not path.name.endswith(".sample")] == []
    assert not (a.workspace / "d/d/d/d/.envrc").exists()
