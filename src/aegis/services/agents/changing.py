"""What a person changes about a session: what it runs with, and a copy of it to go on with apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.events import SessionSettings
from aegis.services.agents import memory, sessions, terms

if TYPE_CHECKING:
    from aegis.core.principals import Principal
    from aegis.drivers import Driver
    from aegis.services.agents.model import Instance
    from aegis.services.agents.turns import Session
    from aegis.services.agents.world import World
    from aegis.store import Tx


async def configure(
    world: World, principal: Principal, instance: Instance, worker: Session, *, model: str | None, mode: str | None, effort: str | None
) -> None:
    """Change what a session runs with; see `Agents.configure`."""
    driver = _driver(world, instance)
    if model is not None:
        model = world.models.check_model(instance, model, driver.dialects)
    _offered(driver, "mode", mode, driver.capabilities.modes, needed=False)
    terms.check_mode(instance.launch, driver, mode)
    _offered(driver, "effort", effort, driver.capabilities.efforts, needed=True)
    changes: dict[str, Any] = {name: value for name, value in (("model", model), ("mode", mode), ("effort", effort)) if value is not None}
    if not changes:
        raise AegisError(ErrorKind.USAGE, "nothing is to be changed", "give a model, a mode or an effort")
    decision = await world.gate.check(principal, "session.configure", instance.handle, session=worker.key, **changes)

    def store(tx: Tx) -> None:
        world.gate.write(tx, decision)
        world.registry.require(tx, instance.id)
        sessions.change(tx, instance.id, worker.key, world.clock.now(), **changes)
        tx.append(SessionSettings(model, mode, effort), instance=instance.id, session=worker.key)

    before = sessions.row(world.store, instance.id, worker.key)
    await world.store.write(store)  # before the program is told: the broker goes by it, and no effect is without a record
    try:
        await worker.configure(model=model, mode=mode, effort=effort)
    except AegisError as error:
        if error.kind is ErrorKind.INTERRUPTED:  # the program has gone, and the next one is started with it
            return
        await world.store.write(lambda tx: _undo(world, tx, instance, worker.key, before, list(changes)))
        raise


def _undo(world: World, tx: Tx, instance: Instance, session: str, before: sessions.Row, names: list[str]) -> None:
    old: dict[str, Any] = {name: getattr(before, name) for name in names}
    sessions.change(tx, instance.id, session, world.clock.now(), **old)
    launch = instance.launch
    told = {name: old[name] or getattr(launch, name) for name in names}
    tx.append(SessionSettings(**told), instance=instance.id, session=session)


async def fork(world: World, principal: Principal, instance: Instance, session: str, to: str) -> None:
    """Let the session `to` begin as a copy; see `Agents.fork`."""
    driver = _driver(world, instance)
    if not driver.capabilities.fork:
        raise AegisError(
            ErrorKind.CONFLICT, f"`{driver.name}` cannot copy a session", "begin another session, and tell it what it needs to know"
        )
    decision = await world.gate.check(principal, "session.fork", instance.handle, session=session, to=to)

    def store(tx: Tx) -> None:
        world.gate.write(tx, decision)
        world.registry.require(tx, instance.id)
        if not sessions.known(tx, instance.id, session):
            names = [row[0] for row in tx.execute("SELECT DISTINCT session FROM turns WHERE instance = ?", (instance.id,)).fetchall()]
            raise unknown_name("session", session, names, f"see `aegis instance info {instance.handle}`")
        if sessions.known(tx, instance.id, to):
            raise AegisError(ErrorKind.CONFLICT, f"there is a session `{to}` already", "choose another name")
        columns = tx.execute(
            "SELECT model, mode, effort, title, program_session FROM sessions WHERE instance = ? AND session = ?", (instance.id, session)
        ).fetchone() or (None, None, None, "", None)
        if driver.capabilities.keeps_memory and columns[4] is None:
            raise AegisError(ErrorKind.CONFLICT, f"the session `{session}` has not begun", "send it a message first")
        if not driver.capabilities.keeps_memory:
            memory.copy(tx, instance.id, session, to)
        model, mode, effort, title, _ = columns
        sessions.change(tx, instance.id, to, world.clock.now(), fork_of=session, model=model, mode=mode, effort=effort, title=title)

    await world.store.write(store)


def _driver(world: World, instance: Instance) -> Driver:
    if instance.launch.driver is None:
        raise AegisError(ErrorKind.CONFLICT, f"`{instance.handle}` runs a command, not an agent", "it has no sessions")
    return world.driver(instance.launch.driver)


def _offered(driver: Driver, what: str, wanted: str | None, known: tuple[str, ...], *, needed: bool) -> None:
    """Refuse what the program is known not to take. Without `needed`, one that tells nothing may take anything."""
    if wanted is None or wanted in known or (not known and not needed):
        return
    if not known:
        raise AegisError(ErrorKind.CONFLICT, f"`{driver.name}` cannot be told its {what}", "leave it out")
    raise unknown_name(what, wanted, known)
