"""Versions of a value, and a new master key: whole or not at all, wherever it is cut off."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aegis.core import faults
from aegis.core.clock import ManualClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.store import Store
from aegis.vaults.local import KEPT, LocalVault

VALUES = {"A": "value of A", "B": "value of B"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    it = await Store.open(tmp_path / "aegis.db", ManualClock())
    yield it
    await it.close()


@pytest.fixture
async def vault(store: Store, tmp_path: Path) -> LocalVault:
    it = LocalVault(store, tmp_path, clock=ManualClock())
    for name, value in VALUES.items():
        await it.set(name, f"old {value}")
        await it.set(name, value)
    return it


async def opened(vault: LocalVault) -> dict[str, str | None]:
    return {name: await vault.get(name) for name in VALUES}


async def test_versions_are_kept_and_come_back(vault: LocalVault, store: Store, tmp_path: Path) -> None:
    assert [(each.version, each.current) for each in await vault.versions("A")] == [(2, True), (1, False)]
    info = await vault.rollback("A", 1)
    assert info is not None
    assert (info.version, await vault.get("A")) == (3, "old value of A")
    assert await vault.rollback("A", 3) is None  # it is the present one
    assert await vault.rollback("A", 9) is None
    assert await vault.rollback("NONE", 1) is None
    assert await vault.versions("NONE") == []
    assert await vault.rollback("A", 2) is not None
    assert await vault.get("A") == "value of A"
    for number in range(KEPT + 5):
        await vault.set("A", f"n{number}")
    assert len(await vault.versions("A")) == KEPT + 1
    assert sorted(await vault.values())[-1] == ("B", "value of B")
    assert len(await vault.values()) == KEPT + 1 + 2
    for file in tmp_path.iterdir():
        assert b"value of" not in file.read_bytes()
    await vault.delete("A")
    assert await vault.versions("A") == []
    await vault.set("A", "anew")
    assert [each.version for each in await vault.versions("A")] == [1]


@pytest.mark.parametrize("change", ["version = 9", "sealed = x'00'", "name = 'B', version = 9", "wrapped_key = zeroblob(60)"])
async def test_a_changed_version_is_never_returned(vault: LocalVault, store: Store, change: str) -> None:
    await store.write(lambda tx: tx.execute(f"UPDATE secret_versions SET {change} WHERE name = 'A'").rowcount)
    name, version = ("B" if "'B'" in change else "A"), (9 if "9" in change else 1)
    with pytest.raises(AegisError, match=f"`{name}` was changed"):
        await vault.rollback(name, version)
    assert len(await vault.values()) == 3
    if "sealed" not in change:  # the keys of values are wrapped anew, not the values
        with pytest.raises(AegisError, match=f"`{name}` was changed"):
            await vault.rotate_key()
    assert await opened(vault) == VALUES


async def test_a_new_master_key(vault: LocalVault, store: Store, tmp_path: Path) -> None:
    before = (tmp_path / "master.key").read_bytes()
    assert await vault.rotate_key() == 4
    after = (tmp_path / "master.key").read_bytes()
    assert before != after
    assert not (tmp_path / "master.key.next").exists()
    assert (tmp_path / "master.key").stat().st_mode & 0o777 == 0o600
    for each in (vault, LocalVault(store, tmp_path)):
        assert await opened(each) == VALUES
        assert len(await each.values()) == 4
    assert await vault.rotate_key() == 4
    await vault.set("C", "c")
    assert await LocalVault(store, tmp_path).get("C") == "c"
    (tmp_path / "master.key").write_bytes(before)  # the old one opens nothing
    with pytest.raises(AegisError, match="another master key"):
        await LocalVault(store, tmp_path).get("A")


async def test_a_new_master_key_of_an_empty_home(store: Store, tmp_path: Path) -> None:
    vault = LocalVault(store, tmp_path)
    assert await vault.rotate_key() == 0
    first = (tmp_path / "master.key").read_bytes()
    assert await vault.rotate_key() == 0
    assert (tmp_path / "master.key").read_bytes() != first
    await vault.set("A", "a")
    assert await LocalVault(store, tmp_path).get("A") == "a"


@pytest.mark.parametrize(
    ("name", "action"), [("store.commit.before", "enospc"), ("store.commit.before", "eio"), ("store.commit.after", "raise")]
)
async def test_a_rotation_that_fails_loses_nothing(vault: LocalVault, store: Store, tmp_path: Path, name: str, action: str) -> None:
    faults.arm(name, action)
    try:
        with pytest.raises(AegisError):
            await vault.rotate_key()
    finally:
        faults.disarm()
    assert await opened(vault) == VALUES
    assert await opened(LocalVault(store, tmp_path)) == VALUES
    assert not (tmp_path / "master.key.next").exists()
    await vault.set("A", "after")
    assert await LocalVault(store, tmp_path).get("A") == "after"


@pytest.mark.parametrize("committed", [True, False])
async def test_a_death_between_the_rows_and_the_file_is_mended(vault: LocalVault, store: Store, tmp_path: Path, committed: bool) -> None:
    old = (tmp_path / "master.key").read_bytes()
    await vault.rotate_key()
    new = (tmp_path / "master.key").read_bytes()
    # As it is found when the process died: both files, and the rows of before or of after.
    (tmp_path / "master.key").write_bytes(old if committed else new)
    (tmp_path / "master.key.next").write_bytes(new if committed else old)
    (tmp_path / "master.key.next").chmod(0o600)
    later = LocalVault(store, tmp_path)
    assert await opened(later) == VALUES
    assert not (tmp_path / "master.key.next").exists()
    assert (tmp_path / "master.key").read_bytes() == new


async def test_whoever_asks_goes_away_and_the_rotation_is_whole(vault: LocalVault, store: Store, tmp_path: Path) -> None:
    for _ in range(5):
        asking = asyncio.create_task(vault.rotate_key())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await vault.set("C", "c")  # waits for it
        assert await opened(LocalVault(store, tmp_path)) == VALUES
    assert not (tmp_path / "master.key.next").exists()


async def test_values_are_stored_and_read_while_the_key_changes(vault: LocalVault, store: Store, tmp_path: Path) -> None:
    async def stores(number: int) -> None:
        await vault.set(f"N{number}", f"n{number}")
        assert await vault.get(f"N{number}") == f"n{number}"
        assert await vault.get("A") == "value of A"

    await asyncio.gather(
        *(stores(number) for number in range(20)), *(vault.rotate_key() for _ in range(3)), *(stores(n) for n in range(20, 40))
    )
    later = LocalVault(store, tmp_path)
    for number in range(40):
        assert await later.get(f"N{number}") == f"n{number}"


async def test_a_value_under_a_lost_key_stops_it(vault: LocalVault, store: Store) -> None:
    await store.write(lambda tx: tx.execute("UPDATE secrets SET master_key = 'x' WHERE name = 'B'").rowcount)
    with pytest.raises(AegisError, match="`B`") as caught:
        await vault.rotate_key()
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert await vault.get("A") == "value of A"
