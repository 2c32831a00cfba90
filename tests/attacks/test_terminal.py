"""Case 25: what agents, programs and repositories write acts on no terminal. The real program, in a real pseudo-terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.attacks.conftest import Box
from tests.conftest import RealDaemon

Make = Callable[..., Box]

#: Clipboard, title, hyperlink, shell marks, clear, alternate screen, key strings, 8-bit forms, carriage return, bell, direction overrides.
EVIL = (
    "a\x1b]52;c;ZXZpbA==\x07b\x1b]0;title\x07\x1b]8;;http://evil\x1b\\c\x1b]133;C\x07\x1b[2J\x1b[1;1H\x1b[?1049h\x1b[31m\x1bP1$r\x1b\\\x1b_x\x1b\\"
    "\x9b31m\x9d52;c;eA==\x9c\x90x\x9c\rOVERWRITE\x08\x08\x07\x0b\x0c\x0e\x0f\x7f\u202eevil\u202c\u2066x\u2069\u200f\u061cend"
)  # fmt: skip
#: What the program itself may send: colours, taking a passing line away, and the line ends that the terminal makes.
_OWN = re.compile(rb"\x1b\[[0-9;]*m|\r\x1b\[2K|\r\n")
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\x80-\x9f]")


def shown(home: Path, *args: str, until: str | None = None) -> bytes:
    """What `aegis ARGS` sends to a terminal until it ends, or until it has shown `until`."""
    outer, inner = pty.openpty()
    env = {**os.environ, "AEGIS_HOME": str(home), "TERM": "xterm-256color", "COLUMNS": "400"}
    env.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "aegis", *args], stdin=inner, stdout=inner, stderr=inner, env=env, cwd=home.parent, start_new_session=True
    )
    os.close(inner)
    seen, deadline = b"", time.monotonic() + 40
    try:
        while until is None or until.encode() not in seen:
            assert select.select([outer], [], [], max(0.0, deadline - time.monotonic()))[0], seen[-500:]
            try:
                data = os.read(outer, 65536)
            except OSError:  # the program has ended
                break
            if not data:
                break
            seen += data
    finally:
        process.kill()
        process.wait()
        os.close(outer)
    return seen


def assert_harmless(seen: bytes, what: str) -> None:
    rest = _OWN.sub(b"", seen)
    controls = sorted({bytes([c]) for c in rest if (c < 0x20 and c not in b"\n\t") or c == 0x7F})
    assert not controls, (what, controls, rest[:600])
    assert not _BIDI.search(rest.decode("utf-8", "strict")), (what, rest[:600])


@pytest.fixture
def evil(box: Make, tmp_path: Path) -> Box:
    """An instance whose workspace, files, answers, tools, logs and failures all carry it."""
    place = tmp_path / ("work-" + EVIL.replace("/", "").replace("\n", "")[:60])
    a = box(workspace=place, env={"EVIL": EVIL})
    (place / "file").write_text(EVIL)
    a.client.mail.send("a", f"[[say {EVIL}]]")
    a.ask(f"[[think {EVIL}]] [[call bash {json.dumps({'command': 'cat file; ls; exit 3'})}]] [[say {EVIL}]]", msg_id="m\x1b[31m\u202e")
    a.call("bash", command='touch "$(cat file | tr -d /)"; ls')
    a.call("read", path=EVIL)
    a.run(EVIL.replace("\0", ""), EVIL)
    return a


def test_no_verb_lets_it_through(evil: Box, box: Make) -> None:
    box("p", agent=None, model=None, command=["/bin/sh", "-c", 'printf "%s\\n" "$EVIL"; exit 3'], env={"EVIL": EVIL})
    home = evil.daemon.home
    for args in (
        ("ls",), ("ps",), ("instance", "info", "a"), ("instance", "info", "p"), ("transcript", "a"), ("mail", "a"), ("read", "a"),
        ("logs", "a"), ("logs", "p"), ("events",), ("audit", "list"), ("doctor",), ("status",), ("config", "show"),
        ("send", "a", f"[[say {EVIL}]]", "--wait"),
        ("send", "nobody" + EVIL, "x"), (EVIL,), ("config", "explain", EVIL), ("agent", "show", EVIL),
        ("instance", "start", "--name", EVIL),
        ("instance", "start", "--workspace", "/" + EVIL), ("transcript", "a", "--json"), ("events", "--json"),
        ("instance", "info", "a", "--json"),
    ):  # fmt: skip
        seen = shown(home, *args)
        assert seen, args
        assert_harmless(seen, " ".join(args)[:40])


def test_what_is_followed(box: Make) -> None:
    command = ["/bin/sh", "-c", 'printf "%s\\nover\\n" "$EVIL"; sleep 600']
    q = box("q", agent=None, model=None, command=command, env={"EVIL": EVIL})
    assert_harmless(shown(q.daemon.home, "logs", "q", "--follow", until="over"), "logs --follow")


def test_what_is_asked_before_trust(house: RealDaemon, tmp_path: Path) -> None:
    place = json.dumps("/" + EVIL)
    for text in (
        f"agents: {{x: {{env: {{A: {json.dumps(EVIL)}}}, workspace: {place}}}}}",
        f"{place}: 1",
        f"models: {{{place}: 1}}",
        EVIL,
        "a: !" + EVIL,
    ):
        (tmp_path / ".aegis.yaml").write_text(text)
        assert_harmless(shown(house.home, "config", "trust", str(tmp_path), until="[y/N]"), text[:30])


def test_a_programs_own_bytes_are_the_persons_wish(evil: Box) -> None:
    """`exec` is as `ssh`: what a person runs writes what it writes. It is the only way, and docs/security.md says so."""
    assert b"\x1b]52;" in shown(evil.daemon.home, "exec", "a", "--", "cat", "file")
