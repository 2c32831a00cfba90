"""The tool that runs commands."""

from __future__ import annotations

import os

from aegis.guest.agent.tools import children
from aegis.guest.agent.tools.output import Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aegis.guest.agent.wire import Wire

#: Bytes of output that are passed on.
LIMIT = 30_000


def bash(wire: Wire, arguments: dict[str, Any], seconds: float) -> Output:
    """Run `command` in a fresh shell in the workspace, for at most `timeout` seconds but never more than `seconds`."""
    seconds = min(seconds, max(0.1, arguments.get("timeout", seconds)))

    def execute(mark: str) -> None:
        os.dup2(1, 2)
        # The agent's own token has no business in what commands print.
        env = {k: v for k, v in os.environ.items() if k != "AEGIS_TOKEN"} | {children.MARK: mark}
        shell = "/bin/bash" if os.access("/bin/bash", os.X_OK) else "/bin/sh"
        try:
            os.execve(shell, [shell, "-c", arguments["command"]], env)
        except (OSError, ValueError) as error:  # too long, or a NUL in it
            os.write(1, f"cannot run {shell}: {error}".encode())
            os._exit(126)

    ended = children.run(wire, execute, seconds, LIMIT)
    lines = [ended.output.rstrip("\n")] if ended.output.strip() else []
    if ended.exit is None:
        lines.append(f"[timed out after {seconds:g} s; all its processes were killed]")
    elif ended.exit < 0:
        lines.append(f"[killed by {_signal_name(-ended.exit)}]")
    elif ended.exit or not lines:
        lines.append(f"[exit code {ended.exit}]")
    return Output("\n".join(lines), ok=ended.exit == 0, truncated=ended.cut)


def _signal_name(number: int) -> str:
    import signal  # 3 ms, for such an end only

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
