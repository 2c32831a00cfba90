"""What arguments mean."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click
import pytest

from aegis.cli.instance import spec_of
from aegis.cli.options import Megabytes, MountType, Pair, PointInTime, SessionType


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512),
        ("512", 512),
        ("2g", 2048),
        ("1.5 GiB", 1536),
        ("0", None),
        ("-1", None),
        ("1T", 1024**2),
        ("4096k", 4),
        ("1k", None),
        ("5Q", None),
        ("", None),
    ],
)
def test_sizes_are_megabytes(text: str, size: int | None) -> None:
    _expect(Megabytes(), text, size)


@pytest.mark.parametrize(
    ("text", "session"),
    [("x", ("host", "x")), ("telegram:1", ("telegram", "1")), ("a:b:c", None), (":x", None), ("x:", None), ("a b", None), ("ü", None)],
)
def test_sessions_are_a_channel_and_an_id(text: str, session: tuple[str, str] | None) -> None:
    _expect(SessionType(), text, session)


@pytest.mark.parametrize(("text", "pair"), [("A=b=c", ("A", "b=c")), ("A=", ("A", "")), ("A", None), ("=b", None), ("A B=c", None)])
def test_pairs_keep_all_after_the_first_sign(text: str, pair: tuple[str, str] | None) -> None:
    _expect(Pair(), text, pair)


def test_mounts_are_read_only_and_at_the_same_path_unless_said(tmp_path: Path) -> None:
    here = str(tmp_path.resolve())
    kind = MountType()
    for text, target, writable in (
        (here, here, False),
        (f"{here}:rw", here, True),
        (f"{here}:/data", "/data", False),
        (f"{here}:/data:ro", "/data", False),
        (f"{here}:/data:rw", "/data", True),
    ):
        assert kind.convert(text, None, None) == {"source": here, "target": target, "writable": writable}
    for wrong in ("", ":/x", f"{here}:data", f"{here}:/a:/b:rw", f"{here}/missing"):
        _expect(kind, wrong, None)


def test_points_in_time_are_utc() -> None:
    kind = PointInTime()
    assert kind.convert("2026-01-31T12:00:00+02:00", None, None) == "2026-01-31T10:00:00Z"
    assert datetime.fromisoformat(kind.convert("10m", None, None)).tzinfo is not None
    _expect(kind, "yesterday", None)


def test_a_request_holds_only_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nothing: dict[str, Any] = {"handle": None, "mounts": (), "read_only": False, "env": ()}
    assert spec_of(**nothing) == {}
    assert spec_of(agent="coder", command=("a",), workspace=".", env=(("A", "b"),), secrets=("X:env",), cpus=0.5) == {
        "agent": "coder",
        "command": ["a"],
        "workspace": str(tmp_path.resolve()),
        "env": {"A": "b"},
        "secrets": ["X:env"],
        "cpus": 0.5,
    }


def _expect(kind: Any, text: str, value: object) -> None:
    if value is None:
        with pytest.raises(click.BadParameter):
            kind.convert(text, None, None)
    else:
        assert kind.convert(text, None, None) == value
