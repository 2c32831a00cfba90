"""What a call touches, read from its arguments: the facets that rules see, what is dangerous about it, and its exact digest.

Pure: nothing is run, looked up or resolved on a disk. Paths are those inside, normalised as text; what cannot be told from a text makes
the call `opaque`, and then one of its facets is empty, so that a rule which allows only certain commands, paths or hosts cannot allow it.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.services.gate import programs, shell
from aegis.services.gate.hosts import host_of, url_of
from aegis.services.gate.model import Effect, Facet
from aegis.services.gate.shell import Command, Word

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aegis.core.events import ToolKind

__all__ = ["MAX_WHOLE", "argv_of", "digest_of", "effect_of", "line_of"]

#: With more bytes of arguments than this nobody is asked, and no rule looks at it.
MAX_WHOLE: Final = 4 * 1024 * 1024
#: A call that touches more than this is opaque.
MAX_FACETS: Final = 512
_MAX_CWDS: Final = 4
_DEEP: Final = 12

_COMMANDS: Final = ("command", "cmd", "commandLine", "script", "argv")
_PLACES: Final = ("cwd", "workdir", "working_directory", "workingDirectory")
_PATHS: Final = frozenset(
    "path file_path filePath filepath absolute_path absolutePath notebook_path file filename dir directory dir_path target destination "
    "source old_path new_path paths files".split()
)
_URLS: Final = frozenset("url uri urls href".split())
_PATCHES: Final = frozenset("patch input diff patchText".split())
_PATCHED: Final = re.compile(r"^\*\*\* (?:(?:Add|Update|Delete) File|Move to): (.+?)\s*$", re.MULTILINE)
_REMOTE: Final = re.compile(r"(?:[\w.-]+@)?([\w.-]+):(?!//)\S*")
_HARMLESS: Final = re.compile(r"/dev/(null|stdin|stdout|stderr|tty|fd/\d+|zero|u?random)")
_SCRATCH: Final = "/tmp"  # noqa: S108
#: What starts a program of itself when it is changed, wherever it stands.
_STARTING: Final = re.compile(
    r".*/\.git/(hooks/.*|config(\.worktree)?|modules/.*/(hooks/.*|config))|.*/\.gitattributes|.*/\.gitmodules", re.DOTALL
)


def digest_of(tool: str, arguments: dict[str, Any], cwd: str = "") -> str:
    """What binds an answer to the exact call, whatever the order of the keys. Raises TOO_LARGE for what nobody could judge."""
    return hashlib.sha256(_whole(tool, arguments, cwd)).hexdigest()


def _whole(tool: str, arguments: dict[str, Any], cwd: str) -> bytes:
    try:
        whole = msgspec.json.encode([tool, arguments, cwd] if cwd else [tool, arguments], order="sorted")
    except RecursionError:
        raise AegisError(ErrorKind.TOO_LARGE, "the input is nested too deep") from None
    if len(whole) > MAX_WHOLE:
        raise AegisError(ErrorKind.TOO_LARGE, f"the input is over {MAX_WHOLE:,} bytes")
    return whole


def effect_of(
    tool: str,
    kind: ToolKind,
    arguments: dict[str, Any],
    *,
    cwd: str,
    workspace: str,
    session: str | None = None,
    locations: Sequence[str] = (),
) -> Effect:
    """The exact call.

    Args:
        tool: its name, as rules say it.
        kind: what it does.
        arguments: what it is given.
        cwd: where relative paths begin, absolute and as it is inside.
        workspace: the directory that writing in is nothing special.
        session: the conversation it is made in.
        locations: further paths that it is known to touch.

    Raises AegisError: USAGE for a NUL in a text, which programs would cut there; TOO_LARGE.
    """
    whole = _whole(tool, arguments, cwd)
    if b"\\u0000" in whole and any("\x00" in text for text in _texts(arguments)):
        raise AegisError(ErrorKind.USAGE, "an argument holds a NUL", "leave it out: programs would take the text to end there")
    place = next((arguments[key] for key in _PLACES if isinstance(arguments.get(key), str) and arguments[key]), "")
    begin = posixpath.normpath(posixpath.join(cwd or "/", place))
    seen = _Seen(begin, posixpath.normpath(workspace or "/"))
    if kind in ("execute", "other") and any(arguments.get(key) for key in _COMMANDS):
        seen.run(arguments)
    elif kind == "execute":
        seen.hidden()
    else:
        seen.use(kind, arguments)
    for path in locations:
        seen.path(path, writes=kind in ("edit", "delete", "move"))
    return Effect(
        tool=tool, facets=seen.all(), arguments=arguments, cwd=begin, digest=hashlib.sha256(whole).hexdigest(), size=len(whole),
        session=session, risk="; ".join(seen.risks), opaque=seen.opaque,
    )  # fmt: skip


def line_of(arguments: dict[str, Any]) -> str:
    """The whole command line of a call, as a person is to see it; empty for one that has none."""
    for key in _COMMANDS:
        given = arguments.get(key)
        if isinstance(given, str) and given:
            return " ".join([given, *_more(arguments)])
        if isinstance(given, list) and given:
            return " ".join(map(str, given))
    return ""


def _more(arguments: dict[str, Any]) -> list[str]:
    """The words that are given besides the command."""
    found: list[Any] = next((arguments[name] for name in ("args", "arguments") if isinstance(arguments.get(name), list)), [])
    return [str(word) for word in found]


def argv_of(arguments: dict[str, Any]) -> list[str]:
    """The words of a call that is one command; the whole line as one text where it is several, or computes any of them."""
    for key in _COMMANDS:
        given = arguments.get(key)
        if isinstance(given, list) and all(isinstance(word, str) for word in given):
            return list(given)
        if isinstance(given, str) and given:
            line = shell.read(given)
            one = line.commands[0] if line.told and len(line.commands) == 1 else None
            if one is None or one.assigned or one.redirects or not all(word.literal and not word.glob for word in one.words):
                return [line_of(arguments)]
            return [*(word.text for word in one.words), *_more(arguments)]
    return []


class _Seen:
    """What was found so far."""

    def __init__(self, cwd: str, workspace: str) -> None:
        self._cwds = [cwd]
        self._workspace = workspace
        self._facets: dict[Facet, None] = {}
        self._depth = 0
        self.risks: dict[str, None] = {}
        self.opaque = False
        self.fetched = False  # something comes from the network

    def all(self) -> tuple[Facet, ...]:
        """The facets; an empty one stands for what cannot be told."""
        if len(self._facets) > MAX_FACETS:
            self.opaque = True
        if self.opaque:
            self.risks.setdefault("what it does cannot be told beforehand")
        empty = (Facet(),) if self.opaque else ()
        return (*list(self._facets)[:MAX_FACETS], *empty)

    def hidden(self) -> None:
        """Something cannot be told."""
        self.opaque = True

    # Tools.

    def use(self, kind: ToolKind, arguments: dict[str, Any]) -> None:
        """A tool that is no command: its paths and URLs."""
        before = len(self._facets)
        writes = kind in ("edit", "delete", "move", "other")
        for key, value in _fields(arguments):
            if key in _URLS or "://" in value[:16]:
                if value.startswith("file://"):
                    self.path(value.removeprefix("file://"), writes=writes)
                elif key in _URLS or kind == "fetch":
                    self._url(value, str(arguments.get("method") or "GET").upper())
            elif key in _PATHS and kind != "fetch":
                self.path(value, writes=writes, sure=kind in ("edit", "delete", "move"))
            elif key in _PATCHES and kind in ("edit", "delete", "move"):
                for path in _PATCHED.findall(value):
                    self.path(path, writes=True, sure=True)
        if kind in ("edit", "delete", "move", "fetch") and len(self._facets) == before:
            self.hidden()
        if kind in ("read", "search") and len(self._facets) == before:
            for cwd in self._cwds:
                self._add(Facet(path=cwd))
        if kind == "delete":
            self.risks.setdefault("deletes files")

    def _url(self, text: str, method: str) -> None:
        target = url_of(text if "://" in text else f"https://{text}")
        if target is None:
            self.hidden()
        else:
            self._add(Facet(host=target.host, port=target.port, method=method, url_path=target.path))

    def path(self, text: str, *, writes: bool, sure: bool = False, of: Facet | None = None) -> None:
        """A path. `sure`: it is written, not only perhaps."""
        if text.startswith("~") or not text:
            self.hidden()
            return
        for cwd in self._cwds:
            found = posixpath.normpath(posixpath.join(cwd, text))
            found = "/" + found.lstrip("/")
            if _HARMLESS.fullmatch(found):
                continue
            self._add(msgspec.structs.replace(of or Facet(), path=found, writes=writes))
            if writes and _STARTING.fullmatch(found):
                self.risks.setdefault("changes git's hooks or configuration")
            elif sure and not _within(found, self._workspace) and not _within(found, _SCRATCH):
                self.risks.setdefault("writes outside the workspace")

    def _add(self, facet: Facet) -> None:
        self._facets[facet] = None

    # Commands.

    def run(self, arguments: dict[str, Any]) -> None:
        """A command line, or the words of one."""
        for key in _COMMANDS:
            given = arguments.get(key)
            if isinstance(given, str) and given:
                more = next((arguments[name] for name in ("args", "arguments") if isinstance(arguments.get(name), list)), None)
                if more is None:
                    self.line(given)
                    continue
                if re.search(r"\s", given):
                    self.line(given)
                    self.hidden()
                given = [given, *more]
            if isinstance(given, list) and given:
                if all(isinstance(word, str) for word in given):
                    self._one(Command(tuple(Word(word) for word in given), (), (), 0, fed=False))
                else:
                    self.hidden()
            elif given and not isinstance(given, str):
                self.hidden()

    def line(self, text: str) -> None:
        """A command line."""
        self._depth += 1
        if self._depth > _DEEP or len(self._facets) > MAX_FACETS:
            self.hidden()
        else:
            line = shell.read(text)
            if not line.told:
                self.hidden()
            for command in line.commands:
                self._one(command)
        self._depth -= 1

    def _one(self, command: Command) -> None:
        for name, _value in command.assigned:
            if programs.LOADING.fullmatch(name):
                self.hidden()
                self.risks.setdefault(f"sets {name}, by which programs load others")
        self._words(command.words, fed=command.fed or any(not redirect.writes for redirect in command.redirects))
        head = self._facet(command.words)
        for redirect in command.redirects:
            if redirect.target.literal and not redirect.target.glob:
                self.path(redirect.target.text, writes=redirect.writes, sure=redirect.writes, of=head)
            else:
                self.hidden()
        if head is not None and head.command in ("cd", "pushd", "popd"):
            self._move(command)

    def _move(self, command: Command) -> None:
        """Relative paths begin elsewhere from now on; perhaps, where it may fail or happens in a shell of its own."""
        to = next((word for word in command.words[1:] if not word.text.startswith("-") or word.text == "-"), None)
        if to is None or not to.literal or to.glob or to.text == "-" or command.words[0].text != "cd":
            self.hidden()
            return
        there = [posixpath.normpath(posixpath.join(cwd, to.text)) for cwd in self._cwds]
        stays = [] if command.sure and not command.level and self._depth == 1 else self._cwds
        self._cwds = list(dict.fromkeys([*there, *stays]))
        if len(self._cwds) > _MAX_CWDS:
            self._cwds = self._cwds[:_MAX_CWDS]
            self.hidden()

    @staticmethod
    def _facet(words: Sequence[Word]) -> Facet | None:
        """A command as rules see it; None for one whose name is computed."""
        if not words or not words[0].literal or words[0].glob:
            return None
        name = posixpath.basename(words[0].text)
        args = tuple(word.text for word in words[1:])
        return Facet(command=name, subcommand=programs.subcommand(name, args), args=args) if name else None

    def _words(self, words: Sequence[Word], *, fed: bool = False, more: bool = False) -> None:
        """A simple command. `more`: arguments are added to it that nobody knows."""
        if not words:
            return
        facet = self._facet(words)
        if facet is None or facet.command is None or self._depth > _DEEP or facet.command in shell.WORDS_BEFORE or "=" in facet.command:
            self.hidden()
            return
        self._add(facet)
        if "/" in words[0].text and not words[0].text.startswith(("/usr/", "/bin/", "/sbin/")):
            self.path(words[0].text, writes=False, of=facet)
        name, args = facet.command, facet.args
        for risk in programs.risks(name, args):
            self.risks.setdefault(risk)
        if programs.fetches(name):
            self.fetched = True
        if more or (name not in programs.NO_FILES and any(not word.literal for word in words[1:])):
            self.hidden()
        self._depth += 1
        if name in programs.SHELLS:
            self._shell(words[1:], fed=fed)
        elif name in programs.WRAPPERS:
            self._wrapped(name, words[1:])
        elif name in ("eval", "trap"):
            given = words[1:] if name == "eval" else words[1:2]
            self._computed(" ".join(word.text for word in given), literal=all(word.literal for word in given))
        elif name == "find":
            self._find(words[1:])
        else:
            runner = programs.RUNNERS.get(name)
            if runner is not None and facet.subcommand == runner:
                self._runner(words[1:], runner)
            code = programs.inline(name, args)
            if code or (code is None and fed):
                self.risks.setdefault("runs code that stands on its line" if code else "runs code that it is given")
                self.hidden()
            if programs.hides_code(name, args):
                self.hidden()
        if name == "git":
            self._git(args)
        self._depth -= 1
        if name == "find":
            words = words[: next((n for n, word in enumerate(words) if n and re.match(r"-[a-z]|[!(]", word.text)), len(words))]
        if name not in programs.WRAPPERS and not (name in programs.SHELLS and len(words) > 1 and words[1].text.startswith("-")):
            self._arguments(facet, words[1:])

    def _computed(self, text: str, *, literal: bool) -> None:
        if self.fetched and not literal:
            self.risks.setdefault("runs what comes from the network")
        if literal:
            self.line(text)
        else:
            self.hidden()

    def _shell(self, words: Sequence[Word], *, fed: bool) -> None:
        n = 0
        while n < len(words) and words[n].text[:1] in ("-", "+") and len(words[n].text) > 1:
            text = words[n].text
            if not text.startswith("--") and "c" in text:
                script = next((m for m in range(n + 1, len(words)) if words[m].text[:1] not in ("-", "+")), None)
                if script is None:
                    self.hidden()
                else:
                    self._computed(words[script].text, literal=words[script].literal)
                return
            if text in ("-i", "-s") or text.startswith(("--rcfile", "--init-file")):
                self.hidden()
            n += 2 if text in ("-o", "-O", "+o", "+O", "--rcfile", "--init-file") else 1
        if n >= len(words) or not words[n].literal:  # it reads its commands from somewhere
            self.hidden()
            if self.fetched:
                self.risks.setdefault("pipes from the network into a shell")

    def _wrapped(self, name: str, words: Sequence[Word]) -> None:
        known, n = programs.WRAPPERS[name], 0
        while n < len(words) and words[n].text.startswith("-"):
            text = words[n].text
            n += 1
            if text == "--":
                break
            if name == "env" and (text in ("-S", "--split-string") or text.startswith(("-S", "--split-string="))):
                given = words[n : n + 1] if text in ("-S", "--split-string") else ()
                self.line(given[0].text if given else re.sub(r"^(-S|--split-string=)", "", text))
                self.hidden()
                return
            if name in ("env", "sudo") and (text in ("-C", "-D") or text.startswith("--chdir")):
                self.hidden()  # relative paths begin elsewhere
            if text in known.valued:
                n += 1
            elif text in known.flags or text.partition("=")[0] in known.valued or text[:2] in known.valued:
                pass
            elif not (re.fullmatch(r"-[A-Za-z]+", text) and all(f"-{char}" in known.flags for char in text[1:])) and not (
                name == "nice" and text[1:].isdecimal()
            ):
                self.hidden()
        n += known.operands
        while name in ("env", "sudo") and n < len(words) and (found := re.match(r"([A-Za-z_]\w*)=", words[n].text)):
            if programs.LOADING.fullmatch(found[1]):
                self.hidden()
                self.risks.setdefault(f"sets {found[1]}, by which programs load others")
            n += 1
        rest = words[n:]
        if name == "watch" or (name in ("flock", "unshare") and rest and rest[0].text == "-c"):
            text = " ".join(word.text for word in rest if word.text != "-c")
            self._computed(text, literal=all(word.literal for word in rest))
        elif name == "exec" and not rest:
            return
        else:
            self._words(rest, fed=known.computed, more=known.computed)

    def _runner(self, words: Sequence[Word], word: str) -> None:
        """`uv run ...`: the command is the first word after it that is no option; options with values cannot be told apart."""
        start = next(n for n, each in enumerate(words) if each.text == word) + 1
        rest = words[start:]
        if rest and rest[0].text.startswith("-"):
            self.hidden()
        self._words([each for each in rest if not each.text.startswith("-")][:1] + list(rest[1:]) if rest else [])

    def _find(self, words: Sequence[Word]) -> None:
        n = 0
        while n < len(words):
            if words[n].text in ("-exec", "-execdir", "-ok", "-okdir"):
                end = next((m for m in range(n, len(words)) if words[m].text in (";", "+")), len(words))
                inner = words[n + 1 : end]
                self._words(inner, more=True)
                if inner and posixpath.basename(inner[0].text) == "rm":
                    self.risks.setdefault("deletes recursively")
                n = end
            elif words[n].text.startswith(("-fprint", "-fls")) and n + 1 < len(words):
                self.path(words[n + 1].text, writes=True, sure=True)
            n += 1

    def _git(self, args: Sequence[str]) -> None:
        for setting in programs.git_settings(args):
            self.hidden()
            self.risks.setdefault(f"sets {setting.partition('=')[0][:60]} of git")
            if (found := programs.GIT_COMMANDS.fullmatch(setting)) is not None:
                self.line(found[found.lastindex or 0].lstrip("!"))
        if any(arg == "-C" or arg.startswith(("--git-dir", "--work-tree")) for arg in args):
            self.hidden()  # relative paths begin elsewhere, and so do its hooks

    def _arguments(self, facet: Facet, words: Sequence[Word]) -> None:
        """The files and hosts among the arguments of a command."""
        name = str(facet.command)
        files = name in programs.READERS or name in programs.WRITERS
        writes = name not in programs.READERS or (name == "sed" and any(arg.startswith(("-i", "--in-place")) for arg in facet.args))
        sure = name in programs.WRITERS
        skip, out = programs.PATTERNS.get(name, 0), programs.OUTPUTS.get(name, ())
        if name in programs.NO_FILES:
            return
        for n, word in enumerate(words):
            text = word.text
            if not word.literal:
                continue
            if n and words[n - 1].text in out:
                self.path(text, writes=True, sure=True, of=facet)
            elif text.startswith("-"):
                value = text.partition("=")[2]
                if "/" in value and "://" not in value:
                    self.path(value, writes=writes, of=facet)
            elif "://" in text:
                if (target := url_of(text)) is None:
                    self.hidden()
                else:
                    method = _method(facet.args) if name in ("curl", "wget") else None
                    self._add(msgspec.structs.replace(facet, host=target.host, port=target.port, url_path=target.path, method=method))
            elif name in programs.SPEAKERS and not _is_value(words, n):
                self._speak(facet, text)
            elif skip and name in programs.PATTERNS:
                skip -= 1
            elif (remote := _REMOTE.fullmatch(text)) is not None and name in ("scp", "rsync", "git", "sftp"):
                if (host := host_of(remote[1])) is not None:
                    self._add(msgspec.structs.replace(facet, host=host))
            elif files or "/" in text or text in (".", ".."):
                value = text.partition("=")[2] if re.match(r"[a-z]+=/?", text) and name == "dd" else text
                self._file(facet, word._replace(text=value), writes=writes, sure=sure)

    def _file(self, facet: Facet, word: Word, *, writes: bool, sure: bool) -> None:
        head, _slash, _last = word.text.rpartition("/")
        if word.glob and re.search(r"[*?\[]", head):
            self.hidden()  # which directory that is nobody knows here
        else:
            self.path(word.text, writes=writes, sure=sure, of=facet)

    def _speak(self, facet: Facet, text: str) -> None:
        host, _colon, rest = text.rpartition("@")[2].partition("/")[0].partition(":")
        found = host_of(host)
        if found is not None and ("." in found or facet.command not in ("curl", "wget") or not rest):
            self._add(msgspec.structs.replace(facet, host=found, port=int(rest) if rest.isdecimal() else None))


def _is_value(words: Sequence[Word], n: int) -> bool:
    """Whether a word seems to be the value of the option before it."""
    return n > 0 and bool(re.fullmatch(r"-[A-Za-z]|--[a-z-]+", words[n - 1].text)) and "." not in words[n].text


def _method(args: Sequence[str]) -> str:
    for n, arg in enumerate(args):
        if arg in ("-X", "--request", "--method") and n + 1 < len(args):
            return args[n + 1].upper()
        if found := re.match(r"(?:-X|--request=|--method=)(\w+)", arg):
            return found[1].upper()
    sends = any(re.match(r"-[a-zA-Z]*[dF]$|--(data|form|json|post)", arg) for arg in args)
    return "POST" if sends else "PUT" if "-T" in args else "HEAD" if "-I" in args else "GET"


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _fields(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Every text of the arguments, with the nearest key above it."""
    if isinstance(value, str):
        if value:
            yield key, value
    elif depth < _DEEP and isinstance(value, dict):
        for name, inner in value.items():
            yield from _fields(inner, str(name), depth + 1)
            if key in ("changes", "files") and isinstance(name, str) and "/" in name:
                yield "path", name
    elif depth < _DEEP and isinstance(value, list):
        for inner in value:
            yield from _fields(inner, key, depth + 1)


def _texts(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            stack += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            stack += one
