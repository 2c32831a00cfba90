"""`web.search`: asks a search service in the way of Brave's API, with the person's key, which stays in the daemon."""

from __future__ import annotations

import html
import random
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.core.version import __version__
from aegis.services.tools.builtin.urls import read_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx

    from aegis.core.clock import Clock
    from aegis.services.config.model import WebDefinition

    #: The value of a secret, for an instance by id and a host that it is sent to; None when it is not stored. Raises DENIED.
    Reveal = Callable[[str, str, str], Awaitable[str | None]]

_TAG: Final = re.compile(r"<[^>]{0,200}>")
#: Seconds for one attempt; how often it is tried; how long is waited at first, and at most between two.
_SECONDS: Final = 15.0
_TIMES: Final = 4
_FIRST: Final = 1.0
_LONGEST: Final = 20.0
#: The most of an answer that is read, in bytes.
_MAX: Final = 2 * 1024 * 1024


class Found(NamedTuple):
    """One result."""

    title: str
    url: str
    about: str


class _Entry(msgspec.Struct):
    title: str = ""
    url: str = ""
    description: str = ""


class _Listing(msgspec.Struct):
    results: list[_Entry] = []


class _Answer(msgspec.Struct):
    web: _Listing | None = None


class Search:
    """The service that the person set up; `settings` says which."""

    def __init__(self, settings: Callable[[], WebDefinition], reveal: Reveal, clock: Clock) -> None:
        self._settings = settings
        self._reveal = reveal
        self._clock = clock

    @property
    def url(self) -> str:
        """Where it asks."""
        return self._settings().search_url or ""

    async def find(self, query: str, count: int, instance: str) -> list[Found]:
        """The first results, for an instance by id.

        Raises AegisError: UNAVAILABLE without a key, DENIED when that is not for the instance, LIMIT, UNREACHABLE, FAILED.
        """
        import httpx

        settings = self._settings()
        key = await self._key(settings, instance)
        headers = {"X-Subscription-Token": key, "Accept": "application/json", "User-Agent": f"aegis/{__version__}"}
        params: dict[str, str | int] = {"q": query, "count": count}
        async with httpx.AsyncClient(timeout=_SECONDS, follow_redirects=False, trust_env=False) as client:
            for attempt in range(_TIMES):
                try:
                    async with client.stream("GET", settings.search_url or "", params=params, headers=headers) as response:
                        body = await _body(response)
                except httpx.HTTPError as error:
                    text = f"the search service was not reached: {type(error).__name__}"
                    raise AegisError(ErrorKind.UNREACHABLE, text, "a person looks at `aegis config explain web.search_url`") from None
                if response.status_code != 429:
                    return _results(response.status_code, body)
                wait = _wait(attempt, response.headers.get("retry-after"))
                if attempt + 1 == _TIMES or wait is None:
                    break
                await self._clock.sleep(wait)
        raise AegisError(ErrorKind.LIMIT, "the search service wants fewer questions, and was asked several times", "try again later")

    async def _key(self, settings: WebDefinition, instance: str) -> str:
        if not settings.search_secret:
            text = "web.search has no key, so nothing was searched"
            raise AegisError(
                ErrorKind.UNAVAILABLE,
                text,
                "a person stores it with `aegis secret set NAME`, and writes `web: {search_secret: NAME}` into `config.yaml` of the home",
            )
        key = await self._reveal(settings.search_secret, instance, read_url(settings.search_url or "").place.host)
        if not key:
            text = f"the secret `{settings.search_secret}`, the key of web.search, is not stored, so nothing was searched"
            raise AegisError(ErrorKind.UNAVAILABLE, text, f"a person stores it: `aegis secret set {settings.search_secret}`")
        return key


async def _body(response: httpx.Response) -> bytes:
    found = bytearray()
    async for piece in response.aiter_bytes():
        found += piece
        if len(found) > _MAX:
            raise AegisError(ErrorKind.FAILED, f"the search service answers with more than {_MAX:,} bytes")
    return bytes(found)


def _results(status: int, body: bytes) -> list[Found]:
    if status in (401, 403):
        raise AegisError(
            ErrorKind.DENIED, "the search service refuses the key", "a person looks at the secret that `web.search_secret` names"
        )
    if status != 200:
        raise AegisError(ErrorKind.FAILED, f"the search service answers with {status}", "a person looks at `web.search_url`")
    try:
        answer = msgspec.json.decode(body, type=_Answer)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise AegisError(
            ErrorKind.FAILED, "what the search service answers is not a list of results", "a person looks at `web.search_url`"
        ) from None
    return [
        Found(_plain(one.title), one_line(one.url, 2000), _plain(one.description)) for one in (answer.web.results if answer.web else [])
    ]


def _plain(text: str) -> str:
    return one_line(html.unescape(_TAG.sub("", text[:4000])), 1000)


def _wait(attempt: int, asked: str | None) -> float | None:
    """Seconds until the next attempt; None when it asks for more than is waited."""
    if asked is not None and asked.strip().isdecimal():
        wanted = float(asked.strip()[:9])
        return wanted if wanted <= _LONGEST else None
    bound: float = min(_LONGEST, _FIRST * 2**attempt)
    return bound / 2 + random.uniform(0, bound / 2)


def shown(found: list[Found]) -> tuple[str, dict[str, Any]]:
    """The results for a model, and for programs."""
    lines = [f"{n}. {one.title}\n   {one.url}\n   {one.about}".rstrip() for n, one in enumerate(found, 1)]
    data = {"results": [{"title": one.title, "url": one.url, "description": one.about} for one in found]}
    return "\n".join(lines) or "(nothing was found)", data
