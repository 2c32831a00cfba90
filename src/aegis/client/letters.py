"""Mailboxes, for a user's own Python: what became of messages, dead letters, many messages at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from aegis.client.transport import path_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aegis.client.aio import Http
    from aegis.client.shapes import Letter, Mail


class Letters:
    """The messages to all instances. An `ident` is an id, or at least four characters of the end of one."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def all(self, instance: str | None = None, *, dead: bool = False, limit: int = 100, before: int | None = None) -> list[Mail]:
        """The newest messages to an instance, or to all, oldest first. `dead`: those that failed or expired; `before`: a `seq`."""
        path = path_of("mail") if instance is None else path_of("instances", instance, "mail")
        query = {"dead": dead or None, "limit": limit, "before_seq": before}
        return cast("list[Mail]", await self._http.call("GET", path, query=query))

    async def get(self, ident: str) -> Mail:
        """One message with its whole text and its times."""
        return cast("Mail", await self._http.call("GET", path_of("mail", ident)))

    async def retry(self, ident: str, *, hold: bool = False) -> Mail:
        """Let a message that failed or expired wait again; with `hold` also for an instance that is disabled."""
        return cast("Mail", await self._http.call("POST", path_of("mail", ident, "retry"), {"hold": hold}))

    async def drop(self, ident: str) -> Mail:
        """End a message that waits. Raises CONFLICT for another."""
        return cast("Mail", await self._http.call("POST", path_of("mail", ident, "drop"), {}))

    async def send_all(self, letters: Sequence[Letter]) -> list[dict[str, Any]]:
        """Send many messages in one request: for each its receipt, or `error`, `kind` and `hint`; in the same order."""
        body = cast("Any", list(letters))  # the one body that is a list
        return cast("list[dict[str, Any]]", await self._http.call("POST", path_of("mail", "batch"), body))
