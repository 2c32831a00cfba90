"""The pictures of an answer: those that it shows in Markdown, by a path of its workspace.

An agent wrote both the answer and the files, so a path is followed below the workspace only, through no link, to a file that is a
picture by its first bytes.
"""

from __future__ import annotations

import os
import re
import stat
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from aegis.core.envelopes import MAX_IMAGE, Image
from aegis.services.mail.pictures import kind_of

if TYPE_CHECKING:
    from aegis.services.agents import Instance

_SHOWN: Final = re.compile(r"!\[[^\]\n]{0,500}\]\(\s*<?([^)>\s]{1,500})>?(?:\s+\"[^\"\n]*\")?\s*\)")
#: How many are shown at a time, and how many bytes of them.
_MOST: Final = 4
_WHOLE: Final = MAX_IMAGE
#: The workspace as it is called inside.
_INSIDE: Final = PurePosixPath("/workspace")


def pictures(instance: Instance, texts: list[str]) -> list[Image]:
    """The first few pictures that the texts show; what cannot be shown is passed over. Reads files."""
    workspace = instance.launch.workspace
    if workspace is None:
        return []
    found: list[Image] = []
    room = _WHOLE
    targets = dict.fromkeys(match[1] for text in texts for match in _SHOWN.finditer(text))
    for target in islice(targets, 4 * _MOST):
        path = _below(unquote(target), PurePosixPath(workspace))
        data = _read(workspace, path, room) if path is not None else None
        kind = kind_of(data) if data is not None else None
        if data is not None and kind is not None:
            found.append(Image(kind, data))
            room -= len(data)
            if len(found) == _MOST:
                break
    return found


def _below(target: str, workspace: PurePosixPath) -> PurePosixPath | None:
    """The path within the workspace that is meant; None for any other."""
    path = PurePosixPath(target.removeprefix("file://"))
    for root in (_INSIDE, workspace):
        if path.is_relative_to(root):
            path = path.relative_to(root)
            break
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in target or "://" in target.removeprefix("file://"):
        return None
    return path


def _read(workspace: str, path: PurePosixPath, room: int) -> bytes | None:
    """A file of the workspace, if it is one of at most `room` bytes; no link is followed on the way."""
    opened: list[int] = []
    try:
        opened.append(os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        for part in path.parts[:-1]:
            opened.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=opened[-1]))
        opened.append(os.open(path.parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=opened[-1]))
        status = os.fstat(opened[-1])
        if not stat.S_ISREG(status.st_mode) or status.st_size > room:
            return None
        with os.fdopen(os.dup(opened[-1]), "rb") as file:
            return file.read(room)
    except OSError:
        return None
    finally:
        for descriptor in opened:
            os.close(descriptor)
