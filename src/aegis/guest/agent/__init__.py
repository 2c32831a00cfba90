"""The native agent: Aegis's own agent loop, one process per session, inside the sandbox.

It speaks JSON lines with the daemon on stdin and stdout, calls the model through the guest's loopback endpoint, and runs
tools in the workspace, and those of the MCP servers that it is given (`mcp`). It keeps no state on disk: the authoritative memory
is the daemon's store, given back in `init`.

It decides nothing about safety: the sandbox is the boundary, and the broker behind the endpoint holds the keys and the
budget. Standard library only; imports that cost milliseconds are avoided or made where they are first needed.
"""
