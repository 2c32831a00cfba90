"""A program that speaks as Claude Code does, and goes wrong as it is told to. Run in a sandbox; needs nothing but Python.

`FAKE_FRAMES` is a file of frames; with each message it says them from the beginning, in the place of `UUID` the message's own.
`FAKE_DIE` n: exit 7 before frame n. `FAKE_HANG` n: say nothing any more from frame n on. `FAKE_START`: `garbage`, `silent`, `flood`,
`exit` (with a word on stderr), `deaf` (stdin is closed at once).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

DIE, HANG = int(os.environ.get("FAKE_DIE", "-1")), int(os.environ.get("FAKE_HANG", "-1"))
START = os.environ.get("FAKE_START", "")


def say(frame: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(frame) + "\n")
    sys.stdout.flush()


def reply(ident: str, **response: Any) -> None:
    say({"type": "control_response", "response": {"subtype": "success", "request_id": ident, "response": response}})


def turn(name: str) -> None:
    with open(os.environ["FAKE_FRAMES"]) as file:
        for n, line in enumerate(file):
            if n == DIE:
                sys.stderr.write("out of luck\n")
                sys.stderr.flush()
                os._exit(7)
            if n == HANG:
                signal.pause()
            sys.stdout.write(line.replace("UUID", name))
            sys.stdout.flush()


def main() -> None:
    if START == "exit":
        sys.exit(os.environ.get("FAKE_WORD", "error: unknown option '--include-partial-messages'"))
    if START == "garbage":
        sys.stdout.write("Welcome!\n\x00\x01\xff not json\n[1, 2]\n")
        sys.stdout.flush()
    if START == "flood":
        sys.stderr.write("noise\n" * 500_000)
        sys.stderr.flush()
    if START == "silent":
        signal.pause()
    if START == "deaf":
        os.close(0)
        signal.pause()
    for line in sys.stdin:
        frame = json.loads(line)
        if frame["type"] == "user":
            turn(frame["uuid"])
        elif frame["type"] == "control_request":
            asked = frame["request"]["subtype"]
            if asked == "initialize":
                reply(frame["request_id"], claude_code_version="9.9.9", argv=sys.argv[1:], env=dict(os.environ))
            elif asked == "set_permission_mode":
                error = {"subtype": "error", "request_id": frame["request_id"], "error": "no such mode today"}
                say({"type": "control_response", "response": error})
            elif asked != "set_model":
                reply(frame["request_id"])


if __name__ == "__main__":
    main()
