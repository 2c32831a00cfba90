"""Identifiers and handles.

An id is a prefix that says what it names, the creation time in milliseconds and 60 random bits, in Crockford base 32:
ids of one kind sort by time. A handle is what a person types: ASCII, no path or shell meaning, unique among the living.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import Final

from aegis.core.errors import AegisError, ErrorKind

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_HANDLE: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}")
#: Names that mean something else wherever a sender or a handle is shown.
RESERVED_HANDLES: Final = frozenset({"aegis", "all", "daemon", "host", "me", "none", "owner", "queue", "self", "substrate", "system"})

_ADJECTIVES: Final = (
    "amber bold brisk calm civil clear deft eager fair fleet fond frank gentle glad grand keen kind lively lucid merry mild "
    "neat nimble noble patient plain polite proud quick quiet rapid sage sharp shrewd sober spry steady still stout swift "
    "tidy trim true vivid warm wise witty wry zesty"
).split()
_NAMES: Final = (
    "abel bohr boole cantor church curie darwin dirac euler faraday fermat fermi galois gauss gibbs goedel hamming hilbert "
    "hopper huygens kepler knuth kovalevskaya lamarr laplace leibniz liskov lovelace maxwell meitner mendel minsky nash "
    "newton noether pascal pauli perlman planck raman ride shannon somerville tesla thompson turing volta wiles wirth wu"
).split()


def new_id(prefix: str) -> str:
    """A fresh identifier such as `inst_01jd...`; see the module for its make-up."""
    value = (time.time_ns() // 1_000_000) << 60 | secrets.randbits(60)
    out = []
    for _ in range(21):
        out.append(_ALPHABET[value & 31])
        value >>= 5
    return f"{prefix}_{''.join(reversed(out))}"


def check_handle(handle: str) -> str:
    """Return `handle` if it may name an instance, else raise a usage error that says why not."""
    if not _HANDLE.fullmatch(handle):
        raise AegisError(
            ErrorKind.USAGE,
            f"{handle!r} cannot be a handle",
            "use 1 to 63 ASCII letters, digits, `.`, `_` or `-`, beginning with a letter or digit",
        )
    if handle.lower() in RESERVED_HANDLES:
        raise AegisError(ErrorKind.USAGE, f"the handle `{handle}` is reserved", "choose another name")
    return handle


def new_handle(taken: set[str]) -> str:
    """A random readable handle such as `lucid-knuth` that is not in `taken`."""
    for _ in range(64):
        handle = f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NAMES)}"
        if handle not in taken:
            return handle
    return f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NAMES)}-{secrets.token_hex(3)}"
