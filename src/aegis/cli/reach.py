"""Reaching the daemon from a verb."""

from __future__ import annotations

from pathlib import Path

from aegis.client import launch
from aegis.client.api import Client
from aegis.client.project import DECLARATION, find_project
from aegis.core.errors import AegisError, ErrorKind


def client() -> Client:
    """The client of the home's daemon, which is started when it does not run."""
    home = launch.home()
    launch.ensure_daemon(home)
    return Client(launch.socket_path(home))


def running_client() -> Client:
    """The client of the home's daemon, which must run already; raises UNREACHABLE otherwise."""
    path = launch.socket_path(launch.home())
    if not launch.answers(path):
        raise AegisError(ErrorKind.UNREACHABLE, f"no daemon runs for the home {launch.home()}", "start it with `aegis up`")
    return Client(path)


def project() -> Path | None:
    """The project of the working directory."""
    return find_project(Path.cwd())


def required_project(directory: str | None) -> Path:
    """The project of `directory` or of the working directory; raises NOT_FOUND when there is none."""
    start = Path(directory) if directory else Path.cwd()
    found = find_project(start)
    if found is None:
        told = f"there is no {DECLARATION} in {start.resolve()} or above"
        raise AegisError(ErrorKind.NOT_FOUND, told, "write one, or name the directory")
    return found
