"""Folders that an editor has open, the instances that work in them, and their conversations."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aegis.client.aio import Instance

_LISTED: Final = 100


def checked(path: Any) -> Path:
    """The folder that a client named. Raises AegisError(USAGE) for what is none."""
    if not isinstance(path, str) or not Path(path).is_absolute():
        raise AegisError(ErrorKind.USAGE, "`cwd` must be an absolute path", "open a folder in the editor")
    folder = Path(path).resolve()
    if not folder.is_dir():
        raise AegisError(ErrorKind.USAGE, f"{folder} is no directory", "open a folder that is there")
    return folder


def handle_for(agent: str | None, folder: Path) -> str:
    """The handle of the instance that works for editors in a folder: the same each time, and no other folder's."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")[:24] or "root"
    mark = hashlib.sha256(f"{agent or ''}\0{folder}".encode("utf-8", "surrogateescape")).hexdigest()[:6]
    prefix = re.sub(r"[^A-Za-z0-9._-]+", "-", agent or "editor")[:24].strip("-._") or "editor"
    return f"{prefix}-{name}-{mark}"


def sessions(instances: Iterable[Instance], folder: Path | None) -> list[dict[str, Any]]:
    """The conversations of these instances, those of the instance that was last at work first; of a folder alone when one is named."""
    found: list[tuple[float, dict[str, Any]]] = []
    for each in instances:
        info = each.info
        if info["driver"] is None or (folder is not None and info["workspace"] != str(folder)):
            continue
        active = float(info["last_active_at"] or 0)
        about = {"cwd": info["workspace"] or "/", "updatedAt": datetime.fromtimestamp(active, UTC).isoformat()}
        for entry in info["sessions"]:
            title = entry.get("title") or f"{each.handle} · {entry['session'].partition(':')[2]}"
            found.append((active, {"sessionId": f"{each.id}/{entry['session']}", "title": title, **about}))
    found.sort(key=lambda pair: -pair[0])
    return [session for _, session in found[:_LISTED]]
