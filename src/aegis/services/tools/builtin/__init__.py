"""The built-in tools: files and commands of the caller's own sandbox, and the web through the caller's own way out.

`fs` and `cmd` act inside the sandbox of the instance that calls, by programs of the guest bundle (`aegis.guest.desk`,
`aegis.guest.command`), never in the daemon: `desks` keeps one such program for each sandbox. `web` fetches through the egress gate, as
a program in the sandbox would, and asks a search service that the person has set up.

Guaranteed: a path is beneath the workspace and is used as it was judged: no link is followed on the way, so what is exchanged in
between is found and refused; an instance with permission `read` changes nothing; no content is larger than asked for, and nothing goes
on after a call was cancelled. Not done: hiding from an agent what its own programs can reach; what those reach is the sandbox's matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aegis.services.tools.builtin.cmd import Commands
from aegis.services.tools.builtin.desks import Desks
from aegis.services.tools.builtin.fetching import Way
from aegis.services.tools.builtin.fs import Files
from aegis.services.tools.builtin.searching import Search
from aegis.services.tools.builtin.web import Web

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.core.clock import Clock
    from aegis.services.config.model import WebDefinition
    from aegis.services.egress import Egress
    from aegis.services.gate import Effect, Gate
    from aegis.services.tools import Source, ToolCaller
    from aegis.services.tools.builtin.desks import Holding
    from aegis.services.tools.builtin.searching import Reveal

__all__ = ["built_in"]


def built_in(
    *,
    holding: Holding,
    gate: Gate,
    egress: Egress,
    settings: Callable[[], WebDefinition],
    reveal: Reveal,
    clock: Clock,
) -> list[Source]:
    """The sources that come with Aegis.

    Args:
        holding: the tether of an instance, awake and kept so.
        settings: what the person says of the web.
        reveal: the value of a secret, for an instance and a host; None when it is not stored.
    """

    async def judge(caller: ToolCaller, effect: Effect) -> None:
        about = {"session": caller.session} if caller.session else {}
        await gate.record(await gate.check(caller.principal, "tool.call", effect.tool, effect=effect, moved=True, **about))

    desks = Desks(holding)
    way = Way(egress.serve, lambda instance: egress.authority(instance).pem)
    return [Files(desks), Commands(desks), Web(desks, way, Search(settings, reveal, clock), judge)]
