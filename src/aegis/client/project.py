"""Where the project is: the nearest directory, upwards, that holds `.aegis.yaml`."""

from __future__ import annotations

import os
from pathlib import Path

DECLARATION = ".aegis.yaml"


def find_project(start: Path) -> Path | None:
    """The real path of the nearest ancestor of `start`, itself included, that holds a declaration; None if there is none."""
    here = start.resolve()
    for directory in (here, *here.parents):
        if os.path.lexists(directory / DECLARATION):
            return directory
    return None
