"""What came back with the daemon, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aegis.cli.output import Output, Piece

#: So many instances are shown; of more, those first with which there is something.
SHOWN: Final = 50


def show(out: Output, told: Mapping[str, Any]) -> None:
    """Say what of the instances came back, by the status of a daemon that has just started; of one that ran already, what is amiss."""
    if told.get("put_aside"):
        out.say(f"{_many(told['put_aside'], 'instance')} put aside; nothing was deleted")
        out.hint("`aegis instance start --name HANDLE` takes one back into use, with its conversations and what waits for it")
        return
    found = told.get("restored")
    if found is None:
        if told.get("hindered"):
            out.warn(f"{_many(told['hindered'], 'instance')} cannot be started; `aegis doctor` says why")
        return
    if not found:
        return
    there = [one for one in found if one["enabled"]]
    out.say(f"{_many(len(there), 'instance')} came back, asleep until needed" if there else "no instance is in use")
    shown = sorted(found, key=_dull)[:SHOWN] if len(found) > SHOWN else found
    out.table(("HANDLE", "AGENT", "STATE", "SESSIONS", "MAIL", ""), ([
        (one["handle"], "bold"), one["agent"], _state(one), str(one["sessions"]), str(one["waiting"] or "-"), _about(one),
    ] for one in shown))  # fmt: skip
    if len(found) > len(shown):
        out.say((f"and {len(found) - len(shown)} more", "dim"))
        out.hint("`aegis ls` shows all of them")
    for one in shown:
        if one["obstacle"]:
            out.say(("✗ ", "red"), (one["handle"], "bold"), f"  {one['obstacle']}")
            out.say("    mend: ", (one["mend"], "cyan"))
        for note in one["notes"]:
            out.say(("· ", "yellow"), (one["handle"], "bold"), f"  {note}")


def _dull(one: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether there is nothing to say of an instance, for the order in which many are shown."""
    return not (one["obstacle"] or one["notes"]), not (one["waiting"] or one["resumes"])


def _state(one: Mapping[str, Any]) -> Piece:
    if not one["enabled"]:
        return "disabled", "dim"
    if one["obstacle"]:
        return "cannot start", "red"
    if one["resumes"] or one["waiting"]:
        return "goes on", "green"
    return ("asleep", "dim") if one["state"] in ("stopped", "failed", "created") else (one["state"], "green")


def _about(one: Mapping[str, Any]) -> str:
    """What goes on with it, or would."""
    if not one["resumes"]:
        return ""
    turns = "the turn that was cut short" if one["resumes"] == 1 else f"{one['resumes']} turns that were cut short"
    if one["obstacle"] or not one["enabled"]:
        return f"{turns} wait{'s' * (one['resumes'] == 1)}"
    return f"{turns} {'goes' if one['resumes'] == 1 else 'go'} on"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
