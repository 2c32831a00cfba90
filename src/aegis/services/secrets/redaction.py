"""The second net: values of secrets are replaced by `[secret NAME]` wherever something is put on record.

Found are a value as it is, in base64 (standard and for URLs, wherever in a longer text it begins, in lines too), URL-encoded, in
hexadecimal, and each of these inside JSON; of a value of several lines also each longer line. Only values of `SHORTEST` characters and
more, since shorter ones stand anywhere, and none of Aegis's own words. Not found: a value that was changed otherwise, or told in
several messages. What matters is that an agent never has a value that it need not have; this is for when it has one.
"""

from __future__ import annotations

import base64
import json
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, quote_plus

import msgspec

from aegis.core.events import FACTS

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The shortest value that is looked for, in characters, and the shortest single line of one of several.
SHORTEST: Final = 8
_LINE: Final = 16
#: At most so many characters of a text that is still being written wait for what follows.
_HELD: Final = 512
#: How often it is looked for as a text within JSON within JSON: a tool's output that is JSON, in an event, is there twice.
_DEPTH: Final = 4
#: How long the lines are in which programs write base64.
_COLUMNS: Final = (76, 64)


class _Net(NamedTuple):
    """What is looked for and what takes its place, the longest first; words of it, in bytes so long; the length of the shortest."""

    forms: tuple[tuple[bytes, bytes], ...]
    probes: frozenset[int]
    word: int
    shortest: int


class Redactor:
    """Knows values and takes them out of texts. May be called in any thread."""

    def __init__(self) -> None:
        self._net = _Net((), frozenset(), 8, 0)
        self._starts: frozenset[str] = frozenset()
        self._longest = 0

    def know(self, values: Iterable[tuple[str, str]]) -> None:
        """From now on look for exactly these values, each with the name of its secret."""
        found: dict[bytes, bytes] = {}
        starts: set[str] = set()
        for name, value in values:
            if len(value) >= SHORTEST and not any(value in word for word in _own_words()):
                mark = f"[secret {name}]".encode()
                for form in forms(value):
                    found.setdefault(form, mark)
                for text in (value, base64.b64encode(value.encode()).decode().rstrip("=")):
                    starts.update(text[:end] for end in range(1, min(len(text), _HELD)))
        shortest = min(map(len, found), default=0)
        word = 8 if shortest >= 15 else 4
        probes = frozenset(_probe(form, at, word) for form in found for at in range(word))
        self._starts, self._longest = frozenset(starts), max(map(len, starts), default=0)
        # In one: the thread that writes looks for the old ones or for the new ones, and never for nothing.
        self._net = _Net(tuple(sorted(found.items(), key=lambda item: len(item[0]), reverse=True)), probes, word, shortest)

    def clean(self, data: bytes) -> bytes:
        """A text or JSON in UTF-8, without the values."""
        found, probes, word, shortest = self._net
        if not found or len(data) < shortest:
            return data
        # A form covers a whole word of the text, wherever it begins: one look at each word, however many forms there are.
        if probes.isdisjoint(memoryview(data)[: len(data) - len(data) % word].cast("Q" if word == 8 else "I")):
            return data
        for form, mark in found:
            if form in data:
                data = data.replace(form, mark)
        return data

    def clean_text(self, text: str) -> str:
        """The same for a text."""
        if not self._net.forms:
            return text
        data = text.encode("utf-8", "surrogatepass")
        clean = self.clean(data)
        return text if clean is data else clean.decode("utf-8", "surrogatepass")

    def held(self, text: str) -> int:
        """How many characters at the end of a text may be the beginning of a value."""
        if self._starts:
            for count in range(min(len(text), self._longest), 0, -1):
                if text[-count:] in self._starts:
                    return count
        return 0


@cache
def _own_words() -> frozenset[str]:
    """The words by which Aegis reads its own records: one who chose such a word as a secret must not make them unreadable."""
    found = {"tool_result", "tool_call", "signature", "redacted", "will_continue", "assistant", "host:default"}
    waiting: list[Any] = [msgspec.inspect.type_info(fact) for fact in FACTS.values()]
    while waiting:
        match waiting.pop():
            case msgspec.inspect.StructType(fields=fields):
                found |= {field.encode_name for field in fields}
                waiting += [field.type for field in fields]
            case msgspec.inspect.UnionType(types=types):
                waiting += types
            case msgspec.inspect.ListType(item_type=kind) | msgspec.inspect.CollectionType(item_type=kind):
                waiting.append(kind)
            case msgspec.inspect.EnumType(cls=kinds):
                found |= {str(each.value) for each in kinds}
            case msgspec.inspect.LiteralType(values=values):
                found |= {str(each) for each in values}
    return frozenset(found)


def _probe(form: bytes, at: int, word: int) -> int:
    """A word of a form, as a view of words in memory reads it."""
    return int.from_bytes(form[at : at + word], sys.byteorder)


def forms(value: str) -> set[bytes]:
    """The forms in which a value is looked for."""
    raw = value.encode()
    plain = {raw, quote(value, safe="").encode(), quote(value).encode(), quote_plus(value).encode(), raw.hex().encode()}
    plain |= {text.lower() if text != raw and b"%" in text else text for text in plain}
    plain |= {line.encode() for line in value.splitlines() if len(line) >= _LINE} if "\n" in value else set()
    for shift in range(3):
        plain |= _inside(raw, shift)
    for columns in _COLUMNS:  # as `base64` writes it, in lines
        whole = base64.b64encode(raw).rstrip(b"=")
        if len(whole) > columns:
            plain.add(b"\n".join(whole[at : at + columns] for at in range(0, len(whole), columns)))
    if not value.isascii():
        plain.add(json.dumps(value)[1:-1].encode())
    found = set()
    for form in plain:
        for _ in range(_DEPTH):
            found.add(form)
            form = _in_json(form)
    return {form for form in found if len(form) >= SHORTEST}


def _inside(raw: bytes, shift: int) -> set[bytes]:
    """The characters of base64 that a value alone decides when it begins `shift` bytes after a multiple of three."""
    first = (0, 2, 3)[shift]
    last = 8 * (shift + len(raw)) // 6
    coded = base64.b64encode(b"\0" * shift + raw)[first:last]
    return {coded, coded.replace(b"+", b"-").replace(b"/", b"_")}


def _in_json(form: bytes) -> bytes:
    return msgspec.json.encode(form.decode())[1:-1]
