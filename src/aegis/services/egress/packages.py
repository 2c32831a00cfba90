"""The word `packages`: the indexes that this machine's own pip and npm are set to use.

They are asked, each time a sandbox starts (answers are kept for a minute), and what they say is in memory only: no name of an index
stands here. A pip without a setting is asked for the index it was built with. User names and passwords in an index's address stay
outside: a warning says so.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit, urlunsplit

from aegis.services.egress.places import Malformed, Place, read_place

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from aegis.core.clock import Clock

    #: Runs a program of this machine and returns its standard output, None when it cannot be run or fails.
    Run = Callable[[list[str], Mapping[str, str]], Awaitable[str | None]]

#: Prints the index that the pip in a directory was built with, and the host of its files.
_BUILT_IN: Final = """
import sys
sys.path.insert(0, sys.argv[1])
from pip._internal.models.index import PyPI
print(PyPI.simple_url, PyPI.file_storage_domain)
"""
#: Seconds for which an answer holds, and that a tool has for giving one.
_FRESH: Final = 60.0
_TIMEOUT: Final = 20.0
_MAX_OUTPUT: Final = 1024 * 1024
#: npm without its cache and logs, which it would begin in the person's home only because it was asked.
_NPM_LIST: Final = ["config", "list", "--json", "--logs-max=0", "--cache=/dev/null"]
#: Of the environment, what the tools need to find their settings, and settings that stand there.
_KEPT: Final = ("HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS")
_KEPT_PREFIXES: Final = ("PIP_", "NPM_CONFIG_", "npm_config_")
#: pip's sections, the one that counts most first.
_SECTIONS: Final = (":env:", "install", "download", "global")


class Sources(NamedTuple):
    """Where packages come from: the places, the environment that tells programs inside of them, and what a person should know."""

    places: frozenset[Place] = frozenset()
    environment: Mapping[str, str] = {}
    warnings: tuple[str, ...] = ()


class Packages:
    """Asks pip and npm. `environ` is the daemon's own; nothing is run from the directories `shared`, in which agents can write."""

    def __init__(
        self, environ: Mapping[str, str], clock: Clock, run: Run | None = None, shared: Callable[[], Iterable[Path]] = tuple
    ) -> None:
        self._folders = [folder for folder in environ.get("PATH", os.defpath).split(os.pathsep) if folder.startswith("/")]
        self._shared = shared
        self._environ = {name: value for name, value in environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
        self._clock = clock
        self._run = run or _run
        self._asking: asyncio.Task[Sources] | None = None
        self._asked_at = 0.0

    async def sources(self) -> Sources:
        """What they say now, or said within the last minute."""
        now = self._clock.monotonic()
        if self._asking is None or now - self._asked_at > _FRESH or (self._asking.done() and self._asking.cancelled()):
            self._asking, self._asked_at = asyncio.create_task(self._ask(), name="asking pip and npm"), now
        return await asyncio.shield(self._asking)

    async def _ask(self) -> Sources:
        pip, npm = await asyncio.gather(self._tool(("pip", "pip3"), ["config", "list"]), self._tool(("npm",), _NPM_LIST))
        found = _Found()
        if pip is not None:
            settings = _pip_settings(pip)
            if "index-url" not in settings:
                built_in = await self._built_in()
                pages = f"{settings.get('find-links', '')} {built_in.get('find-links', '')}"
                settings |= {**built_in, "find-links": pages}
            found.pip(settings)
        if npm is not None:
            found.npm(_npm_settings(npm))
        if pip is None and npm is None:
            found.warnings.append("neither pip nor npm of this machine tells which indexes are meant, so `packages` allows nothing")
        return Sources(frozenset(found.places), found.environment, tuple(found.warnings))

    async def _built_in(self) -> dict[str, str]:
        """The index that pip uses when nobody set one, in the form of its settings; nothing when it does not say."""
        told = re.search(r" from (.+)/pip \(python ", await self._tool(("pip", "pip3"), ["--version"]) or "")
        if told is None:
            return {}
        said = await self._run([sys.executable, "-I", "-S", "-c", _BUILT_IN, told[1]], {"PATH": self._path(), "LANG": "C.UTF-8"})
        index, _, files = (said or "").strip().partition(" ")
        return {"index-url": index, "find-links": f"https://{files}/"} if files else {}

    async def _tool(self, names: tuple[str, ...], arguments: list[str]) -> str | None:
        path = self._path()
        for name in names:
            program = shutil.which(name, path=path)
            if program and not self._is_shared(program):
                return await self._run([program, *arguments], {**self._environ, "PATH": path, "LANG": "C.UTF-8"})
        return None

    def _path(self) -> str:
        return os.pathsep.join(folder for folder in self._folders if not self._is_shared(folder))

    def _is_shared(self, path: str) -> bool:
        ways = (Path(os.path.abspath(path)), Path(path).resolve())
        return any(way.is_relative_to(place) for place in self._shared() for way in ways)


class _Found:
    """What is gathered from the tools' answers."""

    def __init__(self) -> None:
        self.places: set[Place] = set()
        self.environment: dict[str, str] = {}
        self.warnings: list[str] = []

    def pip(self, settings: dict[str, str]) -> None:
        """From pip's settings: the index and further ones; pages of links count as places alone."""
        index = self._add("pip", settings["index-url"]) if "index-url" in settings else None
        extra = [url for text in settings.get("extra-index-url", "").split() if (url := self._add("pip", text))]
        for text in settings.get("find-links", "").split():
            self._add("pip", text)
        if index:
            self.environment |= {"PIP_INDEX_URL": index, "UV_INDEX_URL": index}
        if extra:
            self.environment |= {"PIP_EXTRA_INDEX_URL": " ".join(extra), "UV_EXTRA_INDEX_URL": " ".join(extra)}
        if trusted := settings.get("trusted-host", "").split():
            self.environment["PIP_TRUSTED_HOST"] = " ".join(trusted)
        if settings.get("proxy"):
            self.warnings.append("pip is set to use a proxy, which the way out of a sandbox does not")

    def npm(self, settings: dict[str, str]) -> None:
        """From npm's settings: the registry and those of scopes."""
        registry = self._add("npm", settings["registry"]) if "registry" in settings else None
        if registry:
            self.environment["npm_config_registry"] = registry
        for name, value in settings.items():
            if name.startswith("@") and name.endswith(":registry"):
                self._add("npm", value)
        if settings.get("proxy") or settings.get("https-proxy"):
            self.warnings.append("npm is set to use a proxy, which the way out of a sandbox does not")

    def _add(self, tool: str, text: str) -> str | None:
        """Take note of the place of a URL; returns the URL as programs inside may see it. None for one that is no place."""
        try:
            url = urlsplit(text)
            if url.scheme not in ("http", "https"):
                return None
            _user, at, authority = url.netloc.rpartition("@")
            place = read_place(authority, 443 if url.scheme == "https" else 80)
        except (ValueError, Malformed) as error:
            self.warnings.append(f"an index that {tool} is set to use is not understood: {type(error).__name__}")
            return None
        if place.host == "localhost":  # programs inside know no other loopback than their own, which leads to this one
            authority = f"127.0.0.1:{place.port}"
            place = read_place(authority)
        if at:
            self.warnings.append(
                f"the address of {tool}'s index at {place.host} has a user name or password in it; it stays outside, "
                "and programs in sandboxes ask without it"
            )
        self.places.add(place)
        return urlunsplit(SplitResult(url.scheme, authority, url.path, url.query, ""))


def _pip_settings(text: str) -> dict[str, str]:
    """`pip config list`: lines such as `global.index-url='...'`; of a setting that stands in several sections, what counts."""
    sections: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        section, dot, setting = name.partition(".")
        if equals and dot and section in sections:
            with contextlib.suppress(ValueError, SyntaxError):
                sections[section][setting] = str(ast.literal_eval(value))
    return {name: value for section in reversed(_SECTIONS) for name, value in sections[section].items()}


def _npm_settings(text: str) -> dict[str, str]:
    """`npm config list --json`."""
    try:
        found: Any = json.loads(text or "{}")
    except ValueError:
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


async def _run(argv: list[str], environ: Mapping[str, str]) -> str | None:
    """Run a tool away from any project, with an environment of its own."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=dict(environ),
            cwd="/",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            limit=_MAX_OUTPUT,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(_TIMEOUT):
            output, _ = await process.communicate()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        if isinstance(error, TimeoutError):
            return None
        raise
    return output[:_MAX_OUTPUT].decode("utf-8", "replace") if process.returncode == 0 else None
