"""`aegis mcp serve`: a person's own agent reaches the daemon over standard input and output, with the verbs of a host."""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import RealDaemon
from tests.hosts.conftest import SECONDS, environment

from aegis.cli.pipe import READING
from aegis.daemon.mcp.host import VERBS

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


class Client:
    """An MCP client that started the program. Everything on its standard output has to be a message."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._ids = 0
        self._answers: dict[Any, queue.Queue[Any]] = {}
        self.strays: queue.Queue[Any] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            self._answers.get(message.get("id"), self.strays).put(message)

    def write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def begin(self, method: str, **params: Any) -> int:
        """Ask; the id of the request."""
        self._ids += 1
        self._answers[self._ids] = queue.Queue()
        self.write(json.dumps({"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params}).encode())
        return self._ids

    def end(self, ident: int) -> Any:
        """The answer."""
        return self._answers[ident].get(timeout=SECONDS)

    def answered(self, ident: int) -> bool:
        return not self._answers[ident].empty()

    def ask(self, method: str, **params: Any) -> Any:
        """Ask, and return the result."""
        answer = self.end(self.begin(method, **params))
        assert "result" in answer, answer
        return answer["result"]

    def call(self, tool: str, **arguments: Any) -> Any:
        """Call a tool that does not fail, and return its data."""
        result = self.ask("tools/call", name=tool, arguments=arguments)
        assert not result["isError"], result
        return result["structuredContent"]

    def fails(self, tool: str, **arguments: Any) -> str:
        """Call a tool that fails, and return what it says."""
        result = self.ask("tools/call", name=tool, arguments=arguments)
        assert result["isError"], result
        return str(result["content"][0]["text"])

    def close(self) -> None:
        """End its input; it has to end, too, and well."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(SECONDS) == 0
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def started(home: RealDaemon, folder: Path) -> Iterator[Client]:
    argv = [sys.executable, "-m", "aegis", "mcp", "serve"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder, env=environment(home)) as process:
        client = Client(process)
        try:
            said = client.ask("initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "t", "version": "0"})
            assert said["serverInfo"]["name"] == "aegis"
            client.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
            yield client
            client.close()
        finally:
            process.kill()


def test_what_may_be_asked_twice_is_what_changes_nothing() -> None:
    assert {verb.name for verb in VERBS if not verb.changes} == READING
    assert {verb.family for verb in VERBS} == {"host"}


def test_the_verbs(home: RealDaemon, folder: Path) -> None:
    """Every verb does what it says, through a daemon that the program starts by itself."""
    with started(home, folder) as client:
        tools = client.ask("tools/list")["tools"]
        assert len(json.dumps(tools)) < 7000
        names = {tool["name"] for tool in tools}
        assert names >= {"tether_send", "tether_read", "instance_start", "instance_delete", "exec", "logs", "secret_list", "kit_list"}
        assert not [name for name in names if name.startswith(("secret_set", "secret_delete", "approvals_a"))]
        assert client.call("instance_list") == {"instances": []}
        # a client of the newer era says no `initialize`, but in each request which revision it speaks
        meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
        assert client.ask("tools/list", _meta=meta)["tools"] == tools
        assert client.ask("tools/call", name="instance_list", arguments={}, _meta=meta)["structuredContent"] == {"instances": []}
        assert [kit["name"] for kit in client.call("kit_list")["kits"]] == ["agent"]

        begun = client.call("instance_start", name="w", workspace=".")
        assert (begun["state"], begun["workspace"], begun["created"]) == ("running", str(folder), True)
        image = {"media_type": "image/png", "data": base64.b64encode(PIXEL).decode()}
        sent = client.call("tether_send", instance="w", text="[[images]] ![a](out.png) ![b](../x) ![c](link.png)", images=[image])
        (folder / "out.png").write_bytes(PIXEL)
        (folder / "link.png").symlink_to("out.png")
        read = client.call("tether_read", instance="w", after_seq=sent["ingress_seq"], wait_ms=20_000, types=["assistant.done"])
        (done,) = read["frames"]
        assert done["payload"]["text"] == "1 image: image/png"
        assert done["payload"]["reply_to"] == [sent["msg_id"]]
        again = client.call("tether_send", instance="w", text="[[say x]]", msg_id="mine")
        assert not again["duplicate"]
        assert client.call("tether_send", instance="w", text="[[say x]]", msg_id="mine")["duplicate"]
        client.call("tether_read", instance="w", after_seq=again["ingress_seq"], wait_ms=20_000, types=["assistant.done"])
        shown = client.call("tether_send", instance="w", text="[[say ![a](/workspace/out.png) ![b](link.png) ![c](/etc/passwd)]]")
        ident = client.begin(
            "tools/call",
            name="tether_read",
            arguments={"instance": "w", "after_seq": shown["ingress_seq"], "wait_ms": 20_000, "types": ["assistant.done"]},
        )
        content = client.end(ident)["result"]["content"]
        assert [part["type"] for part in content] == ["text", "image"]
        assert base64.b64decode(content[1]["data"]) == PIXEL
        everything = client.call("tether_read", instance="w", limit=200)
        assert "assistant.delta" not in {frame["type"] for frame in everything["frames"]}
        assert everything["next_seq"] == everything["frames"][-1]["seq"]

        ran = client.call("exec", name="w", command=["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert (ran["exit_code"], sorted(ran["output"].split())) == (3, ["err", "out"])
        long = client.call("exec", name="w", command=["sh", "-c", "seq 1 100000"])
        assert long["left_out"] > 0
        assert long["output"].startswith("1\n")
        assert long["output"].endswith("100000\n")
        assert "killed after" in client.fails("exec", name="w", command=["sleep", "600"], timeout_s=0.2)
        assert client.call("instance_pause", name="w")["state"] == "paused"
        assert client.call("instance_resume", name="w")["state"] == "running"
        assert client.call("instance_restart", name="w")["state"] == "running"
        assert client.call("logs", name="w", tail=5)["lines"]
        assert client.call("instance_info", name="w")["handle"] == "w"
        assert client.call("instance_list", state="stopped") == {"instances": []}
        assert client.call("instance_disable", name="w")["state"] == "stopped"
        assert "instance_start" in client.fails("tether_send", instance="w", text="x")
        assert client.call("instance_start", name="w")["created"] is False
        home.client.secrets.set("KEY", "very-secret-value")
        assert client.call("secret_list") == {"secrets": ["KEY"]}
        assert client.call("approvals_list") == {"approvals": []}

        assert "did you mean `w`" in client.fails("instance_info", name="ww")
        assert "did you mean `workspace`" in client.fails("instance_start", workspce=".")
        assert "did you mean `assistant.done`" in client.fails("tether_read", instance="w", types=["assistant.don"])
        assert "picture 1 is not base64" in client.fails("tether_send", instance="w", text="x", images=[{"data": "!"}])
        assert "not usable" in client.fails("tether_send", instance="w", text="x", session_id="a b")
        assert "is w" in client.fails("instance_start", name="w") or "`w` is running" in client.fails("instance_start", name="w")
        assert client.call("instance_delete", name="w")["deleted"]
        assert "very-secret-value" not in json.dumps(client.call("instance_list"))


def test_requests_side_by_side_and_a_daemon_that_dies(home: RealDaemon, folder: Path) -> None:
    home.up()
    home.start("w")
    with started(home, folder) as client:
        head = home.client.status()["head"]
        waiting = {"name": "tether_read", "arguments": {"instance": "w", "after_seq": 10**9, "wait_ms": 30_000}}
        first = client.begin("tools/call", **waiting)
        assert client.ask("ping") == {}  # nothing waits for it
        assert not client.answered(first)
        client.write(json.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": first}}).encode())
        client.write(b"not JSON")
        assert client.strays.get(timeout=SECONDS)["error"]["code"] == -32700
        assert client.ask("ping") == {}
        assert not client.answered(first)  # one that is cancelled has no answer

        read = client.begin("tools/call", name="tether_read", arguments={"instance": "w", "types": ["assistant.done"], "wait_ms": 30_000})
        run = client.begin("tools/call", name="exec", arguments={"name": "w", "command": ["sh", "-c", "touch began; sleep 600"]})
        wait_for(lambda: any(e["type"] == "instance.exec" for e in home.client.events(head)["events"]))
        home.kill()
        told = client.end(run)["result"]
        assert told["isError"]
        assert "may be done or not" in told["content"][0]["text"]
        client.call("tether_send", instance="w", text="[[say back]]")
        frames = client.end(read)["result"]["structuredContent"]["frames"]
        assert frames[0]["payload"]["text"] == "back"
        left = client.begin("tools/call", **waiting)
        began = time.monotonic()
        client.close()
        assert time.monotonic() - began < 20  # not the thirty seconds that the request would take
        assert not client.answered(left), client.end(left)


def wait_for(holds: Any) -> None:
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
