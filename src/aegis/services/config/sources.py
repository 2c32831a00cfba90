"""The files of one layer, taken as one snapshot, so that what is hashed is what is read.

A layer is a main file and a folder beside it: `.aegis.yaml` and `.aegis/` in a project, `config.yaml` and `config/` in the home. Of
the folder only `.yaml`, `.md` and `.txt` files count, and the `.cedar` files in a project's `policies`. Nothing is followed out of it:
symbolic links, devices and pipes are refused.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.config.document import MAX_BYTES, Place, parse
from aegis.services.config.reading import Value, Values, read

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILES: Final = 256
MAX_TOTAL: Final = 4 * MAX_BYTES
_SUFFIXES: Final = (".yaml", ".md", ".txt")
#: Folders whose files are the bodies of entries.
_OVERLAYS: Final = ("agents",)
#: The folder in a project's folder whose files are rules.
RULES: Final = "policies"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a layer's files are. `base` is what its relative paths are relative to."""

    base: Path
    main: str
    folder: str
    #: The home, which may be a project's `.aegis` when somebody has a project in his home directory; it is never an overlay folder.
    home: Path
    #: Whether its folder `policies` holds rules, which are part of what is hashed; the gate reads them.
    rules: bool = False

    def stamp(self) -> tuple[tuple[str, int, int, int], ...]:
        """Name, time, size and inode of each file: equal stamps mean equal content, short of malice by the owner."""
        return tuple((name, info.st_mtime_ns, info.st_size, info.st_ino) for name, info in self._files())

    def snapshot(self) -> dict[str, bytes]:
        """The content of each file by its name relative to `base`."""
        files: dict[str, bytes] = {}
        for name, _ in self._files():
            files[name] = self._content(name)
            if sum(map(len, files.values())) > MAX_TOTAL:
                raise AegisError(ErrorKind.TOO_LARGE, f"{self.base / self.folder} holds more than {MAX_TOTAL:,} bytes", "remove some")
        return files

    def _files(self) -> list[tuple[str, os.stat_result]]:
        found: list[tuple[str, os.stat_result]] = []
        if (info := _info(self.base / self.main)) is not None:
            found.append((self.main, info))
        waiting = [self.folder] if self._has_folder() else []
        while waiting:
            inside = waiting.pop()
            for entry in _entries(self.base / inside):
                name = f"{inside}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                elif name.endswith(".yml"):
                    raise Place(str(self.base / name)).error("this file is not read", "name it `.yaml`")
                elif name.endswith(_SUFFIXES) or (name.endswith(".cedar") and self._is_rule(name)):
                    info = _info(self.base / name)
                    if info is not None:
                        found.append((name, info))
                if len(found) + len(waiting) > MAX_FILES:
                    raise AegisError(ErrorKind.TOO_LARGE, f"{self.base / self.folder} holds more than {MAX_FILES} files", "remove some")
        return found

    def _has_folder(self) -> bool:
        folder = self.base / self.folder
        try:
            info = folder.lstat()
        except OSError:
            return False
        if stat.S_ISLNK(info.st_mode):
            raise Place(str(folder)).error("a symbolic link", "make it a folder")
        return stat.S_ISDIR(info.st_mode) and folder.resolve() != self.home.resolve()

    def _content(self, name: str) -> bytes:
        path = self.base / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise Place(str(path)).error(f"cannot be read: {error.strerror}") from error
        with open(descriptor, "rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise AegisError(ErrorKind.TOO_LARGE, f"{path} is larger than {MAX_BYTES:,} bytes", "make it smaller")
        return content

    def read(self, files: dict[str, bytes]) -> Values:
        """What a snapshot says. The text of a `system_file` becomes the value of `system`."""
        values = Values({}, {})
        for name, content in files.items():
            place = str(self.base / name)
            if name == self.main:
                read(parse(content, place), values)
            elif name.endswith(".yaml") and not self._is_rule(name):
                entry = name.removeprefix(f"{self.folder}/").removesuffix(".yaml").split("/")
                if len(entry) != 2 or entry[0] not in _OVERLAYS:
                    raise Place(place).error("not a place for a declaration", f"agents are declared in `{self.folder}/agents/NAME.yaml`")
                root = parse(content, place)
                if root is None:
                    raise Place(place).error("an empty declaration", "write the keys of the agent, or remove the file")
                read(root, values, (entry[0], entry[1]))
        self._system_files(values, files)
        return values

    def rule_files(self, files: dict[str, bytes]) -> dict[str, bytes]:
        """Those of a snapshot that hold rules, by their whole paths."""
        return {str(self.base / name): files[name] for name in files if self._is_rule(name) and name.endswith((".cedar", ".yaml"))}

    def _is_rule(self, name: str) -> bool:
        return self.rules and name.startswith(f"{self.folder}/{RULES}/")

    def _system_files(self, values: Values, files: dict[str, bytes]) -> None:
        for key, (name, place) in list(values.leaves.items()):
            if not key.endswith(".system_file"):
                continue
            system = key.removesuffix("_file")
            if system in values.leaves:
                raise place.error("both `system` and `system_file`", "keep one")
            content = files.get(f"{self.folder}/{name}") if name.endswith((".md", ".txt")) else None
            if content is None:
                raise place.error(f"no file `{name}` in {self.base / self.folder}", "name a `.md` or `.txt` file there, without `..`")
            try:
                values.leaves[system] = Value(content.decode(), place)
            except UnicodeDecodeError as error:
                raise place.error(f"`{name}` is not UTF-8 at byte {error.start}") from error


def digest(files: dict[str, bytes]) -> str:
    """The hash of a snapshot. Names and contents are framed by their lengths, so two different snapshots never hash the same bytes."""
    state = hashlib.sha256(b"aegis declarations 1\0")
    for name in sorted(files):
        for part in (os.fsencode(name), files[name]):
            state.update(len(part).to_bytes(8, "big"))
            state.update(part)
    return state.hexdigest()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise Place(str(folder)).error(f"cannot be read: {error.strerror}") from error


def _info(path: Path) -> os.stat_result | None:
    try:
        info = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Place(str(path)).error(f"cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(info.st_mode):
        raise Place(str(path)).error("not an ordinary file", "links and devices are not read as configuration: make it a file")
    return info
