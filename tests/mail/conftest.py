"""A house with agents that write to each other: the bench of the agents, and a few verbs of mail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.agents.conftest import bench, open_bench, program

from aegis.core.principals import Principal, PrincipalKind
from aegis.services.mail import Draft

if TYPE_CHECKING:
    from tests.agents.conftest import Bench

    from aegis.core.envelopes import Receipt
    from aegis.services.agents import Instance

__all__ = ["bench", "open_bench", "program"]

S = "host:default"


def agent(instance: Instance) -> Principal:
    """An instance as a principal."""
    return Principal(PrincipalKind.INSTANCE, instance.id)


async def write(bench: Bench, sender: Instance, to: Instance, text: str, session: str = S, **draft: Any) -> Receipt:
    """One agent writes to another."""
    return await bench.house.mail.accept(
        agent(sender), Draft(instance=to.id, session=session, text=text, **({"sender_session": S} | draft))
    )


def states(bench: Bench, instance: Instance) -> dict[str, str]:
    """The texts of the messages to an instance, and how far each has come."""
    return {row["text"]: row["state"] for row in bench.house.mail.box(instance.id)}
