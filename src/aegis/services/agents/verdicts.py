"""What the end of the program's work means for the turn."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Outcome
from aegis.core.text import one_line
from aegis.drivers import Died, Finished

if TYPE_CHECKING:
    from aegis.services.agents.conversing import Running
    from aegis.services.agents.logs import Log
    from aegis.services.agents.model import Instance
    from aegis.services.agents.world import World

_logger = logging.getLogger(__name__)

#: A turn that was cut short so many times in a row is not tried again.
MAX_ATTEMPTS: Final = 5
#: A message that was accepted so long ago, in seconds, does not wait for a provider any more; weekly limits are the longest known.
MAX_WAIT: Final = 14 * 86400.0


def verdict(turn: Running, end: Finished | Died, instance: Instance, log: Log) -> Finished:
    """The outcome of a turn whose program ended it so, or died."""
    if turn.cancelled:
        return Finished(Outcome.CANCELLED, end.text if isinstance(end, Finished) else "")
    completed = isinstance(end, Finished) and end.outcome is Outcome.COMPLETED
    if turn.bound is not None and not completed:
        outcome = Outcome.LIMITED if turn.bound.kind is ErrorKind.LIMIT else Outcome.FAILED
        return Finished(outcome, end.text if isinstance(end, Finished) else "", turn.bound.to_dict())
    if turn.gone and not completed:
        again = bool(turn.envelopes) and turn.attempts < MAX_ATTEMPTS and instance.launch.on_interrupt == "resume"
        message = "the sandbox was stopped in the middle of the turn"
        return Finished(Outcome.INTERRUPTED, error={"error": message, "kind": ErrorKind.INTERRUPTED.value, "will_continue": again})
    if isinstance(end, Finished):
        return end
    message = f"the agent's program died (exit {end.exit})" if end.exit is not None else "the agent's program went away"
    error = AegisError(ErrorKind.FAILED, message, f"see `aegis logs {instance.handle}`", stderr=end.stderr[-4096:], exit=end.exit)
    log.write(f"{message}: {one_line(end.stderr[-400:])}")
    return Finished(Outcome.FAILED, error=error.to_dict())


async def limited(turn: Running, end: Finished, world: World, instance: Instance, *, provider: str, session: str) -> Finished:
    """The same end, unless a budget is used up, or the provider gives no more for now: then the turn waits for its continuation.

    A budget that does not free by itself ends the turn for good.
    """
    if end.outcome not in (Outcome.FAILED, Outcome.LIMITED) or turn.bound is not None:
        return end
    if (spent := world.budgets.refused(turn.id)) is not None:
        return await _spent(turn, end, world, instance, session, spent)
    if end.outcome is Outcome.FAILED and (why := world.models.given_up(turn.id)) is not None:
        dead = AegisError(ErrorKind.UNAVAILABLE, why, "`aegis doctor` says which models answer; then send it again").to_dict()
        return msgspec.structs.replace(end, error=dead)
    error = end.error or {}
    data = error.get("data") or {}
    hit = world.models.limit_of(turn.id)
    if hit is not None:
        provider, resets_at, reason = instance.launch.supply(f"{hit.provider}/"), hit.resets_at, hit.message
    elif error.get("kind") == ErrorKind.LIMIT.value and instance.launch.auth == "login":  # else the broker would know of it
        resets_at, reason = data.get("resets_at"), str(error.get("error", ""))
    else:
        return end
    now = world.clock.now()
    try:
        until = await world.limits.hit(provider, until=resets_at, reason=one_line(reason, 400))
    except AegisError as trouble:
        _logger.warning("the limit of %s is not on record: %s", provider, trouble.message)
        return end
    oldest = world.mail.oldest(turn.id) if turn.envelopes else None
    again = oldest is not None and until - oldest < MAX_WAIT
    told = {
        "error": f"{provider} gives no more for now: {one_line(reason, 400)}",
        "kind": ErrorKind.LIMIT.value,
        "hint": "it goes on by itself; `aegis cancel` tries at once" if again else "send it again later",
        "will_continue": again,
        "resets_at": until,
        "data": {**data, "provider": provider, "waits": max(0.0, until - now)},
    }
    return Finished(Outcome.LIMITED, end.text, told, end.rounds, end.reason, end.input, end.output, end.cached, end.cost_usd)


async def _spent(turn: Running, end: Finished, world: World, instance: Instance, session: str, spent: AegisError) -> Finished:
    """The end of a turn that its budgets stopped: it goes on when they free, if they do so by themselves."""
    until = spent.data.get("unblock_at")
    oldest = world.mail.oldest(turn.id) if turn.envelopes else None
    again = oldest is not None and isinstance(until, int | float) and until - oldest < MAX_WAIT
    if again:
        try:
            await world.budgets.hold(instance.id, session, turn.id, spent)
        except AegisError as trouble:
            _logger.warning("that %s waits for a budget is not on record: %s", instance.handle, trouble.message)
            again = False
    told = spent.to_dict() | {"will_continue": again}
    if until is not None:
        told["resets_at"] = until
    if again:
        told["hint"] = f"it goes on by itself; {spent.hint}"
    return msgspec.structs.replace(end, outcome=Outcome.LIMITED, error=told)
