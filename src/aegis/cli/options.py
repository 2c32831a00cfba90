"""Arguments that several verbs share: handles with completion, sessions, sizes, pairs, mounts, points in time."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

import click

from aegis.client.shapes import DEFAULT_SESSION, MountSpec, Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

    _Type = click.ParamType[Any]
else:  # older releases of click have no type argument
    _Type = click.ParamType

_SIZES = {"": 1, "m": 1, "mb": 1, "mib": 1, "g": 1024, "gb": 1024, "gib": 1024}
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def complete_handle(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The handles that begin so, if a daemon runs; it is never started for this."""
    from click.shell_completion import CompletionItem

    from aegis.client import launch
    from aegis.client.api import Client
    from aegis.core.errors import AegisError

    try:
        found = Client(launch.socket_path(launch.home())).instances.all(timeout=1.0)
    except AegisError:
        return []
    return [CompletionItem(item["handle"], help=item["state"]) for item in found if item["handle"].startswith(incomplete)]


def handle_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument HANDLE."""
    return click.argument("handle", shell_complete=complete_handle)(function)


def handles_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument HANDLE... of verbs that take several."""
    return click.argument("handles", metavar="HANDLE...", nargs=-1, required=True, shell_complete=complete_handle)(function)


def session_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option --session."""
    default, meaning = ":".join(DEFAULT_SESSION), "The conversation, as `channel:id` or `id`."
    return click.option("--session", "-s", type=_Session(), default=default, show_default=True, help=meaning)(function)


class _Session(_Type):
    """`channel:id`, or an id alone for the channel `host`."""

    name = "channel:id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Session:
        if isinstance(value, tuple):
            return value
        channel, colon, ident = str(value).partition(":")
        session = (channel, ident) if colon else (DEFAULT_SESSION[0], channel)
        if not all(re.fullmatch(r"[\x21-\x39\x3b-\x7e]{1,128}", part) for part in session):
            self.fail(f"{value!r} is not a session; write `channel:id` or `id`, printable ASCII without spaces", param, ctx)
        return session


class Megabytes(_Type):
    """A size such as `512M`, `2G` or `512`, in MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(value).strip().lower())
        if match is None or match[2] not in _SIZES or (size := int(float(match[1]) * _SIZES[match[2]])) < 1:
            self.fail(f"{value!r} is not a size of at least one megabyte; write `512M` or `2G`", param, ctx)
        return size


class Pair(_Type):
    """`KEY=VALUE`; the value may be empty or hold further `=`."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, rest = str(value).partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            self.fail(f"{value!r} is not `KEY=VALUE`", param, ctx)
        return key, rest


class MountType(_Type):
    """`PATH[:TARGET][:rw]`; without a target the same path inside, without `rw` read-only."""

    name = "path[:target][:rw]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> MountSpec:
        if isinstance(value, dict):
            return MountSpec(source=value["source"], target=value["target"], writable=value["writable"])
        path, *rest = str(value).split(":")
        writable = bool(rest) and rest[-1] in {"rw", "ro"} and rest.pop() == "rw"
        if not path or len(rest) > 1 or (rest and not rest[0].startswith("/")):
            self.fail(f"{value!r} is not a mount; write `PATH[:TARGET][:rw]` with an absolute TARGET", param, ctx)
        source = os.path.realpath(os.path.expanduser(path))
        if not os.path.exists(source):
            self.fail(f"there is no {source} to mount", param, ctx)
        return MountSpec(source=source, target=rest[0] if rest else source, writable=writable)


class PointInTime(_Type):
    """A span back from now (`10m`, `2h`, `1d`) or an RFC 3339 time; becomes RFC 3339 in UTC."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from datetime import UTC, datetime

        text = str(value).strip()
        if match := re.fullmatch(r"(\d+)([smhd])", text):
            moment = datetime.fromtimestamp(time.time() - int(match[1]) * _SPANS[match[2]], UTC)
        else:
            try:
                moment = datetime.fromisoformat(text).astimezone(UTC)
            except ValueError:
                self.fail(f"{value!r} is not a time; write `10m`, `2h` or 2026-01-31T12:00:00Z", param, ctx)
        return moment.isoformat().replace("+00:00", "Z")
