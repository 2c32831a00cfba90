"""Numbered migrations: in order, each whole or not at all, a copy before, nothing from the future."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Text
from aegis.store import Store
from aegis.store import migrate as migrations
from aegis.store.migrate import Migration, known, migrate, statements
from aegis.store.sqlite import connect

if TYPE_CHECKING:
    from pathlib import Path

ONE = Migration(1, "0001_a", "CREATE TABLE a (x INTEGER PRIMARY KEY); INSERT INTO a VALUES (1);")
TWO = Migration(2, "0002_b", "CREATE TABLE b (y INTEGER REFERENCES a (x));\nINSERT INTO b VALUES (1);")


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


def test_the_known_ones_are_numbered_without_gaps() -> None:
    assert [m.number for m in known()] == list(range(1, len(known()) + 1))
    assert known()[0].name == "0001_events"


def test_each_is_applied_once_and_recorded(tmp_path: Path) -> None:
    path = tmp_path / "aegis.db"
    with closing(connect(path, writable=True)) as connection:
        assert migrate(connection, path, 5.0, [TWO, ONE]) == ["0001_a", "0002_b"]
        assert migrate(connection, path, 6.0, [ONE, TWO]) == []
        assert connection.execute("SELECT * FROM migrations").fetchall() == [(1, "0001_a", 5.0), (2, "0002_b", 5.0)]
    assert not list(tmp_path.glob("*.before-*"))


def test_a_copy_is_made_before_a_database_with_content_changes(tmp_path: Path) -> None:
    path = tmp_path / "aegis.db"
    with closing(connect(path, writable=True)) as connection:
        migrate(connection, path, 0.0, [ONE])
        migrate(connection, path, 0.0, [ONE, TWO])
    copy = tmp_path / "aegis.db.before-0002"
    assert tables(copy) == {"a", "migrations"}
    assert tables(path) == {"a", "b", "migrations"}
    assert copy.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "sql", ["CREATE TABLE c (z); INSERT INTO nowhere VALUES (1);", "CREATE TABLE c (z REFERENCES a (x)); INSERT INTO c VALUES (99);"]
)
def test_a_failing_step_leaves_nothing_of_itself(tmp_path: Path, sql: str) -> None:
    path = tmp_path / "aegis.db"
    with closing(connect(path, writable=True)) as connection:
        with pytest.raises(AegisError) as caught:
            migrate(connection, path, 0.0, [ONE, TWO, Migration(3, "0003_bad", sql)])
        assert caught.value.kind is ErrorKind.INTERNAL
        assert "0003_bad" in caught.value.message
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
        assert connection.execute("SELECT max(number) FROM migrations").fetchone() == (2,)
    assert tables(path) == {"a", "b", "migrations"}


async def test_a_database_from_the_future_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "aegis.db"
    store = await Store.open(path, SystemClock())
    await store.write(lambda tx: tx.append(Text("x")))
    await store.write(lambda tx: tx.execute("INSERT INTO migrations VALUES (9999, '9999_later', 0)").rowcount)
    await store.close()
    before = hashlib.sha256(path.read_bytes()).digest()
    with pytest.raises(AegisError) as caught:
        await Store.open(path, SystemClock())
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert "9999_later" in caught.value.message
    assert "newer" in caught.value.hint
    assert hashlib.sha256(path.read_bytes()).digest() == before
    assert {p.name for p in tmp_path.iterdir()} == {"aegis.db", "aegis.db.lock"}


async def test_a_store_with_content_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "aegis.db"
    store = await Store.open(path, SystemClock())
    seq = await store.write(lambda tx: tx.append(Text("x")))
    await store.close()
    number = len(known()) + 1
    later = [*known(), Migration(number, f"{number:04}_later", "CREATE TABLE later (x INTEGER);")]
    monkeypatch.setattr(migrations, "known", lambda: later)
    store = await Store.open(path, SystemClock())
    assert [e.seq for e in store.events(0).events] == [seq]
    assert await store.write(lambda tx: tx.execute("INSERT INTO later VALUES (1)").rowcount) == 1
    await store.close()
    assert path.with_name(f"aegis.db.before-{number:04}").exists()


def test_scripts_are_cut_into_statements() -> None:
    script = """-- a comment; with a semicolon
CREATE TABLE t (x TEXT DEFAULT ';'); CREATE TABLE u (x TEXT);
CREATE TRIGGER r AFTER INSERT ON t BEGIN
    DELETE FROM u;
    DELETE FROM t WHERE x = 'a;b';
END;
-- the end
"""
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in statements(script):
            connection.execute(statement)
        assert connection.execute("SELECT name FROM sqlite_schema ORDER BY name").fetchall() == [("r",), ("t",), ("u",)]
    with pytest.raises(ValueError, match="within a statement"):
        list(statements("CREATE TABLE t (x)"))
