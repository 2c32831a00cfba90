"""Finding what acts in a place: all of it at first, afterwards only where a directory changed.

A directory whose change time is what it was has the entries that it had; only a file that acts is looked at each time, by its own change
time. Neither can be set back by a program. What changed within the last two seconds before a look is not taken as known, because a later
change may bear the same time. Everything is done by descriptor; blocking, so it runs in a thread.
"""

from __future__ import annotations

import os
import posixpath
import stat
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from aegis.services.guarding import classes
from aegis.services.guarding.files import DIRECTORY, GIANT, digest_of, open_below, read
from aegis.services.guarding.gitfiles import STORES, hooks_path
from aegis.services.guarding.model import Item

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: The most directories that are looked at in one place; those nearer to its top first.
MOST: Final = 100_000
#: What changed so shortly before a look, in nanoseconds, is looked at again by the next.
_RECENT: Final = 2_000_000_000
#: The rules that make a directory one of hooks when they lead to it.
_OF_HOOKS: Final = frozenset({"git hook", "git config"})
#: How often a look begins anew because it found further places of hooks.
_ROUNDS: Final = 4


class _Directory(NamedTuple):
    """What is known of a directory: which one it is, when it last changed, what is in it."""

    ino: int
    ctime: int
    sure: bool
    below: tuple[tuple[str, bool], ...]  # the paths of its directories, and whether each holds hooks
    found: tuple[tuple[str, str], ...]  # path and rule of what acts
    hooks: bool


class Tree:
    """One place. Not for two threads at a time."""

    def __init__(self, place: Path) -> None:
        self.place = place
        #: There are more directories than are looked at.
        self.too_many = False
        #: How many directories the last look read anew, for those who measure.
        self.read_anew = 0
        self._known: dict[str, _Directory] = {}
        self._leads: dict[str, str] = {}  # where links and configurations lead: a file or a directory of hooks, with the rule of it
        self._items: dict[str, Item] = {}
        self._contents: dict[str, bytes] = {}

    def look(self, before: Mapping[str, Item]) -> dict[str, Item]:
        """All that acts now, by path. `before` spares reading what is known already. Raises OSError when the place cannot be opened."""
        known = {**before, **self._items}
        self._contents.clear()
        self.read_anew = 0
        top = os.open(self.place, DIRECTORY)
        try:
            for _ in range(_ROUNDS):
                found = {**self._walk(top), **self._files(top)}
                items = {}
                for path, rule in found.items():
                    item = self._item(top, path, rule, known.get(path))
                    if item is not None:
                        items[path] = item
                leads = self._led(top, items)
                known |= items
                if leads == self._leads:
                    break
                self._leads = leads
        finally:
            os.close(top)
        self._items = items
        return items

    def content(self, path: str) -> bytes | None:
        """The bytes of a file as the last look read them; None when it did not."""
        return self._contents.get(path)

    def forget(self, path: str) -> None:
        """Somebody changed this file: the next look reads it."""
        self._items.pop(path, None)

    # Directories.

    def _walk(self, top: int) -> dict[str, str]:
        """Path and rule of all that acts, nearer to the top first."""
        found: dict[str, str] = {}
        now: dict[str, _Directory] = {}
        waiting = [("", False)]
        latest = time.time_ns() - _RECENT
        self.too_many = False
        for path, hooks in waiting:  # it grows meanwhile
            if len(now) >= MOST:
                self.too_many = True
                break
            directory = self._directory(top, path, hooks or self._leads.get(path) in _OF_HOOKS, latest)
            if directory is not None:
                now[path] = directory
                found.update(directory.found)
                waiting += directory.below
        self._known = now
        return found

    def _directory(self, top: int, path: str, hooks: bool, latest: int) -> _Directory | None:
        known = self._known.get(path)
        try:
            about = os.stat(path or ".", dir_fd=top, follow_symlinks=False)
            if known is not None and known.sure and (known.ino, known.ctime, known.hooks) == (about.st_ino, about.st_ctime_ns, hooks):
                return known
            here = open_below(top, path)
        except OSError:  # it has gone, or nobody of this user can look into it, git neither
            return None
        try:
            about = os.fstat(here)
            self.read_anew += 1
            below, found = _entries(here, path, hooks)
            return _Directory(about.st_ino, about.st_ctime_ns, about.st_ctime_ns < latest, below, found, hooks)
        except OSError:
            return None
        finally:
            os.close(here)

    # What acts.

    def _item(self, top: int, path: str, rule: str, known: Item | None) -> Item | None:
        above, _, name = path.rpartition("/")
        try:
            about = os.stat(path, dir_fd=top, follow_symlinks=False)
            if stat.S_ISDIR(about.st_mode):
                return None
            sure = about.st_ctime_ns < time.time_ns() - _RECENT
            if known is not None and known.sure and (known.ino, known.ctime, known.rule) == (about.st_ino, about.st_ctime_ns, rule):
                return known
            here = open_below(top, above)
        except OSError:
            return None
        try:
            kind, leads = "other", ""
            if stat.S_ISLNK(about.st_mode):
                kind, content = "link", os.fsencode(os.readlink(name, dir_fd=here))
            else:
                read_now = read(name, here) if about.st_size <= GIANT else None
                kind, content = ("other", f"{about.st_ino} {about.st_ctime_ns}".encode()) if read_now is None else ("file", read_now)
            if kind == "file":
                self._contents[path] = content
            if kind == "file" and rule == "git config":
                leads = hooks_path(content)
            return Item(
                path, rule, kind, about.st_mode, about.st_uid, about.st_gid, about.st_size, about.st_ino, about.st_ctime_ns,
                digest_of(content), leads, sure,
            )  # fmt: skip
        except OSError:
            return None
        finally:
            os.close(here)

    def _files(self, top: int) -> dict[str, str]:
        """The files that links and configurations lead to."""
        found = {}
        for path, rule in self._leads.items():
            try:
                if stat.S_ISREG(os.stat(path, dir_fd=top, follow_symlinks=False).st_mode):
                    found[path] = rule
            except OSError:
                continue
        return found

    def _led(self, top: int, items: Mapping[str, Item]) -> dict[str, str]:
        """What below the place links lead to, and where configurations have their hooks."""
        found: dict[str, str] = {}
        for path, item in items.items():
            if item.leads:
                above = posixpath.dirname(path)  # the repository: hooks are looked for from the top of what it is of
                leads = posixpath.join(posixpath.dirname(above) if posixpath.basename(above) == ".git" else above, item.leads)
            elif item.kind == "link":
                try:
                    leads = posixpath.join(posixpath.dirname(path), os.readlink(path, dir_fd=top))
                except OSError:
                    continue
            else:
                continue
            plain = posixpath.normpath(os.path.relpath(leads, self.place) if leads.startswith("/") else leads)
            if plain not in (".", "..") and not plain.startswith("../") and plain not in items.keys() - found.keys():
                found[plain] = item.rule
        return found


def _entries(here: int, path: str, hooks: bool) -> tuple[tuple[tuple[str, bool], ...], tuple[tuple[str, str], ...]]:
    """The directories in an open one, each with whether it holds hooks, and what acts in it, each with its rule."""
    with os.scandir(here) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries]
    names = {name for name, _, _ in listed}
    repository = "HEAD" in names and ("commondir" in names or {"objects", "refs"} <= names)
    parts = path.split("/")
    inside = not classes.CONTAINERS.isdisjoint(parts)
    prefix = f"{path}/" if path else ""
    below: list[tuple[str, bool]] = []
    found: list[tuple[str, str]] = []
    for name, is_directory, is_link in listed:
        place = prefix + name
        if is_directory:
            if not (repository and name in STORES and ".git" in parts):  # elsewhere people work, whatever it looks like
                below.append((place, hooks or (repository and name == "hooks")))
        elif hooks:
            if not name.endswith(".sample"):
                found.append((place, "git hook"))
        elif repository and name in ("config", "config.worktree"):
            found.append((place, "git config"))
        elif (repository and name == "commondir") or name == ".git":
            found.append((place, "git directory"))
        elif repository and name == "hooks" and is_link:
            found.append((place, "git hook"))
        elif is_link and name in classes.CONTAINERS:
            found.append((place, classes.container_rule(name).name))
        elif (inside or classes.interesting(name)) and (rule := classes.rule_of(place)) is not None:
            found.append((place, rule.name))
    return tuple(below), tuple(found)
