"""Owner of the table `held`, of the event `instance.held`, and of the folders `guard` and `quarantine` of the home."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import InstanceHeld
from aegis.core.ids import new_id
from aegis.core.principals import SYSTEM
from aegis.core.text import one_line
from aegis.services.guarding.classes import RULES
from aegis.services.guarding.judging import judge
from aegis.services.guarding.model import Held, Item, Look
from aegis.services.guarding.places import Place, left_open
from aegis.services.guarding.quarantine import Quarantine

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from aegis.core.clock import Clock
    from aegis.core.principals import Principal
    from aegis.services.agents.model import Instance
    from aegis.services.gate import Gate
    from aegis.store import Store, Tx

_logger = logging.getLogger(__name__)

#: So long, in seconds, the end of a turn waits for the look at what it left; a longer look ends by itself.
PATIENCE: Final = 2.0
#: So many are held in one transaction.
_BATCH: Final = 200
_COLUMNS: Final = ", ".join(Held.__struct_fields__)


class _Found(msgspec.Struct, frozen=True):
    """Something to hold: as it is, and as it was."""

    item: Item
    was: Item | None


class Guarding:
    """Looks at workspaces and holds what agents left there for others to run."""

    def __init__(self, store: Store, clock: Clock, gate: Gate, home: Path) -> None:
        self._store = store
        self._clock = clock
        self._gate = gate
        self._home = home
        self._quarantine = Quarantine(home)
        self._places: dict[str, Place] = {}
        self._looks: set[asyncio.Task[Look]] = set()

    # Looks.

    async def opening(self, instance: Instance) -> None:
        """Before a sandbox starts. What changed since nobody could write there is the person's; what a crash left is looked at.

        Never raises but for a defect: what cannot be looked at now is looked at later.
        """
        for place in await self._of(instance):
            async with place.lock:
                if place.open or place.stale:  # others write there now, or a daemon died
                    await self._look(instance, place, frozenset(), None, None)
                    place.stale.clear()
                else:
                    await self._accept_all(place)
                place.open.add(instance.id)
                await self._saved(place)

    async def look(self, instance: Instance, *, kept: Collection[str] = (), session: str | None = None, turn: str | None = None) -> Look:
        """While a sandbox is there: hold what is new. `kept` are paths of the workspace that no program inside can change."""
        result = Look([], [])
        for place in await self._of(instance):
            if instance.id not in place.open:
                continue
            async with place.lock:
                held, told = await self._look(instance, place, kept, session, turn)
                await self._saved(place)
            result = Look(result.held + held, result.told + told)
        return result

    async def look_soon(self, instance: Instance, *, kept: Collection[str], session: str | None, turn: str | None) -> None:
        """As `look`, for the end of a turn: it waits for a long one only so long."""
        task = asyncio.create_task(self.look(instance, kept=kept, session=session, turn=turn), name=f"look after {instance.handle}")
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)
        done, _ = await asyncio.wait({task}, timeout=PATIENCE)
        for each in done:
            if (error := each.exception()) is not None:
                _logger.error("a defect in a look after %s", instance.handle, exc_info=error)

    async def closing(self, instance: Instance, *, kept: Collection[str] = ()) -> None:
        """After a sandbox has gone: nobody of it writes there any more."""
        for place in await self._of(instance):
            if instance.id not in place.open:
                continue
            async with place.lock:
                await self._look(instance, place, kept, None, None)
                place.open.discard(instance.id)
                await self._saved(place)

    async def close(self) -> None:
        """Wait for the looks under way."""
        await asyncio.gather(*self._looks, return_exceptions=True)

    async def _of(self, instance: Instance) -> list[Place]:
        """The places that its programs may write to."""
        launch = instance.launch
        if launch.guard == "off":
            return []
        paths = [launch.workspace] if launch.workspace is not None and not launch.read_only else []
        paths += [mount.source for mount in launch.mounts if mount.writable and launch.permission == "full"]
        return [await self._place(path) for path in dict.fromkeys(paths)]

    async def _place(self, path: str) -> Place:
        known = self._places.get(path)
        return known if known is not None else self._places.setdefault(path, await asyncio.to_thread(Place, self._home, path))

    async def _accept_all(self, place: Place) -> None:
        def accept() -> None:
            place.accept(place.tree.look(place.items))

        try:
            await asyncio.to_thread(accept)
        except NotADirectoryError:  # a mount of one file
            return
        except OSError as error:
            _logger.warning("%s cannot be looked at: %s", place.path, error)

    async def _saved(self, place: Place) -> None:
        try:
            await asyncio.to_thread(place.save)
        except OSError as error:
            _logger.warning("what is known of %s cannot be written: %s", place.path, error)

    async def _look(
        self, instance: Instance, place: Place, kept: Collection[str], session: str | None, turn: str | None
    ) -> tuple[list[str], list[str]]:
        """Look, hold, tell; the place is locked."""
        sealed = kept if instance.launch.workspace == str(place.path) else ()
        try:
            hold, tell, order = await asyncio.to_thread(self._find, place, sealed, instance.launch.guard)
        except NotADirectoryError:  # a mount of one file
            return [], []
        except OSError as error:
            _logger.warning("%s cannot be looked at: %s", place.path, error)
            return [], []
        if not hold and not tell:
            return [], []
        about = {"instance": instance.id, "session": session, "turn": turn}
        if tell:
            facts = [InstanceHeld("", f.item.path, f.item.rule, "told", _reason(f, "told")) for f in tell]
            await self._put(lambda tx: [tx.append(fact, **about) for fact in facts])
        held: list[str] = []
        for start in range(0, len(hold), _BATCH):
            held += await self._hold(instance, place, hold[start : start + _BATCH], order, about)
        await asyncio.to_thread(place.accept, order)
        if place.tree.too_many and not place.told_of_size:
            place.told_of_size = True
            _logger.warning("%s has so many directories that the deepest are not looked at", place.path)
        return held, [f.item.path for f in tell]

    def _find(self, place: Place, kept: Collection[str], guard: str) -> tuple[list[_Found], list[_Found], dict[str, Item]]:
        """What to hold, what to tell, and what is in order when that is done. Blocking."""
        hold, tell, order = [], [], {}
        for path, item in place.tree.look(place.items).items():
            was = place.items.get(path)
            if item.same(was) or any(path == name or path.startswith(f"{name}/") for name in kept):
                order[path] = item
                continue
            before = place.kept(was)
            does = judge(item, place.tree.content(path), before if isinstance(before, bytes) else b"", guard)
            if does == "hold":
                hold.append(_Found(item, was))
                continue
            order[path] = item
            if does == "tell":
                tell.append(_Found(item, was))
        if not hold and not tell:
            place.accept(order)
        return hold, tell, order

    async def _hold(
        self, instance: Instance, place: Place, found: list[_Found], order: dict[str, Item], about: dict[str, Any]
    ) -> list[str]:
        """Take them out of the place: on record first, then the move, then that it was done."""
        rows = [self._row(instance, place, each, about) for each in found]
        decisions = [
            self._gate.decide(SYSTEM, "workspace.hold", f"{row.place}/{row.path}", instance=row.handle, rule=row.rule) for row in rows
        ]

        def record(tx: Tx) -> None:
            for row, decision in zip(rows, decisions, strict=True):
                self._gate.write(tx, decision)
                tx.execute(
                    f"INSERT INTO held ({_COLUMNS}) VALUES ({', '.join('?' * len(Held.__struct_fields__))})", msgspec.structs.astuple(row)
                )

        if not await self._put(record):  # no record, no move: the next look finds them again
            for each in found:
                place.tree.forget(each.item.path)
                if each.was is not None:
                    order[each.item.path] = each.was
            return []
        done: list[Held] = []
        gone: list[Held] = []
        for row, each in zip(rows, found, strict=True):
            try:
                put_back = await asyncio.to_thread(self._quarantine.take, place.path, each.item, row.id, place.kept(each.was), each.was)
            except FileNotFoundError:
                gone.append(row)
                continue
            except OSError as error:
                gone.append(row)
                if (row.path, row.digest) not in place.failed:
                    place.failed.add((row.path, row.digest))
                    _logger.warning("%s/%s cannot be held: %s", place.path, row.path, error)
                    fact = _failed(row, error)
                    await self._put(lambda tx, fact=fact: tx.append(fact, **about))
                continue
            finally:
                place.tree.forget(each.item.path)
            done.append(msgspec.structs.replace(row, state="held", restored=put_back))
            if each.was is not None and put_back:
                order[each.item.path] = msgspec.structs.replace(each.was, sure=False)

        def finish(tx: Tx) -> None:
            for row in done:
                tx.execute("UPDATE held SET state = 'held', restored = ? WHERE id = ?", (row.restored, row.id))
                tx.append(_fact(row), **about)
            tx.executemany("DELETE FROM held WHERE id = ?", [(row.id,) for row in gone])

        await self._put(finish)
        return [row.id for row in done]

    def _row(self, instance: Instance, place: Place, found: _Found, about: dict[str, Any]) -> Held:
        item = found.item
        return Held(
            id=new_id("held"), instance=instance.id, handle=instance.handle, place=str(place.path), path=item.path, rule=item.rule,
            reason=_reason(found, "held"), kind=item.kind, state="holding", size=item.size, digest=item.digest, mode=item.mode & 0o7777,
            uid=item.uid, gid=item.gid, before=found.was.digest if found.was is not None else "", restored=False,
            session=about["session"], turn=about["turn"], held_at=self._clock.now(), decided_at=None, principal="",
        )  # fmt: skip

    async def _put(self, fn: Any) -> bool:
        """Write it; False when the disk takes nothing."""
        try:
            await self._store.write(fn)
        except AegisError as error:
            _logger.warning("a look cannot be recorded: %s", error.message)
            return False
        return True

    async def recover(self, find: Callable[[str], Instance | None]) -> None:
        """At the start of a daemon, when no sandbox of the last one is there any more.

        What was on its way into the quarantine is there, or never left; what was left in workspaces and nobody looked at is looked at.
        """
        await self._settle()
        for path in await asyncio.to_thread(left_open, self._home):
            place = await self._place(path)
            instance = next((found for ident in sorted(place.stale) if (found := find(ident)) is not None), None)
            async with place.lock:
                if place.stale and instance is not None:
                    await self._look(instance, place, frozenset(), None, None)
                    place.stale.clear()
                    await self._saved(place)

    async def _settle(self) -> None:
        for row in self.list(state="holding"):
            if await asyncio.to_thread(self._quarantine.has, row.id):
                fact = _fact(msgspec.structs.replace(row, state="held"))
                about = {"instance": row.instance, "session": row.session, "turn": row.turn}

                def settle(tx: Tx, row: Held = row, fact: InstanceHeld = fact, about: dict[str, Any] = about) -> None:
                    tx.execute("UPDATE held SET state = 'held' WHERE id = ?", (row.id,))
                    tx.append(fact, **about)

                await self._put(settle)
                place = await self._place(row.place)
                was = place.items.get(row.path)
                await asyncio.to_thread(self._quarantine.mend, place.path, was, row.id, place.kept(was))
            else:
                await self._put(lambda tx, row=row: tx.execute("DELETE FROM held WHERE id = ?", (row.id,)))

    # A person.

    def list(self, *, instance: str | None = None, state: str | None = "held", limit: int = 1000) -> list[Held]:
        """The newest, oldest first; all states with None."""
        rows = self._store.read(
            lambda db: db.execute(
                f"SELECT {_COLUMNS} FROM held WHERE (? IS NULL OR instance = ?) AND (? IS NULL OR state = ?) ORDER BY rowid DESC LIMIT ?",
                (instance, instance, state, state, limit),
            ).fetchall()
        )
        return [_held(row) for row in reversed(rows)]

    def get(self, ident: str) -> Held:
        """One. Raises NOT_FOUND."""
        row = self._store.read(lambda db: db.execute(f"SELECT {_COLUMNS} FROM held WHERE id = ?", (ident,)).fetchone())
        if row is None:
            raise AegisError(ErrorKind.NOT_FOUND, f"nothing is held as {one_line(ident, 60)!r}", "see `aegis held list`")
        return _held(row)

    async def text(self, held: Held) -> dict[str, Any]:
        """Its content and its difference to what was there, every unseen character written out; whether it is still what was held."""
        if held.state != "held":
            return {"text": "", "diff": "", "changed": False}
        text, diff, digest = await asyncio.to_thread(self._quarantine.text, held.id)
        return {"text": text, "diff": diff, "changed": bool(digest) and digest != held.digest}

    async def release(self, principal: Principal, ident: str) -> Held:
        """Put it back where it was taken from; it counts as the person's from then on.

        Raises AegisError: NOT_FOUND, CONFLICT when it was released or dropped before, or something else stands there.
        """
        held = self._open(ident)
        await self._gate.pass_through(principal, "workspace.release", f"{held.place}/{held.path}", held=held.id, digest=held.digest)
        await self._place(held.place)
        over = [self._places[each] for each in sorted(self._places) if f"{held.place}/{held.path}".startswith(f"{each}/")]
        async with contextlib.AsyncExitStack() as locks:
            for place in over:
                await locks.enter_async_context(place.lock)
            held = self._open(ident)
            await asyncio.to_thread(self._quarantine.put_back, held)
            for place in over:
                await asyncio.to_thread(_accept_one, place, f"{held.place}/{held.path}")
                await self._saved(place)
            return await self._decide(principal, held, "released")

    async def drop(self, principal: Principal, ident: str) -> Held:
        """Remove it for good. Raises AegisError: NOT_FOUND, CONFLICT when it was released or dropped before."""
        held = self._open(ident)
        await self._gate.pass_through(principal, "workspace.drop", f"{held.place}/{held.path}", held=held.id, digest=held.digest)
        return await self._decide(principal, held, "dropped")

    def _open(self, ident: str) -> Held:
        held = self.get(ident)
        if held.state != "held":
            raise AegisError(ErrorKind.CONFLICT, f"{held.path} was {held.state} before", "see `aegis held list --all`")
        return held

    async def _decide(self, principal: Principal, held: Held, state: str) -> Held:
        done = msgspec.structs.replace(held, state=state, decided_at=self._clock.now(), principal=str(principal))

        def decide(tx: Tx) -> None:
            tx.execute(
                "UPDATE held SET state = ?, decided_at = ?, principal = ? WHERE id = ?", (state, done.decided_at, done.principal, held.id)
            )
            tx.append(_fact(done), instance=held.instance)

        await self._store.write(decide)
        await asyncio.to_thread(self._quarantine.erase, held.id)
        return done


def _accept_one(place: Place, path: str) -> None:
    below = path.removeprefix(f"{place.path}/")
    place.tree.forget(below)
    found = place.tree.look(place.items)
    if below in found:
        place.accept({**place.items, below: found[below]})


def _reason(found: _Found, does: str) -> str:
    what = "changed" if found.was is not None else "new"
    return f"{what}: {RULES[found.item.rule].acts}"


def _fact(row: Held) -> InstanceHeld:
    return InstanceHeld(row.id, row.path, row.rule, row.state, row.reason, row.restored)


def _failed(row: Held, error: OSError) -> InstanceHeld:
    return InstanceHeld(row.id, row.path, row.rule, "failed", f"{row.reason}; it could not be moved: {error.strerror}")


def _held(row: tuple[Any, ...]) -> Held:
    return msgspec.convert(dict(zip(Held.__struct_fields__, row, strict=True)), Held, strict=False)
