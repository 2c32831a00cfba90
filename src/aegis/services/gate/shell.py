"""Command lines as a shell reads them: every command of a line, what is computed marked as such. Nothing is run or looked up.

The reader errs to one side. What it does not understand (a function, `case`, an array) makes the line one that is not `told`; a word
whose text a shell would compute (a variable, a substitution, braces, `~`) is not `literal`, and holds its source instead. Commands in
substitutions and here-documents are commands of the line like any other.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["WORDS_BEFORE", "Command", "Line", "Redirect", "Word", "read"]

#: A longer line is not read at all, nor one nested deeper.
MAX_TEXT: Final = 256 * 1024
MAX_DEPTH: Final = 24

#: Words before a command that are no part of it, and those that end what such a word began.
WORDS_BEFORE: Final = frozenset({"if", "then", "else", "elif", "do", "while", "until", "!", "{", "coproc"})
_AFTER: Final = frozenset({"fi", "done", "esac", "}"})
_HEADS: Final = frozenset({"for", "select"})
_UNREAD: Final = frozenset({"case", "function", "[["})
_BRACES: Final = re.compile(r"\{[^\s{}]*(?:,|\.\.)[^\s]*\}")
_ARITHMETIC: Final = re.compile(r"[\s(]*\$?\w+(?:[\s)]*[-+*/%<>=!&|^?:,]{1,3}[\s(]*\$?\w+)*[\s)]*")
_ASSIGNED: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\+?=")
_REDIRECT: Final = re.compile(r"(?:[0-9]*|&)(?:>>|>\||>&|>|<>|<&|<)")
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|([0-7]{1,3})|c.|(.))", re.DOTALL)
_NAMED: Final = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "v": "\v"}


class Word(NamedTuple):
    """A word of a command. `glob`: it holds an unquoted pattern, which stands for names that nobody knows here."""

    text: str
    literal: bool = True
    glob: bool = False
    bare: bool = True  # nothing of it is quoted


class Redirect(NamedTuple):
    """Where input comes from or output goes to."""

    writes: bool
    target: Word


class Command(NamedTuple):
    """A simple command. `level` counts the shells around it; `sure`: what comes next runs only when this one succeeded."""

    words: tuple[Word, ...]
    assigned: tuple[tuple[str, Word], ...]
    redirects: tuple[Redirect, ...]
    level: int
    fed: bool  # a here-document, a here-string or a pipe is its input
    sure: bool = False


class Line(NamedTuple):
    """The commands of a line, in the order in which they stand there."""

    commands: tuple[Command, ...]
    told: bool


def read(text: str) -> Line:
    """Read a line or a script of a POSIX shell or bash."""
    if len(text) > MAX_TEXT:
        return Line((), told=False)
    reader = _Reader(text)
    reader.commands_until("")
    return Line(tuple(reader.found), reader.told)


class _Open:
    """A command that is being read."""

    def __init__(self, fed: bool) -> None:
        self.words: list[Word] = []
        self.assigned: list[tuple[str, Word]] = []
        self.redirects: list[Redirect] = []
        self.fed = fed
        self.head = False  # the words of `for`, which run nothing


class _Reader:
    def __init__(self, text: str, level: int = 0) -> None:
        self.text = text
        self.at = 0
        self.level = level
        self.found: list[Command] = []
        self.told = True
        self.bodies: list[tuple[str, bool, bool]] = []  # here-documents to come: delimiter, tabs stripped, quoted

    def commands_until(self, until: str) -> None:
        """Read commands up to `until`, and past it; to the end without."""
        if self.level > MAX_DEPTH:
            self.told, self.at = False, len(self.text)
            return
        one = _Open(fed=False)
        while True:
            char = self.text[self.at : self.at + 1]
            if not char:
                self.told = self.told and not until and not self.bodies
                break
            if char in " \t":
                self.at += 1
            elif self.text.startswith("\\\n", self.at):
                self.at += 2
            elif char == "#":
                self.at = self._find("\n")
            elif char == "\n":
                self.at += 1
                one = self._end(one)
                self._read_bodies()
            elif char == until:
                self.at += 1
                break
            elif char == ")":
                self.told, self.at = False, self.at + 1
            elif char == "(":
                if one.words or one.assigned:  # a function, an array, a pattern
                    self.told = False
                self._inner(1)
            elif self.text.startswith(("<<<", "<<"), self.at):
                self._here(one)
            elif self.text.startswith(("<(", ">("), self.at):
                start = self.at
                self._inner(2)
                self._add(one, Word(self.text[start : self.at], literal=False))
            elif (redirect := _REDIRECT.match(self.text, self.at)) is not None:
                self._redirect(one, redirect)
            elif char in ";&|":
                pair = self.text[self.at : self.at + 2]
                width = 2 if pair in ("&&", "||", ";;", "|&", ";&") else 1
                self.at += width
                one = self._end(one, sure=pair == "&&", fed=char == "|" and pair != "||")
            else:
                start = self.at
                self._add(one, self._word(), start)
        self._end(one)

    def _end(self, one: _Open, *, sure: bool = False, fed: bool = False) -> _Open:
        if (one.words or one.assigned or one.redirects) and not one.head:
            made = Command(tuple(one.words), tuple(one.assigned), tuple(one.redirects), self.level, one.fed, sure)
            self.found.append(made)
        return _Open(fed)

    def _add(self, one: _Open, word: Word, start: int | None = None) -> None:
        if one.words or one.head:
            one.words.append(word)
            return
        plain = word.literal and word.bare
        if plain and word.text in _UNREAD:
            self.told = False
        if plain and not one.assigned and (word.text in WORDS_BEFORE or word.text in _AFTER):
            return
        if plain and not one.assigned and word.text in _HEADS:
            one.head = True
        elif (name := _ASSIGNED.match(word.text)) is not None and (start is None or _ASSIGNED.match(self.text, start)):
            one.assigned.append((name[1], word._replace(text=word.text[name.end() :])))
        else:
            one.words.append(word)

    def _inner(self, skip: int) -> None:
        """Commands in brackets, in a shell of their own."""
        self.at += skip
        self.level += 1
        self.commands_until(")")
        self.level -= 1

    def _redirect(self, one: _Open, found: re.Match[str]) -> None:
        self.at = found.end()
        self._blanks()
        target = self._word()
        if found[0].endswith("&") and (target.text.rstrip("-").isdecimal() or target.text == "-"):
            return  # another descriptor
        if not target.text:
            self.told = False
        one.redirects.append(Redirect(">" in found[0], target))

    def _here(self, one: _Open) -> None:
        one.fed = True
        if self.text.startswith("<<<", self.at):
            self.at += 3
            self._blanks()
            self._word()
            return
        self.at += 2
        stripped = self.text.startswith("-", self.at)
        self.at += stripped
        self._blanks()
        delimiter = self._word()
        self.told = self.told and delimiter.literal and bool(delimiter.text)
        self.bodies.append((delimiter.text, stripped, not delimiter.bare))

    def _read_bodies(self) -> None:
        bodies, self.bodies = self.bodies, []
        for delimiter, stripped, quoted in bodies:
            start = end = self.at
            while True:
                if self.at >= len(self.text):
                    self.told, end = False, self.at
                    break
                begin, self.at = self.at, min(self._find("\n") + 1, len(self.text))
                line = self.text[begin : self.at].removesuffix("\n")
                if (line.lstrip("\t") if stripped else line) == delimiter:
                    end = begin
                    break
            if not quoted:
                inner = _Reader(self.text[start:end], self.level + 1)
                inner.expansions()
                self.found += inner.found
                self.told = self.told and inner.told

    def expansions(self) -> None:
        """Only what a shell would compute in a text."""
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "$":
                self._dollar([])
            elif char == "`":
                self._backtick()
            else:
                self.at += 2 if char == "\\" else 1

    def _word(self) -> Word:
        start, out = self.at, list[str]()
        literal, glob, bare = True, False, True
        while self.at < len(self.text) and (char := self.text[self.at]) not in " \t\n;&|<>()":
            if char == "\\":
                if self.text[self.at + 1 : self.at + 2] != "\n":
                    out.append(self.text[self.at + 1 : self.at + 2])
                    bare = False
                self.at += 2
            elif char == "'":
                end = self._find("'", self.at + 1)
                out.append(self.text[self.at + 1 : end])
                self._closed(end)
                bare = False
            elif char == '"':
                literal = self._double(out) and literal
                bare = False
            elif self.text.startswith("$'", self.at):
                literal = self._escaped(out) and literal
                bare = False
            elif self.text.startswith('$"', self.at):
                self.at += 1
            elif char == "$":
                literal = self._dollar(out) and literal
            elif char == "`":
                self._backtick()
                literal = False
            else:
                glob = glob or char in "*?["
                if (char == "{" and _BRACES.match(self.text, self.at)) or (char == "~" and not out and bare):
                    literal = False
                out.append(char)
                self.at += 1
        if self.at == start and self.at < len(self.text) and self.text[self.at] not in "\n)":
            self.at += 1  # an operator where a word should stand
            self.told = False
        return Word("".join(out) if literal else self.text[start : self.at], literal, glob, bare)

    def _double(self, out: list[str]) -> bool:
        """A text in double quotes; says whether it is literal."""
        literal = True
        self.at += 1
        while self.at < len(self.text) and (char := self.text[self.at]) != '"':
            if char == "\\" and self.text[self.at + 1 : self.at + 2] in ('"', "\\", "$", "`", "\n"):
                out.append(self.text[self.at + 1].replace("\n", ""))
                self.at += 2
            elif char == "$":
                literal = self._dollar(out) and literal
            elif char == "`":
                self._backtick()
                literal = False
            else:
                out.append(char)
                self.at += 1
        self._closed(self.at)
        return literal

    def _escaped(self, out: list[str]) -> bool:
        """A text in `$'...'`."""
        self.at += 2
        start = self.at
        while self.at < len(self.text) and self.text[self.at] != "'":
            self.at += 2 if self.text[self.at] == "\\" else 1
        body, known = self.text[start : self.at], True

        def one(found: re.Match[str]) -> str:
            nonlocal known
            code = found[1] or found[2] or found[3]
            if code or found[4]:
                number = int(code, 16) if code else int(found[4], 8) & 0xFF
                known = known and 0 < number < 0x80  # what more means depends on the locale
                return chr(min(number, 0x10FFFF))
            if found[5] is None:
                known = False
                return ""
            return _NAMED.get(found[5], found[5] if found[5] in "\\'\"?" else "\\" + found[5])

        out.append(_ESCAPE.sub(one, body))
        self._closed(self.at)
        return known

    def _dollar(self, out: list[str]) -> bool:
        """What `$` begins; true when that is nothing."""
        after = self.text[self.at + 1 : self.at + 3]
        if after == "((":
            end, start = self._find("))", self.at), self.at
            if not _ARITHMETIC.fullmatch(self.text[start + 3 : end]):  # two brackets may also be those of a shell
                self.told = False
            self._closed(end, 2)
        elif after[:1] == "(":
            self._inner(2)
        elif after[:1] == "{":
            start, depth = self.at, 0
            while self.at < len(self.text):
                char = self.text[self.at]
                depth += (char == "{") - (char == "}")
                self.at += 2 if char == "\\" else 1
                if char == "}" and depth == 0:
                    break
            else:
                self.told = False
            self._unread(self.text[start + 2 : self.at])
        elif after[:1].isalnum() or (after[:1] and after[0] in "_@*#?-$!"):
            self.at += 2
            while self.text[self.at : self.at + 1].isalnum() or self.text[self.at : self.at + 1] == "_":
                self.at += 1
        else:
            out.append("$")
            self.at += 1
            return True
        return False

    def _unread(self, inner: str) -> None:
        if "$(" in inner or "`" in inner:
            self.told = False

    def _backtick(self) -> None:
        self.at += 1
        start = self.at
        while self.at < len(self.text) and self.text[self.at] != "`":
            self.at += 2 if self.text[self.at] == "\\" else 1
        inner = _Reader(re.sub(r"\\([\\`$])", r"\1", self.text[start : self.at]), self.level + 1)
        inner.commands_until("")
        self.found += inner.found
        self.told = self.told and inner.told
        self._closed(self.at)

    def _closed(self, end: int, width: int = 1) -> None:
        """Go past what closes, which stands at `end`."""
        if end >= len(self.text):
            self.told = False
        self.at = min(end + width, len(self.text))

    def _find(self, what: str, start: int | None = None) -> int:
        found = self.text.find(what, self.at if start is None else start)
        return len(self.text) if found < 0 else found

    def _blanks(self) -> None:
        while self.text[self.at : self.at + 1] in (" ", "\t") and self.at < len(self.text):
            self.at += 1
