"""The folder of the home where what was taken out of workspaces stands: one directory for each, 0700; nothing in it is ever run."""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
import stat
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.guarding import files

if TYPE_CHECKING:
    from aegis.services.guarding.model import Held, Item

#: The most characters of a text that are shown.
SHOWN: Final = 256 * 1024


class Quarantine:
    """What is held, on disk. Blocking: every method belongs into a thread."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "quarantine"

    def take(self, place: Path, item: Item, ident: str, before: bytes | str | None, was: Item | None) -> bool:
        """Move it here, keep `before` beside it and put that back where it was; returns whether it was put back. Raises OSError."""
        folder = self._folder / ident
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        into = os.open(folder, files.DIRECTORY)
        try:
            with files.parent_of(place, item.path) as (above, name):
                files.take(above, name, into, ident)
                if before is None or was is None:
                    return False
                if isinstance(before, bytes):
                    (folder / "before").write_bytes(before)
                with contextlib.suppress(OSError):
                    files.put(above, name, before, mode=was.mode, uid=was.uid, gid=was.gid, mark=ident)
                    return True
                return False
        finally:
            os.close(into)

    def mend(self, place: Path, was: Item | None, ident: str, before: bytes | str | None) -> None:
        """Put back what was there before, where a daemon died between the two steps of `take` and nothing stands there."""
        if was is None or before is None:
            return
        with contextlib.suppress(OSError), files.parent_of(place, was.path) as (above, name):
            if _digest(above, name) == "":
                files.put(above, name, before, mode=was.mode, uid=was.uid, gid=was.gid, mark=ident)

    def has(self, ident: str) -> bool:
        """Whether it stands here."""
        return os.path.lexists(self._folder / ident / "content")

    def text(self, ident: str) -> tuple[str, str, str]:
        """What it is, as a text; the difference to what was there before; and its digest. Nothing in either can act on a terminal."""
        folder = self._folder / ident
        path = folder / "content"
        if path.is_symlink():
            leads = os.readlink(path)
            return visible(f"a link to {leads}"), "", files.digest_of(os.fsencode(leads))
        content = self._content(folder, "content")
        if content is None:
            return "(not a file, or too large to show)", "", ""
        digest = files.digest_of(content)
        if b"\0" in content[:8192]:
            return f"(binary, {len(content)} bytes)", "", digest
        now = visible(content.decode("utf-8", "replace")[:SHOWN])
        earlier = self._content(folder, "before")
        was = visible((earlier or b"").decode("utf-8", "replace")[:SHOWN])
        name = "before" if earlier is not None else "/dev/null"
        lines = difflib.unified_diff(was.splitlines(), now.splitlines(), name, "held", lineterm="")
        return now, "\n".join(lines), digest

    def _content(self, folder: Path, name: str) -> bytes | None:
        try:
            above = os.open(folder, files.DIRECTORY)
        except OSError:
            return None
        try:
            return files.read(name, above)
        except OSError:
            return None
        finally:
            os.close(above)

    def put_back(self, held: Held) -> None:
        """Put it where it was taken from, if what stands there is what was put there in its stead, or nothing.

        Raises AegisError: CONFLICT when something else stands there, or when it is not what was held any more; NOT_FOUND when the
        directory has gone.
        """
        folder = self._folder / held.id
        path = folder / "content"
        content: bytes | str | None = os.readlink(path) if path.is_symlink() else self._content(folder, "content")
        if content is None:
            raise AegisError(ErrorKind.CONFLICT, f"what is held as {held.id} cannot be put back by Aegis", f"it stands in {path}")
        raw = content if isinstance(content, bytes) else os.fsencode(content)
        if files.digest_of(raw) != held.digest:
            raise AegisError(ErrorKind.CONFLICT, "it changed since it was held: a program had it open", f"look at {path}")
        try:
            with files.parent_of(Path(held.place), held.path) as (above, name):
                there = _digest(above, name)
                if there not in ("", held.before, held.digest):
                    raise AegisError(
                        ErrorKind.CONFLICT, f"something else stands at {held.path} by now", "move that away, or `aegis held drop` this"
                    )
                files.put(above, name, content, mode=held.mode, uid=held.uid, gid=held.gid, mark=held.id)
        except OSError as error:
            text = f"{held.place}/{held.path} cannot be written: {error.strerror}"
            raise AegisError(ErrorKind.NOT_FOUND, text, f"make its directory, or take it from {path}") from error

    def erase(self, ident: str) -> None:
        """Remove it for good."""
        shutil.rmtree(self._folder / ident, ignore_errors=True)


def _digest(above: int, name: str) -> str:
    """What stands under a name in an open directory, "" for nothing. Raises OSError."""
    try:
        about = os.stat(name, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return ""
    if stat.S_ISLNK(about.st_mode):
        return files.digest_of(os.fsencode(os.readlink(name, dir_fd=above)))
    content = files.read(name, above) if stat.S_ISREG(about.st_mode) else None
    return files.digest_of(content) if content is not None else "something"


def visible(text: str) -> str:
    """`text` with every character that is not seen, or changes how others are seen, written out."""
    return "".join(each if each in "\n\t" or not _hidden(each) else f"\\u{{{ord(each):x}}}" for each in text)


def _hidden(each: str) -> bool:
    return unicodedata.category(each) in ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp") or each == "\r"
