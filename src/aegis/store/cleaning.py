"""What may not be kept: the port through which every event passes before it has a number. The store knows no secret; who does, sets it."""

from __future__ import annotations

from typing import Protocol


class Cleaner(Protocol):
    """Takes out what may not be kept. Called in the writer's thread and in that of the event loop; fast, and never raises."""

    def clean(self, data: bytes) -> bytes:
        """`data`, a text or JSON in UTF-8, without it."""
        ...

    def held(self, text: str) -> int:
        """How many characters at the end of a text may be the beginning of it: more text tells."""
        ...


class Nothing:
    """Everything may be kept."""

    def clean(self, data: bytes) -> bytes:
        """See `Cleaner`."""
        return data

    def held(self, text: str) -> int:
        """See `Cleaner`."""
        return 0
