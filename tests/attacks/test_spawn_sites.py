"""Case 19: every place in the source that starts a program says with which environment; there is one that makes a sandbox's."""

from __future__ import annotations

import ast
from collections.abc import Callable

from tests.attacks.conftest import Box
from tests.structure.house import SPAWN_SITES, modules

#: Starts a program with the environment of the caller because it is the caller's own, in the foreground, or becomes it.
ON_PURPOSE = frozenset(
    {
        ("cli/daemon.py", "os.execve"),
        ("cli/demo.py", "subprocess.run"),  # git on the demo's own repository
        ("sandboxes/bwrap/kind.py", "subprocess.run"),  # `bwrap --version`
    }
)
#: Calls that start a program, and which positional argument is the environment, where one can be.
_STARTS = {
    "subprocess.run": None, "subprocess.Popen": None, "subprocess.call": None, "subprocess.check_call": None,
    "subprocess.check_output": None, "asyncio.create_subprocess_exec": None, "asyncio.create_subprocess_shell": None,
    "os.execve": 2, "os.execvpe": 2, "os.posix_spawn": 2, "os.posix_spawnp": 2,
}  # fmt: skip
_NEVER = frozenset(f"os.{name}" for name in "system popen execv execvp execl execlp spawnl spawnv spawnlp spawnvp startfile".split())


def sites() -> list[tuple[str, str, ast.Call]]:
    """Every call in the package that starts a program: (file, what, the call)."""
    return [
        (module.path, ast.unparse(node.func), node)
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {*_STARTS, *_NEVER}
    ]


def explicit(what: str, call: ast.Call) -> bool:
    """Whether the call says which environment the program gets."""
    position = _STARTS[what]
    if position is not None and len(call.args) > position:
        return True
    return any(
        keyword.arg == "env" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is None) for keyword in call.keywords
    )


def test_every_start_of_a_program_names_its_environment() -> None:
    found = sites()
    assert len(found) >= 6
    assert {path for path, _, _ in found} <= SPAWN_SITES
    assert not [(path, what) for path, what, _ in found if what in _NEVER]
    without = {(path, what) for path, what, call in found if not explicit(what, call)}
    assert without <= ON_PURPOSE, without


def test_no_start_goes_through_a_shell_of_the_host() -> None:
    for path, what, call in sites():
        assert not any(keyword.arg == "shell" for keyword in call.keywords), (path, what)
        words = {node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        assert not words & {"sh", "bash", "/bin/sh", "/bin/bash", "/usr/bin/sh", "/usr/bin/bash"}, (path, what)


def test_one_place_makes_the_environment_of_a_sandbox() -> None:
    """`clean_env`: whoever makes a sandbox calls it, and nobody hands over its own."""
    calls = [(module.path, node) for module in modules() for node in ast.walk(module.tree) if isinstance(node, ast.Call)]
    makers = {path for path, call in calls if ast.unparse(call.func) == "clean_env"}
    assert makers == {"sandboxes/bwrap/sandbox.py", "sandboxes/process.py"}
    for module in modules():
        if (
            module.part in {"services", "drivers", "sandboxes"}
            and "conformance" not in module.path
            and module.path != "sandboxes/environment.py"
        ):
            assert "os.environ" not in ast.unparse(module.tree), module.path


EXPECTED = {
    "AEGIS_DAEMON", "AEGIS_EXEC", "AEGIS_EXEC_ID", "AEGIS_HANDLE", "AEGIS_HOME_ID", "AEGIS_INSTANCE", "AEGIS_LIB",
    "AEGIS_MCP_TOKEN", "AEGIS_MCP_URL", "AEGIS_MODEL_URL", "AEGIS_PYTHON", "HOME", "LANG", "PATH", "TMPDIR",
}  # fmt: skip
#: What shells add by themselves, and what the calls of the agent's tools are marked with.
SHELLS = {"PWD", "OLDPWD", "SHLVL", "_", "AEGIS_CALL", "TZ", "LC_CTYPE"}


def names(text: str) -> set[str]:
    return {line.partition("=")[0] for line in text.splitlines() if "=" in line}


def test_what_is_in_the_environment_inside(box: Callable[..., Box]) -> None:
    """The same in a program that a person runs, in the agent's tools, and in an instance that is a program."""
    a = box()
    assert names(a.run("/usr/bin/env").out) - SHELLS == EXPECTED
    assert names(a.call("bash", command="env")["output"]) - SHELLS <= EXPECTED
    command = ["/bin/sh", "-c", "env > /workspace/env; mv /workspace/env /workspace/done; sleep 600"]
    program = box("p", agent=None, model=None, command=command)
    program.sh("while [ ! -e done ]; do sleep 0.02; done")
    assert names((program.workspace / "done").read_text()) - SHELLS <= EXPECTED
