"""What is known of one place that agents write to: all that acts there and was not an agent's to begin with, kept across daemons."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.services.guarding.classes import RULES
from aegis.services.guarding.looking import Tree
from aegis.services.guarding.model import Item

if TYPE_CHECKING:
    from collections.abc import Iterable

_logger = logging.getLogger(__name__)

#: The largest file whose content is kept, to be put back, in bytes.
KEEP: Final = 1024 * 1024


class _Saved(msgspec.Struct):
    place: str
    open: list[str]
    items: list[Item]


class Place:
    """One directory. `open` are the instances whose programs can write there; while there are none, all changes are the person's.

    `stale` are those of a daemon that died: what they left has not been looked at.
    """

    def __init__(self, home: Path, place: str) -> None:
        self.path = Path(place)
        self.tree = Tree(self.path)
        self.lock = asyncio.Lock()
        self.items: dict[str, Item] = {}
        self.open: set[str] = set()
        self.stale: set[str] = set()
        self.told_of_size = False
        self.failed: set[tuple[str, str]] = set()  # paths and digests that could not be held, and were told so
        self._folder = home / "guard" / hashlib.sha256(os.fsencode(place)).hexdigest()[:32]
        self._saved = b""
        try:
            self._saved = (self._folder / "known.json").read_bytes()
            saved = msgspec.json.decode(self._saved, type=_Saved)
            self.items, self.stale = {item.path: item for item in saved.items}, set(saved.open)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            _logger.warning("what was known of %s cannot be read: %s", place, error)

    def kept(self, item: Item | None) -> bytes | str | None:
        """What a file was, or where a link led, when it was last in order; None when that was not kept."""
        if item is None or item.kind == "other":
            return None
        try:
            content = (self._folder / "kept" / item.digest).read_bytes()
        except OSError:
            return None
        return os.fsdecode(content) if item.kind == "link" else content

    def accept(self, found: dict[str, Item]) -> None:
        """From here on these are what is in order. Keeps what would have to be put back. Blocking."""
        for item in found.values():
            if RULES[item.rule].does == "hold" and not item.same(self.items.get(item.path)):
                self._keep(item)
        self.items = found

    def _keep(self, item: Item) -> None:
        folder = self._folder / "kept"
        target = folder / item.digest
        content = self.tree.content(item.path)
        if item.kind == "link":
            content = os.fsencode(os.readlink(self.path / item.path))
        if content is None or len(content) > KEEP or target.exists() or hashlib.sha256(content).hexdigest() != item.digest:
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(target, content)

    def save(self) -> None:
        """Write it down if it is not. Blocking. Raises OSError."""
        said = msgspec.json.encode(_Saved(str(self.path), sorted(self.open | self.stale), list(self.items.values())))
        if said == self._saved:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(self._folder / "known.json", said)
        self._saved = said
        self._sweep(item.digest for item in self.items.values())

    def _sweep(self, wanted: Iterable[str]) -> None:
        """Forget contents that nothing wants any more."""
        needed = set(wanted)
        try:
            for path in (self._folder / "kept").iterdir():
                if path.name not in needed:
                    path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass


def left_open(home: Path) -> list[str]:
    """The places in which instances could write when the last daemon ended, or could still. Blocking."""
    found = []
    for path in sorted((home / "guard").glob("*/known.json")):
        try:
            saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
        except (OSError, msgspec.DecodeError):
            continue
        if saved.open:
            found.append(saved.place)
    return found


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
    os.replace(beside, path)
