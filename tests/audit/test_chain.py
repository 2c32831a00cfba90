"""What a check says of rows and heads alone: the first row that is not as it was written, and what is wrong with it."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aegis.client.proving import verify_export
from aegis.core.audit import FORMAT, START, AuditRow, Finding, Flaw, Head, check, fields_of, link, statement
from aegis.core.errors import AegisError, ErrorKind
from aegis.services.gate.audit import signed

KEY = Ed25519PrivateKey.generate()
Rows = list[AuditRow]


def rows(count: int = 6) -> Rows:
    made: Rows = []
    for ident in range(1, count + 1):
        prev = made[-1].hash if made else START
        made.append(chained(AuditRow(ident, 5.0, "person:me", "a.b", f"r{ident}", "allow", "owner", "[]", "", '{"ä":1}', None, prev, "")))
    return made


def chained(row: AuditRow) -> AuditRow:
    return msgspec.structs.replace(row, hash=link(row.prev, fields_of(row)))


def head(row: AuditRow, key: Ed25519PrivateKey = KEY) -> Head:
    return Head(row.id, 7.5, row.hash, key.public_key().public_bytes_raw().hex(), key.sign(statement(row.id, 7.5, row.hash)).hex())


def test_the_canonical_bytes_are_what_the_page_says() -> None:
    import hashlib

    row = rows(1)[0]
    text = '[1,5.0,"person:me","a.b","r1","allow","owner","[]","","{\\"ä\\":1}",null]'
    assert row.hash == hashlib.sha256(("0" * 64 + "\n" + text).encode()).hexdigest()


def test_a_whole_record() -> None:
    made = rows()
    found = check(made, [head(made[2]), head(made[5])], signed, sealed=True)
    assert found == Finding(ok=True, rows=6, last=made[5].hash, heads=2, keys=[head(made[0]).key])
    assert check([], [], signed).ok
    assert not check(made, [head(made[2])], signed, sealed=True).ok  # rows that no head speaks of
    assert check(made, [head(made[2])], signed).ok


def _changed(made: Rows) -> Rows:
    return [*made[:2], msgspec.structs.replace(made[2], reason="other"), *made[3:]]


def _rewritten(made: Rows) -> Rows:
    return [*made[:2], chained(msgspec.structs.replace(made[2], reason="other")), *made[3:]]


def _all_rewritten(made: Rows) -> Rows:
    out = made[:2]
    for row in made[2:]:
        out.append(chained(msgspec.structs.replace(row, reason="other", prev=out[-1].hash)))
    return out


def _renumbered(made: Rows) -> Rows:
    return [*made[:2], *(msgspec.structs.replace(row, id=row.id - 1) for row in made[3:])]


WRONG: dict[str, tuple[Callable[[Rows], Rows], Flaw, int]] = {
    "a row is changed": (_changed, Flaw.CHANGED, 3),
    "a row is changed, with its hash": (_rewritten, Flaw.CHANGED, 4),
    "all from a row on is written anew": (_all_rewritten, Flaw.CHANGED, 6),
    "a row is gone": (lambda made: made[:2] + made[3:], Flaw.MISSING, 3),
    "the first are gone": (lambda made: made[2:], Flaw.MISSING, 1),
    "a row is gone, and the others have its number": (_renumbered, Flaw.CHANGED, 3),
    "two changed places": (lambda made: [*made[:2], made[3], made[2], *made[4:]], Flaw.REORDERED, 4),
    "a row is there twice": (lambda made: [*made[:3], made[2], *made[3:]], Flaw.REORDERED, 3),
    "the last are gone": (lambda made: made[:4], Flaw.CUT, 5),
    "all are gone": (lambda made: [], Flaw.CUT, 1),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str) -> None:
    change, flaw, row = WRONG[case]
    made = rows()
    found = check(change(made), [head(made[5])], signed)
    assert (found.ok, found.flaw, found.row) == (False, flaw, row), found
    assert found.detail


def test_heads_that_are_not_what_they_seem() -> None:
    made, other = rows(), Ed25519PrivateKey.generate()
    good = head(made[5])
    for bad in (
        msgspec.structs.replace(good, hash=made[4].hash),
        msgspec.structs.replace(good, ts=8.0),
        msgspec.structs.replace(good, key="zz"),
        msgspec.structs.replace(good, signature=""),
        msgspec.structs.replace(good, key=head(made[5], other).key),
    ):
        assert check(made, [bad], signed).flaw == Flaw.FORGED
    assert check(made, [head(made[5], other)], signed, key=good.key).flaw == Flaw.FORGED
    assert check(made, [good], signed, key=good.key).ok


def exported(path: Path, made: Rows, heads: list[Head]) -> Path:
    lines = [{"format": FORMAT, "rows": len(made), "public_key": heads[-1].key}, *({"head": one} for one in heads), *made]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


def test_an_export_is_checked_by_its_file_alone(tmp_path: Path) -> None:
    made = rows()
    path = exported(tmp_path / "x", made, [head(made[2]), head(made[5])])
    assert verify_export(path).ok
    assert verify_export(path, head(made[0]).key).ok
    assert verify_export(path, "00" * 32).flaw == Flaw.FORGED
    whole = path.read_bytes()
    for cut in range(1, len(msgspec.json.encode(made[5])) + 1, 17):  # the last line ends anywhere
        path.write_bytes(whole[: -cut - 1])
        found = verify_export(path)
        assert (found.flaw, found.row, found.rows) == (Flaw.TORN, 6, 5), (cut, found)
    path.write_bytes(whole[:-1])  # only the newline is gone: nothing is lost
    assert verify_export(path).ok
    lines = whole.splitlines(keepends=True)
    for change, flaw, row in (
        (lines[:-1], Flaw.CUT, 6),
        ([*lines[:5], b"{not a row}\n", *lines[6:]], Flaw.CHANGED, 3),
        ([*lines[:4], *lines[5:]], Flaw.MISSING, 2),
        ([*lines[:1], *lines[3:]], Flaw.FORGED, 1),  # no head at all
        ([*lines[:1], lines[1], *lines[3:]], Flaw.FORGED, 4),  # no head of the end
    ):
        path.write_bytes(b"".join(change))
        found = verify_export(path)
        assert (found.flaw, found.row) == (flaw, row), found
    for nothing in (b"", b"\n", b"[]\n", b"\xff\xfe", b'{"format": "x"}\n', whole[:20]):
        path.write_bytes(nothing)
        with pytest.raises(AegisError) as caught:
            verify_export(path)
        assert caught.value.kind is ErrorKind.USAGE
