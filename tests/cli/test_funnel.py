"""Nothing but `output` writes to the terminal, and `--version` imports nothing that it does not need."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import aegis.cli

PLACE = Path(aegis.cli.__path__[0])
FORBIDDEN_CALLS = {"print", "input", "echo", "secho", "prompt", "confirm", "pager", "getpass", "clear"}
FORBIDDEN_STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}


@pytest.mark.parametrize("path", sorted(p for p in PLACE.glob("*.py") if p.name != "output.py"), ids=lambda p: p.name)
def test_only_the_funnel_writes_to_the_terminal(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
            assert called not in FORBIDDEN_CALLS, f"{path.name}:{node.lineno} calls {called}; use Output"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys":
            assert node.attr not in FORBIDDEN_STREAMS, f"{path.name}:{node.lineno} uses sys.{node.attr}; use Output"


@pytest.mark.parametrize("path", sorted(PLACE.glob("*.py")), ids=lambda p: p.name)
def test_the_face_knows_core_and_client_alone(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            if name.startswith("aegis."):
                assert name.split(".")[1] in {"cli", "client", "core"}, f"{path.name}:{node.lineno} imports {name}"


def _imported(*args: str) -> set[str]:
    script = f"import sys; from aegis.cli.main import main; main({list(args)!r}); sys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_the_version_costs_no_imports() -> None:
    assert not _imported("--version") & {"click", "asyncio", "http", "http.client", "json", "msgspec", "subprocess", "socket"}


def test_help_imports_no_verb() -> None:
    loaded = _imported("--help")
    assert "click" in loaded
    assert not loaded & {"aegis.cli.instance", "aegis.cli.talk", "aegis.client.api", "http.client", "asyncio", "msgspec"}
