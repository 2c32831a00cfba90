"""Finding the programs of others: links, scripts, packages, versions; and what must be shown for each."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import sys
from pathlib import Path

import pytest
from tests.kit.clis import PROGRAMS, cli, pin

from aegis.core.errors import AegisError, ErrorKind
from aegis.drivers import Installation
from aegis.drivers.programs import Programs, ProgramSpec, compare
from aegis.sandboxes import Mount

ELF = Path("/usr/bin/true").resolve()
PYTHON = os.path.realpath(sys.executable)  # not that of the virtual environment: the path in a `#!` line has no spaces
CPU = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), "none")
SPEC = ProgramSpec(name="tool", command=("tool",), pinned="1.2.3", oldest="1.0", install="npm install -g tool@1.2.3")


def script(path: Path, body: str, interpreter: str | None = None) -> Path:
    """An executable script; of this test's Python unless another interpreter is named."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{interpreter or PYTHON}\n{body}")
    path.chmod(0o755)
    return path


def tells(version: str = "1.2.3") -> str:
    return f"print('tool {version} (build 7)')\n"


def native(path: Path) -> Path:
    """A native program that tells a version: `true` of coreutils does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ELF, path)
    return path


def manifest(folder: Path, **content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(json.dumps(content))
    return folder


async def find(folder: Path, spec: ProgramSpec = SPEC, **overrides: str) -> Installation:
    return await Programs(path=f"relative:{folder}:/usr/bin", overrides=lambda: overrides).find(spec)


async def failure(folder: Path, spec: ProgramSpec = SPEC, **overrides: str) -> AegisError:
    with pytest.raises(AegisError) as caught:
        await find(folder, spec, **overrides)
    return caught.value


async def test_a_missing_program_says_how_to_install_it(tmp_path: Path) -> None:
    error = await failure(tmp_path)
    assert error.kind is ErrorKind.NOT_FOUND
    assert "npm install -g tool@1.2.3" in error.hint
    assert "programs.tool.path" in error.hint
    for wrong in (str(tmp_path / "nothing"), "tool", str(tmp_path)):
        error = await failure(tmp_path, tool=wrong)
        assert (error.kind, wrong in error.message) == (ErrorKind.NOT_FOUND, True)


async def test_a_script_of_a_virtual_environment_needs_all_of_that(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (venv / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    script(venv / "bin" / "tool", tells(), str(venv / "bin" / "python"))
    found = await find(venv / "bin")
    assert found.argv == [str(venv / "bin" / "python"), str(venv / "bin" / "tool")]
    assert found.mounts == (Mount(venv, str(venv)),)
    assert (found.version, found.warning, found.path) == ("1.2.3", "", venv / "bin" / "tool")


async def test_versions_are_compared_with_the_pinned_and_the_oldest(tmp_path: Path) -> None:
    for version, word in (("1.10.0", "newer"), ("1.2.2", "older"), ("1.2.3-beta.1", "older")):
        script(tmp_path / "tool", tells(version))
        found = await find(tmp_path)
        assert found.version == version
        assert word in found.warning
        assert "1.2.3" in found.warning
    script(tmp_path / "tool", tells("0.9"))
    error = await failure(tmp_path)
    assert error.kind is ErrorKind.UNAVAILABLE
    assert "0.9" in error.message
    assert "1.0 or newer" in error.message
    assert (compare("1.10", "1.9"), compare("2.0", "2.0"), compare("1.9", "1.9.1")) == (1, 0, -1)


@pytest.mark.parametrize("body", ["", "print('no number')", "raise SystemExit('1.2.3')", "import os; os.kill(os.getpid(), 9)"])
async def test_one_that_does_not_tell_its_version_is_refused(tmp_path: Path, body: str) -> None:
    script(tmp_path / "tool", body)
    error = await failure(tmp_path)
    assert error.kind is ErrorKind.UNAVAILABLE
    assert str(tmp_path / "tool") in error.message


async def test_endless_output_is_cut(tmp_path: Path) -> None:
    script(tmp_path / "tool", "while True: print('x' * 1000, flush=True)")
    assert (await failure(tmp_path)).kind is ErrorKind.UNAVAILABLE


async def test_it_is_asked_in_an_environment_from_nothing_with_a_home_that_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "mine")
    out = tmp_path / "said.json"
    body = f"import json, os; json.dump([dict(os.environ), os.getcwd(), os.listdir()], open({str(out)!r}, 'w')); print('1.2.3')"
    script(tmp_path / "tool", body)
    spec = ProgramSpec(name="tool", command=("tool",), env={"TOOL_QUIET": "1"})
    await find(tmp_path, spec)
    env, cwd, listing = json.loads(out.read_text())
    assert env.keys() - {"LC_CTYPE"} == {"PATH", "HOME", "TMPDIR", "LANG", "TOOL_QUIET"}
    assert env["HOME"] == env["TMPDIR"] == cwd != os.environ.get("HOME")
    assert listing == []
    assert not Path(cwd).exists()


async def test_it_is_asked_once_until_it_changes(tmp_path: Path) -> None:
    count = tmp_path / "count"
    body = f"open({str(count)!r}, 'a').write('x')\n"
    script(tmp_path / "tool", body + tells())
    programs = Programs(path=str(tmp_path))
    await asyncio.gather(*(programs.find(SPEC) for _ in range(5)))
    assert count.read_text() == "x"
    script(tmp_path / "tool", body + tells("1.3.0"))
    assert (await programs.find(SPEC)).version == "1.3.0"
    assert count.read_text() == "xx"


async def test_a_native_program_is_shown_alone(tmp_path: Path) -> None:
    spec = ProgramSpec(name="tool", command=("tool",))
    real = native(tmp_path / "share" / "tool" / "versions" / "9.1")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").symlink_to(real)
    found = await find(tmp_path / "bin", spec)
    assert (found.argv, found.mounts) == ([str(real)], (Mount(real, str(real)),))


async def test_what_is_below_usr_needs_no_mount(tmp_path: Path) -> None:
    found = await find(tmp_path, ProgramSpec(name="tool", command=(ELF.name,)))
    assert (found.argv, found.mounts) == ([str(ELF)], ())


@pytest.mark.skipif(CPU == "none", reason="npm packages for this processor are not known")
async def test_the_native_file_of_the_platforms_package_comes_before_the_script_that_starts_it(tmp_path: Path) -> None:
    modules = tmp_path / "node_modules"
    wrapper = manifest(
        modules / "@some" / "tool", version="1.2.3", optionalDependencies={f"tool-{n}": "1" for n in ("darwin", "linux", "musl")}
    )
    manifest(modules / "tool-darwin", os=["darwin"], cpu=[CPU])
    native(modules / "tool-darwin" / "bin" / "tool").chmod(0o755)
    manifest(modules / "tool-musl", os=["linux"], cpu=[CPU], libc=["none"])
    native(modules / "tool-musl" / "bin" / "tool")
    platforms = manifest(modules / "tool-linux", os=["linux"], cpu=[CPU])
    (platforms / "bin").mkdir()
    (platforms / "bin" / "readme").write_text("")
    native(platforms / "bin" / "tool")
    start = script(wrapper / "bin" / "tool.exe", "", "/bin/sh")
    start.write_text("echo 'the installation was not completed' >&2\n")
    (modules / ".bin").mkdir()
    (modules / ".bin" / "tool").symlink_to("../@some/tool/bin/tool.exe")
    found = await find(modules / ".bin", ProgramSpec(name="tool", command=("tool",)))
    assert found.argv == [str(platforms / "bin" / "tool")]
    assert found.mounts == (Mount(platforms, str(platforms)),)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize(("dependencies", "nested", "shown"), [({}, False, "tool"), ({"a": "1"}, True, "tool"), ({"a": "1"}, False, "")])
async def test_a_package_is_shown_with_what_it_depends_on(tmp_path: Path, dependencies: dict[str, str], nested: bool, shown: str) -> None:
    modules = tmp_path / "node_modules"
    package = manifest(modules / "tool", dependencies=dependencies)
    manifest((package / "node_modules" if nested else modules) / "a", main="index.js")
    start = script(package / "index.js", "console.log('1.2.3')", "/usr/bin/env node")
    (tmp_path / "tool").symlink_to(start)
    found = await find(tmp_path)
    node = Path(shutil.which("node") or "").resolve()
    assert Path(found.argv[0]).resolve() == node
    assert found.argv[1:] == [str(start)]
    wanted = {modules / shown} | (set() if node.is_relative_to("/usr") else {node})
    assert {mount.source for mount in found.mounts} == wanted


async def test_a_shell_script_is_refused_for_nobody_knows_what_it_needs(tmp_path: Path) -> None:
    script(tmp_path / "tool", "echo 1.2.3", "/bin/sh")
    error = await failure(tmp_path)
    assert error.kind is ErrorKind.UNAVAILABLE
    assert "programs.tool.path" in error.hint


async def test_a_whole_home_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "people" / "me"))
    venv = tmp_path / "people" / "me"
    script(venv / "bin" / "tool", tells(), str(venv / "bin" / "python"))
    (venv / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (venv / "pyvenv.cfg").write_text("")
    error = await failure(venv / "bin")
    assert error.kind is ErrorKind.DENIED
    assert str(venv) in error.message


async def test_one_that_anybody_can_change_is_not_run(tmp_path: Path) -> None:
    script(tmp_path / "tool", tells()).chmod(0o777)
    error = await failure(tmp_path)
    assert (error.kind, "chmod o-w" in error.hint) == (ErrorKind.DENIED, True)


def _told(name: str) -> str:
    """The pinned version as the program tells it, without the platform that its package has behind it."""
    return pin(name).partition("-")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PROGRAMS))
async def test_the_pinned_programs_are_found_as_they_are(name: str) -> None:
    path = cli(name)
    spec = ProgramSpec(name=name, command=("none",), pinned=_told(name), env={"GEMINI_CLI_NO_RELAUNCH": "true"})
    found = await Programs(path="/usr/bin:/bin", overrides=lambda: {name: str(path)}).find(spec)
    assert (found.version, found.warning) == (_told(name), "")
    assert found.argv[-1] == str(path)
    assert len(found.mounts) == 1
    assert path.is_relative_to(found.mounts[0].source)
