"""Agents: instances and what they do between a message and its answer.

An instance is a row, a sandbox while it is awake, and one conversation per session. `registry` owns the rows, `life` moves an
instance between its states. `turns` runs one session's turns one after the other: `portions` says how much of what waits comes into
one, `opening` starts its program, `conversing` reads what that says, `asking` answers what it asks leave for, `records` writes down
how turns begin and end, and `verdicts` says what an end means. `memory` keeps the conversations of Aegis's own agent, `sessions` the
names that foreign programs have for theirs, and what each session runs with. `service` is the face that the daemon's ways in call.

`spawning` lets an instance start others: `inside` finds the paths that it names, `narrowing` cuts what they are to have to what it has
itself. `descending` looks after them, and `cascading` ends whole families.

Guarantees: every transition is an event; a turn ends in exactly one `turn.finished`, also one that the program began by itself; what
a turn had learnt is on disk before its program goes on, or the program's own name of the session is before it hears a word; a turn
that a crash cut short, or a provider's limit, is continued, and a message is in the conversation once. Does not decide who may do
what (the gate) and does not store messages on their way (mail).
"""

from __future__ import annotations

from aegis.services.agents.model import Instance, Launch, State
from aegis.services.agents.service import Agents
from aegis.services.agents.world import ModelPlane, World

__all__ = ["Agents", "Instance", "Launch", "ModelPlane", "State", "World"]
