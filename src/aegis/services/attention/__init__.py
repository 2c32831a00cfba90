"""Attention: a person is told when an agent needs him, is done, failed, waits for its provider, or seems stuck.

It follows the log, so nobody has to call it and nothing waits for it. What is worth telling becomes a row of the table `attention` in
the same transaction as the place up to which the log was read, so that a crash neither forgets nor doubles it. A row waits for a short
while: a request that is answered meanwhile is not told, and what comes together is told together, once for each cause. In quiet hours
rows wait for their end. Then the durable event `attention.raised` is written, at which `aegis watch` and `aegis chat` ring, and the
desktop and the person's own command are given it. What agents say to each other never raises anything.

It does not decide what is urgent, and does not answer anybody. A notice that was given to a program when the daemon died before that
program had ended is given again only where it is a request that still waits.
"""

from aegis.services.attention.model import Notice
from aegis.services.attention.service import Attention

__all__ = ["Attention", "Notice"]
