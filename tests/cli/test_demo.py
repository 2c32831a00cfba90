"""The demo through the real command: with the offline script, and on a repository of one's own with a model server on loopback."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Program
from tests.guest.agent.model_server import ModelServer, Say, call, text


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A git repository."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1\n")
    for argv in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b.invalid", "commit", "-qm", "one"]):
        subprocess.run(["git", *argv], cwd=folder, check=True)
    return folder


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A model that writes a file in two steps, and then answers whatever is asked."""
    steps = [
        Say([call("bash", {"command": "cat a.py"})]),
        Say([call("bash", {"command": "echo 'x = 2' > a.py"})]),
        Say([text("I changed it.")]),
        *(Say([text("One number is another now.")]) for _ in range(3)),  # a request under way when the daemon dies takes one
    ]
    served = ModelServer(steps)
    yield served
    served.close()


def test_the_script_mends_the_repository_across_the_death_of_its_daemon(aegis: Program) -> None:
    with tempfile.TemporaryDirectory(prefix="aegis-") as folder:  # a short path, because a socket's path is
        aegis.environment["TMPDIR"] = folder
        done = aegis("demo", "--sandbox", "process")
        assert not list(Path(folder).glob("aegis-demo-*")), "its home goes away with it"
    assert "not a real model" in done.stdout
    assert "✂ kill -9" in done.stdout
    for proof in ("spawn", "wake", "recovery", "tests before", "tests after"):
        assert f"\n{proof} " in done.stdout
    assert "+++ b/" in done.stdout
    assert not list(aegis.home.iterdir()), "the demo has a home of its own"


def test_a_model_server_of_ones_own_works_on_ones_own_repository(aegis: Program, repo: Path, server: ModelServer) -> None:
    aegis.environment["LOCAL_API_KEY"] = "k-e-y"
    done = aegis(
        "demo", "--sandbox", "process", "--repo", "mine", "--task", "make it two", "--model", "small", "--base-url", f"{server.url}/v1"
    )
    assert "local/small" in done.stdout
    assert "+x = 2" in done.stdout
    assert "One number is another now." in done.stdout
    assert (repo / "a.py").read_text() == "x = 2\n"
    assert {body["model"] for body in server.requests} == {"small"}
    assert server.headers[0]["authorization"] == "Bearer k-e-y"
