"""The driver of OpenAI's Codex, `codex`: its app-server, JSON-RPC in lines on its stdin and stdout.

`launch` says how it is started and with what, `inside` what is prepared in the sandbox and what is ended there; `frames` reads lines;
`machine` is the protocol as a pure state machine, with `turn` what is kept of a turn, `items` what an item of a thread means, `asking`
its requests, and `results` how a turn ended; `driver` is the thin shell around the process.
"""

from __future__ import annotations

from aegis.drivers.codex.driver import PROGRAM, CodexConversation, CodexDriver

__all__ = ["PROGRAM", "CodexConversation", "CodexDriver"]
