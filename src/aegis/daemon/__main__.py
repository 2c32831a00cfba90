"""The life of the daemon: `python -m aegis.daemon`.

It takes the home, says over `--ready-fd` that it is ready or why not (one JSON line), serves until SIGTERM, SIGINT or a request to
stop, and ends its sandboxes. Whatever it had accepted is on disk at any instant, so SIGKILL is as good as any other end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import resource
import secrets
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.agents.world import BALLAST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from aegis.daemon.wiring import House

SOCKET: Final = "aegisd.sock"
#: The longest path a unix socket can have, in bytes, without the closing NUL.
MAX_SOCKET_PATH: Final = 107
#: Space kept for what must be written when the disk is full, in bytes.
BALLAST_BYTES: Final = 1024 * 1024
#: How long a request that is being answered when the daemon ends may still take, in seconds.
LAST_REQUESTS: Final = 0.5
_logger = logging.getLogger("aegis")


def main(argv: list[str] | None = None) -> int:
    """Run the daemon until it is told to stop. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="aegis.daemon", description="The Aegis daemon. Use `aegis up` or `aegis serve` to start it.")
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("AEGIS_HOME") or Path.home() / ".aegis"))
    parser.add_argument(
        "--listen", action="append", default=[], metavar="HOST:PORT", help="serve TCP here too, with the bearer token in HOME/token"
    )
    parser.add_argument("--clean", action="store_true", help="put every instance aside: nothing is set going, nothing is deleted")
    parser.add_argument("--ready-fd", type=int, help="tell the outcome of the start on this descriptor")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.umask(0o077)
    # Keys are in this process's memory. 1 and not 0: with 0 the kernel still feeds a core to the host's crash handler.
    with contextlib.suppress(ValueError, OSError):  # it is 0 for good already
        resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    try:
        with _uvloop():
            asyncio.run(_live(options.home, options.listen, options.ready_fd, clean=options.clean))
    except AegisError as error:
        _tell(options.ready_fd, error.to_dict())
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)  # noqa: T201 - the one face a daemon has
        return error.exit_code
    return 0


async def _live(home: Path, listens: list[str], ready: int | None, *, clean: bool) -> None:
    from aegis.core import faults
    from aegis.core.clock import SystemClock
    from aegis.daemon.wiring import build
    from aegis.sandboxes.bundle import build as build_bundle

    _prepare_home(home)
    faults.arm_from_environment()
    house = await build(home, SystemClock())
    for handler in logging.getLogger().handlers:
        handler.setFormatter(Cleaned(handler.formatter, house.secrets.redactor.clean_text))
    try:
        with _unix_socket(home / SOCKET) as unix, contextlib.ExitStack() as stack:
            tcp = [stack.enter_context(_tcp_socket(listen)) for listen in listens]
            house.listens = [f"{s.getsockname()[0]}:{s.getsockname()[1]}" for s in tcp]
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, house.stop.set)
            await house.agents.open(clean=clean)
            works = [asyncio.create_task(house.timers.run()), asyncio.create_task(house.attention.run())]
            bundle = asyncio.create_task(asyncio.to_thread(build_bundle, home))  # so that the first spawn finds it
            try:
                await _serve(house, [unix, *tcp], _token(home) if tcp else None, ready)
            finally:
                for work in works:
                    work.cancel()
                await asyncio.gather(bundle, *works, return_exceptions=True)  # a spawn that needs it says what is wrong
    finally:
        await house.close()
    _logger.info("ended")


async def _serve(house: House, sockets: list[socket.socket], token: str | None, ready: int | None) -> None:
    import uvicorn

    from aegis.daemon.http import make_app
    from aegis.daemon.http.door import PeerProtocol

    app = Cuttable(make_app(house, token, house.listens))
    config = uvicorn.Config(
        app,
        http=PeerProtocol,
        ws=_socket,  # type: ignore[arg-type]  # a factory in place of the class
        ws_max_size=64 * 1024,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=4096,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # the daemon has its own handlers
    serving = asyncio.create_task(server.serve(sockets))
    stop = asyncio.create_task(house.stop.wait())
    while not server.started and not serving.done():  # noqa: ASYNC110
        await asyncio.sleep(0)  # uvicorn has no event for this; its start is a few turns of the loop
    _tell(ready, {"ok": True, "pid": os.getpid()})
    _logger.info("ready on %s", ", ".join([str(house.home / SOCKET), *house.listens]))
    await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await asyncio.wait({serving}, timeout=LAST_REQUESTS)
    app.cut()
    await serving
    stop.cancel()


def _socket(**options: object) -> asyncio.Protocol:
    """The protocol of a WebSocket; what it needs is imported with the first."""
    from aegis.daemon.http.sockets import PeerSocket

    return PeerSocket(**options)  # type: ignore[arg-type]


class Cleaned(logging.Formatter):
    """Lines of the log as another formatter makes them, tracebacks included, without what is known to be secret."""

    def __init__(self, inner: logging.Formatter | None, clean: Callable[[str], str]) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()
        self._clean = clean

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        return self._clean(self._inner.format(record))


class Cuttable:
    """An ASGI application whose requests can be ended: what follows the log for ever must not keep the daemon from ending."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._running: set[asyncio.Task[object]] = set()

    def cut(self) -> None:
        """End every request: an answer that has begun is over, one that has not says why."""
        for task in self._running:
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        from aegis.daemon.http.answers import error_response

        task = asyncio.current_task()
        assert task is not None
        sent = ""

        async def watched(message: Message) -> None:
            nonlocal sent
            sent = message["type"] if message.get("more_body", True) else "end"
            await send(message)

        self._running.add(task)
        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if scope["type"] == "websocket":  # the server has closed it
                return
            if not sent:
                error = AegisError(ErrorKind.UNAVAILABLE, "the daemon ended before it was done", "`aegis up` starts it again")
                await error_response(error)(scope, receive, send)
            elif sent != "end":
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._running.discard(task)


def _prepare_home(home: Path) -> None:
    path = home / SOCKET
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise AegisError(
            ErrorKind.USAGE,
            f"the socket path {path} has {size} bytes, the system allows {MAX_SOCKET_PATH}",
            "set AEGIS_HOME to a shorter path",
        )
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = home.stat()
    except OSError as error:
        raise AegisError(
            ErrorKind.UNAVAILABLE, f"the home {home} cannot be made: {error.strerror}", "set AEGIS_HOME to a folder of your own"
        ) from error
    if status.st_uid != os.geteuid():
        raise AegisError(ErrorKind.DENIED, f"the home {home} belongs to uid {status.st_uid}", "set AEGIS_HOME to a folder of your own")
    if status.st_mode & 0o077:
        raise AegisError(ErrorKind.DENIED, f"the home {home} is open to others (mode {status.st_mode & 0o777:o})", f"chmod 700 {home}")
    if not os.access(home, os.W_OK):
        raise AegisError(ErrorKind.UNAVAILABLE, f"the home {home} is not writable", "set AEGIS_HOME to a folder of your own")
    with contextlib.suppress(OSError), open(home / BALLAST, "wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, BALLAST_BYTES)


@contextlib.contextmanager
def _unix_socket(path: Path) -> Iterator[socket.socket]:
    """The listening socket, 0600; a stale one is replaced, which is safe because the store's lock is held."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(4096)
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


@contextlib.contextmanager
def _tcp_socket(listen: str) -> Iterator[socket.socket]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise AegisError(ErrorKind.USAGE, f"{listen!r} is not an address to listen on", "write HOST:PORT, for example 127.0.0.1:7700")
    host = host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, int(port)))
        except OSError as error:
            raise AegisError(ErrorKind.UNAVAILABLE, f"cannot listen on {listen}: {error.strerror}", "choose another port") from error
        listener.listen(4096)
        yield listener


def _token(home: Path) -> str:
    """The bearer token for TCP, made when first needed; 0600."""
    path = home / "token"
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    return path.read_text().strip()


def _tell(descriptor: int | None, outcome: dict[str, object]) -> None:
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(descriptor, json.dumps(outcome).encode() + b"\n")
            os.close(descriptor)


@contextlib.contextmanager
def _uvloop() -> Iterator[None]:
    import uvloop

    previous = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(previous)


if __name__ == "__main__":
    sys.exit(main())
