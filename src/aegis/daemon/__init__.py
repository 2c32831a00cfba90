"""The daemon: one process per home that owns the store, the sandboxes and the ways in.

`wiring` is the only place that knows every part. `__main__` is its life from the lock on the home to the last sandbox ended. `http`
is the way in over the unix socket and, when asked for, TCP.
"""
