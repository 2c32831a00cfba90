"""What a program asks of the world, as Aegis starts it: the model that it was given, and nothing else.

No name can be looked up in a sandbox at all. For this test root changes that in the sandbox's own namespaces: names are asked for at
port 53 of its loopback interface, where a listener writes down each; so everything that anything in the sandbox wants to know is seen.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.programs.conftest import Lab, finished
from tests.programs.test_crashes import pid_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

_LISTEN = """
import socket, sys
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    data, whence = names.recvfrom(4096)
    labels, at = [], 12
    while data[at]:
        labels.append(data[at + 1 : at + 1 + data[at]].decode("ascii", "replace"))
        at += 1 + data[at]
    print(".".join(labels), flush=True)
    names.sendto(data[:2] + b"\\x81\\x83" + data[4:], whence)
"""


#: What a variable is called that may hold a key.
_KEYS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "AUTH")


def test_no_key_but_our_token_is_in_its_environment(shared: Lab) -> None:
    assert finished(shared.ask("[[say awake]]"))["outcome"] == "completed"
    environment = Path(f"/proc/{pid_of(shared)}/environ").read_bytes().decode().split("\0")
    values = dict(entry.partition("=")[::2] for entry in environment if entry)
    for name in ("SSH_AUTH_SOCK", "AEGIS_TEST_CLIS", "HOME_OF_SOMEBODY"):
        assert name not in values
    assert values["HOME"] == "/home/agent"
    secret = {name: value for name, value in values.items() if value and any(word in name for word in _KEYS)}
    if shared.program == "opencode":  # its configuration, which holds the token, is one variable
        secret["OPENCODE_CONFIG_CONTENT"] = json.loads(values["OPENCODE_CONFIG_CONTENT"])["provider"]["aegis"]["options"]["apiKey"]
    secret.pop("AEGIS_MCP_TOKEN", None)  # for Aegis's own server of tools, and for nothing else
    tokens = set(secret.values())
    assert len(tokens) == 1, secret
    assert not any(next(iter(tokens)) in " ".join(request.headers.values()) for request in shared.server.requests), "the token went out"


def test_no_name_is_asked_for(shared: Lab) -> None:
    if os.geteuid() != 0 or shutil.which("nsenter") is None:
        pytest.skip("only root enters a network namespace and listens at port 53 there (nsenter, of util-linux)")
    assert finished(shared.ask("[[say awake]]"))["outcome"] == "completed"
    pid = pid_of(shared)
    for name, text in (("nsswitch.conf", "hosts: dns"), ("resolv.conf", "nameserver 127.0.0.1")):
        shared.inside(f"echo '{text}' > /tmp/{name}; chmod 644 /tmp/{name}")
        subprocess.run(
            ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "mount", "--bind", f"/tmp/{name}", f"/etc/{name}"],
            check=name == "nsswitch.conf",
            stderr=subprocess.DEVNULL,
        )
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", sys.executable, "-c", _LISTEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        try:
            assert listener.stdout.readline() == "ready\n"
            shared.inside("getent hosts aegis-probe.invalid || true")
            asked = '[[call bash {"command": "echo hello"}]] [[call write {"path": "/workspace/a", "content": "x"}]] [[say done]]'
            end = finished(shared.ask(asked, session=("host", "fresh")))
            assert end["outcome"] == "completed", end
            shared.inside("getent hosts aegis-end.invalid || true")
        finally:
            listener.terminate()
        names = [line.strip() for line in listener.stdout]
    assert any("aegis-probe" in name for name in names), "the listener heard nothing at all"
    assert {name for name in names if "aegis-" not in name} == set()
    assert [request.path for request in shared.server.requests if request.dialect is None and request.method == "POST"] == []
