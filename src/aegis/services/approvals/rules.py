"""The rule that spares a person the same question: the narrowest one for a request, shown before it is written.

It names the agent and its project, the tool, and exactly what was asked for: the command line and its directory, the files, or the
host. It goes into a file of its own, which a person may edit like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.text import one_line
from aegis.services.gate.calls import digest_of, effect_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from aegis.services.approvals.model import Approval

FILE: Final = "approved.cedar"
#: Arguments that only describe a call or bound its time.
_ABOUT: Final = frozenset({"description", "timeout", "timeout_ms", "explanation", "is_background", "run_in_background"})
#: Arguments that change what a command does: a rule for a call without them does not hold for one with them.
_TELLING: Final = (
    "command", "cmd", "commandLine", "script", "argv", "args", "arguments", "cwd", "workdir", "working_directory", "directory", "env",
    "environment", "stdin", "input", "chars", "user", "shell", "sandbox", "sandbox_permissions", "with_escalated_permissions",
    "dangerouslyDisableSandbox",
)  # fmt: skip
_HEAD: Final = "// Rules that were written with an answer: `aegis approvals approve ID --rule`. Edit or remove them as you like.\n"


class Proposal(NamedTuple):
    """A rule that is not written yet: its name, its text, the file it goes to."""

    id: str
    text: str
    path: str


class ApprovedRules:
    """Makes and keeps such rules.

    Args:
        folder: the rules of the home.
        facts: what rules know of an instance, by its id.
        workspace: where an instance finds its workspace, by its id.
        reload: has the gate read the rules again.
    """

    def __init__(self, folder: Path, facts: Callable[[str], Any], workspace: Callable[[str], str], reload: Callable[[], object]) -> None:
        self._path = folder / FILE
        self._facts = facts
        self._workspace = workspace
        self._reload = reload
        self._busy = asyncio.Lock()

    def propose(self, asked: Approval) -> Proposal:
        """The rule for a request. Raises USAGE where no rule is narrow enough."""
        if asked.policies or asked.action != "tool.use":
            what = asked.policies[0] if asked.policies else asked.action
            raise AegisError(
                ErrorKind.USAGE,
                f"the rule {what} has a person asked, and no other rule changes that",
                f"edit it: `aegis policy show {what}`; or approve with `--session`",
            )
        facts = self._facts(asked.instance)
        if asked.question or facts is None:
            raise AegisError(ErrorKind.USAGE, "a question wants an answer each time", "approve it once")
        if asked.digest != digest_of(asked.tool, asked.input, asked.cwd):
            raise AegisError(ErrorKind.USAGE, "the call is too long for a rule", "approve it once, or with `--session`")
        conditions = [f"principal.agent == {_text(facts['agent'])}", f"principal.project == {_text(facts.get('project') or '')}"]
        if not facts["agent"]:
            conditions[0] = f"principal.handle == {_text(facts['handle'])}"
        conditions += self._what(asked)
        ident = f"approved.{asked.id[-10:]}"
        text = (
            f"@id({_text(ident)})\npermit (\n  principal is Instance,\n  action == Action::{_text(asked.action)},\n"
            f"  resource == Tool::{_text(asked.resource or asked.tool)}\n)\nwhen {{\n  " + " &&\n  ".join(conditions) + "\n};\n"
        )
        _validated(text)
        return Proposal(ident, text, str(self._path))

    def _what(self, asked: Approval) -> list[str]:
        """The conditions that hold for this call alone, or for the same files or the same host."""
        effect = effect_of(asked.tool, asked.kind, asked.input, cwd=asked.cwd or "/", workspace=self._workspace(asked.instance))
        paths = sorted({facet.path for facet in effect.facets if facet.path is not None})
        hosts = sorted({(facet.host, facet.port) for facet in effect.facets if facet.host is not None and facet.port is not None})
        if asked.kind in ("read", "search", "edit", "delete", "move") and paths and not effect.opaque:
            return [f"context has path && [{', '.join(map(_text, paths))}].contains(context.path)"]
        if asked.kind == "fetch" and hosts and not effect.opaque:
            places = (f"(context.host == {_text(host)} && context.port == {port})" for host, port in hosts)
            return ["context has host && context has port", "(" + " || ".join(places) + ")"]
        given = {key: value for key, value in asked.input.items() if key not in _ABOUT}
        if not given or len(given) > 20 or not all(isinstance(value, str) for value in given.values()):
            raise AegisError(ErrorKind.USAGE, "no rule is narrow enough for this call", "approve it once, or with `--session`")
        conditions = ["context has call && context has cwd", f"context.cwd == {_text(effect.cwd)}"]
        for key, value in given.items():
            conditions.append(f"context.call.hasTag({_text(key)}) && context.call.getTag({_text(key)}) == {_text(value)}")
        conditions += [f"!context.call.hasTag({_text(key)})" for key in _TELLING if key not in given]
        return conditions

    async def write(self, asked: Approval, text: str, principal: str, now: float) -> str:
        """Write the rule that a person was shown, and have it in force; returns its name.

        Raises CONFLICT when `text` is not the rule for this request: nobody agrees to what he has not seen.
        """
        proposal = self.propose(asked)
        if text.strip() != proposal.text.strip():
            raise AegisError(
                ErrorKind.CONFLICT, "that is not the rule for this request", f"see it with `aegis approvals approve {asked.id[-6:]} --rule`"
            )
        day = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M")
        note = re.sub(r"[^\x20-\x7e]", "?", one_line(f"{day} by {principal}: {asked.title or asked.tool}", 160))
        async with self._busy:
            await asyncio.to_thread(self._append, proposal, note)
            self._reload()
        return proposal.id

    async def undo(self, ident: str) -> None:
        """Take a rule out again, because the request was answered by somebody else."""
        async with self._busy:
            await asyncio.to_thread(self._remove, ident)
            self._reload()

    def _append(self, proposal: Proposal, note: str) -> None:
        before = self._read()
        if f'@id("{proposal.id}")' in before:
            return
        whole = f"{before or _HEAD}\n// {note}\n{proposal.text}"
        _validated(whole)
        self._put(whole)

    def _remove(self, ident: str) -> None:
        pattern = rf'\n(?://[^\n]*\n)?@id\("{re.escape(ident)}"\)\n.*?\n\}};\n'
        self._put(re.sub(pattern, "", self._read(), count=1, flags=re.DOTALL))

    def _read(self) -> str:
        try:
            return self._path.read_text("utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise AegisError(ErrorKind.UNAVAILABLE, f"{self._path} cannot be read: {error}", "mend the file") from None

    def _put(self, text: str) -> None:
        """In one step: a daemon that dies leaves the old file or the new one."""
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        new = self._path.with_name(f".{FILE}.new")
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            new.replace(self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            raise AegisError(ErrorKind.UNAVAILABLE, f"{self._path} cannot be written: {error.strerror}", "make room, or mend it") from None


def _validated(text: str) -> None:
    """Raise USAGE for a text that the gate would not take."""
    from aegis.services.gate.rules import read

    try:
        read(text, FILE, "home")
    except AegisError as error:
        raise AegisError(
            ErrorKind.USAGE, f"no rule can be written for this call: {error.message}", "approve it once, or with `--session`"
        ) from None


def _text(value: str) -> str:
    """A text as rules are written."""
    plain = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}
    return '"' + "".join(plain.get(char, char) for char in value) + '"'
