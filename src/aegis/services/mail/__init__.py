"""Mail: messages on their way to an instance, from acceptance to the end of the turn that dealt with them.

Guarantees: `accept` returns after the envelope is on disk; the same `msg_id` from the same sender to the same instance is one
envelope however often it is sent; the envelopes of a session are handed out in the order of their acceptance; every state has a
time. Who sent an envelope is the principal that the face has proven. Mail does not wake anybody and does not run turns: it tells
`on_accepted`, and the agents service does the rest.

Top-down: `service` (what others call), `accepting` (the way in), `taking` (with turns), `posting` (onto the disk), `box` (looking),
`tending` (dead letters), `headers` (how messages stand in a turn), `checks` and `pictures` (what is refused), `model`.
"""

from __future__ import annotations

from aegis.services.mail.model import MAX_AGENT_TEXT, MAX_FROM_AGENT, MAX_HOPS, MAX_WAITING, Draft, Joined, MailState
from aegis.services.mail.service import Mail

__all__ = ["MAX_AGENT_TEXT", "MAX_FROM_AGENT", "MAX_HOPS", "MAX_WAITING", "Draft", "Joined", "Mail", "MailState"]
