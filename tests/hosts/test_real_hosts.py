"""Claude Code, Gemini CLI and OpenCode, told of Aegis by `aegis mcp install`, use it as a person's own agent would.

Each runs with a HOME of the test's own, a dummy key, and the scripted models on loopback for a provider.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import RealDaemon
from tests.kit.clis import cli
from tests.kit.model_server import ModelServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SCRIPT = '[[call instance_list {}]] [[call tether_send {"instance": "w", "text": "hello from the host"}]] [[say it is sent]]'
PROVIDER = {
    "npm": "@ai-sdk/openai-compatible",
    "name": "Fake",
    "models": {"fake-1": {"name": "Fake", "limit": {"context": 200000, "output": 8000}}},
}


class Host:
    """A person's machine with one of the programs."""

    def __init__(self, base: Path, server: ModelServer, real: RealDaemon) -> None:
        self.home, self.work, self.server = base / "home", base / "work", server
        for folder in (self.home, self.work, base / "tmp"):
            folder.mkdir()
        node = shutil.which("node")
        path = os.pathsep.join(filter(None, ["/usr/bin", "/bin", str(Path(node).parent) if node else ""]))
        self.environment = {
            "HOME": str(self.home),
            "PATH": path,
            "LANG": "C.UTF-8",
            "TMPDIR": str(base / "tmp"),
            "AEGIS_HOME": str(real.home),
        }

    def write(self, name: str, value: Any) -> None:
        """A configuration that is there before."""
        file = self.home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("// mine\n" * name.endswith("c") + json.dumps(value, indent=2))

    def install(self, program: str) -> None:
        """Tell the program of Aegis."""
        argv = [sys.executable, "-m", "aegis", "mcp", "install", program]
        done = subprocess.run(argv, cwd=self.work, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        del self.environment["AEGIS_HOME"]  # the entry says it

    def run(self, *argv: str, said: str = "", **more: str) -> str:
        """What the program says, with `said` as its input."""
        done = subprocess.run(
            argv,
            cwd=self.work,
            env=self.environment | more,
            input=said,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        told = done.stdout + done.stderr
        assert done.returncode == 0, told
        return told


@pytest.fixture
def host(daemon: RealDaemon) -> Iterator[Host]:
    daemon.start("w")
    base = Path(tempfile.mkdtemp(prefix="aegis-host-"))
    with ModelServer() as server:
        yield Host(base, server, daemon)
    shutil.rmtree(base, ignore_errors=True)


def used(host: Host, daemon: RealDaemon, told: str) -> None:
    """The model was given what the verbs said, and the message is in the box."""
    assert "it is sent" in told, told
    results = json.dumps([request.body for request in host.server.calls])
    assert "scripted/directives" in results  # of the line of `w` in the list
    assert "accepted, seq" in results or "ingress_seq" in results  # some show the text, some the data
    assert [mail["text"] for mail in daemon.client.mail.all("w")] == ["hello from the host"]


@pytest.mark.realcli("claude-code")
def test_claude_code(host: Host, daemon: RealDaemon) -> None:
    host.install("claude")
    told = host.run(
        str(cli("claude-code")), "-p", SCRIPT, "--model", "sonnet", "--allowedTools", "mcp__aegis__instance_list,mcp__aegis__tether_send",
        ANTHROPIC_API_KEY="dummy", ANTHROPIC_BASE_URL=host.server.url, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        DISABLE_AUTOUPDATER="1", ENABLE_TOOL_SEARCH="0",
    )  # fmt: skip
    used(host, daemon, told)


@pytest.mark.realcli("gemini")
def test_gemini(host: Host, daemon: RealDaemon) -> None:
    quiet = {"usageStatisticsEnabled": False}
    host.write(
        ".gemini/settings.json",
        {
            "security": {"auth": {"selectedType": "gemini-api-key"}},
            "general": {"enableAutoUpdate": False},
            "privacy": quiet,
            "telemetry": {"enabled": False},
        },
    )
    host.install("gemini")
    told = host.run(
        str(cli("gemini")), "-p", SCRIPT, "-m", "gemini-2.5-flash", "--approval-mode", "yolo",
        GEMINI_API_KEY="dummy", GOOGLE_GEMINI_BASE_URL=host.server.url, GEMINI_CLI_NO_RELAUNCH="true", GEMINI_CLI_TRUST_WORKSPACE="true",
    )  # fmt: skip
    used(host, daemon, told)


@pytest.mark.realcli("opencode")
def test_opencode(host: Host, daemon: RealDaemon) -> None:
    provider = {**PROVIDER, "options": {"baseURL": f"{host.server.url}/v1", "apiKey": "dummy"}}
    models = {"model": "fake/fake-1", "small_model": "fake/fake-1", "enabled_providers": ["fake"], "provider": {"fake": provider}}
    host.write(".config/opencode/opencode.jsonc", {"autoupdate": False, "share": "disabled", **models})
    host.install("opencode")
    told = host.run(
        str(cli("opencode")), "run", said=SCRIPT,
        OPENCODE_DISABLE_DEFAULT_PLUGINS="1", OPENCODE_DISABLE_AUTOUPDATE="1", OPENCODE_DISABLE_MODELS_FETCH="1",
        OPENCODE_DISABLE_LSP_DOWNLOAD="1",
    )  # fmt: skip
    used(host, daemon, told)
