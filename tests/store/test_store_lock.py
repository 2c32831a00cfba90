"""One writing process per home."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from aegis.core.clock import SystemClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.store.conftest import Child

HOLDER = """
import asyncio, sys
from pathlib import Path
from aegis.core.clock import SystemClock
from aegis.store import Store

async def main():
    store = await Store.open(Path(sys.argv[1]), SystemClock())
    print("open", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_second_opener_is_refused(store: Store) -> None:
    with pytest.raises(AegisError) as caught:
        await Store.open(store.path, SystemClock())
    assert caught.value.kind is ErrorKind.CONFLICT
    assert caught.value.data["pid"] == os.getpid()
    assert str(os.getpid()) in caught.value.message


async def test_a_killed_holder_leaves_no_lock(tmp_path: Path, child: Child) -> None:
    path = tmp_path / "aegis.db"
    process = child(HOLDER, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    with pytest.raises(AegisError) as caught:
        await Store.open(path, SystemClock())
    assert caught.value.data["pid"] == process.pid
    process.kill()
    process.wait()
    await (await Store.open(path, SystemClock())).close()
