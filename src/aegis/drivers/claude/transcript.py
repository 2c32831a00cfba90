"""What Claude Code's own files know of a session, looked up inside the sandbox.

A session that was opened and never spoken in has no transcript, so it cannot be resumed although nothing is lost; a mark in
HOME, made when it was opened, tells it from one that is not there. Messages are found by the id of the frame that carried them.
A last line without an end was torn by a crash: the program passes over it, and so does this.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.drivers.claude.machine import frame_id
from aegis.tether.frames import STDOUT

if TYPE_CHECKING:
    from aegis.drivers import Message
    from aegis.sandboxes.link import Link

_MARKS: Final = "$HOME/.aegis/claude"
_LOOK: Final = f"""
f=; id=$1; shift
for p in "${{CLAUDE_CONFIG_DIR:-$HOME/.claude}}"/projects/*/"$id.jsonl"; do [ -f "$p" ] && f=$p; done
[ -e "{_MARKS}/$id" ] && echo begun
[ -n "$f" ] || exit 0
echo there
[ $# -eq 0 ] || head -n "$(wc -l <"$f")" "$f" | grep -aohF "$@" | sort -u
exit 0
"""
#: Runs a command after marking a session as opened.
MARK: Final = f'mkdir -p "{_MARKS}" && : >"{_MARKS}/$0"; exec "$@"'
#: The most messages of which every run of neighbours is looked for; of more only the runs at either end.
_MANY: Final = 24
#: How long looking may take, and how much may be found, in bytes: the agent can put anything into HOME.
_SECONDS: Final = 60.0
_MOST: Final = 1024 * 1024


class Found(msgspec.Struct, frozen=True):
    """`there`: it has a transcript. `begun`: it was opened. `known`: the ids of messages that the transcript holds."""

    there: bool
    begun: bool
    known: tuple[str, ...] = ()


def _runs(ids: list[str]) -> list[list[str]]:
    """The neighbours that may have gone in one frame: a turn has all messages of the one it continues, and perhaps new ones."""
    n = len(ids)
    if n <= _MANY:
        return [ids[i:j] for i in range(n) for j in range(i + 1, n + 1)]
    return [*(ids[:i] for i in range(1, n + 1)), *(ids[i:] for i in range(1, n)), *([one] for one in ids)]


async def look(link: Link, session: str, pending: list[Message]) -> Found:
    """What is known of a session. Raises AegisError(FAILED) when HOME cannot be looked at."""
    runs = {f'"uuid":"{frame_id(run)}"': run for run in _runs([message.id for message in pending])}
    patterns = [word for pattern in runs for word in ("-e", pattern)]
    program = await link.run(["/bin/sh", "-c", _LOOK, "sh", session, *patterns], stdin=False)
    said = {STDOUT: b""}
    try:
        async with asyncio.timeout(_SECONDS):
            while (output := await program.read()) is not None:
                said[output[0]] = (said.get(output[0], b"") + output[1])[-_MOST:]
            exit_ = await program.wait()
    except TimeoutError:
        raise AegisError(ErrorKind.FAILED, f"the session {session} was not found in HOME within {_SECONDS:g} s") from None
    finally:
        await program.channel.close()
    lines = said[STDOUT].decode("utf-8", "replace").splitlines()
    if exit_ != 0:
        told = b" ".join(said.values()).decode("utf-8", "replace")[-400:]
        raise AegisError(ErrorKind.FAILED, f"cannot look for the session {session} in the sandbox: {told}", exit=exit_)
    held = {ident for line in lines for ident in runs.get(line, ())}
    return Found("there" in lines, "begun" in lines, tuple(message.id for message in pending if message.id in held))
