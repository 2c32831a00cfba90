"""From a name to a connection: resolved once, by the daemon, and connected to what was looked at."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aegis.services.egress.addresses import Address

    Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

#: Seconds after which the next address is tried beside one that does not answer.
_STAGGER: Final = 0.3
_RESOLVERS: Final = 8
#: So many addresses of a name are tried.
_MOST: Final = 6


class Unreachable(Exception):
    """The name has no address, or nobody answers there; the text says which."""


class Resolver:
    """The system's resolver, in threads of its own: the one that takes longest must not hold up the rest of the daemon."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="resolve")

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of a name. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        return [str(address[0]) for *_, address in found]

    def close(self) -> None:
        """Take no more questions; those under way are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


async def lookup(resolve: Resolve, host: str, port: int, timeout: float) -> list[Address]:
    """Every address of a name, each once, the families in turn. Raises Unreachable."""
    try:
        async with asyncio.timeout(timeout):
            texts = await resolve(host, port)
        found = list(dict.fromkeys(ip_address(text.partition("%")[0]) for text in texts))
    except TimeoutError:
        raise Unreachable(f"the name {host} was not resolved within {timeout:g} s") from None
    except (OSError, ValueError) as error:
        raise Unreachable(f"the name {host} has no address: {_said(error)}") from None
    if not found:
        raise Unreachable(f"the name {host} has no address")
    families: tuple[list[Address], list[Address]] = ([], [])
    for address in found:
        families[address.version != found[0].version].append(address)
    return [address for pair in zip_longest(*families) for address in pair if address is not None]


async def connect(addresses: Sequence[Address], port: int, timeout: float) -> socket.socket:
    """A connected socket to the first of `addresses` that answers. Raises Unreachable."""
    waiting = list(addresses[:_MOST])
    trying: set[asyncio.Task[socket.socket]] = set()
    problem = f"nobody answered within {timeout:g} s"
    try:
        async with asyncio.timeout(timeout):
            while waiting or trying:
                if waiting:
                    trying.add(asyncio.create_task(_connect(waiting.pop(0), port)))
                done, trying = await asyncio.wait(trying, timeout=_STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED)
                won: socket.socket | None = None
                for task in done:
                    error = task.exception()
                    if error is not None:
                        problem = _said(error)
                    elif won is None:
                        won = task.result()
                    else:
                        task.result().close()
                if won is not None:
                    return won
    except TimeoutError:
        pass
    finally:
        for task in trying:
            task.cancel()
            task.add_done_callback(_discard)
    raise Unreachable(problem)


async def _connect(address: Address, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def _discard(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        return os.strerror(error.errno).lower()
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
