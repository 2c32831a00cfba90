"""Arguments that several verbs share: handles with completion, sessions, sizes, pairs, mounts, points in time."""

from __future__ import annotations

import os
import re
import time
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from aegis.client.project import find_project
from aegis.client.shapes import DEFAULT_SESSION, MountSpec, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from click.shell_completion import CompletionItem

    from aegis.client.api import Client

    _Type = click.ParamType[Any]
else:  # older releases of click have no type argument
    _Type = click.ParamType

#: Kinds of sandbox and providers of agents, for completion, what an agent may do, and the states of an instance.
SANDBOXES = ("bwrap", "process")
PROVIDERS = ("native", "claude-code", "codex", "gemini", "opencode")
PERMISSIONS = ("read", "write", "full")
STATES = ("created", "starting", "running", "paused", "stopped", "failed")
_UNITS = {"": 1, "k": 1 / 1024, "m": 1, "g": 1024, "t": 1024**2}
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def complete_handle(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The handles that begin so."""
    return told(lambda daemon: [(item["handle"], item["state"]) for item in daemon.instances.all(timeout=1.0)], incomplete)


def complete_agent(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The definitions that begin so."""
    return told(lambda daemon: [(item["name"], item.get("model") or "") for item in daemon.agents(find_project(Path.cwd()))], incomplete)


def complete_provider(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The providers of agents that come with Aegis and begin so."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in PROVIDERS if name.startswith(incomplete)]


def complete_session(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The conversations of the instance that is named before, which begin so."""
    handle = ctx.params.get("handle") or next((word for word in ctx.args if not word.startswith("-")), None)
    usual = f"{DEFAULT_SESSION[0]}:"  # shells break words at colons, and the id alone will do

    def ask(daemon: Client) -> list[tuple[str, str]]:
        sessions = daemon.instances.get(handle)["sessions"] if handle else []
        return [(item["session"].removeprefix(usual), item.get("title") or "") for item in sessions]

    return told(ask, incomplete)


def complete_secret(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of secrets that begin so."""
    return told(lambda daemon: [(item["name"], "") for item in daemon.secrets.all()], incomplete)


def complete_key(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The keys of the configuration that begin so."""
    return told(lambda daemon: [(item["key"], str(item["source"])) for item in daemon.config.show(find_project(Path.cwd()))], incomplete)


def complete_approval(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ends of the ids of what waits for a person that begin so."""
    return told(lambda daemon: [(item["id"][-6:], f"{item['handle']}: {item['tool']}") for item in daemon.approvals.list()], incomplete)


def complete_held(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ends of the ids of what was put aside that begin so."""
    return told(lambda daemon: [(item["id"][-6:], f"{item['handle']}: {item['path']}") for item in daemon.held.list()], incomplete)


def complete_message(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ends of the ids of the newest messages that begin so."""
    return told(lambda daemon: [(item["id"][-6:], f"{item['handle']}: {item['text'][:60]}") for item in daemon.mail.all()], incomplete)


def complete_sandbox(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The kinds of sandbox that begin so."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in SANDBOXES if name.startswith(incomplete)]


def told(ask: Callable[[Client], list[tuple[str, str]]], incomplete: str) -> list[CompletionItem]:
    """What the daemon knows and begins so, if it runs; it is never started for this."""
    from click.shell_completion import CompletionItem

    from aegis.client import launch
    from aegis.client.api import Client
    from aegis.core.errors import AegisError

    try:
        found = ask(Client(launch.socket_path(launch.home())))
    except AegisError:
        return []
    return [CompletionItem(name, help=about) for name, about in found if name.startswith(incomplete)]


def handle_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument HANDLE."""
    return click.argument("handle", shell_complete=complete_handle)(function)


def handles_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument HANDLE... of verbs that take several."""
    return click.argument("handles", metavar="HANDLE...", nargs=-1, required=True, shell_complete=complete_handle)(function)


def session_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option --session."""
    default, meaning = ":".join(DEFAULT_SESSION), "The conversation, as `channel:id` or `id`."
    return click.option(
        "--session", "-s", type=SessionType(), default=default, show_default=True, shell_complete=complete_session, help=meaning
    )(function)


class SessionType(_Type):
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


def image_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option --image of verbs that send a message."""
    kind = click.Path(exists=True, dir_okay=False)
    meaning = "A picture that goes with it: PNG, JPEG, GIF or WebP."
    return click.option("--image", "images", type=kind, metavar="FILE", multiple=True, help=meaning)(function)


class Megabytes(_Type):
    """A size such as `512M` or `2G`; a number alone is in MiB. Becomes MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?", str(value).strip().lower())
        if match is None:
            self.fail(f"{value!r} is not a size; write `512M` or `2G`", param, ctx)
        size = int(float(match[1]) * _UNITS[match[2]])
        if size < 1:
            self.fail(f"{value!r} is less than a megabyte; write `512M` or `2G`", param, ctx)
        return size


class Word(_Type):
    """One of a closed set of words; a wrong one is told with the nearest."""

    def __init__(self, name: str, words: Sequence[str], *, several: bool = False) -> None:
        self.name = name
        self.words = words
        self.several = several

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        given = [word for word in value.split(",") if word] if self.several else [value]
        for word in given:
            if word not in self.words:
                near = get_close_matches(word, self.words, 1)
                known = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(self.words)}"
                self.fail(f"there is no {self.name} `{word}`; {known}", param, ctx)
        return given if self.several else value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]


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


class EgressType(_Type):
    """A rule `HOST:PORT`, or in JSON one on requests: `{"host": ..., "inspect": true, "methods": [...], "paths": [...]}`."""

    name = "rule"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | dict[str, Any]:
        if not isinstance(value, str) or not value.lstrip().startswith("{"):
            return cast("str | dict[str, Any]", value)
        import json

        try:
            return cast("dict[str, Any]", json.loads(value))
        except (ValueError, RecursionError) as error:
            self.fail(f"the rule is not JSON: {error}", param, ctx)


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


class Span(_Type):
    """A span of time, `90s`, `10m`, `2h`, `1d`, or seconds; becomes seconds."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value).strip())
        seconds = float(match[1]) * _SPANS[match[2] or "s"] if match else 0.0
        if not 0 < seconds < float("inf"):
            self.fail(f"{value!r} is not a span of time over zero; write `90s`, `10m`, `2h` or `1d`", param, ctx)
        return seconds


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
