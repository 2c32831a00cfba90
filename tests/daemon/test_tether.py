"""Messages through the real daemon: ingress, poll, stream, dedup, cancel, sleep and wake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from aegis.client import launch
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from tests.conftest import RealDaemon


def test_the_curl_calls_of_the_documentation(daemon: RealDaemon) -> None:
    """The two calls, word for word but for the path of the socket."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    daemon.start("my-agent", model="scripted/echo")
    base = ["curl", "-sS", "--unix-socket", str(launch.socket_path(daemon.home))]
    frame = '{"v":1,"type":"user.message","session":{"channel":"host","id":"test"},"payload":{"text":"Hello!"}}'
    url = "http://aegis/v1/instances/my-agent/tether"
    sent = subprocess.run(
        [*base, "-X", "POST", url, "-H", "Content-Type: application/json", "-d", frame, "-w", "\n%{http_code}"],
        capture_output=True,
        check=True,
    )
    body, status = sent.stdout.decode().rsplit("\n", 1)
    assert status == "202"
    assert set(json.loads(body)) >= {"msg_id", "session_id", "ingress_seq"}
    frames: list[dict[str, Any]] = []
    cursor = 0
    while not any(f["type"] == "assistant.done" for f in frames):
        polled = subprocess.run(
            [*base, f"{url}/poll?channel=host&session_id=test&after_seq={cursor}&wait_ms=15000"], capture_output=True, check=True
        )
        page = json.loads(polled.stdout)
        assert not page["timed_out"]
        frames += page["frames"]
        cursor = page["next_seq"]
    assert frames[0]["type"] == "user.message"
    (done,) = (f["payload"] for f in frames if f["type"] == "assistant.done")
    assert (done["text"], done["outcome"]) == ("echo: Hello!", "completed")


def test_deltas_can_be_polled_and_make_up_the_text(daemon: RealDaemon) -> None:
    daemon.start("a")
    done = daemon.ask("a", "[[slow 5 5]]")
    page = daemon.client.mail.poll("a", 0, limit=200)
    deltas = "".join(f["payload"]["text"] for f in page["frames"] if f["type"] == "assistant.delta")
    assert deltas.strip() == done["text"].strip()
    assert page["evicted"] == 0
    assert [f["seq"] for f in page["frames"]] == sorted(f["seq"] for f in page["frames"])


def test_a_repeated_msg_id_is_one_message(daemon: RealDaemon) -> None:
    daemon.start("a", model="scripted/echo")
    first = daemon.client.mail.send("a", "once", msg_id="m-1")
    second = daemon.client.mail.send("a", "once", msg_id="m-1")
    assert second["duplicate"]
    assert (second["id"], second["ingress_seq"]) == (first["id"], first["ingress_seq"])
    done = daemon.finish("a", first)
    assert done["reply_to"] == ["m-1"]
    assert len([m for m in daemon.client.mail.transcript("a")["messages"] if m["role"] == "user"]) == 1


def test_every_answer_names_what_it_answers(daemon: RealDaemon) -> None:
    daemon.start("a")
    for text, outcome in (("[[say fine]]", "completed"), ("[[error 400]]", "failed")):
        receipt = daemon.client.mail.send("a", text)
        done = daemon.finish("a", receipt)
        assert done["in_reply_to"] == [receipt["id"]]
        assert done["outcome"] == outcome
    assert done["error"]["error"]


def test_cancel_ends_the_turn_and_leaves_the_session_usable(daemon: RealDaemon) -> None:
    daemon.start("a")
    receipt = daemon.client.mail.send("a", '[[call bash {"command": "sleep 60"}]] [[say never]]')
    assert daemon.client.mail.poll("a", receipt["ingress_seq"], wait=20, types=("tool.call",))["frames"]
    daemon.client.mail.cancel("a")
    assert daemon.finish("a", receipt)["outcome"] == "cancelled"
    assert daemon.ask("a", "[[say still here]]")["text"] == "still here"


def test_interrupt_delivery_cuts_the_running_turn_first(daemon: RealDaemon) -> None:
    daemon.start("a")
    first = daemon.client.mail.send("a", "[[slow 2000 20]]")
    assert daemon.client.mail.poll("a", first["ingress_seq"], wait=20, types=("assistant.delta",))["frames"]
    second = daemon.client.mail.send("a", "[[say now]]", interrupt=True)
    assert daemon.finish("a", first)["outcome"] == "cancelled"
    assert daemon.finish("a", second)["text"] == "now"


def test_sessions_are_separate_conversations(daemon: RealDaemon) -> None:
    daemon.start("a")
    daemon.ask("a", "[[say I am one]]", session=("host", "one"))
    daemon.ask("a", "[[say I am two]]", session=("a_b", "c"))
    texts = json.dumps(daemon.client.mail.transcript("a", ("host", "one")))
    assert "I am one" in texts
    assert "I am two" not in texts


def test_a_paused_instance_wakes_on_a_message(daemon: RealDaemon) -> None:
    daemon.start("a", model="scripted/echo")
    daemon.ask("a", "first")
    assert daemon.client.instances.act("a", "pause")["state"] == "paused"
    assert daemon.ask("a", "second")["text"] == "echo: second"
    assert daemon.client.instances.get("a")["state"] == "running"


def test_a_restarted_instance_remembers(daemon: RealDaemon) -> None:
    daemon.start("a")
    daemon.ask("a", "[[say noted]] the word is heron")
    daemon.client.instances.act("a", "restart")
    assert "heron" in daemon.ask("a", "[[recall]]")["text"]


def test_a_turn_that_the_death_of_the_daemon_cut_is_continued(daemon: RealDaemon, tmp_path: Any) -> None:
    daemon.start("a", workspace=str(tmp_path))
    ledger = tmp_path / "ledger"
    text = f'[[call bash {{"command": "echo one >> {ledger}"}}]] [[call bash {{"command": "sleep 2; echo two >> {ledger}"}}]] [[say both]]'
    receipt = daemon.client.mail.send("a", text)
    page = daemon.client.mail.poll("a", receipt["ingress_seq"], wait=20, types=("tool.result",))
    assert page["frames"]
    daemon.kill()
    daemon.up()
    done = daemon.finish("a", receipt)
    assert (done["outcome"], done["text"]) == ("completed", "both")
    assert ledger.read_text().split()[0] == "one"
    # The second call may have been on record when the daemon died; then nobody knows what it did, and the agent is told so.
    assert "two" in ledger.read_text() or "whether it ran and what it did is unknown" in str(daemon.client.mail.transcript("a"))
    after = daemon.client.mail.send("a", "[[say next]]")
    assert after["ingress_seq"] > page["next_seq"]


def test_a_stream_resumes_at_its_cursor(daemon: RealDaemon) -> None:
    daemon.start("a", model="scripted/echo")
    receipt = daemon.client.mail.send("a", "hello")
    seen: list[int] = []
    with daemon.client.mail.stream("a", receipt["ingress_seq"] - 1) as frames:
        for frame in frames:
            seen.append(frame["seq"])
            if frame["type"] == "assistant.done":
                break
    with daemon.client.mail.stream("a", seen[1]) as frames:
        for again, frame in zip(seen[2:], frames, strict=False):
            assert frame["seq"] == again
            if again == seen[-1]:
                break


def test_server_sent_events_carry_ids(daemon: RealDaemon) -> None:
    import socket

    daemon.start("a", model="scripted/echo")
    daemon.ask("a", "hello")
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(launch.socket_path(daemon.home)))
        raw.sendall(b"GET /v1/instances/a/tether/stream HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\nLast-Event-ID: 0\r\n\r\n")
        said = b""
        while b"event: assistant.done" not in said:
            said += raw.recv(65536)
    assert b"text/event-stream" in said
    assert b"\nid: " in said


def test_poll_waits_without_losing_the_wake_up(daemon: RealDaemon) -> None:
    daemon.start("a", model="scripted/echo")
    for n in range(20):
        cursor = daemon.client.status()["head"]
        sender = threading.Thread(target=daemon.client.mail.send, args=("a", f"n{n}"))
        sender.start()
        page = daemon.client.mail.poll("a", cursor, wait=20, types=("user.message",))
        sender.join()
        assert page["frames"]
        assert not page["timed_out"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", ErrorKind.USAGE), (" \n", ErrorKind.USAGE), ("a\x00b", ErrorKind.USAGE), ("x" * (5 * 1024 * 1024), ErrorKind.TOO_LARGE)],
)
def test_unusable_messages_are_refused_whole(daemon: RealDaemon, text: str, kind: ErrorKind) -> None:
    daemon.start("a", model="scripted/echo")
    with pytest.raises(AegisError) as caught:
        daemon.client.mail.send("a", text)
    assert caught.value.kind is kind
    assert caught.value.hint
    assert daemon.client.mail.all("a") == []


def post(daemon: RealDaemon, path: str, body: bytes, headers: str = "") -> tuple[int, bytes]:
    """One raw request."""
    import http.client
    import socket

    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(str(launch.socket_path(daemon.home)))

    connection = Connection("aegis", timeout=30)
    try:
        connection.request("POST", path, body=body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (BrokenPipeError, ConnectionResetError):  # refused before it was read
        return 413, b"{}"
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b'{"type":"user.message","payload":{"text":"\xff"}}', 400),
        (b'{"type":"user.message","payload":{"text":"\\ud800"}}', 400),
        (b'{"type":"user.mesage"}', 400),
        (b'{"type":"user.message","session":{"channel":"a:b","id":"c"},"payload":{"text":"x"}}', 400),
        (b'{"type":"user.message","session":{"channel":"a","id":"../../x y"},"payload":{"text":"x"}}', 400),
        (b'{"type":"user.message","payload":{"text":"' + b"x" * 33_000_000 + b'"}}', 413),
    ],
)
def test_malformed_frames_are_refused_with_a_reason(daemon: RealDaemon, body: bytes, status: int) -> None:
    daemon.start("a", model="scripted/echo")
    got, answer = post(daemon, "/v1/instances/a/tether", body)
    assert got == status
    if answer != b"{}":
        assert set(json.loads(answer)) >= {"error", "kind", "hint"}
    assert daemon.client.status()["status"] == "running"


def test_a_disabled_instance_takes_no_mail(daemon: RealDaemon) -> None:
    daemon.start("a", model="scripted/echo")
    daemon.client.instances.act("a", "disable")
    with pytest.raises(AegisError, match="disabled") as caught:
        daemon.client.mail.send("a", "hello")
    assert caught.value.kind is ErrorKind.CONFLICT
    assert daemon.client.instances.act("a", "start")["state"] == "running"
    assert daemon.ask("a", "hello")["text"] == "echo: hello"


def test_what_the_death_of_the_agent_program_said_reaches_who_asked(daemon: RealDaemon, tmp_path: Any) -> None:
    daemon.start("a", workspace=str(tmp_path))
    receipt = daemon.client.mail.send("a", '[[call bash {"command": "kill -9 $PPID"}]] [[say never]]')
    done = daemon.finish("a", receipt)
    assert done["outcome"] == "failed"
    assert done["error"]["data"]["exit"] == -9
    assert daemon.ask("a", "[[say back]]")["text"] == "back"


def test_many_requests_at_once(daemon: RealDaemon) -> None:
    """More connections than the daemon answers at a time; every accepted message is in the box."""
    daemon.start("a", model="scripted/echo")
    count = int(os.environ.get("AEGIS_FLOOD", "1000"))
    errors: list[BaseException] = []
    gate = threading.Semaphore(200)

    def send(n: int) -> None:
        with gate:
            try:
                daemon.client.mail.send("a", f"n{n}", msg_id=f"n{n}", session=("host", f"s{n % 4}"))
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=send, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    accepted = [e for e in _accepted(daemon) if e["data"]["msg_id"].startswith("n")]
    assert len({e["data"]["msg_id"] for e in accepted}) == count


def _accepted(daemon: RealDaemon) -> list[dict[str, Any]]:
    found, cursor = [], 0
    while page := daemon.client.events(cursor, limit=1000)["events"]:
        found += [e for e in page if e["type"] == "mail.accepted"]
        cursor = page[-1]["seq"]
    return found
