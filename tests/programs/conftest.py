"""A laboratory for foreign programs: the real daemon, a sandbox with a boundary, a pinned program, a model server on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.conftest import RealDaemon
from tests.kit.clis import cli
from tests.kit.model_server import ModelServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Program -> what its model is spoken to in, and what stands behind the server's address.
DIALECTS = {"claude-code": ("anthropic", ""), "codex": ("responses", "/v1"), "gemini": ("gemini", ""), "opencode": ("openai", "/v1")}
Event = dict[str, Any]


class Lab:
    """One daemon, one program, one model server."""

    def __init__(self, program: str, real: RealDaemon, server: ModelServer, workspace: Path) -> None:
        self.program = program
        self.real = real
        self.client = real.client
        self.server = server
        self.workspace = workspace

    def start(self, handle: str = "a", **spec: Any) -> dict[str, Any]:
        """Start an instance of the program, in the strongest sandbox there is, as a user would."""
        wanted: Any = {"handle": handle, "provider": self.program, "model": "loop/directives", "workspace": str(self.workspace)} | spec
        return dict(self.client.instances.start(wanted).instance)

    def send(self, text: str, handle: str = "a", **options: Any) -> dict[str, Any]:
        """Send a message and return its receipt."""
        return dict(self.client.mail.send(handle, text, **options))

    def ask(self, text: str, handle: str = "a", **options: Any) -> list[Event]:
        """Send a message and return all events from its acceptance to the end of its turn."""
        receipt = self.send(text, handle, **options)
        return self.turn(receipt)

    def turn(self, receipt: dict[str, Any]) -> list[Event]:
        """All events from the acceptance of a message to the end of the turn that deals with it, across continuations."""
        return self.until(receipt, lambda event: ends(event, receipt["id"]))

    def until(self, receipt: dict[str, Any], wanted: Callable[[Event], bool]) -> list[Event]:
        """All events from the acceptance of a message to the first that is wanted."""
        seen: list[Event] = []
        with contextlib.closing(self.client.follow_events(receipt["ingress_seq"] - 1)) as stream:
            for event in stream:
                if "seq" not in event:
                    continue
                seen.append(event)
                if wanted(event):
                    return seen
        raise AssertionError(f"the stream ended before; seen: {[(e['type'], e['data']) for e in seen][-20:]}")

    def inside(self, script: str, handle: str = "a") -> str:
        """What a shell script in the sandbox prints."""
        import base64

        out = b""
        with contextlib.closing(self.client.instances.exec(handle, ["/bin/sh", "-c", script])) as stream:
            for item in stream:
                if item.get("s") == 1:
                    out += base64.b64decode(item["d"])
                elif item.get("done"):
                    break
        return out.decode()

    def processes(self, pattern: str, handle: str = "a") -> list[str]:
        """The command lines inside that hold `pattern`, without the one that looks for it."""
        listing = self.inside('for p in /proc/[0-9]*; do tr "\\0" " " < $p/cmdline; echo; done', handle)
        return [line for line in listing.splitlines() if pattern in line and "/proc/[0-9]" not in line]


def ends(event: Event, message: str) -> bool:
    """Whether an event is the last of a message's turns."""
    data = event["data"]
    return event["type"] == "turn.finished" and message in data["in_reply_to"] and not (data.get("error") or {}).get("will_continue")


def only(events: list[Event], kind: str) -> list[dict[str, Any]]:
    """What the events of one type say."""
    return [event["data"] for event in events if event["type"] == kind]


def finished(events: list[Event]) -> dict[str, Any]:
    """The terminal event."""
    return only(events, "turn.finished")[-1]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A model server on loopback, for as long as a test."""
    with ModelServer() as running:
        yield running


@pytest.fixture
def workspace() -> Iterator[Path]:
    """An empty directory outside of the home."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-work-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _opened(program: str, home: Path, server: ModelServer, workspace: Path) -> Lab:
    """The laboratory for a program; `loop` is the provider that leads to the model server."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    path = cli(program)
    dialect, below = DIALECTS[program]
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "config.yaml").write_text(
        f"providers:\n  loop: {{base_url: '{server.url}{below}', dialect: {dialect}}}\nprograms:\n  {program}: {{path: '{path}'}}\n"
    )
    real = RealDaemon(home)
    real.up()
    return Lab(program, real, server, workspace)


@pytest.fixture
def make_lab(short_home: Path, server: ModelServer, workspace: Path) -> Iterator[Callable[..., Lab]]:
    """Makes the laboratory for a program."""
    yield lambda program: _opened(program, short_home, server, workspace)
    RealDaemon(short_home).down()


@pytest.fixture(params=list(DIALECTS))
def lab(request: pytest.FixtureRequest, make_lab: Callable[..., Lab]) -> Lab:
    """The laboratory, once for each program."""
    return make_lab(request.param)


def mostly_with(*programs: str) -> pytest.MarkDecorator:
    """The laboratory of these programs, and of the others when it is to be thorough: for what depends little on the program."""
    return pytest.mark.parametrize("lab", [each(name, name in programs) for name in DIALECTS], indirect=True)


def each(name: str, always: bool) -> Any:
    """A program as a parameter."""
    return name if always else pytest.param(name, marks=pytest.mark.thorough)


@pytest.fixture(params=list(DIALECTS), scope="module")
def _shared(request: pytest.FixtureRequest) -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="aegis-"))
    workspace = folder / "work"
    workspace.mkdir()
    home = folder / "home"
    with ModelServer() as server:
        try:
            lab = _opened(request.param, home, server, workspace)
            lab.start()
            yield lab
        finally:
            RealDaemon(home).down()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def shared(_shared: Lab) -> Lab:
    """A laboratory with an instance `a` that many tests use one after the other: a program takes seconds to start.

    The conversation goes on from test to test; the workspace is empty and the model server well at the beginning of each.
    """
    _shared.server.mend()
    for path in _shared.workspace.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return _shared


ROOT = os.geteuid() == 0
