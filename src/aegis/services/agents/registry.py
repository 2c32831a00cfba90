"""The table `instances`: who exists. All rows are in memory as well, because every request asks for one."""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.events import InstanceCreated, InstanceDeleted, InstanceState
from aegis.core.faults import point
from aegis.core.ids import check_handle, new_handle, new_id
from aegis.services.agents.model import Instance, Launch, State
from aegis.services.gate import Relation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aegis.core.clock import Clock
    from aegis.store import Store, Tx


class Registry:
    """Owner of the table `instances` and of the events `instance.*`."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._by_id: dict[str, Instance] = {}
        self._by_handle: dict[str, Instance] = {}
        self._spawned: dict[str, dict[str, Instance]] = {}  # parent -> its children by id, in the order in which they came

    def load(self) -> None:
        """Read every row; called once at start."""
        rows = self._store.read(
            lambda db: db.execute(
                "SELECT id, handle, idx, launch, state, reason, enabled, token, created_at, last_active_at, stopped_at, parent "
                "FROM instances ORDER BY created_at, rowid"
            ).fetchall()
        )
        for row in rows:
            self._remember(
                Instance(
                    id=row[0],
                    handle=row[1],
                    idx=row[2],
                    launch=msgspec.json.decode(row[3], type=Launch),
                    state=State(row[4]),
                    reason=row[5],
                    enabled=bool(row[6]),
                    token=row[7],
                    created_at=row[8],
                    last_active_at=row[9],
                    stopped_at=row[10],
                    parent=row[11],
                )
            )

    def all(self) -> list[Instance]:
        """Every instance, oldest first."""
        return sorted(self._by_id.values(), key=lambda i: i.created_at)  # of the same moment: as they came

    def shared(self) -> set[Path]:
        """The directories of this machine that agents can write to, each as it is called and as what it leads to."""
        found: set[Path] = set()
        for launch in (i.launch for i in self._by_id.values()):
            if launch.workspace is not None and not launch.read_only:
                found.add(Path(launch.workspace))
            found |= {Path(mount.source) for mount in launch.mounts if mount.writable}
        return found | {place.resolve() for place in found}

    def find(self, name: str) -> Instance | None:
        """The instance with this handle or id."""
        return self._by_handle.get(name) or self._by_id.get(name)

    def get(self, name: str) -> Instance:
        """As `find`; raises NOT_FOUND with the nearest handle."""
        found = self.find(name)
        if found is None:
            raise unknown_name("instance", name, self._by_handle, "see `aegis instance list`")
        return found

    def handle_of(self, ident: str) -> str:
        """The handle of an instance; its id when it is gone."""
        found = self._by_id.get(ident)
        return found.handle if found is not None else ident

    def children(self, ident: str) -> list[Instance]:
        """The instances that this one spawned, oldest first."""
        return list(self._spawned.get(ident, {}).values())

    def descendants(self, ident: str) -> list[Instance]:
        """All that it spawned, and all that those did, parents before their children."""
        found = self.children(ident)
        for child in found:
            found += self.children(child.id)
        return found

    def orphans(self) -> list[Instance]:
        """Those whose parent is not there any more."""
        return [i for i in self.all() if i.parent is not None and i.parent not in self._by_id]

    def ancestors(self, ident: str) -> list[Instance]:
        """Who spawned it, and who spawned that one, up to the one that a person started."""
        found: list[Instance] = []
        instance = self._by_id.get(ident)
        while instance is not None and instance.parent is not None and (instance := self._by_id.get(instance.parent)) is not None:
            found.append(instance)
        return found

    def relation(self, ident: str, other: str) -> Relation:
        """What another instance, by handle or id, is to the instance `ident`."""
        mine, theirs = self._by_id.get(ident), self.find(other)
        if mine is None or theirs is None:
            return Relation.STRANGER
        if mine is theirs:
            return Relation.SELF
        if any(a is mine for a in self.ancestors(theirs.id)):
            return Relation.DESCENDANT
        if mine.launch.project == theirs.launch.project or any(a is theirs for a in self.ancestors(ident)):
            return Relation.ACQUAINTED
        return Relation.STRANGER

    async def create(
        self,
        handle: str | None,
        launch: Launch,
        also: Callable[[Tx], None],
        *,
        parent: str | None = None,
    ) -> Instance:
        """A new instance in state `created`. Raises USAGE for a bad handle, CONFLICT for a taken one. `also` joins the transaction.

        It counts from the call on, before anything is awaited: of many who ask for a last place or a handle, one gets it.
        """
        if handle is None:
            handle = new_handle(set(self._by_handle))
        elif check_handle(handle) in self._by_handle:
            raise AegisError(ErrorKind.CONFLICT, f"the handle `{handle}` is taken", f"see `aegis instance info {handle}`")
        taken = {i.idx for i in self._by_id.values()}
        idx = next(n for n in range(1, len(taken) + 2) if n not in taken)
        now = self._clock.now()
        token = secrets.token_urlsafe(24)
        instance = Instance(new_id("inst"), handle, idx, launch, State.CREATED, "", True, token, now, now, parent=parent)
        self._remember(instance)  # before the write, so that two requests at once cannot take one handle

        def store(tx: Tx) -> None:
            also(tx)
            tx.execute(
                "INSERT INTO instances (id, handle, idx, launch, state, enabled, token, created_at, last_active_at, parent) "
                "VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, ?)",
                (instance.id, instance.handle, idx, msgspec.json.encode(launch).decode(), State.CREATED, instance.token, now, now, parent),
            )
            tx.append(InstanceCreated(instance.handle, launch.agent, launch.sandbox, launch.workspace, parent), instance=instance.id)

        try:
            await self._store.write(store)
        except Exception:  # one who was cancelled leaves it: the write happens all the same
            self.forget(instance)
            raise
        point("instance.created")
        return instance

    async def move(self, instance: Instance, state: State, reason: str = "", *, stderr: str = "", keep_trying: bool = False) -> None:
        """Change the state, durably and as an event. With `keep_trying` a disk that takes nothing does not stop the change in memory."""
        previous = instance.state
        if previous == state:
            return
        now = self._clock.now()
        stopped_at = now if state in (State.STOPPED, State.FAILED) else None

        def store(tx: Tx) -> None:
            tx.execute(
                "UPDATE instances SET state = ?, reason = ?, stopped_at = ?, last_active_at = ? WHERE id = ?",
                (state, reason, stopped_at, now, instance.id),
            )
            tx.append(InstanceState(state, previous, reason, stderr), instance=instance.id)

        try:
            await self._store.write(store)
        except AegisError:
            if not keep_trying:
                raise
        instance.state, instance.reason, instance.stopped_at, instance.last_active_at = state, reason, stopped_at, now

    def require(self, tx: Tx, ident: str) -> None:
        """Raise NOT_FOUND when the instance is not there any more, so that nothing is stored for one that was deleted meanwhile."""
        if tx.execute("SELECT 1 FROM instances WHERE id = ?", (ident,)).fetchone() is None:
            raise AegisError(ErrorKind.NOT_FOUND, "the instance was deleted meanwhile", "see `aegis instance list`")

    def enable(self, tx: Tx, instance: Instance, enabled: bool) -> None:
        """Set whether messages and programs may wake it, from the commit on. Raises NOT_FOUND when it was deleted."""
        self.require(tx, instance.id)
        tx.execute("UPDATE instances SET enabled = ? WHERE id = ?", (enabled, instance.id))
        tx.on_commit(lambda: setattr(instance, "enabled", enabled))

    def living(self, tx: Tx, ident: str) -> None:
        """Raise INTERRUPTED when the instance is deleted or disabled by now, so that nothing begins below one that was ended."""
        row = tx.execute("SELECT enabled FROM instances WHERE id = ?", (ident,)).fetchone()
        if row is None or not row[0]:
            raise AegisError(ErrorKind.INTERRUPTED, "the instance that wanted it was ended meanwhile", "see `aegis tree`")

    def shut(self, tx: Tx, instances: Sequence[Instance], *, doomed: bool = False) -> None:
        """Let nothing wake these from the commit on; with `doomed` the next daemon deletes those that are there still."""
        for instance in instances:
            tx.execute("UPDATE instances SET enabled = 0 WHERE id = ?", (instance.id,))
            tx.on_commit(partial(setattr, instance, "enabled", False))
            if doomed:
                self.relaunch(tx, instance, msgspec.structs.replace(instance.launch, ephemeral=True))

    def relaunch(self, tx: Tx, instance: Instance, launch: Launch) -> None:
        """Replace what the instance is started with, from its next start on."""
        tx.execute("UPDATE instances SET launch = ? WHERE id = ?", (msgspec.json.encode(launch).decode(), instance.id))
        tx.on_commit(lambda: setattr(instance, "launch", launch))

    def delete(self, tx: Tx, instance: Instance) -> None:
        """Remove the row. Its events stay. Call `forget` when that is on disk."""
        tx.execute("DELETE FROM instances WHERE id = ?", (instance.id,))
        tx.append(InstanceDeleted(instance.handle), instance=instance.id)

    def _remember(self, instance: Instance) -> None:
        self._by_id[instance.id] = instance
        self._by_handle[instance.handle] = instance
        if instance.parent is not None:
            self._spawned.setdefault(instance.parent, {})[instance.id] = instance

    def forget(self, instance: Instance) -> None:
        """Free the handle: the row is gone, or was never written."""
        self._by_id.pop(instance.id, None)
        if instance.parent is not None and (siblings := self._spawned.get(instance.parent)) is not None:
            siblings.pop(instance.id, None)
            if not siblings:
                del self._spawned[instance.parent]
        if self._by_handle.get(instance.handle) is instance:
            del self._by_handle[instance.handle]
