"""Who acts. A principal is proven by the connection it came in on, never by an argument."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class PrincipalKind(StrEnum):
    """What kind of actor."""

    PERSON = "person"  # proven by the peer credentials of the socket, or by a bearer token
    INSTANCE = "instance"  # proven by the tether it spoke on
    SYSTEM = "system"  # the daemon itself: recovery, timers


class Principal(msgspec.Struct, frozen=True):
    """An actor: a kind and an id unique within the kind (a user name, an instance id)."""

    kind: PrincipalKind
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"


SYSTEM = Principal(PrincipalKind.SYSTEM, "daemon")
