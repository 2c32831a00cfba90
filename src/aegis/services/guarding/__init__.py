"""What agents leave in a workspace that other programs of the person act on.

git runs hooks and what its configuration names, editors run tasks, other agents start MCP servers and hooks: files that an agent with
`write` may make, and that act as the person. `classes` is the table of them. After each turn, when a sandbox is frozen or gone, and before
the next one starts, also after a crash, what is new or changed among them is *held*: moved into the quarantine of the home, and what was
there before is put back. A person looks at it (`aegis held`) and releases or drops it.

What is guaranteed: nothing that is held is lost or changed on the way; each hold has an audit record, written before it, and an event;
links are never followed. What is not: between two looks, while its sandbox runs, such a file stands where the agent put it. What a
person changes while no agent can write there is never held.
"""

from __future__ import annotations

from aegis.services.guarding.model import Held, Look
from aegis.services.guarding.service import Guarding

__all__ = ["Guarding", "Held", "Look"]
