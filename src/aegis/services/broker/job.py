"""One call while it is carried: everything that is known of it, in one place."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aegis.services.broker.body import Asked
    from aegis.services.broker.connection import Request
    from aegis.services.broker.model import BrokerClient, Call
    from aegis.services.broker.recording import Take
    from aegis.services.broker.routes import Route


@dataclass(kw_only=True, slots=True)
class Job:
    """What was asked, by whom, and the call that is made of it. `started` is monotonic; `take` is there while it is recorded."""

    client: BrokerClient
    route: Route
    request: Request
    asked: Asked
    call: Call
    started: float
    take: Take | None = None

    @property
    def provider(self) -> str:
        """The name of the provider that is asked."""
        return self.call.model.partition("/")[0]


def trace(error: BaseException) -> str:
    """Where an error came from, without its text, which might quote what must not be logged."""
    frames = "; ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__))
    return f"{type(error).__name__} at {frames}"
