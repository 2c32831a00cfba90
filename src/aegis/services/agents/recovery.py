"""What a new daemon does with what a dead one left in the middle.

The sandboxes died with it. Every instance is stopped now, whatever its row says; every open turn is closed as `interrupted`; the
sessions that have work (a cut turn to continue, an envelope that waits) are named, so that their workers can be started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aegis.core.errors import ErrorKind
from aegis.core.events import Outcome
from aegis.drivers import Finished
from aegis.services.agents.model import State
from aegis.services.agents.records import close_turn
from aegis.services.agents.verdicts import MAX_ATTEMPTS

if TYPE_CHECKING:
    from aegis.services.agents.world import World

_DOWN = (State.STOPPED, State.FAILED)


async def recover(world: World) -> list[tuple[str, str]]:
    """Put the home in order; returns the (instance id, session) pairs that have work, oldest work first."""
    for instance in world.registry.all():
        if instance.state not in _DOWN and instance.state is not State.CREATED:
            await world.registry.move(instance, State.STOPPED, "the daemon ended", keep_trying=True)
    for turn, instance_id, session, attempts in world.store.read(
        lambda db: db.execute("SELECT id, instance, session, attempts FROM turns WHERE finished_at IS NULL ORDER BY started_at").fetchall()
    ):
        await _close_open_turn(world, turn, instance_id, session, attempts)
    cut = world.store.read(
        lambda db: db.execute(
            "SELECT DISTINCT t.instance, t.session FROM turns t JOIN envelopes e ON e.turn = t.id "
            "WHERE t.outcome IN ('interrupted', 'limited') AND e.done_at IS NULL"
        ).fetchall()
    )
    return list(dict.fromkeys([*map(tuple, cut), *map(tuple, world.mail.places_with_mail())]))


async def _close_open_turn(world: World, turn: str, instance_id: str, session: str, attempts: int) -> None:
    instance, envelopes = world.registry.find(instance_id), world.mail.of_turn(turn)
    again = instance is not None and bool(envelopes) and attempts < MAX_ATTEMPTS and instance.launch.on_interrupt == "resume"
    end = Finished(
        Outcome.INTERRUPTED,
        error={"error": "the daemon ended in the middle of the turn", "kind": ErrorKind.INTERRUPTED.value, "will_continue": again},
    )
    await world.insist(lambda tx: close_turn(world, tx, turn, end, ms=0.0, instance=instance_id, session=session))
