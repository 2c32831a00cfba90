"""The model broker: the daemon's end of every `model` channel.

A program in a sandbox speaks plain HTTP to the guest's loopback endpoint, in any of four dialects; the bytes arrive here. The
broker checks the instance's token, that the model is one of the instance's own, asks `admit` (gate, budget, audit), resolves
the key at the last moment, makes the call and sends the answer back as it arrives, then tells `record` what it really used.
Calls can be written to a file (`Recorder`) and answered from one (`Player`).

Guaranteed: the body goes up unchanged but for the value of `model`; no credential enters a sandbox, an error, a log or a
recording; the call upstream ends when the program goes away; every admitted call is recorded once; a refusal by a budget, a
missing key or a provider's limit that lasts is an error that programs do not retry. Not done here: what is allowed (the gate),
how long a provider is held, keeping secrets, translation of dialects.
"""

from aegis.services.broker.broker import Broker
from aegis.services.broker.model import BrokerClient, ByteChannel, Call, LimitHit, Outcome
from aegis.services.broker.recording import Recorder
from aegis.services.broker.replaying import Player
from aegis.services.broker.tapes import check_recording

__all__ = ["Broker", "BrokerClient", "ByteChannel", "Call", "LimitHit", "Outcome", "Player", "Recorder", "check_recording"]
