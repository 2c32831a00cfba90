"""Programs on their bad days, through the real daemon and sandbox: each has an answer that names the cause and the mend, nothing is
lost, nothing is left behind, and the instance works again once the program is mended."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.conftest import RealDaemon
from tests.programs.conftest import Lab, each, finished, only
from tests.programs.faking import OLDEST, TITLES, Faked, install

from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kit.model_server import ModelServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(params=[each(name, name != "codex") for name in TITLES])
def faked(request: pytest.FixtureRequest, short_home: Path, server: ModelServer, workspace: Path, tmp_path: Path) -> Iterator[Faked]:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    real = RealDaemon(short_home)
    yield install(real, request.param, tmp_path / "bin", lambda: Lab(request.param, real, server, workspace))
    real.down()


def start(faked: Faked, **spec: Any) -> dict[str, Any]:
    return faked.lab.start(model="scripted/echo", **spec)


def is_dealt_with(faked: Faked, receipt: dict[str, Any]) -> None:
    """Exactly one turn ended with the message, none will continue it, and the mailbox says how far it came."""
    told = faked.lab.client.events(receipt["ingress_seq"] - 1, types=("turn.finished",))["events"]
    ends = [event["data"] for event in told if receipt["id"] in event["data"]["in_reply_to"]]
    assert len(ends) == 1, ends
    assert not (ends[0].get("error") or {}).get("will_continue")
    (mail,) = [mail for mail in faked.lab.client.mail.all("a") if mail["id"] == receipt["id"]]
    assert mail["done_at"]
    assert mail["state"] != "accepted"


def works(faked: Faked) -> None:
    """A turn goes well, and nothing of earlier ones comes in it."""
    events = faked.lab.ask("say:fine")
    assert (finished(events)["outcome"], finished(events)["text"]) == ("completed", "fine")
    assert [d["text"] for d in only(events, "turn.text")] == ["fine"]


def nothing_runs(faked: Faked) -> None:
    """No process of the program is left on the machine once the instance is deleted."""
    info = faked.lab.client.instances.get("a")
    faked.lab.client.instances.delete("a")
    left = [line for line in _command_lines() if str(faked.path).encode() in line or info["id"].encode() in line]
    assert left == []


def _command_lines() -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return found


def test_a_missing_program(faked: Faked) -> None:
    faked.path.unlink()
    with pytest.raises(AegisError) as caught:
        start(faked)
    error = caught.value
    assert (error.kind, str(faked.path) in error.message) == (ErrorKind.NOT_FOUND, True), error
    assert f"programs.{faked.lab.program}.path" in error.hint
    assert "install" in error.hint
    faked.install()
    start(faked)
    works(faked)


def test_an_old_program(faked: Faked) -> None:
    faked.install(version="0.1.3")
    with pytest.raises(AegisError) as caught:
        start(faked)
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert "is version 0.1.3" in caught.value.message
    assert f"{OLDEST.get(faked.lab.program, '2.0.0')} or newer" in caught.value.message
    assert "install" in caught.value.hint
    faked.install()
    start(faked)
    works(faked)


def test_it_goes_missing_after_the_start(faked: Faked) -> None:
    start(faked)
    works(faked)
    faked.lab.client.instances.act("a", "disable")
    faked.path.unlink()
    with pytest.raises(AegisError) as caught:
        faked.lab.client.instances.act("a", "start")
    assert caught.value.kind is ErrorKind.NOT_FOUND
    receipt = faked.lab.send("say:lost?")
    end = finished(faked.lab.turn(receipt))
    assert (end["outcome"], str(faked.path) in end["error"]["error"]) == ("failed", True), end
    assert end["error"]["hint"]
    is_dealt_with(faked, receipt)
    faked.install()
    works(faked)


STARTS = {
    "crash": ("exit 7", "the dog ate the heap"),
    "root": ("exit 1", "cannot be used with root"),
    "login": ("", "log"),
}


@pytest.mark.parametrize("how", STARTS)
def test_it_does_not_start(faked: Faked, how: str) -> None:
    start(faked)
    faked.install(how)
    code, said = STARTS[how]
    receipt = faked.lab.send("say:hello")
    end = finished(faked.lab.turn(receipt))
    assert end["outcome"] == "failed"
    error = end["error"]
    if how == "login":
        assert ("log in" in error["error"] + error["hint"]) or "login" in error["hint"], error
        assert error["hint"]
    else:
        assert faked.title in error["error"]
        assert code in error["error"]
        assert said in error["error"]
        assert said in error["data"]["stderr"]
        assert error["data"]["exit"] == int(code.split()[1])
        assert error["hint"]
    is_dealt_with(faked, receipt)
    assert faked.lab.processes(str(faked.path)) == []
    faked.install()
    works(faked)
    nothing_runs(faked)


@pytest.mark.parametrize("how", ["mute", "deaf"])
def test_it_hangs_at_its_start(faked: Faked, how: str) -> None:
    """A person who does not want to wait interrupts it, and that is the end of it at once."""
    start(faked)
    faked.install(how)
    receipt = faked.lab.send("say:hello")
    faked.lab.inside(f"until grep -q {faked.path.name} /proc/[0-9]*/cmdline; do sleep 0.05; done")
    faked.lab.client.mail.cancel("a")
    end = finished(faked.lab.turn(receipt))
    assert end["outcome"] == "cancelled"
    faked.install()
    works(faked)
    nothing_runs(faked)


@pytest.mark.parametrize("how", ["garbage", "flood"])
def test_noise_at_its_start_does_no_harm(faked: Faked, how: str) -> None:
    start(faked)
    faked.install(how)
    works(faked)


@pytest.mark.parametrize("stage", ["untaken", "taken", "text", "tool", "asking", "end"])
def test_it_dies_in_a_turn(faked: Faked, stage: str) -> None:
    start(faked, approvals="ask")
    works(faked)
    receipt = faked.lab.send(f"die:{stage}")
    events = faked.lab.turn(receipt)
    end = finished(events)
    assert end["outcome"] == "failed", end
    error = end["error"]
    assert "exit 7" in error["error"]
    assert "the dog ate the heap" in error["data"]["stderr"]
    assert error["data"]["exit"] == 7
    assert "aegis logs a" in error["hint"]
    assert len(only(events, "turn.finished")) == 1
    is_dealt_with(faked, receipt)
    assert faked.lab.client.approvals.list() == []
    assert faked.lab.client.instances.get("a")["activity"] == "idle"
    works(faked)
    nothing_runs(faked)


@pytest.mark.parametrize(("words", "said"), [("garbage say:fine", "fine"), ("flood:100 say:fine", "fine"), ("big:60", "yyyyy")])
def test_noise_in_a_turn_does_no_harm(faked: Faked, words: str, said: str) -> None:
    start(faked)
    end = finished(faked.lab.ask(words))
    assert end["outcome"] == "completed", str(end)[:2000]
    assert end["text"].startswith(said)
    works(faked)


def test_a_line_without_end(faked: Faked) -> None:
    start(faked)
    receipt = faked.lab.send("endless")
    end = finished(faked.lab.turn(receipt))
    assert end["outcome"] == "failed"
    assert "a line of more than" in end["error"]["data"]["stderr"]
    works(faked)
    nothing_runs(faked)


def test_it_hears_nothing_any_more(faked: Faked) -> None:
    start(faked)
    receipt = faked.lab.send("say:x deaf hang")
    faked.lab.until(receipt, lambda event: event["type"] == "turn.text.delta")
    faked.lab.client.mail.cancel("a")
    assert finished(faked.lab.turn(receipt))["outcome"] == "cancelled"
    works(faked)
    nothing_runs(faked)


def test_children_that_outlive_it(faked: Faked) -> None:
    start(faked)
    receipt = faked.lab.send("fork:2971 die:taken")
    assert finished(faked.lab.turn(receipt))["outcome"] == "failed"
    assert finished(faked.lab.ask("fork:2972 say:x"))["outcome"] == "completed"
    faked.lab.client.instances.delete("a")
    assert not any(b"sleep\x00297" in line for line in _command_lines())
