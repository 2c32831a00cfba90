"""The audit record: a row inside a transaction, a row on disk, the check of all, and what looking for secrets adds to an event.

Floors: for rows the insert of the same texts into a table without a chain, for events the look for one value by `in`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from aegis.core.clock import SystemClock
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.gate import Decision
from aegis.services.gate.audit import Audit
from aegis.services.secrets import Redactor
from aegis.store import Store
from benchmarks.harness import Row, measure, row

if TYPE_CHECKING:
    from aegis.store import Tx

_DECISION = Decision(
    Principal(PrincipalKind.INSTANCE, "inst_abcdefgh"),
    "tool.call",
    "fs.read",
    True,
    "granted at launch",
    {"path": "/workspace/x.py", "session": "host:default"},
    policies=("aegis.tools",),
    digest="a" * 64,
)
_PLAIN = "CREATE TABLE plain (id INTEGER PRIMARY KEY, ts REAL, who TEXT, action TEXT, resource TEXT, decision TEXT, reason TEXT, data TEXT)"
_EVENT = json.dumps({"text": "Hello world, this is some text. " * 15}).encode()


def main(quick: bool) -> list[Row]:
    """All rows."""
    folder = Path(tempfile.mkdtemp(prefix="aegis-bench-"))
    try:
        return [*uvloop.run(_record(folder, 200 if quick else 5000)), *_redaction(200 if quick else 5000)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _record(folder: Path, n: int) -> list[Row]:
    store = await Store.open(folder / "aegis.db", SystemClock())
    audit = Audit(store, SystemClock(), folder / "audit.key")

    def plain(tx: Tx) -> list[float]:
        tx.execute(_PLAIN)
        values = (1.0, str(_DECISION.principal), _DECISION.action, _DECISION.resource, "allow", _DECISION.reason, "{}")
        sql = "INSERT INTO plain (ts, who, action, resource, decision, reason, data) VALUES (?, ?, ?, ?, ?, ?, ?)"
        return measure(lambda: tx.execute(sql, values), n)

    floor = await store.write(plain)
    inside = await store.write(lambda tx: measure(lambda: audit.write(tx, _DECISION), n))
    on_disk = []
    for _ in range(n // 10):
        started = time.perf_counter()
        await audit.record(_DECISION)
        on_disk.append((time.perf_counter() - started) * 1000)
    started = time.perf_counter()
    found = await audit.verify()
    each = (time.perf_counter() - started) * 1000 / found.rows
    await audit.close()
    await store.close()
    return [
        row("audit: a row in a transaction", inside, floor),
        row("audit: a row on disk, one at a time", sorted(on_disk)),
        row("audit: verify, per row", [each], note=f"{found.rows} rows, {found.heads} heads"),
    ]


def _redaction(n: int) -> list[Row]:
    floor = measure(lambda: b"sk-" + b"x" * 40 in _EVENT, n)
    rows = []
    for count in (0, 5, 100):
        redactor = Redactor()
        redactor.know((f"NAME{number}", f"sk-{number:06}-{'q7Zr' * 9}") for number in range(count))
        times = measure(lambda redactor=redactor: redactor.clean(_EVENT), n)  # type: ignore[misc]
        rows.append(row(f"redaction: an event of {len(_EVENT)} bytes, {count} secrets", times, floor))
    return rows
