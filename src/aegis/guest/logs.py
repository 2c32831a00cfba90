"""The log channel: what captured programs write, as records, without ever blocking them.

At most `_KEEP` bytes of records wait for a slow reader; beyond that the oldest go, and a record `{t, dropped}` in their place
says how many. A line longer than `_LINE` comes in pieces.
"""

from __future__ import annotations

import time

from aegis.tether.frames import STDERR
from aegis.tether.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from aegis.tether.mux import Mux

_KEEP = 1024 * 1024
_LINE = 16 * 1024


class Log:
    """The one log of a guest; its channel is opened with the first record."""

    def __init__(self, mux: Mux) -> None:
        self._mux = mux
        self._records: list[bytes] = []
        self._first = 0  # records before this one are sent or dropped
        self._size = 0
        self._sending = memoryview(b"")  # the rest of a record that is partly sent
        self._dropped = 0
        self.channel: int | None = None
        self.refused = False  # the daemon closed the channel: records go nowhere

    def stream(self, source: str, number: int) -> Stream:
        """A place to write one stream of one program to; `source` says whose in the records."""
        return Stream(self, source, "stderr" if number == STDERR else "stdout")

    def add(self, source: str, stream: str, line: bytes) -> None:
        """Append one record."""
        if self.refused:
            return
        record = dumps({"t": round(time.time(), 6), "stream": stream, "text": line.decode("utf-8", "replace"), "source": source}) + b"\n"
        self._records.append(record)
        self._size += len(record)
        while self._size > _KEEP:
            self._take()
            self._dropped += 1
        self.flush()

    def flush(self) -> None:
        """Send what there is credit for."""
        if self.channel is None:
            if not self._records:
                return
            self.channel = self._mux.open({"kind": "log"})
        while True:
            if not self._sending:
                if self._dropped:
                    self._sending = memoryview(dumps({"t": round(time.time(), 6), "dropped": self._dropped}) + b"\n")
                    self._dropped = 0
                elif self._first < len(self._records):
                    self._sending = memoryview(self._take())
                else:
                    return
            sent = self._mux.send(self.channel, self._sending)
            self._sending = self._sending[sent:]
            if self._sending:
                return

    def refuse(self) -> None:
        """The daemon wants no log: forget what waits, and all that comes."""
        self.refused = True
        self._records.clear()
        self._first = self._size = self._dropped = 0
        self._sending = memoryview(b"")

    def _take(self) -> bytes:
        record = self._records[self._first]
        self._records[self._first] = b""
        self._first += 1
        self._size -= len(record)
        if self._first > 1024 or self._first == len(self._records):
            del self._records[: self._first]
            self._first = 0
        return record


class Stream:
    """Cuts one stream of one program into lines."""

    __slots__ = ("_log", "_name", "_rest", "_source")

    def __init__(self, log: Log, source: str, name: str) -> None:
        self._log = log
        self._source = source
        self._name = name
        self._rest = b""

    def write(self, data: bytes) -> None:
        """Take output as it was read."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            for at in range(0, len(line) or 1, _LINE):
                self._log.add(self._source, self._name, line[at : at + _LINE])
        while len(self._rest) > _LINE:
            self._log.add(self._source, self._name, self._rest[:_LINE])
            self._rest = self._rest[_LINE:]

    def end(self) -> None:
        """The stream has ended: what is left is a line too."""
        if self._rest:
            self._log.add(self._source, self._name, self._rest)
            self._rest = b""
