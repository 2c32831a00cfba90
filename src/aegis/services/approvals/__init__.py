"""Approvals: what agents ask leave for, until a person has answered.

Guarantees: a request is on disk before anybody waits for its answer, and each of its states is one transaction with its event; it
is answered once, by the gate's leave and with an audit row; the answer outlives the daemon, so that a program that was cut down and
asks the same again is given it without asking a person twice. What it does not do: it knows no rules (see `gate.prompts`) and does
not speak to programs; whoever asks waits for `Pending.verdict`, hands the answer on, and says `delivered`.

Whoever ends a turn for good calls `withdraw` for its session: an answer that nobody fetched must not serve another turn.
"""

from aegis.services.approvals.model import MAX_INPUT, Approval, Pending, digest_of
from aegis.services.approvals.service import Approvals

__all__ = ["MAX_INPUT", "Approval", "Approvals", "Pending", "digest_of"]
