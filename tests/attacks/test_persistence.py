"""Cases 16 and 17: what an agent leaves in a workspace for the person's own git, editor or Aegis to run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

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


@pytest.mark.xfail(strict=True, reason="open: a repository that the agent makes below the workspace runs its programs when git looks at it")
def test_a_nested_repository_runs_nothing_of_the_agents(box: Make, tmp_path: Path) -> None:
    work, ran = repository(tmp_path / "repo"), tmp_path / "ran"
    a = box(workspace=work)
    made = a.sh(f"{EVIL_REPOSITORY} && git config core.fsmonitor 'touch {ran}; false' && cd .. && git add evil")
    assert made.code == 0, made
    git(work, "status")
    assert not ran.exists()


@pytest.mark.xfail(strict=True, reason="open: `.git/commondir` that the agent makes turns git to another configuration")
def test_the_common_directory_cannot_be_turned_elsewhere(box: Make, tmp_path: Path) -> None:
    work, ran = repository(tmp_path / "repo"), tmp_path / "ran"
    a = box(workspace=work)
    a.sh(f"cp -r .git evil; printf '[core]\\n\\tfsmonitor = \"touch {ran}; false\"\\n' >> evil/config; echo ../evil > .git/commondir")
    git(work, "status")
    assert not ran.exists()


@pytest.mark.xfail(strict=True, reason="open: where there is no repository, an agent can make one")
def test_a_workspace_without_a_repository_gets_none_that_acts(box: Make, tmp_path: Path) -> None:
    work, ran = tmp_path / "plain", tmp_path / "ran"
    a = box(workspace=work)
    assert a.sh(f"git init -q . && git config core.fsmonitor 'touch {ran}; false' && echo x > f").code == 0
    git(work, "status")
    assert not ran.exists()


@pytest.mark.xfail(strict=True, reason="open: a link in the place of `hooks` cannot be held in its place by a mount")
def test_hooks_that_are_a_link(box: Make, tmp_path: Path) -> None:
    work = repository(tmp_path / "repo")
    shutil.rmtree(work / ".git" / "hooks")
    (work / ".git" / "hooks").symlink_to("../githooks")
    (work / "githooks").mkdir()
    a = box(workspace=work)
    assert a.sh("echo x > githooks/pre-commit || (rm .git/hooks && mkdir .git/hooks && echo x > .git/hooks/pre-commit)").code != 0


@pytest.mark.xfail(strict=True, reason="open: what editors and other agents act on is the agent's to write, existing or not")
@pytest.mark.parametrize("path", [".envrc", ".mcp.json", ".vscode/tasks.json", ".claude/settings.json"])
def test_what_other_programs_act_on(box: Make, tmp_path: Path, path: str) -> None:
    work = tmp_path / "w"
    (work / path).parent.mkdir(parents=True)
    (work / path).write_text("person\n")
    a = box(workspace=work)
    a.sh(f"echo agent > {path}")
    assert (work / path).read_text() == "person\n"
