"""The guest: the process inside every sandbox that holds the inner end of the tether.

`supervisor` is the process; `programs`, `logs` and `endpoint` are what its channels do; `processes` and `kernel` what it
asks of Linux; `loop` waits. `agent` is Aegis's own agent, started as a program like any other.

Guaranteed: everything it starts dies with the tether; no byte of a program is lost, except of one whose output is captured
as a log, and then it is counted. It does not decide anything: policy is the daemon's.

Only the standard library and `aegis.tether` are imported, and of the library only what is cheap: a guest is paid for by
every instance, in start time and in memory. Hence the private C modules (`_socket`, `_signal`, `_ctypes`) in place of their
Python faces, which cost 3 to 8 ms and up to 1.2 MB each.
"""
