"""Approvals: what agents ask leave for, and what rules want a person asked about, until somebody has answered.

Guarantees: a request is on disk before anybody waits for its answer, and each of its states is one transaction with its event; it
is answered once, by the gate's leave and with an audit row; the answer outlives the daemon, so that a program that was cut down and
asks the same again is given it without asking a person twice. An answer counts for one instance, one session and one exact call, by
its digest; nothing else is ever covered by it. A request that nobody answers ends at its deadline with the answer that was set for
that. What it does not do: it knows no rules (see `gate`) and does not speak to programs; whoever asks for a program waits for
`Pending.verdict`, hands the answer on, and says `delivered`.

Whoever ends a turn for good calls `withdraw` for its session: an answer that nobody fetched must not serve another turn.
"""

from aegis.services.approvals.model import MAX_INPUT, Approval, Pending, Terms, digest_of
from aegis.services.approvals.rules import ApprovedRules
from aegis.services.approvals.service import Approvals

__all__ = ["MAX_INPUT", "Approval", "Approvals", "ApprovedRules", "Pending", "Terms", "digest_of"]
