"""Holding and giving back, with a real store: crashes, full disks, other file systems, changes in between."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.agents.model import Instance, Launch, MountRule, State
from aegis.services.gate import Gate
from aegis.services.guarding import Guarding
from aegis.services.guarding.quarantine import visible
from aegis.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

OWNER = Principal(PrincipalKind.PERSON, "tester")


class Room:
    """A guard on a home, and one workspace."""

    def __init__(self, home: Path, store: Store, work: Path) -> None:
        self.home, self.store, self.work = home, store, work
        self.gate = Gate(store, SystemClock())
        self.guard = self.again()
        self.instance = instance("inst_1", work)

    def again(self) -> Guarding:
        """A guard that knows nothing but what is on disk, as after a crash."""
        self.guard = Guarding(self.store, SystemClock(), self.gate, self.home)
        return self.guard

    def find(self, ident: str) -> Instance | None:
        return self.instance if ident == self.instance.id else None

    @property
    def held(self) -> list[str]:
        return [each.path for each in self.guard.list()]

    def facts(self) -> list[tuple[str, str]]:
        return [(e.fact.state, e.fact.path) for e in self.store.events(0, types=["instance.held"], limit=1000).events]  # type: ignore[attr-defined]

    def records(self, action: str = "workspace.hold") -> int:
        count = self.store.read(lambda db: db.execute("SELECT count(*) FROM audit WHERE action = ?", (action,)).fetchone())
        return int(count[0])

    def write(self, path: str, text: str = "x") -> Path:
        target = self.work / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target


def instance(ident: str, work: Path | None, **launch: Any) -> Instance:
    made = Launch(agent="a", sandbox="process", workspace=str(work) if work else None, **launch)
    return Instance(ident, ident[-1], 0, made, State.RUNNING, "", True, "", 0.0, 0.0)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir(mode=0o700)
    work.mkdir()
    store = await Store.open(home / "aegis.db", SystemClock())
    yield Room(home, store, work)
    await store.close()


async def test_the_life_of_a_held_file(room: Room) -> None:
    room.write(".envrc", "person")
    await room.guard.opening(room.instance)
    room.write(".envrc", "agent")
    room.write("d/.mcp.json", "agent")
    result = await room.guard.look(room.instance, session="host:default", turn="turn_1")
    assert len(result.held) == 2
    assert sorted(room.held) == [".envrc", "d/.mcp.json"]
    assert (room.work / ".envrc").read_text() == "person"
    assert not (room.work / "d/.mcp.json").exists()
    assert room.records() == 2
    assert sorted(room.facts()) == [("held", ".envrc"), ("held", "d/.mcp.json")]
    assert (room.home / "quarantine").stat().st_mode & 0o777 == 0o700
    one, other = sorted(room.guard.list(), key=lambda held: held.path)
    text = await room.guard.text(one)
    assert text["text"] == "agent"
    assert "-person" in text["diff"]
    assert not text["changed"]
    await room.guard.release(OWNER, one.id)
    await room.guard.drop(OWNER, other.id)
    assert (room.work / ".envrc").read_text() == "agent"
    assert await room.guard.look(room.instance) == ([], [])
    assert room.held == []
    assert not list((room.home / "quarantine").iterdir())
    assert room.records("workspace.release") == room.records("workspace.drop") == 1
    for act in (room.guard.release, room.guard.drop):
        with pytest.raises(AegisError) as caught:
            await act(OWNER, one.id)
        assert caught.value.kind is ErrorKind.CONFLICT
    with pytest.raises(AegisError) as caught:
        await room.guard.release(OWNER, "held_../../x")
    assert caught.value.kind is ErrorKind.NOT_FOUND


async def test_what_a_crash_left_is_looked_at(room: Room) -> None:
    room.write(".envrc", "person")
    await room.guard.opening(room.instance)
    room.write(".envrc", "agent")
    room.again()
    await room.guard.recover(room.find)
    assert room.held == [".envrc"]
    assert (room.work / ".envrc").read_text() == "person"
    room.write(".envrc", "person again")
    await room.again().recover(room.find)
    await room.guard.opening(room.instance)
    assert room.held == [".envrc"]


async def test_before_a_new_boot(room: Room) -> None:
    await room.guard.opening(room.instance)
    room.write(".envrc", "agent")
    await room.again().opening(room.instance)
    assert room.held == [".envrc"]


async def test_what_a_person_does_while_nobody_can_write_there(room: Room) -> None:
    await room.guard.opening(room.instance)
    await room.guard.closing(room.instance)
    room.write(".envrc", "person")
    for guard in (room.guard, room.again()):
        await guard.recover(room.find)
        await guard.opening(room.instance)
        assert await guard.look(room.instance) == ([], [])
        await guard.closing(room.instance)
    assert room.held == []


async def test_a_daemon_that_dies_before_the_move(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    await room.guard.opening(room.instance)
    room.write(".envrc", "agent")
    monkeypatch.setattr(room.guard._quarantine, "take", _die)
    with pytest.raises(Died):
        await room.guard.look(room.instance)
    assert room.guard.list(state="holding")
    await room.again().recover(room.find)
    assert room.held == [".envrc"]
    assert room.guard.list(state="holding") == []
    assert not (room.work / ".envrc").exists()


async def test_a_daemon_that_dies_after_the_move(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    from aegis.services.guarding import files

    room.write(".envrc", "person")
    await room.guard.opening(room.instance)
    room.write(".envrc", "agent")
    monkeypatch.setattr(files, "put", _die)
    with pytest.raises(Died):
        await room.guard.look(room.instance)
    monkeypatch.undo()
    assert not (room.work / ".envrc").exists()
    await room.again().recover(room.find)
    assert room.held == [".envrc"]
    assert (room.work / ".envrc").read_text() == "person"
    assert (await room.guard.text(room.guard.list()[0]))["text"] == "agent"


async def test_no_record_no_move(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    await room.guard.opening(room.instance)
    room.write(".envrc", "agent")

    async def full(fn: object) -> None:
        raise AegisError(ErrorKind.UNAVAILABLE, "the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(room.store, "write", full)
        assert await room.guard.look(room.instance) == ([], [])
        assert (room.work / ".envrc").exists()
    await room.guard.look(room.instance)
    assert room.held == [".envrc"]


@pytest.mark.parametrize("kind", ["file", "link", "pipe"])
async def test_on_another_file_system(room: Room, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    real = os.rename

    def rename(old: Any, new: Any, **options: Any) -> None:
        if new == "content":
            raise OSError(errno.EXDEV, "another file system")
        real(old, new, **options)

    await room.guard.opening(room.instance)
    path = room.work / ".envrc"
    path.write_text("agent") if kind == "file" else path.symlink_to("/etc/passwd") if kind == "link" else os.mkfifo(path)
    monkeypatch.setattr(os, "rename", rename)
    await room.guard.look(room.instance)
    assert room.held == [".envrc"]
    assert list(room.work.iterdir()) == []
    shown = (await room.guard.text(room.guard.list()[0]))["text"]
    assert shown == {"file": "agent", "link": "a link to /etc/passwd", "pipe": ""}[kind]


async def test_what_no_program_inside_can_change_is_the_persons(room: Room) -> None:
    room.write(".git/HEAD", "ref: refs/heads/main")
    for name in ("objects", "refs", "hooks"):
        (room.work / ".git" / name).mkdir()
    room.write(".git/config", "[core]\n")
    await room.guard.opening(room.instance)
    room.write(".git/config", "[core]\n\tsshCommand = mine\n")
    room.write(".git/hooks/pre-commit", "mine")
    kept = frozenset({".git/config", ".git/hooks"})
    assert await room.guard.look(room.instance, kept=kept) == ([], [])
    assert await room.guard.look(room.instance) == ([], [])


async def test_told_or_nothing(room: Room) -> None:
    tell = instance("inst_2", room.work, guard="tell")
    await room.guard.opening(tell)
    room.write(".envrc", "agent")
    assert await room.guard.look(tell) == ([], [".envrc"])
    assert await room.guard.look(tell) == ([], [])
    await room.guard.closing(tell)
    for quiet in (instance("inst_3", room.work, guard="off"), instance("inst_4", room.work, permission="read"), instance("inst_5", None)):
        await room.guard.opening(quiet)
        room.write(".mcp.json", quiet.id)
        assert await room.guard.look(quiet) == ([], [])
        await room.guard.closing(quiet)
    assert room.facts() == [("told", ".envrc")]


async def test_writable_mounts_are_looked_at(room: Room, tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    (one := tmp_path / "file").write_text("x")
    mounts = [MountRule(str(path), f"/{path.name}", writable=True) for path in (other, one)]
    both = instance("inst_6", room.work, permission="full", mounts=mounts)
    await room.guard.opening(both)
    (other / ".envrc").write_text("agent")
    await room.guard.closing(both)
    assert [each.place for each in room.guard.list()] == [str(other)]


async def test_many_looks_at_once_hold_once(room: Room) -> None:
    second = instance("inst_7", room.work)
    for each in (room.instance, second):
        await room.guard.opening(each)
    room.write(".envrc", "agent")
    await asyncio.gather(*(room.guard.look(each) for each in (room.instance, second) * 4))
    assert room.held == [".envrc"]
    assert room.records() == 1
    await room.guard.closing(room.instance)
    room.write(".mcp.json", "agent")  # the other can still write there
    await room.guard.opening(room.instance)
    assert room.held == [".envrc", ".mcp.json"]


async def test_what_changed_in_the_quarantine_is_not_released(room: Room) -> None:
    """A program that had the file open writes on."""
    await room.guard.opening(room.instance)
    with open(room.write(".envrc", "harmless"), "r+") as opened:
        await room.guard.look(room.instance)
        opened.write("evil")
        opened.flush()
        (held,) = room.guard.list()
        assert (await room.guard.text(held))["changed"]
        with pytest.raises(AegisError, match="changed since") as caught:
            await room.guard.release(OWNER, held.id)
    assert caught.value.kind is ErrorKind.CONFLICT
    assert not (room.work / ".envrc").exists()


async def test_nothing_is_put_over_something_else(room: Room) -> None:
    await room.guard.opening(room.instance)
    room.write(".envrc", "agent")
    await room.guard.look(room.instance)
    await room.guard.closing(room.instance)
    room.write(".envrc", "person")
    (held,) = room.guard.list()
    with pytest.raises(AegisError, match="something else"):
        await room.guard.release(OWNER, held.id)
    assert (room.work / ".envrc").read_text() == "person"
    assert room.held == [".envrc"]


async def test_what_cannot_be_moved_is_told_once(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    await room.guard.opening(room.instance)
    room.write(".envrc", "agent")

    def refused(*_: object) -> bool:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(room.guard._quarantine, "take", refused)
    for _ in range(3):
        assert await room.guard.look(room.instance) == ([], [])
    assert room.facts() == [("failed", ".envrc")]
    monkeypatch.undo()
    await room.guard.look(room.instance)
    assert room.held == [".envrc"]


async def test_a_workspace_that_has_gone(room: Room) -> None:
    await room.guard.opening(room.instance)
    room.work.rmdir()
    assert await room.guard.look(room.instance) == ([], [])
    await room.guard.closing(room.instance)
    await room.guard.opening(room.instance)


async def test_a_directory_that_takes_no_files(room: Room) -> None:
    await room.guard.opening(room.instance)
    room.write("d/.envrc", "agent")
    (room.work / "d").chmod(0o500)
    await room.guard.look(room.instance)
    assert room.held == ["d/.envrc"]
    assert (room.work / "d").stat().st_mode & 0o777 == 0o500
    (room.work / "d").chmod(0o700)


def test_what_is_not_seen_is_written_out() -> None:
    assert visible("a\tb\n\x1b[2J\r‮x​\0") == "a\tb\n\\u{1b}[2J\\u{d}\\u{202e}x\\u{200b}\\u{0}"


class Died(BaseException):
    """The daemon is killed."""


def _die(*_: object, **__: object) -> bool:
    raise Died
