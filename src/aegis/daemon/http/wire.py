"""The frames of the WebSocket: what is sent to the daemon, and what it sends. Each is one JSON object with a `type`."""

from __future__ import annotations

import msgspec

from aegis.core.events import Event


class Subscribe(msgspec.Struct, tag="subscribe", forbid_unknown_fields=True):
    """Begin to send events after the cursor `after`, of one instance (handle or id) and session, and of these types, where given."""

    id: str
    after: int
    instance: str | None = None
    session: str | None = None
    types: list[str] | None = None


class Unsubscribe(msgspec.Struct, tag="unsubscribe", forbid_unknown_fields=True):
    """Send no more of it."""

    id: str


class Ping(msgspec.Struct, tag="ping", forbid_unknown_fields=True):
    """Ask whether the other end lives; what is in `id` comes back."""

    id: str = ""


class Hello(msgspec.Struct, tag="hello"):
    """The first frame: the newest number of the log, and what there is to know of this connection."""

    head: int
    heartbeat_s: float
    max_frame: int
    max_subscriptions: int
    v: int = 1


class Subscribed(msgspec.Struct, tag="subscribed"):
    """A subscription has begun."""

    id: str
    after: int


class Unsubscribed(msgspec.Struct, tag="unsubscribed"):
    """A subscription has ended. `cursor` is where another one would go on."""

    id: str
    cursor: int


class Told(msgspec.Struct, tag="event"):
    """An event of a subscription; its `seq` is the cursor to go on from."""

    id: str
    event: Event


class Evicted(msgspec.Struct, tag="evicted"):
    """Pieces up to the number `evicted` are no longer kept; what they said stands in the events that follow. It is no cursor."""

    id: str
    evicted: int


class Alive(msgspec.Struct, tag="alive"):
    """Nothing was to be told for a while. Everything up to `cursor` was looked at."""

    id: str
    cursor: int


class Pong(msgspec.Struct, tag="pong"):
    """The answer to a ping, with the newest number of the log."""

    id: str
    head: int


class Mistake(msgspec.Struct, tag="error", omit_defaults=True):
    """A frame that could not be followed; `id` is that of the subscription it was about. The connection stays."""

    error: str
    kind: str
    hint: str = ""
    id: str = ""


Asked = Subscribe | Unsubscribe | Ping
Answered = Hello | Subscribed | Unsubscribed | Told | Evicted | Alive | Pong | Mistake
