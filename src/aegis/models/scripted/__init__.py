"""The `scripted` kind: an offline provider that answers by rule. It is not a real model and says so.

For tests, for the demo and for trying Aegis without a key. It serves every dialect, streamed and not, with the framing that
official clients accept. `reading` makes one neutral conversation of a request, a script turns that into a list of acts, and
a framing for each dialect writes them. Models: `echo` repeats, `directives` does what the message spells out, `demo` mends the shipped demo
repository by reading what its tools returned.

What programs ask on the side gets an answer that does no harm: a small value where they give a schema, a title where they want
one.

Guaranteed: an answer follows from the request body alone, so a restart, an interruption or a repetition changes nothing;
the one exception is `[[error CODE N]]`, which counts repetitions of the same request in memory. Token counts are estimates by
length. It reads its input tolerantly and survives any size the broker lets through.
"""

from aegis.models.scripted.provider import ScriptedProvider

__all__ = ["ScriptedProvider"]
