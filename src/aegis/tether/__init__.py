"""The tether: the one channel between the daemon and the guest in a sandbox.

Standard library only, because both ends import it. `frames` names what is said, `mux` carries many channels over one
connected stream socket with flow control, without doing any I/O itself.
"""
