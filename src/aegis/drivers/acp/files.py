"""What an agent needs to find inside before it starts, and what is to be gone after it.

Everything is done by programs in the sandbox, as the agent's user, through the tether: the daemon itself never writes where an
agent can, for there a name may lead anywhere. The directory for temporary files has the name of the session, so that what a
process left behind that could not be cleaned up is gone when the next one starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from aegis.drivers.acp.spec import Rename
    from aegis.sandboxes.link import Link

_SECONDS: Final = 30.0
#: $1 is the name of the directory for temporary files.
_MAKE: Final = """
set -eu
tmp="${TMPDIR:-/tmp}/$1"
rm -rf -- "$tmp"
mkdir -p -m 700 -- "${TMPDIR:-/tmp}" "$tmp"
printf '%s\\n%s\\n' "$HOME" "$tmp"
"""
#: $1 is a path; its text is read from stdin. Put in place as a whole, so that nobody reads half of it.
_WRITE: Final = """
set -eu
umask 077
mkdir -p -- "$(dirname -- "$1")"
cat > "$1.new"
mv -f -- "$1.new" "$1"
"""
#: $1 is a directory below HOME and $2 a name in it, both patterns; $3 the new name. Of several the largest is the one.
_RENAME: Final = """
set -u
cd -- "$HOME" || exit 0
IFS=
for folder in $1; do
  best= most=-1
  for file in "$folder"/$2; do
    [ -f "$file" ] || continue
    size=$(wc -c < "$file")
    if [ "$size" -gt "$most" ]; then best=$file most=$size; fi
  done
  [ -n "$best" ] || continue
  mv -f -- "$best" "$folder/.keep" || exit 1
  for file in "$folder"/$2; do
    [ -f "$file" ] && mv -f -- "$file" "$folder/$3.superseded"
  done
  mv -f -- "$folder/.keep" "$folder/$3" || exit 1
done
"""
#: $1 is the directory for temporary files, by which the environment of everything that the agent started is known.
_SWEEP: Final = """
for entry in /proc/[0-9]*; do
  pid=${entry#/proc/}
  [ "$pid" = "$$" ] && continue
  if tr '\\0' '\\n' 2>/dev/null < "$entry/environ" | grep -qxF -- "TMPDIR=$1"; then kill -9 "$pid" 2>/dev/null; fi
done
rm -rf -- "$1"
"""


class Place(msgspec.Struct, frozen=True):
    """Paths inside: HOME of the agent's user, and the directory for temporary files of this process."""

    home: str
    tmp: str


async def make(link: Link, agent: str, session: str) -> Place:
    """Make the directory for temporary files of one session's process, empty. Raises AegisError(FAILED)."""
    mark = hashlib.sha256(session.encode()).hexdigest()[:12]
    output = await run(link, _MAKE, [f"aegis-{agent}-{mark}"])
    home, _, rest = output.partition("\n")
    return Place(home, rest.rstrip("\n"))


async def write(link: Link, path: str, text: str) -> None:
    """Write a file that only the agent's user reads. Raises AegisError(FAILED)."""
    await run(link, _WRITE, [path], text.encode())


async def rename(link: Link, wanted: Rename, session: str) -> None:
    """Do what a data file asks for before a session is loaded. Raises AegisError(FAILED)."""
    short = "".join(letter for letter in session[:8] if letter.isalnum())
    names = [text.replace("{short}", short) for text in (wanted.directory, wanted.match, wanted.to)]
    await run(link, _RENAME, names)


async def sweep(link: Link, place: Place) -> None:
    """End what still runs of a process and remove its temporary files. Says nothing when the sandbox is gone."""
    with contextlib.suppress(AegisError):
        await run(link, _SWEEP, [place.tmp])


async def run(link: Link, script: str, words: list[str], stdin: bytes = b"") -> str:
    """Run a script inside and return what it said, on stdout and stderr alike. Raises AegisError(FAILED) with its end."""
    program = await link.run(["/bin/sh", "-c", script, "sh", *words])
    said = bytearray()
    try:
        async with asyncio.timeout(_SECONDS):
            if stdin:
                await program.write(stdin)
            await program.close_stdin()
            while (output := await program.read()) is not None:
                said += output[1]
            code = await program.wait()
    except TimeoutError:
        raise AegisError(ErrorKind.FAILED, f"the sandbox did not prepare the program within {_SECONDS:g} s", "aegis doctor") from None
    finally:
        await program.channel.close()
    if code != 0:
        text = said.decode("utf-8", "replace").strip()
        raise AegisError(ErrorKind.FAILED, f"the sandbox could not prepare the program: {text[-500:]}", "aegis doctor", exit=code)
    return said.decode("utf-8", "replace")
