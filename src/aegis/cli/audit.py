"""Verbs about the audit record: reading it, checking it, taking it elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from aegis.cli import render
from aegis.cli.options import PointInTime, complete_handle
from aegis.cli.reach import client
from aegis.cli.verbs import Verb
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from aegis.cli.output import Output, Piece

_COLORS = {"allow": "green", "deny": "red", "ask": "yellow"}


@click.command("list", cls=Verb)
@click.option("--after", type=click.IntRange(min=0), metavar="N", help="The oldest after this number, not the newest.")
@click.option("--limit", type=click.IntRange(1, 1000), default=1000, show_default=True, metavar="N", help="The most records.")
@click.option("--follow", "-f", is_flag=True, help="Go on as more is done, until Ctrl-C.")
@click.option("--principal", metavar="WHO", shell_complete=complete_handle, help="Only of an instance, a person, or `KIND:ID`.")
@click.option("--action", metavar="WHAT", help="Only these, with commas between; `secret.*` for a family.")
@click.option("--decision", type=click.Choice(["allow", "deny", "ask"]), help="Only what was decided so.")
@click.option("--since", type=PointInTime(), metavar="WHEN", help="Only later than this: `10m`, `2h` or an RFC 3339 time.")
@click.pass_obj
def list_(out: Output, /, after: int | None, limit: int, follow: bool, **only: str | None) -> None:
    """List the records.

    Each effect has one: who asked, for what, and what was decided.

    \b
    Examples:
      aegis audit list --decision deny --since 1d
      aegis audit list --principal coder --action 'model.*' -f
    """
    daemon = client()
    records = daemon.audit(after or 0, limit, newest=after is None, **only)
    for record in records:
        out.data(record)
    if records:
        head = ("ID", "TS", "PRINCIPAL", "ACTION", "RESOURCE", "DECISION", "REASON")
        out.table(head, map(_row, records))
    elif not follow:
        out.say("no records")
    if not follow:
        return
    out.live = True
    with daemon.follow_audit(records[-1]["id"] if records else after or 0, **only) as stream:
        for record in stream:
            out.data(record)
            out.say(*(piece for cell in _row(record) for piece in (cell, "  ")))
    raise AegisError(ErrorKind.UNREACHABLE, "the daemon ended", "`aegis audit list` shows what it recorded")


@click.command(cls=Verb)
@click.argument("number", metavar="ID", type=click.IntRange(min=1))
@click.pass_obj
def show(out: Output, number: int) -> None:
    """Show one record with all that is in it."""
    record = client().audit_record(number)
    out.data(record)
    shown = [
        ("record", str(record["id"])),
        ("time", render.when(record["ts"])),
        ("principal", _who(record)),
        ("action", (record["action"], "bold")),
        ("resource", record["resource"]),
        ("decision", (record["decision"], _COLORS.get(record["decision"], ""))),
        ("reason", record["reason"]),
        ("rules", ", ".join(record["policies"])),
        ("digest", record["digest"]),
        ("cost", f"${record['cost']:.6f}" if record["cost"] is not None else ""),
        *((f"  {name}", json.dumps(value, ensure_ascii=False)) for name, value in sorted(record["data"].items())),
        ("after", record["prev"]),
        ("hash", record["hash"]),
    ]  # type: list[tuple[str, Piece]]
    out.pairs([(name, value) for name, value in shown if value])


@click.command(cls=Verb)
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@click.option("--key", metavar="HEX", help="The public key that must have signed; `aegis audit export` says which it is.")
@click.pass_obj
def verify(out: Output, file: str | None, key: str | None) -> int:
    """Say whether the record is what was written.

    Of this home, or with FILE of an export, which needs no daemon and no home. The first row that is not as it was written is named,
    and what is wrong with it: changed, missing, reordered, torn, cut, forged. The exit code is 1 when something is.

    \b
    Examples:
      aegis audit verify
      aegis audit verify audit.jsonl --key 3f…
    """
    if file is not None:
        from aegis.client.proving import verify_export

        found: dict[str, Any] = msgspec.to_builtins(verify_export(Path(file), key))
    else:
        found = client().audit_verify()
        if found["ok"] and key is not None and any(used != key for used in found.get("keys", ())):
            found |= {"ok": False, "flaw": "forged", "detail": "a head is not signed by the expected key"}
    out.data(found)
    if found["ok"]:
        out.say(("whole", "green"), f": {found['rows']} records, {found['heads']} signed heads")
        for used in found.get("keys", ()):
            out.say(("  signed by ", "dim"), used)
        return 0
    out.say((found["flaw"], "red"), f": {found['detail']}")
    out.say((f"  {found['rows']} records before it are as they were written", "dim"))
    return 1


@click.command(cls=Verb)
@click.option(
    "--to", metavar="FILE", type=click.Path(dir_okay=False), help="Write to this file, which must not exist, and not to standard output."
)
@click.pass_obj
def export(out: Output, to: str | None) -> None:
    """Write the record to a file that can be verified anywhere.

    One JSON object in each line: what the file is with the public key, the signed heads, the rows. Keep it, or only the key, where nobody
    who can write this home can write.
    """
    with client().audit_export() as stream:
        if to is None:
            for line in stream:
                out.raw(1, _line(line))
            return
        part = Path(f"{to}.part")
        if Path(to).exists():
            raise AegisError(ErrorKind.CONFLICT, f"{to} exists already", "name a file that does not exist, or remove it first")
        try:
            first: dict[str, Any] = {}
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                for line in stream:
                    first = first or line
                    file.write(_line(line))
                file.flush()
                os.fsync(file.fileno())
            part.replace(to)
        except OSError as error:
            raise AegisError(ErrorKind.UNAVAILABLE, f"{to} cannot be written: {error.strerror}", "choose another place") from None
        finally:
            part.unlink(missing_ok=True)
    out.data({"path": to, "rows": first["rows"], "public_key": first["public_key"]})
    out.say(("wrote ", "green"), f"{first['rows']} records to {to}")
    out.say(("  signed by ", "dim"), first["public_key"])
    out.hint(f"check it with `aegis audit verify {to}`")


def _line(told: dict[str, Any]) -> bytes:
    return msgspec.json.encode(told) + b"\n"


def _who(record: dict[str, Any]) -> str:
    return f"{record['handle']} ({record['principal']})" if record.get("handle") else str(record["principal"])


def _row(record: dict[str, Any]) -> list[Piece]:
    return [
        str(record["id"]),
        render.when(record["ts"]),
        str(record.get("handle") or record["principal"]),
        record["action"],
        record["resource"],
        (record["decision"], _COLORS.get(record["decision"], "")),
        record["reason"],
    ]
