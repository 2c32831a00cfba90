"""Finding and starting the daemon: every way in which it can fail says so, and two at once end with one."""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import RealDaemon

from aegis.client import launch
from aegis.client.transport import Transport
from aegis.core.errors import AegisError, ErrorKind


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Start `script` in place of the daemon; it finds `fd`, the descriptor to report on, and `home`."""

    def use(script: str) -> None:
        def argv(home: Path, listen: str | None = None, *more: str) -> list[str]:
            return [sys.executable, "-c", f"import os, sys; fd = {more[1]}; home = {str(home)!r}\n{script}"]

        monkeypatch.setattr(launch, "daemon_argv", argv)

    return use


def test_home_is_the_variable_or_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEGIS_HOME", "~/elsewhere")
    monkeypatch.setenv("HOME", "/somebody")
    assert launch.home() == Path("/somebody/elsewhere")
    monkeypatch.delenv("AEGIS_HOME")
    assert launch.home() == Path("/somebody/.aegis")


def test_a_path_too_long_for_a_socket_is_a_usage_error_with_its_length() -> None:
    fits = Path("/" + "x" * (launch.MAX_SOCKET_PATH - len("/aegisd.sock") - 1))
    assert len(str(launch.socket_path(fits))) == launch.MAX_SOCKET_PATH
    with pytest.raises(AegisError) as caught:
        launch.socket_path(Path(f"{fits}y"))
    assert caught.value.kind is ErrorKind.USAGE
    assert "108 bytes" in caught.value.message
    assert "AEGIS_HOME" in caught.value.hint


def test_a_home_that_cannot_be_made_is_told(home: Path) -> None:
    (home / "file").write_text("")
    with pytest.raises(AegisError) as caught:
        launch.ensure_daemon(home / "file" / "home")
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert "Not a directory" in caught.value.message


def test_a_stale_socket_is_not_a_daemon(home: Path) -> None:
    path = home / "aegisd.sock"
    assert not launch.answers(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert launch.answers(path)
    assert not launch.answers(path)


def test_a_ready_daemon_is_returned_with_its_pid(home: Path, stub: Callable[[str], None]) -> None:
    stub("""os.write(fd, b'{"ok": true, "pid": 42}\\n')""")
    assert launch.ensure_daemon(home / "new") == launch.Launch(started=True, pid=42)
    assert stat.S_IMODE((home / "new").stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "new" / "aegisd.log").stat().st_mode) == 0o600


def test_what_the_daemon_reports_is_raised(home: Path, stub: Callable[[str], None]) -> None:
    stub("""os.write(fd, b'{"error": "the database is of a later version", "kind": "unavailable", "hint": "update"}\\n')""")
    with pytest.raises(AegisError) as caught:
        launch.ensure_daemon(home)
    assert (caught.value.kind, caught.value.message, caught.value.hint) == (
        ErrorKind.UNAVAILABLE,
        "the database is of a later version",
        "update",
    )


def test_a_daemon_that_dies_without_a_word_shows_the_end_of_this_log(home: Path, stub: Callable[[str], None]) -> None:
    (home / "aegisd.log").write_text("an earlier life\n")
    stub("print('something broke', file=sys.stderr); sys.exit(3)")
    with pytest.raises(AegisError) as caught:
        launch.ensure_daemon(home)
    assert caught.value.kind is ErrorKind.FAILED
    assert "exit 3" in caught.value.message
    assert "something broke" in caught.value.message
    assert caught.value.data["stderr"] == "something broke"


def test_a_daemon_that_says_nothing_in_time_is_killed(home: Path, stub: Callable[[str], None]) -> None:
    # A pipe that closes when the last process holding it is gone proves the kill.
    alive, held = os.pipe()
    os.set_inheritable(held, True)
    stub(f"os.write({held}, b'x'); import signal; signal.pause()")
    import subprocess

    real = subprocess.Popen

    def popen(argv: list[str], **given: object) -> subprocess.Popen[bytes]:
        given["pass_fds"] = (*given["pass_fds"], held)  # type: ignore[misc]
        return real(argv, **given)  # type: ignore[call-overload,no-any-return]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", popen)
        with pytest.raises(AegisError) as caught:
            launch.ensure_daemon(home, timeout=1.0)
    assert caught.value.kind is ErrorKind.TIMEOUT
    os.close(held)
    while os.read(alive, 1):
        pass
    os.close(alive)


def test_a_conflict_means_that_the_winner_is_waited_for(home: Path, stub: Callable[[str], None]) -> None:
    # The first attempt finds the home taken; by the second its holder listens.
    listen = "import socket; s = socket.socket(socket.AF_UNIX); s.bind(home + '/aegisd.sock'); s.listen()"
    stay = "os.close(fd); import time; time.sleep(5)"
    conflict = """os.write(fd, b'{"error": "taken", "kind": "conflict"}\\n')"""
    stub(f"{listen}; {conflict}; {stay}")
    assert launch.ensure_daemon(home) == launch.Launch(started=False)


def test_the_daemon_gets_only_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AEGIS_FAULTS", "LC_TIME", "PATH", "PYTHONPATH", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "x")
    passed = launch.daemon_environment()
    assert {"AEGIS_FAULTS", "LC_TIME", "PATH"} <= passed.keys()
    assert not {"PYTHONPATH", "ANTHROPIC_API_KEY"} & passed.keys()


def test_the_real_daemon_starts_once_and_is_found_again(daemon: RealDaemon) -> None:
    assert launch.ensure_daemon(daemon.home) == launch.Launch(started=False)
    status = Transport(launch.socket_path(daemon.home)).call("GET", "/v1/status").body
    assert os.getsid(status["pid"]) == status["pid"]
    assert stat.S_IMODE((daemon.home / "aegisd.sock").stat().st_mode) == 0o600
