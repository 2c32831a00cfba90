"""Budgets: bounds on money and on tokens, which really stop.

A budget caps what is used in its scope (the home, a project, an agent, an instance with all it spawned, a session), in a window that
rolls or for its whole life. Before a model call leaves the machine its worst case is reserved in all of them at once, with nothing in
between; afterwards what it really used is settled, in the transaction that writes the call down.

Guaranteed: when a call is admitted, what was spent and what is reserved exceed no cap, however many are admitted at once. A call is made
while anything is left; when less than its worst case is, all that is left is reserved, and calls that need some wait until it is settled.
So what is spent never passes a cap by more than what one call uses beyond its estimate, and a stream that passes it by far is cut. Amounts
are whole numbers; what is no amount (NaN, negative) is unknown, and unknown is never free. A call that was under way when the daemon died
counts with what was reserved. A clock that is set back frees nothing. A check takes the same time at any history.
Not done here: the answer to the program (the broker), what becomes of a turn (agents), telling a person (attention).
"""

from aegis.services.budgets.model import Blocked, Budget, Lineage
from aegis.services.budgets.service import Budgets

__all__ = ["Blocked", "Budget", "Budgets", "Lineage"]
