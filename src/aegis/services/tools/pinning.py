"""Which definitions of tools were accepted: at the first use of a server, or by a person who saw what changed. The table `tool_pins`.

A pin is that of a declaration: a server that is declared otherwise is another one, and begins anew once that is trusted.
"""

from __future__ import annotations

import asyncio
import difflib
import hashlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.core.events import ToolsChanged
from aegis.services.tools import Definition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aegis.core.clock import Clock
    from aegis.store import Store, Tx

_LINES: Final = 400


class Origin(NamedTuple):
    """A server as one declaration has it. `project` is empty for one of the home."""

    project: str
    server: str
    declared: str


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """How what a server offers differs from what was accepted. `digest` is of all that it offers now; a person accepts exactly that."""

    digest: str
    changed: list[str] = []
    added: list[str] = []
    removed: list[str] = []
    diff: list[str] = []

    @property
    def any(self) -> bool:
        """Whether there is something to accept."""
        return bool(self.changed or self.added or self.removed)


def written(definition: Definition) -> bytes:
    """A definition as it is hashed and kept: the same for the same meaning."""
    return msgspec.json.encode(msgspec.to_builtins(definition), order="deterministic")


def hash_of(definition: Definition) -> str:
    """What a definition is known by."""
    return hashlib.sha256(written(definition)).hexdigest()


def digest_of(definitions: Iterable[Definition]) -> str:
    """What all definitions of a server are known by."""
    state = hashlib.sha256()
    for each in sorted(definitions, key=lambda one: one.name):
        state.update(hash_of(each).encode())
    return state.hexdigest()


class Pins:
    """Owner of the table."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._kept: dict[Origin, dict[str, tuple[str, Definition]]] = {}
        self._told: dict[Origin, str] = {}
        self._first = asyncio.Lock()

    def of(self, origin: Origin) -> dict[str, tuple[str, Definition]]:
        """The accepted definitions of a server by name, with their hashes; nothing when it was never used."""
        found = self._kept.get(origin)
        if found is None:
            rows = self._store.read(
                lambda db: db.execute(
                    "SELECT tool, hash, definition FROM tool_pins WHERE project = ? AND server = ? AND declared = ?", origin
                ).fetchall()
            )
            found = {tool: (digest, msgspec.json.decode(text, type=Definition)) for tool, digest, text in rows}
            self._kept[origin] = found
        return found

    def change(self, origin: Origin, offered: list[Definition]) -> Change:
        """How what is offered differs from what was accepted."""
        pinned = self.of(origin)
        now = {each.name: each for each in offered}
        changed = [name for name, each in now.items() if name in pinned and pinned[name][0] != hash_of(each)]
        added = [name for name in now if name not in pinned]
        removed = [name for name in pinned if name not in now]
        diff: list[str] = []
        for name in sorted({*changed, *added, *removed}):
            before = _lines(pinned[name][1]) if name in pinned else []
            after = _lines(now[name]) if name in now else []
            diff += difflib.unified_diff(before, after, f"{name} (accepted)", f"{name} (now)", lineterm="", n=2)
        return Change(
            digest=digest_of(offered),
            changed=sorted(changed),
            added=sorted(added),
            removed=sorted(removed),
            diff=diff if len(diff) <= _LINES else [*diff[:_LINES], f"[{len(diff) - _LINES} more lines]"],
        )

    async def first(self, origin: Origin, offered: list[Definition]) -> None:
        """Accept what a server offers at its first use; nothing happens when something was accepted before. Durable when it returns."""
        async with self._first:
            if not self.of(origin) and offered:
                await self._store.write(lambda tx: self.accept(tx, origin, offered))

    def accept(self, tx: Tx, origin: Origin, offered: list[Definition]) -> None:
        """Accept exactly these, in a transaction of the caller's."""
        tx.execute("DELETE FROM tool_pins WHERE project = ? AND server = ? AND declared = ?", origin)
        kept: dict[str, tuple[str, Definition]] = {}
        for each in offered:
            text, digest = written(each), hash_of(each)
            tx.execute(
                "INSERT INTO tool_pins (project, server, declared, tool, hash, definition, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*origin, each.name, digest, text.decode(), self._clock.now()),
            )
            kept[each.name] = (digest, each)
        tx.on_commit(lambda: self._kept.__setitem__(origin, kept))

    async def tell(self, origin: Origin, change: Change) -> None:
        """Put it into the log that a server offers something else; once for each thing that it offers."""
        if self._told.get(origin) == change.digest:
            return
        self._told[origin] = change.digest
        fact = ToolsChanged(origin.server, origin.project or None, change.changed[:100], change.added[:100], change.removed[:100])
        await self._store.write(lambda tx: tx.append(fact))


def _lines(definition: Definition) -> list[str]:
    whole: dict[str, Any] = msgspec.to_builtins(definition)
    return msgspec.json.format(msgspec.json.encode(whole, order="deterministic"), indent=1).decode().splitlines()
