"""What Codex needs to find in the sandbox before it starts, what it leaves that must end, and what is known of its sessions there.

Everything is done by programs in the sandbox, as the agent's user, as for the agents of data files.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import TYPE_CHECKING, Final

from aegis.core.errors import AegisError
from aegis.drivers.acp import files
from aegis.drivers.codex import launch
from aegis.tether.frames import STDOUT

if TYPE_CHECKING:
    from aegis.drivers.acp.files import Place
    from aegis.sandboxes.link import Link

#: $1 is the name of the directory for temporary files, $2 the one to work in. What an agent may have written into its HOME to be asked
#: for less is removed: Codex would read it as its person's own.
_MAKE: Final = """
set -eu
tmp="${TMPDIR:-/tmp}/$1"
rm -rf -- "$tmp" "$HOME/.codex/config.toml" "$HOME/.codex/rules" "$HOME/.codex/hooks.json" "$HOME/.codex/hooks"
mkdir -p -m 700 -- "${TMPDIR:-/tmp}" "$tmp" "$HOME/.codex"
printf '%s\\n%s\\n' "$HOME" "$tmp"
[ ! -f "$2/AGENTS.md" ] || head -c 32768 -- "$2/AGENTS.md" 2>/dev/null || true
"""
#: $1 is the session.
_MARK: Final = 'mkdir -p "$HOME/.aegis/codex" && : >"$HOME/.aegis/codex/$1"'
_MARKED: Final = '[ ! -e "$HOME/.aegis/codex/$1" ] || echo begun'
#: $1 is the session, by which the environment of every command of it is known, and $2 the age of a turn in hundredths of a second.
#: What is no older is ended with all that it started, again and again until nothing of it is left.
_END: Final = """
set -u
now() { read -r up rest < /proc/uptime; whole=${up%.*}; part=${up#*.}; echo $(( whole * 100 + 1${part} - 100 )); }
since=$(( $(now) - $2 ))
for round in 1 2 3 4 5 6 7 8 9 10; do
  mine=" " before=
  while [ "$mine" != "$before" ]; do
    before=$mine
    for entry in /proc/[0-9]*; do
      pid=${entry#/proc/}
      case "$mine$$ " in *" $pid "*) continue ;; esac
      stat=$(cat "$entry/stat" 2>/dev/null) || continue
      set -- "$1" "$2" ${stat##*) }
      [ "${3:-Z}" != Z ] && [ "${22:-0}" -ge "$since" ] || continue
      case "$mine" in
        *" ${4:-0} "*) ;;
        *) tr '\\0' '\\n' 2>/dev/null < "$entry/environ" | grep -qxF -- "CODEX_THREAD_ID=$1" || continue ;;
      esac
      mine="$mine$pid "
    done
  done
  [ "$mine" = " " ] && break
  kill -9 $mine 2>/dev/null
done
exit 0
"""
_SECONDS: Final = 10.0
#: The most that it may tell of the models it knows, in bytes.
_MOST: Final = 8 * 1024 * 1024


async def make(link: Link, session: str, cwd: str) -> tuple[Place, str]:
    """Make the directory for temporary files of one session's process, empty. Raises AegisError(FAILED).

    Returns what the repository says in its AGENTS.md as well: Codex itself reads that only where it takes all of the repository's
    configuration for its person's.
    """
    mark = hashlib.sha256(session.encode()).hexdigest()[:12]
    home, _, rest = (await files.run(link, _MAKE, [f"aegis-codex-{mark}", cwd])).partition("\n")
    tmp, _, said = rest.partition("\n")
    return files.Place(home, tmp), said.strip()


async def models(link: Link, argv: list[str], place: Place) -> str | None:
    """Write down what Codex is to know of models; the path of the file, or None where it does not tell what it knows."""
    env = {"CODEX_HOME": f"{place.home}/.codex", "TMPDIR": place.tmp}
    program = await link.run([*argv, "debug", "models", "--bundled"], env=env, stdin=False)
    said = bytearray()
    try:
        async with asyncio.timeout(_SECONDS):
            while (output := await program.read()) is not None and len(said) <= _MOST:
                said += output[1] if output[0] == STDOUT else b""
    except TimeoutError:
        return None
    finally:
        await program.channel.close()
    content = launch.catalogue(bytes(said))
    if content is None:
        return None
    path = f"{place.tmp}/models.json"
    await files.write(link, path, content.decode())
    return path


async def mark(link: Link, session: str) -> None:
    """Note that a session was opened: one that was never spoken in has no file of the program's. Raises AegisError(FAILED)."""
    await files.run(link, _MARK, [session])


async def marked(link: Link, session: str) -> bool:
    """Whether a session was opened here. Raises AegisError(FAILED)."""
    return "begun" in await files.run(link, _MARKED, [session])


async def end(link: Link, session: str, seconds: float) -> None:
    """End the commands of a session that were started within so many seconds, with all that they started."""
    with contextlib.suppress(AegisError):
        await files.run(link, _END, [session, str(int(seconds * 100) + 1)])
