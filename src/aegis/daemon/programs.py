"""The programs that an agent can be: Aegis's own, Claude Code, and all that a data file describes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aegis.core.errors import AegisError, ErrorKind
from aegis.drivers.acp import AcpDriver, load, shipped
from aegis.drivers.claude import ClaudeDriver
from aegis.drivers.login import LOGINS, Login
from aegis.drivers.native import NativeDriver
from aegis.drivers.programs import Programs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from aegis.drivers import Driver

#: The folder of the home with a person's own data files.
FOLDER: Final = "programs"


class Foreign(NamedTuple):
    """What there is. `faults` are data files that cannot be used, each with its place and its mend."""

    drivers: dict[str, Driver]
    logins: dict[str, Login]
    faults: list[AegisError]
    programs: Programs


def gather(home: Path, path: str, overrides: Callable[[], Mapping[str, str]]) -> Foreign:
    """Every driver by its name. A data file of a person replaces one that came with Aegis; read when the daemon starts."""
    programs = Programs(path=path, overrides=overrides)
    own: tuple[Driver, ...] = (NativeDriver(), ClaudeDriver(programs.find))
    drivers: dict[str, Driver] = {driver.name: driver for driver in own}
    logins = dict(LOGINS)
    faults: list[AegisError] = []
    for spec in [*shipped(), *load(home / FOLDER, faults.append)]:
        if spec.name in {driver.name for driver in own}:
            message = f"a data file in {home / FOLDER} has the name `{spec.name}`, which is Aegis's own"
            faults.append(AegisError(ErrorKind.USAGE, message, "choose another `name`"))
            continue
        drivers[spec.name] = AcpDriver(spec, programs)
    return Foreign(drivers, logins, faults, programs)


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
