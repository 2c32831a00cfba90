"""Ids, handles, errors, text, sessions, clock and fault points."""

from __future__ import annotations

import asyncio
import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.core import faults
from aegis.core.clock import ManualClock
from aegis.core.envelopes import session_key
from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.ids import check_handle, new_handle, new_id
from aegis.core.text import one_line, printable


def test_ids_are_unique_and_sort_by_time() -> None:
    ids = [new_id("x") for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(ident.startswith("x_") and len(ident) == 23 for ident in ids)
    assert [ident[2:11] for ident in ids] == sorted(ident[2:11] for ident in ids)


def test_generated_handles_are_valid_and_avoid_what_is_taken() -> None:
    taken: set[str] = set()
    for _ in range(200):
        handle = check_handle(new_handle(taken))
        assert handle not in taken
        taken.add(handle)


@given(st.text(max_size=80))
def test_a_handle_is_ascii_without_meaning_elsewhere(text: str) -> None:
    try:
        handle = check_handle(text)
    except AegisError:
        return
    else:
        assert handle.isascii()
        assert not set(handle) & set("/\\ \t\n\0:;|&$`'\"<>*?~")
        assert handle[0] not in "-._"


@given(st.sampled_from(list(ErrorKind)), st.text(), st.text(), st.dictionaries(st.sampled_from(["place", "nearest"]), st.text()))
def test_an_error_survives_its_json(kind: ErrorKind, message: str, hint: str, data: dict[str, str]) -> None:
    error = AegisError(kind, message, hint, **data)
    again = AegisError.from_dict(error.to_dict())
    assert (again.kind, again.message, again.hint, again.data) == (kind, message, hint, data)
    assert 1 <= error.exit_code <= 130
    assert 400 <= error.http_status < 600


def test_errors_that_aegis_did_not_write_are_read_as_well() -> None:
    error = AegisError.from_dict({"error": 5, "kind": "no such kind", "data": "x"})
    assert (error.kind, error.message, error.data) == (ErrorKind.INTERNAL, "5", {})


def test_an_unknown_name_names_the_nearest() -> None:
    assert "`bwrap`" in unknown_name("sandbox", "bwarp", ["bwrap", "process"]).hint
    assert unknown_name("sandbox", "zzz", ["bwrap"]).data["nearest"] is None


@given(st.text())
def test_printable_text_has_nothing_that_acts(text: str) -> None:
    clean = printable(text)
    assert not any(ord(c) < 32 and c not in "\t\n" for c in clean)
    assert not set(clean) & set("\x1b\x7f\x9b\u202e\u2066\u200f")
    assert printable(clean) == clean


@pytest.mark.parametrize(
    "attack", ["\x1b[2J", "\x1b]52;c;aGk=\x07", "\x1b]0;title\x1b\\", "\x1bP1$r\x1b\\", "\x1b(0", "\x9b31m", "\u202etxt.exe", "a\rb"]
)
def test_escape_sequences_are_gone(attack: str) -> None:
    assert "\x1b" not in printable(attack)
    assert not any(ord(c) < 32 for c in one_line("x" + attack))


def test_one_line_is_one_short_line() -> None:
    assert one_line("a\n b\t c") == "a b c"
    assert one_line("x" * 300, 10) == "x" * 9 + "…"


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_two_sessions_never_share_a_key(a: str, b: str, c: str, d: str) -> None:
    try:
        first, second = session_key(a, b), session_key(c, d)
    except AegisError:
        return
    assert (first == second) == ((a, b) == (c, d))


async def test_the_manual_clock_wakes_sleepers_in_order() -> None:
    clock, woken = ManualClock(), []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic()))

    tasks = [asyncio.create_task(sleeper(s)) for s in (3.0, 1.0, 2.0)]
    await asyncio.sleep(0)
    await clock.advance(2.5)
    assert woken == [(1.0, 1.0), (2.0, 2.0)]
    before = clock.now()
    clock.jump(-100.0)
    await clock.advance(0.5)
    assert woken[-1] == (3.0, 3.0)
    assert clock.now() == before - 99.5
    await asyncio.gather(*tasks)


def test_fault_points_fire_once_at_the_nth_passage() -> None:
    name = next(iter(faults.POINTS))
    try:
        faults.arm(name, "enospc", 2)
        faults.point(name)
        with pytest.raises(OSError, match="space") as caught:
            faults.point(name)
        assert caught.value.errno == errno.ENOSPC
        faults.point(name)
    finally:
        faults.disarm()
    with pytest.raises(KeyError):
        faults.arm("no.such.point", "kill")
