"""What every benchmark shares: timing, percentiles, one table.

A row stands beside the floor it was measured against in the same run; read the ratio, not the milliseconds, on another machine.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aegis.client.api import Client


class Row(NamedTuple):
    """One measured path; times in milliseconds. `floor_ms` is the median of what it stands on, `ratio` p50 over floor."""

    name: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    floor_ms: float | None = None
    ratio: float | None = None
    note: str = ""


def measure(fn: Callable[[], object], n: int, warm: int = 1) -> list[float]:
    """Call `fn` `warm` times for nothing and `n` times for the clock; milliseconds, sorted."""
    for _ in range(warm):
        fn()
    times = []
    for _ in range(n):
        started = time.perf_counter()
        fn()
        times.append((time.perf_counter() - started) * 1000)
    return sorted(times)


def row(name: str, times: Sequence[float], floor: Sequence[float] | None = None, note: str = "") -> Row:
    """A row of sorted `times` in milliseconds against a sorted floor."""
    base = percentile(floor, 50) if floor else None
    p50 = percentile(times, 50)
    return Row(name, p50, percentile(times, 95), percentile(times, 99), base, p50 / base if base else None, note)


def percentile(times: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the sorted times lie."""
    return times[min(len(times) - 1, int(len(times) * percent / 100))]


def end(client: Client) -> None:
    """End a daemon and wait until its process is gone: until then it may still write to its home."""
    pid = client.status()["pid"]
    client.shutdown()
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.005)


def show(rows: Iterable[Row]) -> str:
    """The table as text."""
    lines = [f"{'path':<52} {'p50 ms':>9} {'p95 ms':>9} {'p99 ms':>9} {'floor ms':>9} {'ratio':>7}  note"]
    for r in rows:
        floor = f"{r.floor_ms:9.3f}" if r.floor_ms is not None else " " * 9
        ratio = f"{r.ratio:7.1f}" if r.ratio is not None else " " * 7
        lines.append(f"{r.name:<52} {r.p50_ms:9.3f} {r.p95_ms:9.3f} {r.p99_ms:9.3f} {floor} {ratio}  {r.note}".rstrip())
    return "\n".join(lines)
