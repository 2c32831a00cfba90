"""Paths: as the editor knows them, and as they are inside the sandbox."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from aegis.client.shapes import InstanceInfo

_INSIDE = PurePosixPath("/workspace")


class Places:
    """The two names of an instance's workspace."""

    def __init__(self, info: InstanceInfo) -> None:
        workspace = info.get("workspace")
        self.workspace = PurePosixPath(workspace) if workspace else None
        self._same = info.get("sandbox") == "process"  # without a boundary everything is where it is

    def outside(self, path: str) -> str:
        """A path of the agent, as the editor opens it."""
        found = PurePosixPath(path)
        if self.workspace is None:
            return path
        if not found.is_absolute():
            return str(self.workspace / found)
        if not self._same and found.is_relative_to(_INSIDE):
            return str(self.workspace / found.relative_to(_INSIDE))
        return path

    def inside(self, path: str) -> str:
        """A path of the editor, as the agent opens it."""
        found = PurePosixPath(path)
        if self.workspace is None or self._same or not found.is_relative_to(self.workspace):
            return path
        return str(_INSIDE / found.relative_to(self.workspace))

    def named(self, uri: str) -> str:
        """What a URI of the editor names, for the agent: a path where it is that of a file, with its line."""
        parts = urlsplit(uri)
        if parts.scheme != "file":
            return uri
        line = f":{parts.fragment}" if parts.fragment else ""
        return self.inside(unquote(parts.path)) + line
