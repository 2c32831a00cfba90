"""Cedar text that nobody has vouched for yet, cut into rules with their places, before the engine sees any of it.

The engine's parser recurses, so a rule that is nested too deep would end the process: this pass bounds size, nesting and operators
first. It also finds what the engine cannot say: where a rule stands, what its annotations are, and which actions, agents and resources
it can be about at most.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final, NamedTuple

from aegis.core.errors import unknown_name
from aegis.services.config.document import Place

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_BYTES: Final = 1024 * 1024
MAX_RULE: Final = 64 * 1024
MAX_DEPTH: Final = 40
MAX_OPERATORS: Final = 256
ANNOTATIONS: Final = ("id", "ask", "reason", "rate", "concurrent", "max_result", "doc")

_TOKEN: Final = re.compile(
    r"(?P<space>[ \t\r\n]+|//[^\n]*)"
    r'|(?P<text>"(?:[^"\\\n]|\\[^\n])*")'
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<number>[0-9]{1,19})"
    r"|(?P<mark>==|!=|<=|>=|&&|\|\||::|[@(){}\[\],;.:<>!+*?-])"
)
_OPERATORS: Final = frozenset({"&&", "||", "+", "-", "*", ".", "!", "if", "in", "has", "like", "is", "==", "!=", "<", ">", "<=", ">="})
_ESCAPE: Final = re.compile(r"\\(?:u\{([0-9a-fA-F]{1,6})\}|x([0-9a-fA-F]{2})|(.))")
_PLAIN: Final = {"n": "\n", "r": "\r", "t": "\t", "0": "\0"}
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
#: What the other side of `==` is a name that Aegis itself only gives in ASCII.
_NAMED: Final = frozenset(
    {"handle", "agent", "permission", "approvals", "sandbox", "program", "server", "family", "relation", "method", "tool"}
)


class Token(NamedTuple):
    """A word, a text (with its quotes), a number or a mark, and where it begins."""

    kind: str
    text: str
    at: int


class Statement(NamedTuple):
    """One rule as it stands in a file.

    `actions` are the only ones that it can be about, None for all. `only` is one thing that must hold of the principal or the resource,
    such as `("agent", "coder")`, as far as that can be read from the head or from a condition that is always needed; None for all.
    `effect_at` is where the word `permit` or `forbid` begins in `text`. `words` are the names it mentions. `kind` is the one type of
    principal that its head is about, None for all. `short` are its conditions for a request of which the engine need not be asked whether
    it is of that kind, of one of the actions, and about `only`; None where its head holds it to more.
    """

    text: str
    place: Place
    effect: str
    effect_at: int
    annotations: dict[str, str]
    actions: tuple[str, ...] | None
    only: tuple[str, ...] | None
    words: frozenset[str]
    kind: str | None = None
    short: str | None = None


def statements(text: str, file: str, *, bounded: bool = True) -> list[Statement]:
    """The rules of a text, in order. Raises USAGE with `file:line:column` for what cannot be one.

    With `bounded` false there is no bound on operators and size: for what was made of something that is bounded itself.
    """
    lines = _Lines(text, file)
    found: list[Statement] = []
    open_: list[Token] = []
    depth = operators = 0
    for token in _tokens(text, lines):
        open_.append(token)
        if token.text in ("(", "[", "{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise lines.at(token.at).error(f"nested more than {MAX_DEPTH} deep", "write it as several rules")
        elif token.text in (")", "]", "}"):
            depth -= 1
            if depth < 0:
                raise lines.at(token.at).error(f"`{token.text}` closes nothing")
        elif token.text in _OPERATORS:
            operators += 1
            if bounded and operators > MAX_OPERATORS:
                raise lines.at(token.at).error(
                    f"more than {MAX_OPERATORS} operators in one rule", "use `[...].contains(...)`, or write it as several rules"
                )
        if token.text == ";" and not depth:
            if bounded and token.at - open_[0].at > MAX_RULE:
                raise lines.at(open_[0].at).error(f"a rule of more than {MAX_RULE:,} bytes", "write it as several rules")
            found.append(_statement(text, open_, lines))
            open_, operators = [], 0
    if open_:
        raise lines.at(open_[0].at).error("this rule does not end", "a rule ends with `;`")
    return found


class _Lines:
    """Turns offsets into places."""

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def at(self, offset: int) -> Place:
        from bisect import bisect_right

        line = bisect_right(self._starts, offset)
        return Place(self._file, line, offset - self._starts[line - 1] + 1)


def _tokens(text: str, lines: _Lines) -> list[Token]:
    found: list[Token] = []
    at = 0
    for match in _TOKEN.finditer(text):
        if match.start() != at:
            break
        at = match.end()
        kind = match.lastgroup or ""
        if kind == "space":
            if not match[0].isascii() or "\x00" in match[0]:
                _check_text(match[0].replace("\t", " ").replace("\r", " ").replace("\n", " "), lines.at(match.start()), "a comment")
            continue
        token = Token(kind, match[0], match.start())
        if kind == "text":
            _check_text(re.sub(r"[\n\r\t]", " ", value(token)), lines.at(token.at), "a text")
        found.append(token)
    if at != len(text):
        char = text[at]
        name = (
            f"`{char}`"
            if char.isprintable() and char.isascii()
            else f"the character U+{ord(char):04X} {unicodedata.name(char, '')}".rstrip()
        )
        if char == '"':
            raise lines.at(at).error("a text that does not end", 'close it with `"` on the same line')
        raise lines.at(at).error(f"{name} cannot stand here", "names are written in ASCII; what is text stands in quotes")
    return found


def _check_text(text: str, place: Place, what: str) -> None:
    """Refuse what is not seen as what it is: control characters, direction overrides, letters of several alphabets in one word."""
    if text.isascii() and text.isprintable():
        return
    for char in text:
        if unicodedata.category(char) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp"):
            raise place.error(f"{what} with the invisible character U+{ord(char):04X}", "remove it")
    for word in re.findall(r"[^\W\d_]+", text):
        scripts = {unicodedata.name(char, "?").split()[0] for char in word} & {"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"}
        if len(scripts) > 1:
            raise place.error(
                f"`{word}` mixes letters of {' and '.join(sorted(name.capitalize() for name in scripts))}",
                "one of them only looks like what it should be: type the word again",
            )


def value(token: Token) -> str:
    """What a text says, its escapes resolved."""

    def one(match: re.Match[str]) -> str:
        code = match[1] or match[2]
        if code:
            return chr(int(code, 16)) if int(code, 16) <= 0x10FFFF else "\ufffd"
        return _PLAIN.get(match[3], match[3])

    inner = token.text[1:-1]
    return _ESCAPE.sub(one, inner) if "\\" in inner else inner


def _statement(text: str, tokens: list[Token], lines: _Lines) -> Statement:
    place = lines.at(tokens[0].at)
    annotations, n = _annotations(tokens, lines)
    effect = tokens[n]
    if effect.text not in ("permit", "forbid"):
        near = unknown_name("word", effect.text, ("permit", "forbid"))
        raise lines.at(effect.at).error(f"`{effect.text[:40]}` where `permit` or `forbid` should stand", near.hint)
    if any(token.text == "?" for token in tokens):
        raise place.error("a template", "write the principal or resource that it is for")
    for before, operator, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if operator.text in ("==", "!=") and before.text in _NAMED and after.kind == "text" and not value(after).isascii():
            raise lines.at(after.at).error(f"{after.text} can never be the {before.text} of anything", "names are written in ASCII")
        if operator.text == "::" and after.kind == "text" and not (value(after).isascii() and value(after).isprintable()):
            raise lines.at(after.at).error(f"{after.text} cannot name anything", "names are printable ASCII, without line breaks")
    inside, end = _group(tokens, n + 1)
    scope = _split(inside, ",")
    actions = _actions(scope[1]) if len(scope) > 1 else None
    only, known = _only_head(scope), None
    if only is None or only[0] == "resource":
        found = _only_condition(tokens[end:])
        if found is not None:
            only, known = found
    begin = tokens[0].at
    who = [token.text for token in scope[0]]
    plain = len(who) == 1 or (len(who) == 3 and who[1] == "is") or (who[1:3] == ["==", "Instance"] and only is not None)
    return Statement(
        text=text[begin : tokens[-1].at + 1],
        place=place,
        effect=effect.text,
        effect_at=effect.at - begin,
        annotations=annotations,
        actions=actions,
        only=only,
        words=frozenset(token.text for token in tokens if token.kind == "word"),
        kind=who[2] if len(who) > 2 and who[1] in ("is", "==") else None,
        short=_short(text, tokens, end, known) if plain and len(scope) > 2 and len(scope[2]) == 1 else None,
    )


def _annotations(tokens: list[Token], lines: _Lines) -> tuple[dict[str, str], int]:
    """The annotations of a rule, and the index of the token after them."""
    found: dict[str, str] = {}
    n = 0
    while n + 1 < len(tokens) and tokens[n].text == "@":
        name = tokens[n + 1]
        if name.text not in ANNOTATIONS:
            near = unknown_name("annotation", name.text, ANNOTATIONS)
            raise lines.at(name.at).error(near.message, near.hint, nearest=near.data["nearest"])
        if [token.kind for token in tokens[n + 2 : n + 5]] != ["mark", "text", "mark"] or tokens[n + 2].text != "(":
            raise lines.at(name.at).error(f"`@{name.text}` without a text", f'write `@{name.text}("...")`')
        text = value(tokens[n + 3])
        if not text.strip():
            raise lines.at(name.at).error(f"`@{name.text}` with an empty text", f'write `@{name.text}("...")`')
        if name.text == "id" and not _ID.fullmatch(text):
            raise lines.at(name.at).error("this cannot name a rule", "use ASCII letters, digits, `.`, `_`, `/` and `-`, 100 at most")
        if name.text in found:
            raise lines.at(name.at).error(f"`@{name.text}` is there twice")
        found[name.text] = text
        n += 5
    return found, n


def _group(tokens: list[Token], n: int) -> tuple[list[Token], int]:
    """What stands in the brackets that open at `n`, and the index after them."""
    depth = 0
    for m in range(n, len(tokens)):
        if tokens[m].text in ("(", "[", "{"):
            depth += 1
        elif tokens[m].text in (")", "]", "}"):
            depth -= 1
            if not depth:
                return tokens[n + 1 : m], m + 1
    return [], len(tokens)


def _split(tokens: Sequence[Token], mark: str) -> list[list[Token]]:
    """Parts between marks that stand in no brackets."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
        if token.text == mark and not depth:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _actions(scope: list[Token]) -> tuple[str, ...] | None:
    """The actions of a head; None for all."""
    if len(scope) < 2:
        return None
    return tuple(
        value(name)
        for kind, mark, name in zip(scope, scope[1:], scope[2:], strict=False)
        if kind.text == "Action" and mark.text == "::" and name.kind == "text"
    )


def _only_head(scope: list[list[Token]]) -> tuple[str, ...] | None:
    for part in (scope[0], scope[2] if len(scope) > 2 else []):
        words = [token.text for token in part]
        if len(part) == 5 and words[1] == "==" and words[3] == "::" and part[4].kind == "text":
            if words[0] == "principal" and words[2] == "Instance":
                return ("handle", value(part[4]))
            if words[0] == "resource":
                return ("resource", words[2], value(part[4]))
    return None


def _short(text: str, tokens: list[Token], end: int, known: tuple[int, int] | None) -> str:
    """The conditions of a rule, that which is `known` to hold left out."""
    if end >= len(tokens):
        return ";"
    begin, last = tokens[end].at, tokens[-1].at + 1
    if known is None:
        return text[begin:last]
    return text[begin : known[0]] + "true" + text[known[1] : last]


def _only_condition(tokens: list[Token]) -> tuple[tuple[str, ...], tuple[int, int]] | None:
    """What a `when` always needs, a condition that holds together with all others; and where it stands."""
    n = 0
    while n < len(tokens) and tokens[n].kind == "word":
        inside, end = _group(tokens, n + 1)
        if tokens[n].text == "when" and len(_split(inside, "||")) == 1 and (not inside or inside[0].text != "if"):
            for part in _split(inside, "&&"):
                words = [token.text for token in part]
                if words[-2:-1] == ["=="] and part[-1].kind == "text" and len(part) == 5:
                    subject, text = words[:3], value(part[-1])
                elif words[1:2] == ["=="] and part[0].kind == "text" and len(part) == 5:
                    subject, text = words[2:], value(part[0])
                else:
                    continue
                if subject[:2] == ["principal", "."] and subject[2] in ("agent", "handle", "project"):
                    return (subject[2], text), (part[0].at, part[-1].at + len(part[-1].text))
        n = end
    return None
