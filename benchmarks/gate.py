"""The gate in this process: what a decision costs, by how many rules there are and what they are about.

The floor is one decision that is remembered: what the gate costs where nothing is touched. Budgets are of the median.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aegis.core.clock import SystemClock
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.gate import Effect, Facet, Gate
from aegis.store import Store
from benchmarks.harness import Row, measure, percentile, row

if TYPE_CHECKING:
    from collections.abc import Callable

_CODER = Principal(PrincipalKind.INSTANCE, "inst_1")
_FACTS: dict[str, Any] = {
    "handle": "coder-1", "agent": "coder", "project": "/srv/shop", "permission": "write", "approvals": "auto", "sandbox": "bwrap",
    "program": "native", "model": "scripted/echo", "security": (), "tools": ("core", "fs", "cmd"), "servers": (), "depth": 0,
}  # fmt: skip
#: A call that touches one thing.
_CALL = Effect(tool="fs.read", facets=(Facet(path="/workspace/src/main.py"),), arguments={"path": "src/main.py"}, digest="d" * 64)


def main(quick: bool) -> list[Row]:
    """All rows."""
    return asyncio.run(_main(200 if quick else 5000, 1000 if quick else 10_000))


async def _main(n: int, many: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="aegis-bench-") as folder:
        clock = SystemClock()
        store = await Store.open(Path(folder) / "aegis.db", clock)
        try:
            return _rows(Gate(store, clock), Path(folder) / "policies", n, many)
        finally:
            await store.close()


def _rows(gate: Gate, folder: Path, n: int, many: int) -> list[Row]:
    folder.mkdir()
    gate.policies.folder = folder
    gate.facts = lambda name: _FACTS if name in (_CODER.id, "coder-1") else None

    def call() -> object:
        return gate.decide(_CODER, "tool.call", "fs.read", effect=_CALL)

    floor = measure(lambda: gate.decide(_CODER, "model.call", "scripted/echo"), n)
    found = [row("gate: a decision that is remembered", floor, None, "nothing is touched, as with `mail.send`")]
    for count, budget in ((10, 60), (100, 130)):
        _write(folder, count, lambda k: "coder" if k % 2 else f"agent{k}")
        found.append(_measured(gate, call, f"gate: a call, {count} rules, half of them about its agent", n, floor, f"budget {budget} us"))
    _write(folder, many, lambda k: f"agent{k}")
    started = measure(gate.policies.refresh, 1, 0)
    found.append(row(f"gate: {many:,} rules read and checked", started, None, "once, when their files change"))
    found.append(_measured(gate, call, f"gate: a call, {many:,} rules about other agents", n, floor, "no slower than with 10"))
    return found


def _measured(gate: Gate, call: Callable[[], object], name: str, n: int, floor: list[float], note: str) -> Row:
    gate.policies.refresh()
    call()
    times = measure(call, n)
    return row(name, times, floor, f"{percentile(times, 50) * 1000:.0f} us; {note}")


def _write(folder: Path, count: int, agent: Callable[[int], str]) -> None:
    """So many rules, in files of a thousand."""
    for old in folder.iterdir():
        old.unlink()
    for first in range(0, count, 1000):
        rules = [
            f'@id("r{k}") forbid (principal is Instance, action == Action::"tool.call", resource)\n'
            f'when {{ principal.agent == "{agent(k)}" && context has path && context.path like "/workspace/secret{k}/*" }};\n'
            for k in range(first, min(count, first + 1000))
        ]
        (folder / f"r{first}.cedar").write_text("".join(rules))
