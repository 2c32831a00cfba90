"""`web`: pages through the caller's own way out, and a search service."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.services.gate.calls import effect_of
from aegis.services.gate.model import Facet
from aegis.services.tools import Definition
from aegis.services.tools.builtin.arguments import Arguments, may_use, needed, place_of, read, schema_of
from aegis.services.tools.builtin.desks import refusal
from aegis.services.tools.builtin.output import cut, said
from aegis.services.tools.builtin.searching import Search, shown
from aegis.services.tools.builtin.urls import Address, read_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aegis.services.agents.model import Instance
    from aegis.services.gate import Effect
    from aegis.services.tools import Result, ToolCaller
    from aegis.services.tools.builtin.desks import Desks
    from aegis.services.tools.builtin.fetching import Page, Way

    #: Judges a further call that follows from one which was agreed to, and records it. Raises AegisError(DENIED).
    Judge = Callable[[ToolCaller, Effect], Awaitable[None]]

#: Seconds that a page may take unless another time is given, and at most; seconds that making it readable may take.
_SECONDS: Final = 30.0
_MOST_SECONDS: Final = 120.0
_READING: Final = 10.0
#: A page that leads elsewhere is followed so often.
_HOPS: Final = 5
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
_TEXTS: Final = frozenset({"application/json", "application/xml", "application/javascript", "application/yaml", "application/toml", ""})
#: The longest page that is made readable, in bytes, and the most text of one that is given.
_MAX_HTML: Final = 2 * 1024 * 1024
_MOST: Final = 256 * 1024


class Fetch(Arguments, frozen=True):
    """A page."""

    url: Annotated[str, msgspec.Meta(description="An http or https address.")]
    to_markdown: Annotated[bool, msgspec.Meta(description="Give a page of HTML as readable Markdown; true unless given.")] = True
    follow_redirects: Annotated[bool, msgspec.Meta(description="Go where the page has moved to; true unless given.")] = True
    timeout: Annotated[float, msgspec.Meta(gt=0, le=_MOST_SECONDS, description="Seconds for all of it; 30 unless given.")] = _SECONDS


class Find(Arguments, frozen=True):
    """What to look for."""

    query: Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
    count: Annotated[int, msgspec.Meta(ge=1, le=20, description="Results to give; 10 unless given.")] = 10


_DEFINITIONS: Final = (
    Definition(
        name="fetch",
        description="Fetch a page of the web, where your egress rules lead to it, as readable Markdown.",
        schema=schema_of(Fetch),
        kind="fetch",
        changes=False,
    ),
    Definition(name="search", description="Search the web.", schema=schema_of(Find), kind="fetch", changes=False),
)


class Web:
    """The source `web`."""

    name: str = "web"

    def __init__(self, desks: Desks, way: Way, search: Search, judge: Judge) -> None:
        self._desks = desks
        self._way = way
        self._search = search
        self._judge = judge

    async def tools(self, caller: ToolCaller) -> Sequence[Definition]:
        """Both, for who has them."""
        return _DEFINITIONS if may_use(caller, self.name) else ()

    def effect(self, caller: ToolCaller, name: str, arguments: dict[str, Any]) -> Effect:
        """The exact call. Raises AegisError: NOT_FOUND, USAGE, DENIED."""
        instance, given = _parsed(caller, name, arguments)
        if isinstance(given, Fetch):
            return _effect(caller, instance, read_url(given.url), arguments)
        effect = effect_of("web.search", "think", arguments, cwd=place_of(instance), workspace=place_of(instance), session=caller.session)
        try:
            place = read_url(self._search.url).place
        except AegisError:
            return effect
        return msgspec.structs.replace(effect, facets=(Facet(host=place.host, port=place.port, method="GET"),))

    async def call(self, caller: ToolCaller, name: str, arguments: dict[str, Any], *, limit: int) -> Result:
        """Do it. Raises AegisError."""
        instance, given = _parsed(caller, name, arguments)
        if isinstance(given, Find):
            text, data = shown(await self._search.find(given.query, given.count, instance.id))
            return said(cut(text, limit)[0], data)
        try:
            async with asyncio.timeout(given.timeout):
                page, moved = await self._follow(caller, instance, given)
                return await self._shown(instance, page, given, moved, limit)
        except TimeoutError:
            text = f"{one_line(given.url, 200)} took more than {given.timeout:g} s"
            raise AegisError(ErrorKind.TIMEOUT, text, "give it more time with `timeout`, or fetch another page") from None

    async def _follow(self, caller: ToolCaller, instance: Instance, given: Fetch) -> tuple[Page, int]:
        """The page, and how often it had moved. Each place that it leads to is judged as if it had been asked for."""
        address = read_url(given.url)
        for moved in range(_HOPS + 1):
            page = await self._way.get(instance, address)
            to = page.headers.get("location", "")
            if page.status not in _MOVED or not to or not given.follow_redirects:
                return page, moved
            address = _next(page.address, to)
            if moved < _HOPS:
                await self._judge(caller, _effect(caller, instance, address, {"url": str(address)}))
        raise AegisError(ErrorKind.FAILED, f"{one_line(given.url, 200)} leads from page to page, more than {_HOPS} times")

    async def _shown(self, instance: Instance, page: Page, given: Fetch, moved: int, limit: int) -> Result:
        limit = max(1024, min(limit, _MOST))
        data: dict[str, Any] = {"url": str(page.address), "status": page.status, "content_type": page.kind, "moved": moved}
        if page.status in _MOVED and not given.follow_redirects:
            data["location"] = one_line(page.headers.get("location", ""), 2000)
        if page.kind in _PAGES and given.to_markdown:
            html, short = cut(page.text(), _MAX_HTML)
            request = {"op": "markdown", "path": [], "html": html, "url": str(page.address)}
            answer = await self._desks.ask(instance, request, limit=limit, seconds=_READING)
            if answer.error:
                raise refusal(answer)
            text, less = answer.text, bool(answer.data.get("truncated")) or short
            data["title"] = one_line(str(answer.data.get("title", "")), 300)
        elif page.kind.startswith("text/") or page.kind in _TEXTS | _PAGES or page.kind.endswith(("+json", "+xml")):
            text, less = cut(page.text(), limit)
        else:
            text, less = f"({page.kind}, {len(page.body)} bytes: not shown)", False
        data["truncated"] = less or page.cut
        head = f"[{page.status} {page.address}{' — moved' if moved else ''}]\n\n"
        tail = "\n[there was more, which was left out]" if data["truncated"] else ""
        return said(f"{head}{text}{tail}", data, failed=page.status >= 400)


def _next(here: Address, to: str) -> Address:
    """Where a page leads, as a header says it: in the bytes of a URL, or of text."""
    try:
        to = to.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        pass
    address = read_url(to, here)
    if here.scheme == "https" and address.scheme == "http":
        text = f"{here.place} leads from https to http, to {address.place}, and is not followed there"
        raise AegisError(ErrorKind.DENIED, text, "fetch that address itself, if it is what you want")
    return address


def _effect(caller: ToolCaller, instance: Instance, address: Address, arguments: dict[str, Any]) -> Effect:
    place = place_of(instance)
    return effect_of("web.fetch", "fetch", {**arguments, "url": str(address)}, cwd=place, workspace=place, session=caller.session)


def _parsed(caller: ToolCaller, name: str, arguments: dict[str, Any]) -> tuple[Instance, Fetch | Find]:
    kinds: dict[str, type[Fetch | Find]] = {"fetch": Fetch, "search": Find}
    if name not in kinds:
        raise AegisError(ErrorKind.NOT_FOUND, f"there is no tool `web.{one_line(name, 80)}`", "there are web.fetch and web.search")
    return needed(caller, f"web.{name}"), read(kinds[name], f"web.{name}", arguments)
