"""The model broker: the daemon's end of every `model` channel.

A program in a sandbox speaks plain HTTP to the guest's loopback endpoint; the bytes arrive here. The broker checks the
instance's token, that the model is the instance's own, asks `admit` (gate, budget, audit), resolves the key at the last
moment, makes the call and sends the answer back as it arrives, then tells `record` what it really used.

Guaranteed: the body goes up unchanged but for the value of `model`; no credential enters a sandbox, an error or a log; the
call upstream ends when the program goes away; every admitted call is recorded once; a refusal by a budget or a missing key
is an error that programs do not retry. Not done here: what is allowed (the gate), keeping secrets, translation of dialects.
"""

from aegis.services.broker.broker import Broker
from aegis.services.broker.model import BrokerClient, ByteChannel, Call, Outcome

__all__ = ["Broker", "BrokerClient", "ByteChannel", "Call", "Outcome"]
