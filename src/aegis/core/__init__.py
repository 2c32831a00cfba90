"""The words of Aegis: ids, errors, events, envelopes, clock, fault points.

Nothing here does I/O or imports anything foreign but msgspec. Every other part may import this one.
"""
