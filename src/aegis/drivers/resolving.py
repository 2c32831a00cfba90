"""From the file that a command name leads to, to what is really run and what must be shown for it.

Knows native programs, scripts of an interpreter, and the way in which npm installs a native program: a small package whose script
starts a file of a second package made for this platform. Nothing is run here.
"""

from __future__ import annotations

import os
import platform
import pwd
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.sandboxes import Mount

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: What every sandbox shows anyway.
_SHOWN: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
_CPUS: Final = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}
#: How deep in a platform's package its program may lie, and how many of its files are looked at.
_DEEP: Final = 5
_FILES: Final = 2000
_MANIFEST_BYTES: Final = 1 << 20


class Resolved(NamedTuple):
    """One way to run a program: `program` is the file whose change means another version."""

    argv: tuple[str, ...]
    program: Path
    mounts: tuple[Mount, ...]


def resolve(path: Path, names: Sequence[str], search: Sequence[Path]) -> list[Resolved]:
    """The ways to run what `path` leads to, the best first; empty where there is none that a sandbox could be shown.

    `names` are the program's own names, `search` the directories where interpreters are looked for.
    """
    real = path.resolve()
    package = _package(real)
    if _is_native(real):
        return [Resolved((str(real),), real, _mounts(package or real))]
    found = [
        Resolved((str(native),), native, _mounts(_package(native) or native))
        for native in (_natives(package, names) if package is not None else ())
    ]
    interpreter = _interpreter(real, search)
    if interpreter is not None:
        program, arguments = interpreter
        shown = _environment(program) or (_with_dependencies(package) if package is not None else real)
        more = () if shown == _environment(program) else _mounts(program.resolve())
        argv = (str(program if more == () else program.resolve()), *arguments, str(real))
        own = _mounts(shown)
        if not real.is_relative_to(shown):
            own = (*own, *_mounts(package or real))
        found.append(Resolved(argv, real, _outermost((*own, *more))))
    return found


def private_directory(path: Path) -> bool:
    """Whether showing `path` would show a person's home directory or a whole part of the machine."""
    if not path.is_dir():
        return False
    if len(path.parts) < 3:
        return True
    people = {Path(entry.pw_dir) for entry in pwd.getpwall() if entry.pw_dir not in {"", "/"}} | {Path.home()}
    return any(person.resolve().is_relative_to(path) or path == person.resolve() / ".local" for person in people)


def _mounts(path: Path) -> tuple[Mount, ...]:
    """The mount that shows `path` where it is; none for what every sandbox shows."""
    if any(path.is_relative_to(place) for place in _SHOWN):
        return ()
    return (Mount(path, str(path)),)


def _outermost(mounts: Sequence[Mount]) -> tuple[Mount, ...]:
    """The same without those that lie in another of them."""
    sources = {mount.source for mount in mounts}
    return tuple(Mount(s, str(s)) for s in sorted(sources) if not any(s != other and s.is_relative_to(other) for other in sources))


def _is_native(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _interpreter(script: Path, search: Sequence[Path]) -> tuple[Path, list[str]] | None:
    """What the script's first line names, with its arguments.

    None for shell scripts: nobody can tell what else those need.
    """
    try:
        with script.open("rb") as file:
            line = file.readline(512).decode()
    except (OSError, UnicodeDecodeError):
        return None
    if not line.startswith("#!"):
        return None
    program, _, rest = line[2:].strip().partition(" ")
    words = [rest.strip()] if rest.strip() else []
    if program.endswith("/env"):
        words = shlex.split(rest.removeprefix("-S").strip())
        if not words:
            return None
        program, *words = words
        found = next((folder / program for folder in search if os.access(folder / program, os.X_OK)), None)
        # A script that npm has installed together with its own node must get that one.
        beside = script.parent / program
        program = str(beside if os.access(beside, os.X_OK) else found or "")
    if Path(program).name in ("sh", "bash", "dash", "zsh", "fish", "ksh"):
        return None
    if not program.startswith("/") or not os.access(program, os.X_OK) or not _is_native(Path(program).resolve()):
        return None
    return Path(program), words


def _environment(interpreter: Path) -> Path | None:
    """The virtual environment that an interpreter belongs to; its own installation is found by the sandbox."""
    root = interpreter.parent.parent.resolve()
    return root if (root / "pyvenv.cfg").is_file() else None


def _package(file: Path) -> Path | None:
    """The npm package that a file belongs to."""
    for folder in file.parents:
        if folder.parent.name == "node_modules" or (folder.parent.name.startswith("@") and folder.parent.parent.name == "node_modules"):
            return folder if (folder / "package.json").is_file() else None
    return None


def _modules(package: Path) -> Path:
    """The `node_modules` that a package lies in."""
    return package.parent.parent if package.parent.name.startswith("@") else package.parent


def _with_dependencies(package: Path) -> Path:
    """The smallest directory that a package works in: itself, or its `node_modules` when what it needs lies beside it."""
    needed = _manifest(package).get("dependencies")
    inside = not isinstance(needed, dict) or all((package / "node_modules" / str(name)).is_dir() for name in needed)
    return package if inside else _modules(package)


def _natives(package: Path, names: Sequence[str]) -> Iterator[Path]:
    """Native programs of those names in the packages for this platform that a package brings along."""
    optional = _manifest(package).get("optionalDependencies")
    if not isinstance(optional, dict):
        return
    places = [folder / str(name) for name in optional for folder in (package / "node_modules", _modules(package))]
    for place in sorted((p for p in places if _for_this_machine(p)), key=_preference):
        for file in _walk(place.resolve()):
            if file.name in names and os.access(file, os.X_OK) and _is_native(file):
                yield file
                break


def _for_this_machine(package: Path) -> bool:
    """Whether a package says that it is for this system, processor and C library; one that says nothing is for no machine."""
    manifest = _manifest(package)
    libc = manifest.get("libc", [])
    own = "glibc" if platform.libc_ver()[0] == "glibc" else "musl"
    return "linux" in manifest.get("os", []) and _CPUS.get(platform.machine(), "") in manifest.get("cpu", []) and (not libc or own in libc)


def _preference(package: Path) -> tuple[bool, bool, str]:
    """The program for all processors of a kind is slower: it comes first only where the other one would not run."""
    baseline = "baseline" in package.name
    return "musl" in package.name and platform.libc_ver()[0] == "glibc", baseline is _has_avx2(), package.name


def _has_avx2() -> bool:
    try:
        return " avx2 " in Path("/proc/cpuinfo").read_text().replace("\n", " ")
    except OSError:
        return True


def _walk(folder: Path) -> Iterator[Path]:
    """The files of a package, without following links."""
    seen = 0
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if f != "node_modules") if len(Path(root).relative_to(folder).parts) < _DEEP else []
        for name in sorted(files):
            seen += 1
            if seen > _FILES:
                return
            file = Path(root) / name
            if stat.S_ISREG(file.lstat().st_mode):
                yield file


def _manifest(package: Path) -> dict[str, Any]:
    try:
        with (package / "package.json").open("rb") as file:
            return msgspec.json.decode(file.read(_MANIFEST_BYTES), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return {}
