"""Real agent programs against the broker: what they make of a limit that lasts, and of a recording."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.kit.clis import cli

from aegis.models import Dialect, ModelRequest, ModelResponse
from aegis.services.broker import Player, Recorder

SESSION = "host:default"


def environment(name: str, served: Any, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The command and the whole environment of a program that asks for `directives`."""
    program = cli(name)
    base = f"{served.url}/s/{base64.urlsafe_b64encode(SESSION.encode()).decode().rstrip('=')}"
    home = folder / "home"
    (home / "tmp").mkdir(parents=True)
    env = {"HOME": str(home), "TMPDIR": str(home / "tmp"), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    if name == "claude-code":
        env |= {"ANTHROPIC_API_KEY": served.client.token, "ANTHROPIC_BASE_URL": base}
        env |= {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}
        return [str(program), "-p", "hello", "--model", "directives", "--setting-sources", ""], env
    if name == "gemini":
        node = shutil.which("node")
        if node is None:
            pytest.skip("node is not installed")
        env |= {"GEMINI_API_KEY": served.client.token, "GOOGLE_GEMINI_BASE_URL": base, "GEMINI_CLI_NO_RELAUNCH": "true"}
        (home / ".gemini").mkdir()
        settings = {
            "security": {"auth": {"selectedType": "gemini-api-key"}},
            "general": {"enableAutoUpdate": False},
            "privacy": {"usageStatisticsEnabled": False},
            "telemetry": {"enabled": False},
        }
        (home / ".gemini" / "settings.json").write_text(json.dumps(settings))
        env["GEMINI_CLI_TRUST_WORKSPACE"] = "true"
        return [node, str(program), "-m", "directives", "-p", "hello"], env
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Aegis",
        "options": {"baseURL": f"{base}/v1", "apiKey": served.client.token},
        "models": {"directives": {"name": "Directives"}},
    }
    config = {
        "model": "aegis/directives",
        "small_model": "aegis/directives",
        "enabled_providers": ["aegis"],
        "provider": {"aegis": provider},
    }
    env |= {f"OPENCODE_DISABLE_{what}": "1" for what in ("DEFAULT_PLUGINS", "AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD")}
    env["OPENCODE_CONFIG_CONTENT"] = json.dumps(config | {"autoupdate": False, "share": "disabled"})
    return [str(program), "run", "hello"], env


async def run(name: str, served: Any, folder: Path) -> tuple[int | None, str]:
    """Run a program to its end; its exit code and all it said."""
    argv, env = environment(name, served, folder)
    work = folder / "work"
    work.mkdir(parents=True)
    pipe = asyncio.subprocess.PIPE
    program = await asyncio.create_subprocess_exec(
        *argv, env=env, cwd=work, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(90):
            output, _ = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    return program.returncode, output.decode(errors="replace")


class Spent:
    """A provider that gives no more today."""

    name = "scripted"
    dialects: frozenset[Dialect] = frozenset({"anthropic", "openai", "responses", "gemini"})
    secret: str | None = None
    free = True
    description = "for tests"

    def __init__(self, answers: Any) -> None:
        self.answers = answers

    async def stream(self, request: ModelRequest, credential: str | None) -> ModelResponse:
        body = b'{"error":{"code":429,"message":"spent for today","status":"RESOURCE_EXHAUSTED"}}'
        return self.answers.whole(body, 429, ("retry-after", "7200"))  # type: ignore[no-any-return]

    async def close(self) -> None: ...


pytestmark = pytest.mark.timeout(240)
PROGRAMS = [pytest.param(name, marks=pytest.mark.realcli(name)) for name in ("claude-code", "gemini", "opencode")]


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_limit_that_lasts_ends_the_program_at_once(served: Any, answers: Any, tmp_path: Path, name: str) -> None:
    served.client.model = "scripted/directives"
    served.providers["scripted"] = Spent(answers)
    code, said = await run(name, served, tmp_path)
    assert code != 0
    assert "the usage limit of model provider `scripted` is reached" in said
    assert {call.status for call in served.recorded} == {402}
    assert {call.session for call in served.recorded} == {SESSION}
    assert len(served.recorded) <= 2  # one may be for a title


@pytest.mark.parametrize("name", PROGRAMS[:2])
async def test_what_a_program_did_is_done_again_from_its_recording(served: Any, tmp_path: Path, name: str) -> None:
    served.client.model = "scripted/directives"
    path, home = str(tmp_path / "calls.jsonl"), tmp_path / "aegis"
    home.mkdir()
    recorder = Recorder(path, home, served.clock, lambda problem: None)
    served.client.record = recorder
    code, said = await run(name, served, tmp_path / "first")
    assert (code, "echo: hello" in said) == (0, True), said
    calls = len(served.recorded)
    served.client.record, served.client.replay = None, Player(path, home, served.clock)
    served.providers.clear()
    code, again = await run(name, served, tmp_path / "second")
    assert code == 0, again
    assert [call.source for call in served.recorded] == ["broker"] * calls + ["replayed"] * (len(served.recorded) - calls)
    assert {call.status for call in served.recorded} == {200}
    recorder.close()
    served.client.replay.close()
