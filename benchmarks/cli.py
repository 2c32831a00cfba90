"""The program from the command line to its end, against an interpreter that does nothing.

`aegis --version` pays for the package alone; `aegis ls` warm also for click, HTTP and one request to a daemon that runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.harness import Row, measure, row, show


def main(quick: bool = False) -> list[Row]:
    """Measure with a daemon on a home of its own, which ends with the measurement."""
    n = 10 if quick else 60
    home = Path(tempfile.mkdtemp(prefix="aegis-"))
    environment = {**os.environ, "AEGIS_HOME": str(home)}

    def run(*args: str) -> None:
        subprocess.run([sys.executable, *args], check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    script = Path(sys.executable).with_name("aegis")  # what people run; `-m` adds 8 ms
    aegis = partial(run, *([str(script)] if script.exists() else ["-m", "aegis"]))
    try:
        floor = measure(partial(run, "-c", "pass"), n)
        version = measure(partial(aegis, "--version"), n)
        usage = measure(partial(aegis, "--help"), n)
        aegis("up")
        ls = measure(partial(aegis, "ls"), n)
    finally:
        aegis("down")
        shutil.rmtree(home, ignore_errors=True)
    return [
        row("python -c pass", floor, note="the floor"),
        row("aegis --version", version, floor, "budget 60 ms"),
        row("aegis --help", usage, floor),
        row("aegis ls, warm", ls, floor, "budget 90 ms"),
    ]


if __name__ == "__main__":
    print(show(main(quick="--quick" in sys.argv)))
