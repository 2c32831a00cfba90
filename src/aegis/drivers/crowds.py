"""Lines of JSON that are small to send and large to read.

A list of empty lists takes three bytes each on the line and twenty times that in memory, so a line within its bounds may hold all
of it. Every value but the first stands behind a comma or in a bracket, so these are counted before anything is decoded.
"""

from __future__ import annotations

import re
from typing import Final

#: The most values of one frame. Reading so many takes about a tenth of a second.
MOST_VALUES: Final = 250_000
#: Up to so many bytes it is worth to look whether what was counted stands in texts.
_LOOK: Final = 16 * 1024 * 1024
_TEXT: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.S)


def crowded(line: bytes) -> bool:
    """Whether a line holds more values than `MOST_VALUES`. Of a very long one also texts with so many commas count."""
    if len(line) <= MOST_VALUES or _marks(line) <= MOST_VALUES:
        return False
    return len(line) > _LOOK or _marks(_TEXT.sub(b"", line)) > MOST_VALUES


def _marks(line: bytes) -> int:
    return line.count(b",") + line.count(b"[") + line.count(b"{")
