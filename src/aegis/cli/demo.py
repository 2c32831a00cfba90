"""`aegis demo`: the main job from beginning to end, with a daemon killed in the middle of it.

It has a home of its own in a temporary folder and touches nothing of the person's own home. Unless `--model` names a real model the
words come from the offline script `scripted/demo`; the sandbox, the tools, the tests, the crash and the recovery are real either way.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from aegis.cli.options import Word, complete_sandbox
from aegis.cli.verbs import Verb
from aegis.cli.view import View
from aegis.client import lasting, launch
from aegis.client.api import Client, pages
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from aegis.cli.output import Output

SCRIPT: Final = "scripted/demo"
HANDLE: Final = "demo"
TASK: Final = "A test in this repository fails. Find out why, mend the code (not the test), and run the tests again."
FOLLOW_UP: Final = "Thank you. In one sentence: what was wrong?"
OWN_FOLLOW_UP: Final = "Thank you. In one sentence: what did you do?"
TESTS: Final = ["python3", "-m", "unittest", "-q"]
#: How long the demo waits for one turn, in seconds.
PATIENCE: Final = 1800.0
_SESSION: Final = ("host", "default")
#: The provider that `--base-url` declares in the demo's own home, and the variable that may hold its key.
LOCAL: Final = "local"
LOCAL_KEY: Final = "LOCAL_API_KEY"
#: Which secret a provider's key is stored under; it is taken from the variable of that name.
_KEYS: Final = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
_BUILT_IN: Final = (*_KEYS, "ollama", "lmstudio", "vllm", "scripted")


@click.command(cls=Verb, json=False)
@click.option("--model", default=SCRIPT, show_default=True, help="A real model, as provider/model; its key is taken from the environment.")
@click.option("--base-url", metavar="URL", help="Where the model is served, such as `http://127.0.0.1:8080/v1`.")
@click.option(
    "--dialect", type=Word("dialect", ("openai", "anthropic")), default="openai", show_default=True, help="What is spoken at --base-url."
)
@click.option("--sandbox", shell_complete=complete_sandbox, help="A sandbox by name; the strongest one that works here by default.")
@click.option("--repo", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Work on this repository of yours.")
@click.option("--task", help="What to do there.")
@click.option("--keep", is_flag=True, help="Keep the temporary home and repository.")
@click.pass_obj
def demo(
    out: Output, model: str, base_url: str | None, dialect: str, sandbox: str | None, repo: Path | None, task: str | None, keep: bool
) -> int:
    """Show the main job: an agent in a sandbox mends a real repository while its daemon is killed.

    The demo has a home of its own and sees none of your settings. A model server of your own is named with --base-url; if it wants a
    key, put that into LOCAL_API_KEY.

    \b
    Examples:
      aegis demo
      aegis demo --model ollama/qwen3-coder
      aegis demo --model qwen3-coder --base-url http://127.0.0.1:8080/v1
      aegis demo --repo . --task "make the failing test pass" --model anthropic/claude-sonnet-4-5
    """
    if (repo is None) != (task is None):
        raise AegisError(
            ErrorKind.USAGE, "--repo and --task go together", 'for example: aegis demo --repo . --task "make the failing test pass"'
        )
    model = _model(model, base_url)
    out.live = True
    folder = Path(tempfile.mkdtemp(prefix="aegis-demo-"))
    run = Demo(out, folder / "home", model, sandbox)
    try:
        if base_url:
            _declare(folder / "home", base_url, dialect)
        return run.show(repo.resolve() if repo else _make_repository(folder / "textkit"), task or TASK, own=repo is not None)
    finally:
        run.end()
        if keep:
            out.say(("kept: ", "dim"), str(folder))
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _model(model: str, base_url: str | None) -> str:
    """The model as `provider/model`; raises USAGE when nobody could know where it is."""
    if base_url is not None:
        if model == SCRIPT:
            raise AegisError(ErrorKind.USAGE, "--base-url needs a --model", "name a model that is served there: `--model NAME`")
        return model if model.startswith(f"{LOCAL}/") else f"{LOCAL}/{model}"
    provider, slash, _ = model.partition("/")
    if not slash or provider not in _BUILT_IN:
        told = f"the demo knows no model provider `{provider}`" if slash else f"`{model}` is not `provider/model`"
        raise AegisError(ErrorKind.USAGE, told, f"providers: {', '.join(_BUILT_IN)}; for any other server add --base-url URL")
    return model


def _declare(home: Path, base_url: str, dialect: str) -> None:
    """Write the configuration of the demo's home."""
    provider = {"base_url": base_url, "dialect": dialect, **({"secret": LOCAL_KEY} if os.environ.get(LOCAL_KEY) else {})}
    home.mkdir(mode=0o700)
    (home / "config.yaml").write_text(json.dumps({"providers": {LOCAL: provider}}))


class Demo:
    """One run of the demo, with what it measures."""

    def __init__(self, out: Output, home: Path, model: str, sandbox: str | None) -> None:
        self._out = out
        self._home = home
        self._model = model
        self._sandbox = sandbox
        self._proof: list[tuple[str, str]] = []
        self._daemon: Client | None = None

    def show(self, repo: Path, task: str, *, own: bool) -> int:
        """Everything, step by step. Returns the exit code."""
        out = self._out
        if self._model.startswith("scripted/"):
            out.say(
                ("The model is the offline script ", "yellow"),
                (self._model, "bold"),
                (", not a real model. All else here is real.", "yellow"),
            )
        daemon = self._up("daemon up", "a fresh home")
        self._store_key(daemon)
        self._step("an agent in a sandbox")
        started = time.perf_counter()
        spec: Any = {"handle": HANDLE, "agent": "agent", "model": self._model, "workspace": str(repo)}
        item = daemon.instances.start(spec | ({"sandbox": self._sandbox} if self._sandbox else {})).instance
        self._proved("spawn", f"{(time.perf_counter() - started) * 1000:.0f} ms to a running sandbox ({item['sandbox']})")
        out.say(f"{HANDLE}: sandbox {item['sandbox']}, workspace {repo} at /workspace, model {item['model']}")
        before = None if own else self._tests("tests before")
        self._step("a task; the daemon is killed after the second tool result")
        out.say(("you: ", "bold"), task)
        done = self._turn(task, kill_after=2)
        if done["outcome"] != "completed":
            raise AegisError(ErrorKind.FAILED, f"the turn ended as {done['outcome']}", str((done.get("error") or {}).get("error", "")))
        self._step("pause, and wake by a message")
        self._pause_and_wake(OWN_FOLLOW_UP if own else FOLLOW_UP)
        after = None if own else self._tests("tests after")
        self._step("what changed")
        out.say(_git(repo, "--no-pager", "diff", "--no-color", "--no-ext-diff", "--", ".").rstrip() or "nothing")
        self._step("what was proven")
        out.pairs([(name, value) for name, value in self._proof])
        if own:
            return 0
        return 0 if before and after == 0 else 1

    def end(self) -> None:
        """Stop the daemon, and return when its process is gone: until then it writes to its home."""
        path = launch.socket_path(self._home)
        if launch.answers(path):
            daemon = Client(path)
            descriptor = os.pidfd_open(daemon.status()["pid"])
            daemon.shutdown()
            select.select([descriptor], [], [], 30)
            os.close(descriptor)

    def _up(self, what: str, detail: str) -> Client:
        started = time.perf_counter()
        launch.ensure_daemon(self._home)
        self._proved(what, f"{(time.perf_counter() - started) * 1000:.0f} ms, {detail}")
        self._daemon = Client(launch.socket_path(self._home))
        return self._daemon

    def _store_key(self, daemon: Client) -> None:
        provider = self._model.partition("/")[0]
        name = LOCAL_KEY if provider == LOCAL and os.environ.get(LOCAL_KEY) else _KEYS.get(provider)
        if name is None:
            return
        value = os.environ.get(name)
        if not value:
            raise AegisError(ErrorKind.USAGE, f"{self._model} needs a key", f"set {name}, or leave out --model for the offline script")
        daemon.secrets.set(name, value)

    def _tests(self, what: str) -> int:
        """Run the repository's tests in the sandbox; returns their exit code."""
        assert self._daemon is not None
        code, said = 1, b""
        with self._daemon.instances.exec(HANDLE, TESTS) as output:
            for line in output:
                said += base64.b64decode(line.get("d", ""))
                code = line.get("exit_code", code)
        last = (said.decode("utf-8", "replace").strip().splitlines() or [""])[-1]
        self._proved(what, f"exit {code}: {last}")
        self._out.say((f"{what}: ", "bold"), f"{' '.join(TESTS)} → exit {code}: {last}")
        return code

    def _turn(self, text: str, kill_after: int = 0) -> dict[str, Any]:
        """Send a message and show its turn to the end, killing the daemon after so many tool results. Returns the terminal payload."""
        assert self._daemon is not None
        receipt = self._daemon.mail.send(HANDLE, text, session=_SESSION)
        view, results, key = View(self._out), 0, ":".join(_SESSION)
        for event in lasting.events(self._daemon, receipt["ingress_seq"], instance=HANDLE, session=key, timeout=PATIENCE):
            data = event["data"]
            view.show(event)
            results += event["type"] == "turn.tool.result"
            if event["type"] == "turn.tool.result" and results == kill_after:
                self._kill(view, event["seq"])
            if (
                event["type"] == "turn.finished"
                and receipt["id"] in data["in_reply_to"]
                and not (data.get("error") or {}).get("will_continue")
            ):
                if results < kill_after and not any(name == "recovery" for name, _ in self._proof):
                    told = f"not shown: the agent was done after {results} tool results, before the daemon was to be killed"
                    self._proved("recovery", told)
                return {"usage": data, **data}
        raise AssertionError("events never end")

    def _kill(self, view: View, seen: int) -> None:
        """Kill the daemon, start it again, and see to it that the turn goes on; `seen` is the last frame that was shown."""
        assert self._daemon is not None
        view.close()
        pid = self._daemon.status()["pid"]
        self._out.say((f"✂ kill -9 {pid} (the daemon, and with it the sandbox)", "red"))
        descriptor = os.pidfd_open(pid)
        killed = time.perf_counter()
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [], 10)
        os.close(descriptor)
        self._up("daemon again after kill -9", "the turn is continued from what is on disk")
        if self._continued(seen):
            self._proved("recovery", f"{(time.perf_counter() - killed) * 1000:.0f} ms from the kill to the agent at work again")
        else:
            self._proved("recovery", "not shown: the turn was over before the kill")

    def _continued(self, seen: int) -> bool:
        """Return when the agent is at work on a turn that was cut after frame `seen`; False when that turn had ended before."""
        assert self._daemon is not None
        cut = False
        with closing(lasting.frames(self._daemon, HANDLE, seen, _SESSION, timeout=PATIENCE)) as frames:
            for frame in frames:
                if cut:
                    return True
                if frame["type"] == "assistant.done":
                    cut = bool((frame["payload"].get("error") or {}).get("will_continue"))
                    if not cut:
                        return False
        raise AssertionError("frames never end")

    def _pause_and_wake(self, follow_up: str) -> None:
        assert self._daemon is not None
        self._daemon.instances.act(HANDLE, "resume")  # it is stopped when nothing was left to do after the crash
        self._daemon.instances.act(HANDLE, "pause")
        used = self._daemon.instances.stats(HANDLE)["cpu_seconds"]
        time.sleep(0.5)
        idle = self._daemon.instances.stats(HANDLE)["cpu_seconds"] - used
        self._out.say(f"paused; CPU used in half a second: {idle:.2f} s")
        self._proved("asleep", f"{idle:.2f} s of CPU in 0.5 s while paused")
        head = self._daemon.status()["head"]
        self._out.say(("you: ", "bold"), follow_up)
        self._turn(follow_up)
        times: dict[str, float] = {}
        for event in pages(self._daemon, head, HANDLE):
            if event["type"] == "mail.accepted":
                times.setdefault("accepted", event["ts"])
            elif event["type"] == "instance.state" and event["data"]["state"] == "running":
                times.setdefault("awake", event["ts"])
        if len(times) == 2:
            self._proved("wake", f"{(times['awake'] - times['accepted']) * 1000:.1f} ms from the message on disk to the sandbox running")

    def _step(self, text: str) -> None:
        self._out.say()
        self._out.say(("── " + text, "cyan"))

    def _proved(self, name: str, value: str) -> None:
        self._proof.append((name, value))


def _make_repository(folder: Path) -> Path:
    """The small repository with a failing test, as a real git repository."""
    with resources.as_file(resources.files("aegis.cli") / "demo_repo") as source:
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _git(folder, "add", ".")
    _git(folder, "-c", "user.name=Aegis demo", "-c", "user.email=demo@example.invalid", "commit", "--quiet", "-m", "textkit")
    return folder


def _git(folder: Path, *arguments: str) -> str:
    """Run git in `folder` with none of the person's own configuration; returns what it prints."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "LANG": "C.UTF-8"}
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, env=env, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError:
        raise AegisError(ErrorKind.UNAVAILABLE, "git is not installed", "sudo apt-get install git") from None
    return done.stdout
