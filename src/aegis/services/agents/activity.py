"""What an instance is about, in one word, computed from facts and told when it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from aegis.core.events import InstanceActivity
from aegis.services.agents.model import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.services.agents.life import Life


class Activity(NamedTuple):
    """One of `starting`, `working`, `needs-you`, `idle`, `limited`, `failed`, `unknown`; `until` is when a limit ends, in wall seconds.

    `note` says for people what makes it look stuck, or what keeps it from being started; empty when there is nothing to say.
    """

    word: str
    until: float | None = None
    note: str = ""


def activity(
    life: Life | None, *, state: State, running: bool, open_approvals: int, held: float | None, silent: bool = False, note: str = ""
) -> Activity:
    """The word for an instance.

    Args:
        life: its sandbox, None where this daemon never looked at it.
        state: of its row.
        running: whether a turn runs or its program works in the background.
        open_approvals: how many requests wait for a person.
        held: until when its provider gives nothing more; None when it gives.
        silent: whether nothing has been heard for long of a program that has a turn; see `hearing`.
        note: what to say of it besides.
    """
    return _word(life, state, running, open_approvals, held, silent)._replace(note=note)


def _word(life: Life | None, state: State, running: bool, open_approvals: int, held: float | None, silent: bool) -> Activity:
    if state is State.FAILED:
        return Activity("failed")
    if life is not None and life.silent:
        return Activity("unknown")
    if open_approvals:
        return Activity("needs-you")
    if held is not None and not running:
        return Activity("limited", held)
    if state is State.STARTING or (running and life is not None and life.link is None):
        return Activity("starting")
    if state is State.PAUSED:  # under a turn too: nothing moves in it
        return Activity("idle")
    if silent:
        return Activity("unknown")
    command = life is not None and bool(life.instance.launch.command) and state is State.RUNNING
    return Activity("working" if running or command else "idle")


class Teller:
    """Tells of the activity of one instance, once for each change."""

    def __init__(self, life: Life, look: Callable[[], Activity]) -> None:
        self._life = life
        self._look = look
        self._told = Activity("")

    def changed(self) -> None:
        """Look again."""
        now = self._look()
        if now != self._told:
            self._told = now
            self._life.world.store.emit(InstanceActivity(*now), instance=self._life.instance.id)
