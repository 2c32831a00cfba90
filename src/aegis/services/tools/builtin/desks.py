"""Desks: the program in a sandbox that works on files (`aegis.guest.desk`), kept between calls.

A call takes one for itself and gives it back; when all are taken another one starts, in a few milliseconds. A call that is cancelled
or takes too long ends the program that it had. What a desk says is said by a sandbox: it is bounded and read strictly, and believed no
further than that sandbox itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import posixpath
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from aegis.sandboxes.link import Link, Program
    from aegis.services.agents.model import Instance

    Holding = Callable[[Instance], AbstractAsyncContextManager[Link]]

_MODULE: Final = "aegis.guest.desk"
#: So many that nobody uses are kept for one sandbox.
_KEPT: Final = 2
#: What an answer may have beyond the text that was asked for, in bytes: its data, and the escapes of its JSON.
_ROOM: Final = 1024 * 1024
#: Seconds that one operation may take; a regular expression may take for ever.
SECONDS: Final = 30.0


class Answer(msgspec.Struct, frozen=True):
    """What a desk said."""

    text: str = ""
    data: dict[str, Any] = {}
    error: str = ""
    kind: str = ""
    link: str = ""  # a symbolic link that was met
    target: str = ""  # what it says


class _Idle(Exception):
    """The program had ended before it read the request, because nobody had asked for long."""


class _Desk:
    """One running program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._received = bytearray()

    async def ask(self, request: bytes, most: int) -> bytes:
        """The answer. Raises _Idle, and AegisError when it ends or says what is no answer."""
        program = self._program
        try:
            await program.write(len(request).to_bytes(4, "big") + request)
        except AegisError as error:
            if error.kind is not ErrorKind.CONFLICT:
                raise
            raise _Idle from None
        size = int.from_bytes(await self._take(4), "big")
        if size > most:
            raise AegisError(ErrorKind.FAILED, f"the sandbox answers with {size} bytes, more than it was asked for")
        return await self._take(size)

    async def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            piece = await self._program.read()
            if piece is None:
                if not self._received and self._program.channel.result == {"exit": 0}:
                    raise _Idle
                text = "what works on files in the sandbox ended without an answer"
                raise AegisError(ErrorKind.FAILED, text, "call it again; something inside may have ended it")
            if piece[0] == 1:
                self._received += piece[1]
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    @property
    def ended(self) -> bool:
        return self._program.channel.result is not None

    async def close(self) -> None:
        await self._program.channel.close()


class Desks:
    """Those of all sandboxes. `holding` gives the tether of an instance, awake and kept so."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._free: WeakKeyDictionary[Link, list[_Desk]] = WeakKeyDictionary()

    def holding(self, instance: Instance) -> AbstractAsyncContextManager[Link]:
        """The tether of an instance, awake and kept so."""
        return self._holding(instance)

    async def ask(self, instance: Instance, request: dict[str, Any], *, limit: int, seconds: float = SECONDS) -> Answer:
        """Have one operation done in the sandbox. Raises AegisError: TIMEOUT, FAILED, and what waking it raises."""
        data = json.dumps(request | {"limit": limit}, separators=(",", ":")).encode()
        async with self._holding(instance) as link:
            while True:
                free = self._free.setdefault(link, [])
                while free and free[-1].ended:
                    free.pop()
                kept = bool(free)
                desk = free.pop() if free else _Desk(await link.run_module(_MODULE))
                try:
                    async with asyncio.timeout(seconds):
                        answer = await desk.ask(data, 6 * limit + _ROOM)
                except _Idle:
                    if kept:
                        continue
                    raise AegisError(ErrorKind.UNAVAILABLE, "nothing in the sandbox works on files", "see `aegis logs`") from None
                except TimeoutError:
                    await _close(desk)
                    text = f"it took more than {seconds:g} s, and was ended"
                    raise AegisError(ErrorKind.TIMEOUT, text, "ask for less: a part of the tree, or a simpler pattern") from None
                except BaseException:
                    await _close(desk)
                    raise
                if len(free) < _KEPT:
                    free.append(desk)
                else:
                    await _close(desk)
                return _read(answer)


async def _close(desk: _Desk) -> None:
    with contextlib.suppress(AegisError):
        await desk.close()


def _read(data: bytes) -> Answer:
    try:
        return msgspec.json.decode(data, type=Answer)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise AegisError(ErrorKind.FAILED, "what the sandbox answers cannot be read", "call it again") from None


def refusal(answer: Answer) -> AegisError:
    """What an answer that is an error means to the caller, who can name what a link leads to, and is then judged by that."""
    text = one_line(answer.error, 2000) if "\n" not in answer.error else answer.error[:8000]
    if answer.kind == "link":
        to = posixpath.normpath(posixpath.join("/", answer.link.rpartition("/")[0], answer.target)).lstrip("/")
        inside = not posixpath.isabs(answer.target) and not _rises(answer.link, answer.target)
        hint = f"it leads to `{one_line(to, 200)}`: name that" if inside else "name what it leads to, if that is in the workspace"
        return AegisError(ErrorKind.DENIED, f"{text} to `{one_line(answer.target, 200)}`, and links are not followed", hint)
    try:
        return AegisError(ErrorKind(answer.kind), text)
    except ValueError:
        return AegisError(ErrorKind.FAILED, text)


def _rises(link: str, target: str) -> bool:
    """Whether what a link says leads above the workspace."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(link) or ".", target)).startswith("..")
