"""Waiting for descriptors and deadlines, in one thread. `asyncio` does more, for 60 ms and 9 MB."""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


class Timer:
    """A deadline that has not passed; give it to `Loop.cancel` to forget it."""

    __slots__ = ("call", "due")

    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call = call


class Loop:
    """Calls what was registered when its descriptor is ready or its time has come. Level-triggered."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, tuple[int, Callable[[], None]]] = {}
        self._timers: list[Timer] = []

    def watch(self, fd: int, events: int, call: Callable[[], None]) -> None:
        """Call `call` while `fd` is ready for `events` (READ, WRITE or both), or has failed; replaces what was there."""
        old = self._calls.get(fd)
        if old is None:
            self._epoll.register(fd, events)
        elif old[0] != events:
            self._epoll.modify(fd, events)
        self._calls[fd] = (events, call)

    def forget(self, fd: int) -> None:
        """Stop watching `fd`; to be called before it is closed. Idempotent."""
        if self._calls.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call `call` once, in `seconds`."""
        timer = Timer(time.monotonic() + seconds, call)
        self._timers.append(timer)
        return timer

    def cancel(self, timer: Timer | None) -> None:
        """Forget a deadline; nothing happens when it has passed."""
        if timer in self._timers:
            self._timers.remove(timer)

    def turn(self) -> None:
        """Wait until something is ready or due, and make the calls."""
        timeout = -1.0
        if self._timers:
            timeout = max(0.0, min(timer.due for timer in self._timers) - time.monotonic())
        for fd, _ in self._epoll.poll(timeout, 64):
            entry = self._calls.get(fd)  # an earlier call may have forgotten it
            if entry is not None:
                entry[1]()
        if self._timers:
            now = time.monotonic()
            for timer in [timer for timer in self._timers if timer.due <= now]:
                if timer in self._timers:
                    self._timers.remove(timer)
                    timer.call()
