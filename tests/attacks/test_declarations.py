"""What a repository declares: YAML that explodes, files that are none, declarations exchanged between being shown and being trusted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import RealDaemon

from aegis.core.errors import AegisError, ErrorKind


@pytest.fixture
def project(tmp_path: Path) -> Path:
    place = tmp_path / "project"
    place.mkdir()
    return place


def refused(house: RealDaemon, project: Path) -> AegisError:
    """What every way to the declarations says; all of them must refuse."""
    last: AegisError | None = None
    ways: list[Any] = [
        lambda: house.client.config.trust(project),
        lambda: house.client.agents(project),
        lambda: house.client.config.show(project),
        lambda: house.start("d", project=str(project)),
    ]
    for way in ways:
        with pytest.raises(AegisError) as caught:
            way()
        last = caught.value
        assert last.kind in (ErrorKind.USAGE, ErrorKind.TOO_LARGE, ErrorKind.DENIED), last
        assert len(last.message) < 2000
    assert last is not None
    return last


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "&a [*a]",
        "a: &a {b: *a}",
        "[" * 5000,
        "{a: " * 5000,
        "- " * 5000,
        "? " * 5000,
        "a: !!python/object/apply:os.system [id]",
        "!!python/object/new:type {}",
        "a: !!binary aGk=",
        "%TAG ! tag:x,2000:\n---\na: 1",
        "a: 1\na: 2",
        "a: 1\n---\nb: 2",
        "<<: {a: 1}",
        "? [a]\n: 1",
        "x" * (2 * 2**20),
        "k: " + "x" * 1_100_000,
        "".join(f"k{n}: 1\n" for n in range(20_000)),
        "a: '" + "\\" * 100_000,
        "\x00",
        "\ufeff\x00",
        "agents: {agent: {sandbox: none}}",
        "agents: {agent: {secrets: ['*']}}",
        "agents: {agent: {secrets: ['*:env']}}",
        "agents: {agent: {mounts: [{path: /x, target: ../x}]}}",
        "agents: {agent: {system_file: ../../../etc/passwd}}",
        "agents: {agent: {system_file: /etc/passwd}}",
        "agents: {agent: {system_file: .aegis/../x.md}}",
        "agents: {../x: {}}",
        "agents: {x: {limits: {memory: 99999999999999999999TiB}}}",
        "agents: {x: {limits: {pids: -1}}}",
        "agents: {x: {idle: {pause: .inf}}}",
        "models: {agent: {model: 'a b'}}",
        "providers: {lab: {base_url: 'http://u:p@127.0.0.1/', dialect: openai}}",
        "providers: {lab: {base_url: 'http://127.0.0.1:2375/containers/create?x=', dialect: openai}}",
        "providers: {lab: {base_url: 'http://127.0.0.1/x#', dialect: openai}}",
        "providers: {lab: {base_url: \"http://good.example\\x1b[8m.evil.example/\", dialect: openai}}",
        "providers: {lab: {base_url: \"http://good.example/\u202e/\", dialect: openai}}",
        "providers: {lab: {base_url: 'http://g\u043eod.example/', dialect: openai}}",
        "providers: {lab: {base_url: 'file:///etc/passwd', dialect: openai}}",
        "providers: {lab: {base_url: 'unix:///run/docker.sock', dialect: openai}}",
        "providers: {lab: {base_url: 'http://\\evil/', dialect: openai}}",
    ],
    ids=range(42),
)  # fmt: skip
def test_hostile_declarations_are_usage_errors(house: RealDaemon, project: Path, text: str) -> None:
    (project / ".aegis.yaml").write_text(text)
    refused(house, project)
    assert house.client.instances.all() == []


def test_files_that_are_none(house: RealDaemon, project: Path, tmp_path: Path) -> None:
    """Links, pipes, devices and folders in the place of declarations: refused at once; nothing waits, nothing is read through them."""
    (tmp_path / "secret.md").write_text("canary")
    main, folder = project / ".aegis.yaml", project / ".aegis"

    def fifo(path: Path) -> None:
        os.mkfifo(path)

    for make in (
        lambda p: p.symlink_to(tmp_path / "secret.md"),
        fifo,
        lambda p: p.mkdir(),
        lambda p: p.symlink_to("/dev/zero"),
        lambda p: p.symlink_to(p.name),
    ):
        make(main)
        assert "canary" not in str(refused(house, project).to_dict())
        main.rmdir() if main.is_dir() and not main.is_symlink() else main.unlink()
    main.write_text("agents: {x: {system_file: prompt.md}}\n")
    folder.mkdir()
    for make in (lambda p: p.symlink_to(tmp_path / "secret.md"), fifo, lambda p: p.symlink_to("/dev/stdin"), lambda p: p.mkdir()):
        make(folder / "prompt.md")
        assert "canary" not in str(refused(house, project).to_dict())
        (folder / "prompt.md").rmdir() if (folder / "prompt.md").is_dir() else (folder / "prompt.md").unlink()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    refused(house, project)


def test_trust_is_in_what_was_shown(house: RealDaemon, project: Path) -> None:
    """Changed between being shown and being trusted, and between being trusted and being used: it is asked about again."""
    main = project / ".aegis.yaml"
    main.write_text("agents: {x: {sandbox: bwrap, permission: read}}\n")
    client = house.client
    seen = client.config.trust(project)
    main.write_text("agents: {x: {sandbox: process, permission: write}}\n")
    with pytest.raises(AegisError) as caught:
        client.config.grant(project, seen["hash"])
    assert caught.value.kind is ErrorKind.CONFLICT
    with pytest.raises(AegisError) as caught:
        house.start("t", agent="x", sandbox=None, project=str(project))
    assert caught.value.kind is ErrorKind.DENIED
    main.write_text("agents: {x: {sandbox: bwrap, permission: read}}\n")
    client.config.grant(project, seen["hash"])
    about = main.stat()
    # The same size and the same time: still another content, or still the old one, but never the new one unasked.
    with main.open("r+") as file:
        file.write("agents: {x: {sandbox: bwrap, secrets: ['K']}}    \n"[: about.st_size])
    os.utime(main, ns=(about.st_atime_ns, about.st_mtime_ns))
    try:
        started = house.start("t", agent="x", sandbox=None, project=str(project))
        assert (started["permission"], started["secret_keys"]) == ("read", [])
    except AegisError as error:
        if error.kind is not ErrorKind.DENIED:
            raise
    for extra in (".aegis/agents/y.yaml", ".aegis/z.md"):
        (project / extra).parent.mkdir(parents=True, exist_ok=True)
        (project / extra).write_text("permission: read\n")
        with pytest.raises(AegisError):
            house.start("u", agent="x", sandbox=None, project=str(project))
    for one in client.instances.all():
        client.instances.delete(one["handle"])


def test_an_untrusted_project_does_nothing(house: RealDaemon, project: Path) -> None:
    (project / ".aegis.yaml").write_text("defaults: {sandbox: process, env: {LD_PRELOAD: /x}}\nagents: {agent: {permission: write}}\n")
    with pytest.raises(AegisError) as caught:
        house.start("d", sandbox=None, project=str(project))
    assert caught.value.kind is ErrorKind.DENIED
    assert not house.client.config.trust(project)["trusted"]
    assert not [v for v in house.client.config.show(project) if "LD_PRELOAD" in v["key"]]
