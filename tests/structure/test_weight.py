"""What a command imports: nothing heavy before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "mcp", "acp", "textual", "grpc", "httpx", "uvicorn", "starlette", "uvloop", "httptools", "cryptography", "ruamel", "pydantic",
    "websockets",
)  # fmt: skip

#: A statement and what must not be loaded after it.
CASES = {
    "--version": (
        "from aegis.cli.main import main; assert main(['--version']) == 0",
        (*HEAVY, "click", "asyncio", "msgspec", "json", "ssl", "socket", "subprocess", "sqlite3"),
    ),
    "import aegis": ("import aegis", (*HEAVY, "click", "asyncio", "msgspec", "sqlite3")),
    "the help": (
        "from aegis.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass",
        (*HEAVY, "asyncio", "sqlite3", "aegis.daemon", "aegis.services", "aegis.store"),
    ),
    "the guest": ("import aegis.guest.supervisor", (*HEAVY, "msgspec", "click", "sqlite3", "aegis.core", "aegis.store", "aegis.services")),
    "the HTTP API": ("import aegis.daemon.http", ("websockets", "mcp", "textual", "ruamel")),
    "the configuration": ("import aegis.services.config", ("ruamel", "httpx", "uvicorn", "starlette", "click", "aegis.daemon")),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_heavy_is_loaded(case: str) -> None:
    statement, heavy = CASES[case]
    script = f"import sys\n{statement}\nprint('loaded:', *sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert not loaded.intersection(heavy), sorted(loaded.intersection(heavy))
