"""Agents that speak the Agent Client Protocol over their stdin and stdout: one driver, and a data file for each agent.

`spec` reads the data files and says what is wrong with one; `templates` fills them in; `machine` is the protocol as a pure
state machine, `updates` what `session/update` says as facts, `failures` what errors mean; `files` prepares the inside of the
sandbox; `conversation` and `driver` are the thin shell around the process.
"""

from __future__ import annotations

from aegis.drivers.acp.driver import AcpDriver
from aegis.drivers.acp.spec import AgentSpec, load, read, shipped

__all__ = ["AcpDriver", "AgentSpec", "load", "read", "shipped"]
