"""The first minutes of a person: a key, an agent, a message by curl; without a network, and with a model server on loopback."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Program
from tests.guest.agent.model_server import ModelServer, Say, text

FRAME = '{"v":1,"type":"user.message","session":{"channel":"host","id":"test"},"payload":{"text":"Hello!"}}'
pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
def person(aegis: Program) -> Iterator[Program]:
    """A person whose home is `~/.aegis`."""
    base = aegis.home
    aegis.environment = {key: value for key, value in aegis.environment.items() if key != "AEGIS_HOME"} | {"HOME": str(base)}
    aegis.environment["AEGIS_DEFAULTS_SANDBOX"] = "process"
    aegis.home = base / ".aegis"
    yield aegis
    aegis("down", code=None)
    aegis.home = base


def _curl(person: Program, *args: str) -> Any:
    argv = ["bash", "-c", 'exec curl -sS --unix-socket ~/.aegis/aegisd.sock "$@"', "curl", *args]
    done = subprocess.run(argv, env=person.environment, capture_output=True, timeout=60, check=True)
    return json.loads(done.stdout)


def _hello(person: Program) -> dict[str, Any]:
    """Say hello by curl and poll to the terminal frame, which it returns; all frames are checked on the way."""
    said = _curl(person, "-X", "POST", "http://aegis/v1/instances/my-agent/tether", "-H", "Content-Type: application/json", "-d", FRAME)
    assert said["ingress_seq"] > 0
    frames: list[dict[str, Any]] = []
    after = 0
    while not frames or frames[-1]["type"] != "assistant.done":
        query = f"channel=host&session_id=test&after_seq={after}&wait_ms=15000"
        page = _curl(person, f"http://aegis/v1/instances/my-agent/tether/poll?{query}")
        assert not page["timed_out"], frames
        frames += page["frames"]
        after = page["next_seq"]
        frames = frames[: next((i + 1 for i, frame in enumerate(frames) if frame["type"] == "assistant.done"), len(frames))]
    assert [frame["type"] for frame in frames].count("assistant.done") == 1
    assert frames[-1]["payload"]["in_reply_to"] == [said["id"]]
    payload: dict[str, Any] = frames[-1]["payload"]
    return payload


def test_without_a_network_the_answer_is_one_clear_error(person: Program) -> None:
    # Nobody listens on port 9, as nobody does beyond a machine without a network.
    person.home.mkdir(mode=0o700)
    (person.home / "config.yaml").write_text(
        "providers: {openai: {base_url: 'http://127.0.0.1:9/v1', dialect: openai, secret: OPENAI_API_KEY}}\n"
        "defaults: {model: openai/gpt-4o}\n"
    )
    assert "stored OPENAI_API_KEY" in person("secret", "set", "OPENAI_API_KEY", "sk-...").stdout
    person("instance", "start", "--kit", "agent", "--name", "my-agent", "--secret", "OPENAI_API_KEY")
    assert "kit          agent" in person("instance", "info", "my-agent").stdout
    done = _hello(person)
    assert done["outcome"] == "failed"
    assert "no answer from model provider `openai` at http://127.0.0.1:9/v1" in done["error"]["error"]


def test_with_a_model_server_on_loopback_it_answers(person: Program, tmp_path: Path) -> None:
    server = ModelServer([Say([text("Hello from here.")])])
    try:
        (tmp_path / ".aegis.yaml").write_text(
            f"providers:\n  lab: {{base_url: '{server.url}/v1', dialect: openai}}\nagents:\n  helper: {{model: lab/small}}\n"
        )
        person("config", "trust", "--yes")
        person("instance", "start", "helper", "--name", "my-agent")
        done = _hello(person)
        assert (done["outcome"], done["text"]) == ("completed", "Hello from here.")
        assert done["usage"]["input"] > 0
        assert "lab/small" in person("instance", "info", "my-agent").stdout
        assert "authorization" not in server.headers[0]
    finally:
        server.close()
