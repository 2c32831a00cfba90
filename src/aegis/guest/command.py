"""One command, in a directory that was reached without following a link: what it was allowed for is where it runs.

`main` is a program of the bundle. `AEGIS_RUN` says what to do: a JSON object with `path`, a list of names beneath the directory in which
it was started, and `argv`, or `line` for the shell. It becomes the command; when that cannot be, it says why on its standard error and
ends with 126, or 127 where there is no such program, as shells do.
"""

from __future__ import annotations

import os

from aegis.guest.beneath import Refused, Root
from aegis.tether.jsontext import loads

#: Where the request stands.
VARIABLE = "AEGIS_RUN"


def main() -> None:
    """Become the command."""
    request = loads(os.environ.pop(VARIABLE).encode())
    try:
        root = Root(".")
        fd = root.folder(request["path"])
        os.fchdir(fd)
        os.close(fd)
        root.close()
    except Refused as refused:
        _fail(126, f"cannot run in {'/'.join(request['path'])}: {refused}{f' to {refused.target}' if refused.target else ''}")
    os.environ["PWD"] = os.getcwd()
    argv = request.get("argv")
    if argv is None:
        shell = "/bin/bash" if os.access("/bin/bash", os.X_OK) else "/bin/sh"
        argv = [shell, "-c", request["line"]]
    try:
        os.execvpe(argv[0], argv, os.environ)
    except (OSError, ValueError) as error:
        _fail(127 if isinstance(error, FileNotFoundError) else 126, f"cannot run {argv[0]}: {getattr(error, 'strerror', None) or error}")


def _fail(code: int, text: str) -> None:
    os.write(2, f"{text}\n".encode("utf-8", "replace"))
    os._exit(code)
