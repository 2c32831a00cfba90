"""Names and limits of the tether's wire.

A frame is a 9-byte header, `!IIB` = payload length, channel number, type, and the payload. Channel 0 is control: each DATA
payload there is one JSON-RPC 2.0 message. The daemon opens odd channels, the guest even ones. A channel is opened by OPEN
(a JSON object with `kind`), carries DATA both ways, each side may say EOF once, and CLOSE (a JSON object) ends it for both:
the other side answers with a CLOSE of its own, and what was on its way until then is dropped.

Flow control: each direction of a channel starts with `WINDOW` bytes of credit; DATA uses it up, WINDOW (`!I`) gives more. A
peer that sends without credit, an oversized frame or a frame for a channel that never was breaks the tether.

The guest says `hello` first, as a notification on channel 0: `{v, pid, python, uid, cwd, limits, interpreter, lib, endpoint, mcp}`;
`interpreter` and `lib` are paths inside, of what runs the guest and of its modules; `endpoint` is the loopback URL where programs
inside reach the model broker, or null with `endpoint_error`; `mcp` that of Aegis's MCP server, or null with `mcp_error`; `limits` says
of each `AEGIS_RLIMIT_*` in the guest's environment `ok` or why not. With `AEGIS_EGRESS=1` there, `proxy` is the loopback URL of the
HTTP proxy that leads to the egress gate, or null with `proxy_error`.

Channel kinds, daemon to guest:

- `exec` `{argv, env, cwd, stdin, capture?}`: run a program. Each DATA payload begins with one byte: 0 stdin (daemon to
  guest), 1 stdout, 2 stderr. EOF from the daemon closes its stdin. CLOSE from the guest carries `{exit}` (negative for a
  signal) or `{error, kind}`. CLOSE from the daemon kills the program and all its descendants. With `capture`, a text, output
  goes to the log channel with that text as its `source`. With `module` in the place of `argv` the program is `main` of that
  module of the bundle, in a fork of the guest: no interpreter starts.

Channel kinds, guest to daemon:

- `model`: one TCP connection to the guest's loopback endpoint, as raw bytes.
- `mcp`: one TCP connection to the guest's second loopback endpoint, as raw bytes.
- `egress` `{to?}`: one TCP connection to the guest's loopback proxy, as raw bytes; with `to`, a place `ADDRESS:PORT` on the host's
  own loopback, one to the port of the same number inside, and the bytes are for that place.
- `log`: log records as JSON lines `{t, stream, text, source}`; what did not fit is counted in `{t, dropped}`.

Control methods, daemon to guest: `ping`, `stats`, `signal {channel, signal, tree?}` (the program's process group, or all its
descendants), `shutdown {grace}` (SIGTERM to all, SIGKILL after `grace` seconds, then the tether ends).

The neutral form of a recorded message (the conversation's memory, authoritative copy in the daemon's store) is
`{"role": "user"|"assistant"|"tool", "content": [block, ...], "ids"?: [message ids]}` with blocks
`{"type":"text","text"}`, `{"type":"image","media_type","message","n"}` (the n-th picture, from 0, of the message of that id; with
`data` as base64 only where a program is given it; a picture that a tool gave back bears a name that is no message's, and only the
process that saw it has its data), `{"type":"thinking","text","signature"?,"redacted"?}`,
`{"type":"tool_call","id","name","input"}` (arguments that are no JSON are kept as `{"malformed": raw}`),
`{"type":"tool_result","id","name","ok","output","truncated","ms"?}`.
"""

from __future__ import annotations

HEADER = "!IIB"
HEADER_SIZE = 9
OPEN, DATA, EOF, CLOSE, WINDOW_UPDATE = range(1, 6)

#: The largest payload of any frame, in bytes. Raw bytes are cut to `CHUNK`, so that channels share the wire fairly.
MAX_FRAME = 1024 * 1024
CHUNK = 64 * 1024
#: Credit of each direction of a new channel, in bytes.
WINDOW = 256 * 1024

STDIN, STDOUT, STDERR = 0, 1, 2
