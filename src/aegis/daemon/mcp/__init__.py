"""The MCP way in: Aegis's verbs as tools of the Model Context Protocol, for agents in sandboxes and for a person's own agent.

`model` says what a verb is. Who calls is known from the connection: the tether of an instance and the bearer of one of its sessions,
or the door of the HTTP way in. No argument names the caller; a `from_handle` that some programs send must agree with who it is.
Verbs are tables, one module each; they hold no logic of their own: every effect goes through a service and its gate.
"""

from __future__ import annotations
