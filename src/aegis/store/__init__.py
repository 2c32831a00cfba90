"""The store: the log of events and the tables of the services, one transaction for both, in one SQLite file per home.

Guarantees:

- `Store.write` returns when its work is on disk; a crash of the process or the machine does not take it back.
- Events are numbered in the order in which they become visible. A number is never used twice, also after a crash; a reader
  with a cursor sees every durable event above it exactly once, and nothing ever appears behind it.
- One process writes a home. What the disk refuses is reported to whoever asked, and the store goes on.
- At rest nothing runs: no polling, however many subscribers wait.

What it does not do: it knows no service and none of their tables; those come as migrations beside its own. Ephemeral events
are kept in memory only, as long as there is room, and do not survive a restart.

Writes from many tasks share commits, so a write may be as small as it likes. `Timers` wakes services at a given time.
"""

from aegis.core.events import Event
from aegis.store.cleaning import Cleaner
from aegis.store.log import Page
from aegis.store.store import Store
from aegis.store.subscriptions import Subscription
from aegis.store.timers import Timer, Timers
from aegis.store.upkeep import Check
from aegis.store.writer import Tx

__all__ = ["Check", "Cleaner", "Event", "Page", "Store", "Subscription", "Timer", "Timers", "Tx"]
