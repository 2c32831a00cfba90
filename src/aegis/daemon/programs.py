"""The programs that an agent can be: Aegis's own, Claude Code, Codex, and all that a data file describes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aegis.core.errors import AegisError, ErrorKind
from aegis.drivers.acp import AcpDriver, load, shipped
from aegis.drivers.claude import ClaudeDriver
from aegis.drivers.codex import CodexDriver
from aegis.drivers.login import LOGINS, Login
from aegis.drivers.native import NativeDriver
from aegis.drivers.programs import Programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from aegis.drivers import Driver
    from aegis.drivers.acp import AgentSpec

#: The folder of the home with a person's own data files.
FOLDER: Final = "programs"


class Foreign(NamedTuple):
    """What there is. `faults` are data files that cannot be used, each with its place and its mend."""

    drivers: Drivers
    logins: dict[str, Login]
    faults: list[AegisError]
    programs: Programs


class Drivers(MutableMapping[str, "Driver"]):
    """Every driver by its name. A data file of a person replaces one that came with Aegis.

    The folder is looked at with every use, and read again when a file of it has changed, so that nobody has to restart the daemon. A
    driver whose file is gone or has a mistake now stays as it was until the daemon ends: instances may run with it.
    """

    def __init__(self, folder: Path, programs: Programs, logins: dict[str, Login], faults: list[AegisError]) -> None:
        self._folder = folder
        self._programs = programs
        self._logins = logins
        self._faults = faults
        self._seen: object = None
        self._specs: dict[str, AgentSpec] = {}
        own: tuple[Driver, ...] = (NativeDriver(), ClaudeDriver(programs.find), CodexDriver(programs.find))
        self._own = frozenset(driver.name for driver in own)
        self._drivers = {driver.name: driver for driver in own}
        for spec in shipped():
            self._take(spec)
        self._look()

    def __getitem__(self, name: str) -> Driver:
        self._look()
        return self._drivers[name]

    def __iter__(self) -> Iterator[str]:
        self._look()
        return iter(list(self._drivers))

    def __len__(self) -> int:
        return len(self._drivers)

    def __setitem__(self, name: str, driver: Driver) -> None:
        self._drivers[name] = driver

    def __delitem__(self, name: str) -> None:
        del self._drivers[name]

    def _look(self) -> None:
        stamps = _stamps(self._folder)
        if stamps == self._seen:
            return
        self._seen = stamps
        self._faults.clear()
        for spec in load(self._folder, self._faults.append):
            if spec.name in self._own:
                message = f"a data file in {self._folder} has the name `{spec.name}`, which is Aegis's own"
                self._faults.append(AegisError(ErrorKind.USAGE, message, "choose another `name`"))
            else:
                self._take(spec)

    def _take(self, spec: AgentSpec) -> None:
        if self._specs.get(spec.name) == spec:
            return
        self._specs[spec.name] = spec
        self._drivers[spec.name] = AcpDriver(spec, self._programs)
        if spec.login.files:
            self._logins[spec.name] = Login(files=spec.login.files, egress=spec.login.egress, members=spec.login.members)


def _stamps(folder: Path) -> list[tuple[str, int, int, int]]:
    """What changes when a file in the folder does."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(".toml")]
    except OSError:
        return []
    return sorted((name, info.st_mtime_ns, info.st_size, info.st_ino) for name, info in found)


def gather(home: Path, path: str, overrides: Callable[[], Mapping[str, str]], shared: Callable[[], Iterable[Path]] = tuple) -> Foreign:
    """All that is known of programs; a person's data files are in a folder of the home. `shared` is where agents can write."""
    programs = Programs(path=path, overrides=overrides, shared=shared)
    logins, faults = dict(LOGINS), list[AegisError]()
    return Foreign(Drivers(home / FOLDER, programs, logins, faults), logins, faults, programs)


async def examine(foreign: Foreign) -> list[dict[str, Any]]:
    """Each program: whether it is here and which version, what it can do here, and the command that installs it."""
    found = await asyncio.gather(*(_one(driver, foreign) for driver in foreign.drivers.values() if driver.name != "native"))
    return [*found] + [
        {"name": str(fault.data.get("file", "data file")), "ok": False, "detail": fault.message, "mend": fault.hint, "fault": True}
        for fault in foreign.faults
    ]


async def _one(driver: Driver, foreign: Foreign) -> dict[str, Any]:
    able = driver.capabilities
    row: dict[str, Any] = {
        "name": driver.name,
        "ok": True,
        "detail": "",
        "mend": "",
        "path": None,
        "version": None,
        "dialects": list(driver.dialects),
        "capabilities": {
            "resume": able.resume,
            "fork": able.fork,
            "approvals": able.permission_requests,
            "images": able.images,
            "switch_model": able.switch_model,
            "mid_turn_input": able.mid_turn_input,
            "modes": list(able.modes),
            "efforts": list(able.efforts),
            "login": driver.name in foreign.logins,
        },
    }
    try:
        there = await driver.locate()
    except AegisError as error:
        row |= {"ok": False, "detail": error.message, "mend": error.hint, "skipped": error.kind is ErrorKind.NOT_FOUND}
    else:
        if there is not None:
            told = there.warning or f"version {there.version}"
            words = [word for word, can in row["capabilities"].items() if can is True]
            detail = f"{told} ({there.path}); {', '.join(words).replace('_', ' ')}"
            row |= {"path": str(there.path), "version": there.version, "detail": detail, "warning": there.warning}
    wanted = foreign.programs.specs.get(driver.name)
    row |= {"pinned": wanted.pinned if wanted else "", "install": wanted.install if wanted else ""}
    return row
