"""A request to start an instance, whichever way it came in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from aegis.core.principals import Principal
    from aegis.daemon.wiring import House
    from aegis.services.agents import Instance
    from aegis.services.agents.launching import StartRequest


async def begin(parts: House, who: Principal, wanted: StartRequest) -> tuple[Instance, bool]:
    """A new instance, or the stopped one of that handle started again; and whether it is new."""
    known = parts.registry.find(wanted.handle) if wanted.handle else None
    if known is not None:
        if known.state.value not in ("stopped", "failed", "created"):
            raise AegisError(
                ErrorKind.CONFLICT,
                f"`{known.handle}` is {known.state}",
                f"`aegis instance info {known.handle}` shows it; choose another --name",
            )
        if known.state.value == "failed" and parts.agents.is_blank(known):  # its first start failed: mended flags count
            again = await parts.launching.resolve(wanted)
        else:
            again = await parts.launching.merge_secrets(known.launch, wanted.secrets)
        await parts.agents.start(who, known, again if again != known.launch else None)
        return known, False
    launch = await parts.launching.resolve(wanted)
    return await parts.agents.create(who, wanted.handle, launch), True
