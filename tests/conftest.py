"""Fixtures that every part's tests may use: a real daemon on a home of its own."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aegis.client import launch
from aegis.client.api import Client
from tests.kit.clis import PROGRAMS, cli

if TYPE_CHECKING:
    from collections.abc import Iterator


# A shell's `&` and `nohup` leave these ignored, and every program a test starts would inherit that.
for number, action in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, action)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What is marked `thorough` runs when asked for."""
    parser.addoption("--thorough", action="store_true", help="run also the variants that mostly show what others show")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `thorough`, unless it is asked for."""
    if not config.getoption("--thorough"):
        left_out = [item for item in items if item.get_closest_marker("thorough")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker("thorough")]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `realcli("gemini")` needs that pinned program; without a name, all of them."""
    for mark in item.iter_markers("realcli"):
        for name in mark.args or PROGRAMS:
            cli(name)


class RealDaemon:
    """The real daemon as a process of its own, started as the CLI starts it. Can be killed and started again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.client = Client(launch.socket_path(home))
        self.pid = 0

    def up(self, faults: str = "") -> Client:
        """Start it, with fault points armed if asked; returns the client."""
        os.environ["AEGIS_FAULTS"] = faults
        try:
            launch.ensure_daemon(self.home)
        finally:
            del os.environ["AEGIS_FAULTS"]
        self.pid = self.client.status()["pid"]
        return self.client

    def kill(self) -> None:
        """SIGKILL, as the end of the world would; returns when the process is gone."""
        os.kill(self.pid, signal.SIGKILL)
        wait_gone(self.pid)

    def down(self) -> None:
        """Stop it if it runs; returns when the process is gone."""
        if launch.answers(launch.socket_path(self.home)):
            pid = self.client.status()["pid"]
            self.client.shutdown()
            wait_gone(pid)

    def start(self, handle: str = "a", **spec: Any) -> dict[str, Any]:
        """Start an instance: by default the native agent on the scripted model without a boundary, which is the fastest."""
        wanted: Any = {"handle": handle, "agent": "agent", "sandbox": "process", "model": "scripted/directives"} | spec
        return dict(self.client.instances.start(wanted).instance)

    def finish(self, handle: str, receipt: Any, wait: float = 30.0) -> dict[str, Any]:
        """The terminal payload of the turn that deals with a message, across continuations."""
        cursor = receipt["ingress_seq"] - 1
        while True:
            page = self.client.mail.poll(handle, cursor, session=None, wait=wait, types=("assistant.done",))
            assert page["frames"], f"no terminal frame within {wait} s"
            for frame in page["frames"]:
                payload = frame["payload"]
                if receipt["id"] in payload["in_reply_to"] and not (payload.get("error") or {}).get("will_continue"):
                    return payload
            cursor = page["next_seq"]

    def ask(self, handle: str, text: str, **options: Any) -> dict[str, Any]:
        """Send a message and return the terminal payload of its turn."""
        return self.finish(handle, self.client.mail.send(handle, text, **options))


def wait_gone(pid: int) -> None:
    """Return when no process `pid` is there any more; it is not our child, so its end is awaited through a pidfd."""
    import select

    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 30)[0], f"process {pid} did not end"
    finally:
        os.close(descriptor)


@pytest.fixture
def short_home() -> Iterator[Path]:
    """A path for a home that is short enough for a socket; nothing is there yet."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-"))
    yield folder / "home"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that everybody on the machine may write to, and reach: it is below nobody's private one."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-open-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def daemon(short_home: Path) -> Iterator[RealDaemon]:
    """A running daemon."""
    real = RealDaemon(short_home)
    real.up()
    yield real
    real.down()
