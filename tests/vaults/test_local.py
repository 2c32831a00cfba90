import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aegis.core.clock import ManualClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.secrets import MAX_VALUE, Secrets
from aegis.store import Store
from aegis.vaults.local import LocalVault, create_master_key, read_master_key

VALUE = "sk-a-value-nobody-may-see-ä"
ME = Principal(PrincipalKind.PERSON, "me")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Store]:
    it = await Store.open(tmp_path / "aegis.db", clock)
    yield it
    await it.close()


@pytest.fixture
def vault(store: Store, tmp_path: Path, clock: ManualClock) -> LocalVault:
    return LocalVault(store, tmp_path, clock=clock)


async def test_what_was_set_is_there(vault: LocalVault, clock: ManualClock) -> None:
    assert await vault.get("A") is None
    first = await vault.set("A", VALUE)
    assert (first.name, first.version, first.created_at) == ("A", 1, clock.now())
    clock.jump(5)
    second = await vault.set("A", VALUE + "2")
    assert (second.version, second.created_at, second.updated_at) == (2, first.created_at, clock.now())
    await vault.set("B", "b")
    assert await vault.get("A") == VALUE + "2"
    assert [info.name for info in await vault.list()] == ["A", "B"]
    assert await vault.delete("A")
    assert not await vault.delete("A")
    assert await vault.get("A") is None


async def test_it_opens_after_a_restart_and_nothing_is_in_clear(vault: LocalVault, store: Store, tmp_path: Path) -> None:
    await vault.set("A", VALUE)
    assert await LocalVault(store, tmp_path).get("A") == VALUE
    for file in tmp_path.iterdir():
        assert VALUE.encode() not in file.read_bytes()
    about = (tmp_path / "master.key").stat()
    assert (stat.S_IMODE(about.st_mode), about.st_size) == (0o600, 32)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".master")]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE secrets SET name = 'B' WHERE name = 'A'",
        "UPDATE secrets SET version = 7",
        "UPDATE secrets SET sealed = x'00'",
        "UPDATE secrets SET sealed = x''",
        "UPDATE secrets SET wrapped_key = zeroblob(60)",
        "UPDATE secrets SET wrapped_key = sealed",
        "UPDATE secrets SET sealed = 'text'",
        "UPDATE secrets SET version = 'x'",
        "UPDATE secrets SET master_key = 'x'",
    ],
)
async def test_a_changed_row_is_an_error_that_names_the_secret(vault: LocalVault, store: Store, change: str) -> None:
    await vault.set("A", VALUE)
    await store.write(lambda tx: tx.execute(change).rowcount)
    name = "B" if "'B'" in change else "A"
    with pytest.raises(AegisError, match=f"`{name}`") as caught:
        await vault.get(name)
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert f"aegis secret set {name}" in caught.value.hint
    assert [info.name for info in await vault.list()] == [name]
    await vault.set(name, "new")
    assert await vault.get(name) == "new"


async def test_a_changed_master_key_is_told_and_can_be_mended(vault: LocalVault, store: Store, tmp_path: Path) -> None:
    await vault.set("A", VALUE)
    key = (tmp_path / "master.key").read_bytes()
    (tmp_path / "master.key").write_bytes(os.urandom(32))
    later = LocalVault(store, tmp_path)
    with pytest.raises(AegisError, match=r"`A`.*another master key"):
        await later.get("A")
    (tmp_path / "master.key").write_bytes(key)
    assert await LocalVault(store, tmp_path).get("A") == VALUE


async def test_a_lost_master_key_is_not_replaced_while_secrets_depend_on_it(vault: LocalVault, store: Store, tmp_path: Path) -> None:
    await vault.set("A", VALUE)
    (tmp_path / "master.key").unlink()
    later = LocalVault(store, tmp_path)
    for attempt in (later.get("A"), later.set("B", "b")):
        with pytest.raises(AegisError, match=r"master\.key is missing"):
            await attempt
    assert not (tmp_path / "master.key").exists()
    assert [info.name for info in await later.list()] == ["A"]
    await later.delete("A")
    await later.set("B", "b")
    assert await later.get("B") == "b"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "master.key"
    create_master_key(path)
    path.chmod(mode)
    with pytest.raises(AegisError, match="open to others") as caught:
        read_master_key(path)
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("size", [0, 31, 33, 4096])
def test_a_key_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(b"x" * size)
    path.chmod(0o600)
    with pytest.raises(AegisError, match="32 bytes"):
        read_master_key(path)


def test_what_is_not_a_plain_file_is_refused(tmp_path: Path) -> None:
    create_master_key(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name in ("link", "pipe", "folder"):
        with pytest.raises(AegisError):
            read_master_key(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_master_key(tmp_path / "nothing")


def test_whoever_is_second_gets_the_key_of_the_first(tmp_path: Path) -> None:
    assert create_master_key(tmp_path / "k") == create_master_key(tmp_path / "k")
    with pytest.raises(AegisError, match="cannot be made"):
        create_master_key(tmp_path / "no" / "k")


async def test_the_verbs_ask_first_and_never_tell_a_value(vault: LocalVault) -> None:
    asked: list[tuple[str, str, str]] = []

    async def authorize(principal: Principal, action: str, resource: str) -> None:
        asked.append((str(principal), action, resource))
        if resource == "FORBIDDEN":
            raise AegisError(ErrorKind.DENIED, "no")

    secrets = Secrets(vault, authorize)
    info = await secrets.set(ME, "A_KEY", VALUE)
    listed = await secrets.list(ME)
    assert VALUE not in str(info) + str(listed)
    assert await secrets.reveal_for_broker("A_KEY") == VALUE
    with pytest.raises(AegisError):
        await secrets.set(ME, "FORBIDDEN", "x")
    with pytest.raises(AegisError):
        await secrets.delete(ME, "FORBIDDEN")
    with pytest.raises(AegisError) as caught:
        await secrets.delete(ME, "A_KY")
    assert (caught.value.kind, caught.value.data["nearest"]) == (ErrorKind.NOT_FOUND, "A_KEY")
    await secrets.delete(ME, "A_KEY")
    assert await secrets.reveal_for_broker("A_KEY") is None
    assert asked[:2] == [("person:me", "secret.set", "A_KEY"), ("person:me", "secret.list", "*")]


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A\n", "Ä", "a/b", "A" * 129, "A\0"])
async def test_names_that_cannot_be(vault: LocalVault, name: str) -> None:
    async def authorize(*_: object) -> None:
        raise AssertionError("a bad request is refused before anybody is asked")

    with pytest.raises(AegisError) as caught:
        await Secrets(vault, authorize).set(ME, name, "x")
    assert caught.value.kind is ErrorKind.USAGE


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("", ErrorKind.USAGE),
        ("a\0b" + VALUE, ErrorKind.USAGE),
        (VALUE + "\ud800", ErrorKind.USAGE),
        ("ä" * (MAX_VALUE // 2 + 1), ErrorKind.TOO_LARGE),
    ],
)
async def test_values_that_cannot_be(vault: LocalVault, value: str, kind: ErrorKind) -> None:
    async def authorize(*_: object) -> None: ...

    secrets = Secrets(vault, authorize)
    with pytest.raises(AegisError) as caught:
        await secrets.set(ME, "A", value)
    assert caught.value.kind is kind
    assert VALUE not in str(caught.value.to_dict())
    await secrets.set(ME, "A", "x" * MAX_VALUE)
    assert await secrets.reveal_for_broker("A") == "x" * MAX_VALUE
