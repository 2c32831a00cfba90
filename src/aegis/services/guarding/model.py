"""The nouns: a file that acts, something that is held, what a look found."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

#: The states of something held. `holding` lasts from the record to the move.
STATES: Final = ("holding", "held", "released", "dropped")


class Item(msgspec.Struct, frozen=True):
    """A file or a link that acts, as it was at a look. `path` is relative to its place; `digest` is of its bytes, or of where it leads.

    `leads` is where a git configuration has its hooks. `sure` says that nothing changed it in the moment of the look.
    """

    path: str
    rule: str
    kind: str  # "file", "link", or "other" for what cannot be read: pipes, devices, giants
    mode: int
    uid: int
    gid: int
    size: int
    ino: int
    ctime: int
    digest: str
    leads: str = ""
    sure: bool = False

    def same(self, other: Item | None) -> bool:
        """Whether it does the same as `other`."""
        if other is None or (self.kind, self.digest) != (other.kind, other.digest):
            return False
        return self.kind == "link" or self.rule != "git hook" or self.mode & 0o111 == other.mode & 0o111


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was taken out of a workspace. Times are wall seconds, sizes bytes; `restored` says that what was there is back.

    `state` is `held`, `released`, `dropped`, or `holding` while it is under way.
    """

    id: str
    instance: str
    handle: str
    place: str
    path: str
    rule: str
    reason: str
    kind: str
    state: str
    size: int
    digest: str
    mode: int
    uid: int
    gid: int
    before: str
    restored: bool
    session: str | None
    turn: str | None
    held_at: float
    decided_at: float | None
    principal: str


class Look(NamedTuple):
    """What a look did: the ids of what it held, and the paths that it told of."""

    held: list[str]
    told: list[str]
