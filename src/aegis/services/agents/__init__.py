"""Agents: instances and what they do between a message and its answer.

An instance is a row, a sandbox while it is awake, and one conversation per session. `registry` owns the rows, `life` moves an
instance between its states, `turns` runs one session's turns one after the other, `memory` keeps each conversation, `logs` what
programs printed, `service` is the face that the daemon's ways in call.

Guarantees: every transition is an event; a turn ends in exactly one `turn.finished`; what a turn had learnt is on disk before its
program goes on; a turn that a crash cut short is continued from its memory, and a message is in that memory once. Does not decide
who may do what (the gate) and does not store messages on their way (mail).
"""

from __future__ import annotations

from aegis.services.agents.model import Instance, Launch, State
from aegis.services.agents.service import Agents
from aegis.services.agents.world import ModelPlane, World

__all__ = ["Agents", "Instance", "Launch", "ModelPlane", "State", "World"]
