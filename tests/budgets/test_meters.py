"""Windows that roll, and amounts."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aegis.core.errors import AegisError
from aegis.services.budgets.meters import Rolling
from aegis.services.budgets.money import MICRO, Used, dollars, micro, money
from aegis.services.budgets.reading import allowance, window
from aegis.services.config.model import Allowance
from aegis.store.migrate import known, migrate


@given(st.lists(st.tuples(st.floats(0, 500), st.integers(0, 1000)), max_size=40), st.sampled_from([1.0, 60.0, 3600.0]))
def test_a_window_counts_at_least_what_is_in_it_and_frees_when_it_says(steps: list[tuple[float, int]], size: float) -> None:
    now, used = 1_800_000_000.0, []
    rolling = Rolling(size, lambda since, window: (), now)
    for seconds, tokens in steps:
        now += seconds
        rolling.add(now, Used(0, tokens, 0))
        used.append((now, tokens))
        exact = sum(t for ts, t in used if ts > now - size)
        slack = max(1.0, size / 60)
        assert exact <= rolling.tokens <= sum(t for ts, t in used if ts > now - size - slack - 1e-6)
    if used:
        total = rolling.tokens
        frees = rolling.frees(now, 1, total // 2)
        assert frees is not None
        rolling.look(frees)
        assert rolling.tokens <= total // 2


@pytest.mark.parametrize(
    ("usd", "amount"),
    [(1.5, 1_500_000), (0.1, 100_000), (1e-9, 1), (0, 0), (math.nan, None), (-0.01, None), (math.inf, None), (None, None), (True, None),
     (1e30, 10**15), ("1", None)],
)  # fmt: skip
def test_money_is_micro_dollars_or_unknown(usd: object, amount: int | None) -> None:
    assert micro(usd) == amount


def test_amounts_for_people_and_back() -> None:
    assert [money(each) for each in (1_500_000, 300, 12_340_000, MICRO, 123)] == ["$1.50", "$0.0003", "$12.34", "$1.00", "$0.000123"]
    assert [dollars(each) for each in ("1.50", "$2", "0", "-1", "1e3", "nan", "1.2345678")] == [1_500_000, 2 * MICRO, *[None] * 5]


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["1.50"], Allowance(usd=1_500_000)),
        (["$2/24h"], Allowance(usd=2_000_000, window=86_400.0)),
        (["usd:1.00:1h"], Allowance(usd=1_000_000, window=3600.0)),
        (["200000tokens", "1"], Allowance(usd=1_000_000, tokens=200_000)),
        (["1.5M tokens/7d", "10k output_tokens/7d"], Allowance(tokens=1_500_000, output_tokens=10_000, window=604_800.0)),
        ([], Allowance()),
    ],
)
def test_budgets_as_people_write_them(texts: list[str], found: Allowance) -> None:
    assert allowance(texts) == found


@pytest.mark.parametrize(
    "texts",
    [["x"], ["0"], ["-1"], ["1/0s"], ["1/9999d"], ["1", "2"], ["1/1h", "5tokens/2h"], ["1e9"], ["0tokens"], ["9" * 30 + "tokens"], [""]],
)
def test_what_is_no_budget_is_refused(texts: list[str]) -> None:
    with pytest.raises(AegisError):
        allowance(texts)
    with pytest.raises(AegisError):
        window("soon")


def test_a_home_with_history_has_it_counted(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "old.db", isolation_level=None)
    migrations = known()
    number = next(m.number for m in migrations if m.name.endswith("budgets"))
    migrate(db, tmp_path / "old.db", 0.0, migrations[: number - 1])
    launch = '{"agent":"coder","project":"/p","sandbox":"process"}'
    for ident, parent in (("root", None), ("child", "root")):
        db.execute(
            "INSERT INTO instances (id, handle, idx, launch, state, token, created_at, last_active_at, parent) VALUES (?, ?, ?, ?, 'stopped', '', 0, 0, ?)",
            (ident, ident, len(ident), launch, parent),
        )
    rows = [
        ("root", 1_800_000_000.0, 100, 10, 0.5, "broker"), ("child", 1_800_000_030.0, 50, 5, None, "broker"),
        ("child", 1_800_003_600.0, -7, 5, 1e300, "broker"), ("root", 1_800_003_600.0, 9, 9, 9.0, "count"),
        ("root", 1_800_003_600.0, 9, 9, 9.0, "replayed"),
    ]  # fmt: skip
    for instance, ts, given_, written, cost, source in rows:
        db.execute(
            "INSERT INTO model_calls (ts, instance, session, model, status, input, output, cached, cache_written, cost_usd, ms, source) "
            "VALUES (?, ?, 'host:default', 'm/m', 200, ?, ?, 0, 0, ?, 1, ?)",
            (ts, instance, given_, written, cost, source),
        )
    migrate(db, tmp_path / "old.db", 0.0, migrations)

    def life(scope: str, subject: str) -> tuple[int, ...]:
        return db.execute(
            "SELECT usd, tokens, output, unpriced FROM budget_totals WHERE scope = ? AND subject = ? AND width = 0", (scope, subject)
        ).fetchone()  # type: ignore[no-any-return]

    whole = (500_000, 170, 20, 1)
    for place in (("home", ""), ("project", "/p"), ("agent", "coder"), ("agent", "coder in /p"), ("instance", "root")):
        assert life(*place) == whole, place
    assert life("instance", "child") == life("session", "child host:default") == (0, 60, 10, 1)
    minutes = db.execute("SELECT bucket, tokens FROM budget_totals WHERE scope = 'home' AND width = 60 ORDER BY bucket").fetchall()
    assert minutes == [(30_000_000, 165), (30_000_060, 5)]
    db.close()
