"""The nouns: what a call touches, as rules see it; and what the gate said about it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from aegis.core.principals import Principal


class Verdict(StrEnum):
    """What the gate says. `ASK` means that a person is to say it."""

    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"


class Relation(StrEnum):
    """What one instance is to another that wants something of it."""

    SELF = "self"
    DESCENDANT = "descendant"  # spawned by it, or by one that it spawned
    ACQUAINTED = "acquainted"  # of the same project, or its ancestor
    STRANGER = "stranger"


class Facet(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that a call touches. A call is judged once for each of its facets, and all must allow it.

    `path` is absolute, normalised and as it is inside, symlinks resolved as far as they exist; `writes` says that the call may change it.
    `command` is the base name of a program, `subcommand` its first argument that is no option, `args` all arguments. `host` is in the
    form of DNS or an address, `method` and `url_path` are those of a request, where they are known.
    """

    path: str | None = None
    writes: bool = False
    command: str | None = None
    subcommand: str | None = None
    args: tuple[str, ...] = ()
    host: str | None = None
    port: int | None = None
    method: str | None = None
    url_path: str | None = None


class Effect(msgspec.Struct, frozen=True):
    """The exact call that is to be made.

    `digest` binds an answer to it: hex SHA-256 over tool, arguments and working directory. `size` is that of the arguments in bytes.
    `risk` says in a line what is dangerous about it, empty where nothing is known to be. `opaque`: what it touches cannot be told from
    its arguments, such as a command line that computes what it runs.
    """

    tool: str = ""
    facets: tuple[Facet, ...] = ()
    arguments: dict[str, Any] = {}
    cwd: str = ""
    digest: str = ""
    size: int = 0
    session: str | None = None
    risk: str = ""
    opaque: bool = False


class Held(msgspec.Struct, frozen=True):
    """A bound that one rule sets for one instance: so many calls in so many seconds, so many at a time."""

    rule: str
    instance: str
    rate: tuple[int, float] | None = None
    concurrent: int | None = None


class Obligations(msgspec.Struct, frozen=True):
    """What the rules that allow ask for besides. `rate` is so many calls in so many seconds; `max_result` is in bytes.

    Where several rules say something the least counts; `held` has each of them, for the gate that counts.
    """

    rate: tuple[int, float] | None = None
    concurrent: int | None = None
    max_result: int | None = None
    held: tuple[Held, ...] = ()


class Decision(msgspec.Struct, frozen=True):
    """What the gate said about one action on one resource, and why. `data` is context worth keeping, never a secret.

    `policies` are the ids of the rules that decided; `digest` is that of the exact call, where there is one; `hint` tells whoever was
    denied what would be allowed, or who can allow it. `ask` says that a person is asked, who has not answered yet; then `allow` is false.
    """

    principal: Principal
    action: str
    resource: str
    allow: bool
    reason: str
    data: dict[str, Any] = {}
    ask: bool = False
    policies: tuple[str, ...] = ()
    digest: str = ""
    obligations: Obligations = Obligations()
    hint: str = ""

    @property
    def verdict(self) -> Verdict:
        """The decision in a word."""
        return Verdict.ALLOW if self.allow else Verdict.ASK if self.ask else Verdict.DENY
