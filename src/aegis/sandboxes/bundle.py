"""The guest bundle: what a sandbox sees of Aegis's own code, and how a guest is started from it.

One directory per content, `<home>/guest/<hash>/aegis/{tether,guest}`, with compiled files that are never checked against
their sources, so that a guest starts without writing and without looking. `aegis/__init__.py` is not there: the guest can
import nothing but these two parts. A bundle is complete or absent; old ones stay until `sweep`, as sandboxes may run on them.
"""

from __future__ import annotations

import functools
import hashlib
import os
import py_compile
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

#: Where the kinds that have a file system of their own show the bundle.
INSIDE: Final = "/run/aegis/lib"
_PACKAGE: Final = Path(__file__).parent.parent
_PARTS: Final = ("tether", "guest")
_FOLDER: Final = 0o755  # sandboxes read it as users of their own
_FILE: Final = 0o644


def build(home: Path) -> Path:
    """The bundle of this version in `home`, made if it is not there; goes on `sys.path` as it is. Raises OSError."""
    target = home / "guest" / _digest()
    if not target.is_dir():
        _make(target)
    return target


def sweep(home: Path) -> list[str]:
    """Remove the bundles of other versions and what an interrupted `build` left; only when no sandbox runs. A line for each."""
    removed = []
    for path in sorted((home / "guest").glob("*")):
        if path.name != _digest():
            shutil.rmtree(path, ignore_errors=True)
            removed.append(f"removed guest bundle {path.name}")
    return removed


def command(python: str, lib: str, *label: str) -> list[str]:
    """The command that starts a guest from the bundle at `lib`. The words of `label` do nothing but show in its command line."""
    return [python, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {lib!r}); from aegis.guest.supervisor import main; main()", *label]


def interpreter() -> str:
    """The daemon's own base interpreter, outside any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@functools.cache
def _sources() -> tuple[Path, ...]:
    return tuple(sorted(path for part in _PARTS for path in (_PACKAGE / part).rglob("*.py")))


@functools.cache
def _digest() -> str:
    digest = hashlib.sha256(sys.implementation.cache_tag.encode())
    for source in _sources():
        content = source.read_bytes()
        digest.update(f"{source.relative_to(_PACKAGE)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:16]


def _make(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.chmod(target.parent, _FOLDER)
    scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        for source in _sources():
            relative = source.relative_to(_PACKAGE)
            copy = scratch / "aegis" / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(source.read_bytes())
            py_compile.compile(
                str(copy),
                dfile=f"{INSIDE}/aegis/{relative}",
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        for folder, _, files in os.walk(scratch):
            os.chmod(folder, _FOLDER)
            for name in files:
                path = os.path.join(folder, name)
                os.chmod(path, _FILE)
                _sync(path)  # the hash names the content: it must not become true before the content is there
            _sync(folder)
        scratch.rename(target)
        _sync(str(target.parent))
    except OSError:
        if not target.is_dir():  # else another daemon start was faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
