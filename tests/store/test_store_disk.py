"""Disks that are full, read-only or hold something else: an honest error, and the store goes on when it can."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Text
from aegis.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.store.conftest import Child

BIG = Text("x" * 50_000)


async def fill(store: Store) -> tuple[list[int], AegisError]:
    """Write until the disk says no."""
    written = []
    while True:
        try:
            written.append(await store.write(lambda tx: tx.append(BIG)))
        except AegisError as error:
            return written, error


async def test_a_full_database(store: Store) -> None:
    await store.write(lambda tx: tx.execute("PRAGMA max_page_count = 200").fetchone())
    written, error = await fill(store)
    assert error.kind is ErrorKind.UNAVAILABLE
    assert "df -h" in error.hint
    assert [e.seq for e in store.events(0, limit=1000).events] == written
    small = await asyncio.gather(*(store.write(lambda tx: tx.append(BIG)) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(r, AegisError) for r in small)
    await store.write(lambda tx: tx.execute("DELETE FROM events WHERE seq < 5").rowcount)  # giving up something still works
    await store.write(lambda tx: tx.execute("PRAGMA max_page_count = 100000").fetchone())
    assert await store.write(lambda tx: tx.append(BIG)) > written[-1] + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def take_all(place: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return ballast


async def test_a_full_disk(small_disk: Path) -> None:
    store = await Store.open(small_disk / "aegis.db", SystemClock())
    written, error = await fill(store)
    assert error.kind is ErrorKind.UNAVAILABLE
    assert error.hint
    assert len(written) > 5
    assert [e.seq for e in store.events(0, limit=1000).events] == written
    await store.close()


async def test_a_disk_that_has_room_again(small_disk: Path) -> None:
    store = await Store.open(small_disk / "aegis.db", SystemClock())
    written = [await store.write(lambda tx: tx.append(BIG)) for _ in range(4)]
    ballast = take_all(small_disk)
    with pytest.raises(AegisError):
        await store.write(lambda tx: tx.append(BIG))
    with pytest.raises(AegisError):
        await store.backup(small_disk / "copy.db")
    ballast.unlink()
    written.append(await store.write(lambda tx: tx.append(BIG)))
    assert [e.seq for e in store.events(0).events] == written
    assert sorted(set(written)) == written
    assert all(check.ok for check in await store.check() if check.name != "space")
    await store.close()
    assert {path.name for path in small_disk.iterdir()} == {"aegis.db", "aegis.db.lock"}


async def test_no_room_to_begin(small_disk: Path) -> None:
    ballast = take_all(small_disk)
    with pytest.raises(AegisError) as caught:
        await Store.open(small_disk / "aegis.db", SystemClock())
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    ballast.unlink()
    await (await Store.open(small_disk / "aegis.db", SystemClock())).close()


#: No file may grow beyond a limit, for a while: what a quota does.
LIMITED = """
import asyncio, json, resource, sys
from pathlib import Path
from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError
from aegis.core.events import Text
from aegis.store import Store

async def main(path):
    store = await Store.open(Path(path), SystemClock())
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    acked, errors = [], []
    for _ in range(30):
        try:
            acked.append(await store.write(lambda tx: tx.append(Text("x" * 20_000))))
        except AegisError as error:
            errors.append([error.kind, bool(error.hint)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    last = await store.write(lambda tx: tx.append(Text("on")))
    there = [event.seq for event in store.events(0, limit=1000).events]
    await store.close()
    print(json.dumps([acked, errors, last, there]))

asyncio.run(main(sys.argv[1]))
"""


def test_a_file_that_may_not_grow(tmp_path: Path, child: Child) -> None:
    out, _ = child(LIMITED, tmp_path / "aegis.db").communicate()
    acked, errors, last, there = json.loads(out)
    assert acked
    assert errors
    assert all(error == ["unavailable", True] for error in errors)
    assert there == [*acked, last]
    assert last > max(acked)


#: Opens as somebody without rights when started by root.
POWERLESS = """
import asyncio, os, sys
from pathlib import Path
from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError
from aegis.store import Store

async def main(path):
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)
    try:
        await Store.open(Path(path), SystemClock())
    except AegisError as error:
        print(error.kind, "|", error.message, "|", error.hint)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("what", ["directory", "database"])
async def test_read_only(child: Child, what: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        path = place / "aegis.db"
        if what == "database":
            await (await Store.open(path, SystemClock())).close()
            path.chmod(0o444)
            path.with_name("aegis.db.lock").chmod(0o666)
        place.chmod(0o555 if what == "directory" else 0o777)
        out, _ = child(POWERLESS, path).communicate()
        place.chmod(0o700)
    kind, message, hint = out.strip().split(" | ")
    assert kind == "unavailable"
    assert str(path) in message
    assert hint


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "aegis.db"
    path.write_bytes(b"something else entirely, long enough to be read as a header" * 100)
    before = path.read_bytes()
    with pytest.raises(AegisError) as caught:
        await Store.open(path, SystemClock())
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert "backup" in caught.value.hint
    assert path.read_bytes() == before
    path.unlink()
    await (await Store.open(path, SystemClock())).close()  # the lock was given back


async def test_the_files_are_private(store: Store) -> None:
    await store.write(lambda tx: tx.append(Text("x")))
    modes = {path.name: path.stat().st_mode & 0o777 for path in store.path.parent.iterdir()}
    assert modes == dict.fromkeys(("aegis.db", "aegis.db-wal", "aegis.db-shm", "aegis.db.lock"), 0o600)
