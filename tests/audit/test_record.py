"""The record in a real store: the chain under shared commits, writes that undo themselves, failing disks, rows of an older version."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aegis.core import faults
from aegis.core.clock import ManualClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.principals import SYSTEM, Principal, PrincipalKind
from aegis.services.gate import Decision, Gate
from aegis.services.gate.audit import HEAD_EVERY, MAX_DATA, MAX_TEXT, Filter
from aegis.store import Store, Tx
from aegis.store.migrate import known, migrate
from aegis.store.sqlite import connect

ME = Principal(PrincipalKind.PERSON, "me")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    it = await Store.open(tmp_path / "aegis.db", ManualClock())
    yield it
    await it.close()


@pytest.fixture
def gate(store: Store) -> Gate:
    return Gate(store, ManualClock())


def decided(resource: str = "r", action: str = "a.b", who: Principal = ME, *, allow: bool = True, **data: Any) -> Decision:
    return Decision(who, action, resource, allow, "owner", data, policies=("home.cedar#1",), digest="d1")


async def test_a_row_says_all_of_a_decision(gate: Gate) -> None:
    await gate.record(decided("ü", key=[1, "x"]))
    (row,) = gate.list()
    assert (row["resource"], row["decision"], row["policies"], row["digest"], row["data"]) == (
        "ü", "allow", ["home.cedar#1"], "d1", {"key": [1, "x"]},
    )  # fmt: skip
    assert gate.audit.get(1) == row
    with pytest.raises(AegisError) as caught:
        gate.audit.get(2)
    assert caught.value.kind is ErrorKind.NOT_FOUND
    await gate.audit.record(decided("paid"), cost=0.25)
    assert gate.audit.get(2)["cost"] == 0.25


async def test_the_chain_holds_whatever_shares_a_commit_and_whatever_undoes_itself(gate: Gate, store: Store) -> None:
    def undone(tx: Tx) -> None:
        gate.write(tx, decided("undone"))
        gate.write(tx, decided("undone too"))
        raise AegisError(ErrorKind.CONFLICT, "no")

    def several(tx: Tx) -> None:
        for number in range(3):
            gate.write(tx, decided(f"several {number}"))

    writes: list[Any] = []
    for _ in range(40):
        writes += [gate.record(decided("one")), store.write(undone), store.write(several)]
    told = await asyncio.gather(*writes, return_exceptions=True)
    assert sum(isinstance(answer, AegisError) for answer in told) == 40
    found = await gate.audit.verify()
    assert (found.ok, found.rows) == (True, 160)
    assert [row["id"] for row in gate.list(limit=1000)] == list(range(1, 161))
    assert not [row for row in gate.list(limit=1000) if row["resource"].startswith("undone")]


@pytest.mark.parametrize("name", ["audit.write", "store.commit.before"])
@pytest.mark.parametrize("action", ["enospc", "eio"])
async def test_what_cannot_be_recorded_does_not_happen(gate: Gate, store: Store, name: str, action: str) -> None:
    await gate.record(decided("before"))

    def effect(tx: Tx) -> None:
        tx.execute("INSERT INTO trusted_projects VALUES ('p', 'h', 0)")
        gate.write(tx, decided("effect"))

    faults.arm(name, action)
    try:
        with pytest.raises(AegisError) as caught:
            await store.write(effect)
        assert caught.value.kind is ErrorKind.UNAVAILABLE
        faults.arm(name, action)
        with pytest.raises(AegisError):
            await gate.pass_through(ME, "a.b", "outside")  # raised, so that its caller goes no further
        faults.arm(name, action)
        with pytest.raises(AegisError):
            async with gate.passing(ME, "a.b", "outside"):
                raise AssertionError("the effect was let pass")
    finally:
        faults.disarm()
    assert store.read(lambda db: db.execute("SELECT count(*) FROM trusted_projects").fetchone()) == (0,)
    await store.write(effect)
    found = await gate.audit.verify()
    assert (found.ok, found.rows) == (True, 2)


async def test_heads_come_every_so_many_rows_and_at_the_end(gate: Gate, store: Store, tmp_path: Path) -> None:
    def many(tx: Tx) -> None:
        for _ in range(HEAD_EVERY + 1):
            gate.write(tx, decided())

    assert await gate.audit.seal() is None
    await store.write(many)
    found = await gate.audit.verify()
    assert (found.ok, found.heads) == (True, 1)
    await gate.audit.close()
    assert (await gate.audit.seal()) == (await gate.audit.seal())  # one for each row at most
    found = await Gate(store, ManualClock()).audit.verify()
    assert (found.ok, found.heads, len(found.keys)) == (True, 2, 1)
    assert (tmp_path / "audit.key").stat().st_mode & 0o777 == 0o600


async def test_a_key_that_others_could_have_read_signs_nothing(gate: Gate, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await gate.record(decided())
    (tmp_path / "audit.key").write_bytes(b"x" * 32)
    (tmp_path / "audit.key").chmod(0o644)
    with pytest.raises(AegisError) as caught:
        await gate.audit.seal()
    assert caught.value.hint == f"chmod 600 {tmp_path / 'audit.key'}"
    await gate.audit.close()  # the daemon ends all the same, and says so
    assert "not signed" in caplog.text


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM audit",
        "UPDATE audit SET reason = 'x'",
        "UPDATE audit SET hash = ''",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE id = 1",
        "INSERT INTO audit (ts, principal, action, resource, decision, reason) VALUES (0, '', '', '', '', '')",
        "INSERT INTO audit (id, ts, principal, action, resource, decision, reason, hash) VALUES (1, 0, '', '', '', '', '', 'x')",
        "DELETE FROM audit_heads",
        "UPDATE audit_heads SET ts = 0",
    ],
)
async def test_nothing_is_changed_or_taken_out_by_mistake(gate: Gate, store: Store, statement: str) -> None:
    await gate.record(decided())
    await gate.audit.seal()
    with pytest.raises(sqlite3.IntegrityError):
        await store.write(lambda tx: tx.execute(statement).rowcount)
    assert (await gate.audit.verify()).ok


async def test_rows_of_an_older_version_come_into_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    older = connect(path, writable=True)
    migrate(older, path, 0.0, known()[:8])
    for number in (1, 2, 5, *range(6, 700)):
        older.execute(
            "INSERT INTO audit (id, ts, principal, action, resource, decision, reason, data) VALUES (?, 1, 'p', 'a', 'r', 'allow', '', '{}')",
            (number,),
        )
    older.close()
    store = await Store.open(path, ManualClock())
    gate = Gate(store, ManualClock())
    assert [row["id"] for row in gate.list(limit=2)] == [1, 2]  # they can be read before anything is written
    await gate.record(decided("new"))
    found = await gate.audit.verify()
    assert (found.ok, found.rows) == (True, 698)
    assert gate.list(699)[0]["resource"] == "new"
    with pytest.raises(sqlite3.IntegrityError):
        await store.write(lambda tx: tx.execute("UPDATE audit SET reason = 'x' WHERE id = 1").rowcount)
    await store.close()


async def test_a_row_is_bounded_and_holds_nothing_secret(gate: Gate) -> None:
    gate.audit.clean = lambda text: text.replace(b"hunter2!", b"[secret A]")
    await gate.record(decided("is hunter2! here", text="x" * 60_000, other="hunter2!", deep=[{"a": "hunter2!" * 9000}]))
    await gate.record(decided("r" * 9000, broken="\ud800", more="\udfff"))
    first, second = gate.list()
    assert first["resource"] == "is [secret A] here"
    assert first["data"]["other"] == "[secret A]"
    assert "hunter2" not in str(first)
    assert len(str(first["data"])) < MAX_DATA + 1000
    assert len(second["resource"]) == MAX_TEXT
    assert (await gate.audit.verify()).ok


async def test_filters_pages_and_the_newest(gate: Gate) -> None:
    for number in range(5):
        await gate.record(
            decided(f"r{number}", "secret.set" if number % 2 else "mail.send", ME if number < 3 else SYSTEM, allow=number != 4)
        )

    def ids(**only: Any) -> list[int]:
        return [row["id"] for row in gate.audit.list(0, 100, Filter(**only))]

    assert ids(principals=("person:me",)) == [1, 2, 3]
    assert ids(actions=("secret.*",)) == [2, 4]
    assert ids(actions=("secret.set", "mail.*")) == [1, 2, 3, 4, 5]
    assert ids(decision="deny") == [5]
    assert ids(since=2e12) == []
    assert [row["id"] for row in gate.audit.list(0, 2, newest=True)] == [4, 5]
    assert [row["id"] for row in gate.list(3, 1)] == [4]


async def test_who_follows_misses_nothing(gate: Gate) -> None:
    await gate.record(decided("r0"))
    seen: list[int] = []

    async def follow() -> None:
        async for rows in gate.audit.follow(0):
            seen.extend(row["id"] for row in rows)

    task = asyncio.create_task(follow())
    for _ in range(30):
        await gate.record(decided())
    await asyncio.gather(*(gate.record(decided()) for _ in range(30)))
    await gate.audit.close()
    await asyncio.wait_for(task, 10)
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) >= 60
