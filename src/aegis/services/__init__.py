"""What Aegis does, one folder per noun.

A service knows the protocol of a port, never one of its kinds, and owns its tables and event types alone. Services speak to each
other through small protocols that the one who needs them declares; `daemon/wiring.py` joins them.
"""
