"""A program that goes wrong as it is told to. It speaks as Claude Code does; called with `app-server`, as Codex does; called with `acp`,
the Agent Client Protocol.

It is installed as a file of its own with `VERSION` and `START` filled in (see `tests/programs/faking.py`). `START` is what goes wrong
when it starts. A message is words: `say:TEXT` says it; `die:STAGE` ends it with exit 7 at a stage of the turn; the others are below.
The first message that held `die:STAGE` is the last that dies: one that is resumed goes on. Needs nothing but Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

VERSION = "9.9.9"
START = ""
ACP = "acp" in sys.argv[1:]
CODEX = "app-server" in sys.argv[1:]
STORE = Path(os.environ.get("HOME", "/")) / "fake-sessions"


def forever() -> NoReturn:
    while True:
        time.sleep(1000)


def write(frame: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(frame) + "\n")
    sys.stdout.flush()


def die() -> NoReturn:
    sys.stderr.write("out of luck: the dog ate the heap\n")
    sys.stderr.flush()
    os._exit(7)


class Speech:
    """One protocol."""

    session = ""

    def serve(self) -> None:
        for line in sys.stdin:
            self.frame(json.loads(line))

    def frame(self, frame: dict[str, Any]) -> None: ...
    def taken(self, name: str, text: str) -> None: ...
    def text(self, text: str) -> None: ...
    def call(self) -> None: ...
    def ask(self) -> None: ...
    def end(self) -> None: ...

    def turn(self, name: str, text: str) -> None:
        words = dict(word.partition(":")[::2] for word in text.split() if word.partition(":")[0] in WORDS)
        stage = words.get("die", "")
        if stage == "untaken":
            die()
        self.taken(name, text)
        if stage == "taken":
            die()
        for word, rest in words.items():
            WORDS[word](self, rest)
        if stage:
            self.text("half of it")
            if stage == "text":
                die()
            self.call()
            if stage == "tool":
                die()
            self.ask()
            if stage == "asking":
                die()
            self.text("all of it")
            die()
        self.end()

    def garbage(self, _: str) -> None:
        sys.stdout.buffer.write(b"Welcome!\n\x00\x01\xff not json\n[1, 2]\n{half\n\n" + b'{"type": 7, "id": {}, "method": []}\n')
        sys.stdout.buffer.flush()

    def flood(self, megabytes: str) -> None:
        for _ in range(int(megabytes) * 16):
            sys.stderr.write("noise " * 10922 + "\n")
        sys.stderr.flush()

    def big(self, megabytes: str) -> None:
        self.text("y" * (int(megabytes) * 1024 * 1024))

    def endless(self, _: str) -> None:
        while True:
            sys.stdout.write("z" * 1_000_000)

    def deaf(self, _: str) -> None:
        os.close(0)

    def hang(self, _: str) -> None:
        forever()

    def fork(self, mark: str) -> None:
        for session in (False, True):
            subprocess.Popen(["sleep", mark], start_new_session=session, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.text("forked")

    def nothing(self, _: str) -> None: ...


WORDS = {
    "say": Speech.text, "die": Speech.nothing, "garbage": Speech.garbage, "flood": Speech.flood, "big": Speech.big, "fork": Speech.fork,
    "endless": Speech.endless, "deaf": Speech.deaf, "hang": Speech.hang,
}  # fmt: skip
WORDS["say"] = lambda speech, text: speech.text(text)
WORDS["ask"] = lambda speech, _: speech.ask()


class Claude(Speech):
    """stream-json."""

    def frame(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "user":
            self.turn(frame["uuid"], " ".join(block.get("text", "") for block in frame["message"]["content"]))
        elif frame["type"] == "control_request":
            self.reply(frame["request_id"])
            if frame["request"]["subtype"] == "initialize":
                self.session = argument("--session-id") or argument("--resume")

    def reply(self, ident: str) -> None:
        response = {"subtype": "success", "request_id": ident, "response": {"claude_code_version": VERSION}}
        write({"type": "control_response", "response": response})

    def taken(self, name: str, text: str) -> None:
        self.name = name
        place = Path(os.environ["HOME"]) / ".claude" / "projects" / "w"
        place.mkdir(parents=True, exist_ok=True)
        with (place / f"{self.session}.jsonl").open("a") as file:
            file.write(json.dumps({"type": "user", "uuid": name, "text": text}, separators=(",", ":")) + "\n")
        write({"type": "command_lifecycle", "command_uuid": name, "state": "started"})
        write({"type": "system", "subtype": "status", "status": "requesting"})

    def text(self, text: str) -> None:
        delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text[:100]}}
        write({"type": "stream_event", "event": delta})
        self.said(text, {"type": "text", "text": text})

    def said(self, ident: str, block: dict[str, Any]) -> None:
        message = {"id": f"m-{self.name}-{ident[:20]}", "model": "m", "content": [block]}
        write({"type": "assistant", "message": message, "parent_tool_use_id": None})

    def call(self) -> None:
        self.said("call", {"type": "tool_use", "id": f"t-{self.name}", "name": "Write", "input": {"file_path": "/workspace/x"}})

    def ask(self) -> None:
        request = {"subtype": "can_use_tool", "tool_name": "Write", "input": {"file_path": "/workspace/x"}, "tool_use_id": f"t-{self.name}"}
        write({"type": "control_request", "request_id": "ask-1", "request": request})

    def end(self) -> None:
        write({"type": "result", "subtype": "success", "is_error": False, "result": "", "num_turns": 1, "stop_reason": "end_turn"})
        write({"type": "command_lifecycle", "command_uuid": self.name, "state": "completed"})
        write({"type": "system", "subtype": "session_state_changed", "state": "idle"})


class Acp(Speech):
    """JSON-RPC."""

    def frame(self, frame: dict[str, Any]) -> None:
        method, ident, params = frame.get("method"), frame.get("id"), frame.get("params", {})
        if method == "initialize":
            can = {"loadSession": True, "promptCapabilities": {}, "mcpCapabilities": {}}
            self.result(ident, protocolVersion=1, agentCapabilities=can, agentInfo={"version": VERSION})
        elif method == "session/new":
            if START == "login":
                write({"jsonrpc": "2.0", "id": ident, "error": {"code": -32000, "message": "Authentication required"}})
                return
            self.session = f"s-{os.getpid()}-{time.time_ns()}"
            self.result(ident, sessionId=self.session)
        elif method == "session/load":
            self.session = params["sessionId"]
            for line in self.place.read_text().splitlines():
                self.update("user_message_chunk", json.loads(line))
                self.update("agent_message_chunk", "...")
            self.result(ident)
        elif method == "session/prompt":
            self.prompt = ident
            self.turn("", " ".join(block.get("text", "") for block in params["prompt"]))
        elif method is not None and ident is not None:
            self.result(ident)

    @property
    def place(self) -> Path:
        STORE.mkdir(exist_ok=True)
        return STORE / self.session

    def result(self, ident: Any, **result: Any) -> None:
        write({"jsonrpc": "2.0", "id": ident, "result": result})

    def update(self, kind: str, text: str) -> None:
        self.tell(sessionUpdate=kind, content={"type": "text", "text": text})

    def tell(self, **update: Any) -> None:
        write({"jsonrpc": "2.0", "method": "session/update", "params": {"sessionId": self.session, "update": update}})

    def taken(self, name: str, text: str) -> None:
        with self.place.open("a") as file:
            file.write(json.dumps(text) + "\n")

    def text(self, text: str) -> None:
        self.update("agent_message_chunk", text)

    def call(self) -> None:
        self.tell(sessionUpdate="tool_call", toolCallId="t", title="Write", kind="edit", status="in_progress", rawInput={"path": "x"})

    def ask(self) -> None:
        options = [{"optionId": "y", "kind": "allow_once"}, {"optionId": "n", "kind": "reject_once"}]
        params = {"sessionId": self.session, "toolCall": {"toolCallId": "t", "title": "Write", "kind": "edit"}, "options": options}
        write({"jsonrpc": "2.0", "id": "ask-1", "method": "session/request_permission", "params": params})

    def end(self) -> None:
        self.result(self.prompt, stopReason="end_turn")


class Codex(Speech):
    """The app-server."""

    def frame(self, frame: dict[str, Any]) -> None:
        method, ident, params = frame.get("method"), frame.get("id"), frame.get("params", {})
        if method == "thread/start":
            if START == "login":
                sys.exit("Not logged in: run `codex login`")
            self.session = f"s-{os.getpid()}-{time.time_ns()}"
            self.result(ident, thread={"id": self.session, "cliVersion": VERSION})
        elif method == "thread/resume":
            self.session = params["threadId"]
            if self.place.exists():
                self.result(ident, thread={"id": self.session, "cliVersion": VERSION})
            else:
                write({"id": ident, "error": {"code": -32600, "message": f"no rollout found for thread id {self.session}"}})
        elif method == "thread/turns/list":
            items = [{"type": "userMessage", "clientId": line} for line in self.place.read_text().splitlines()]
            self.result(ident, data=[{"id": "t", "status": "interrupted", "items": items}])
        elif method == "turn/start":
            self.turn_id = f"t-{ident}"
            self.result(ident, turn={"id": self.turn_id})
            self.turn(params.get("clientUserMessageId", ""), " ".join(part.get("text", "") for part in params["input"]))
        elif ident is not None and method is not None:
            self.result(ident)

    @property
    def place(self) -> Path:
        STORE.mkdir(exist_ok=True)
        return STORE / self.session

    def result(self, ident: Any, **result: Any) -> None:
        write({"id": ident, "result": result})

    def tell(self, method: str, **params: Any) -> None:
        write({"method": method, "params": {"threadId": self.session, "turnId": self.turn_id, **params}})

    def taken(self, name: str, text: str) -> None:
        with self.place.open("a") as file:
            file.write(name + "\n")
        self.tell("item/completed", item={"type": "userMessage", "id": "u", "clientId": name, "content": []})

    def text(self, text: str) -> None:
        self.tell("item/agentMessage/delta", itemId="m", delta=text[:100])
        self.tell("item/completed", item={"type": "agentMessage", "id": "m", "text": text})

    def call(self) -> None:
        change = {"path": "/workspace/x", "kind": {"type": "add"}, "diff": "x"}
        self.tell("item/started", item={"type": "fileChange", "id": "f", "status": "inProgress", "changes": [change]})

    def ask(self) -> None:
        params = {"threadId": self.session, "turnId": self.turn_id, "itemId": "f"}
        write({"id": "ask-1", "method": "item/fileChange/requestApproval", "params": params})

    def end(self) -> None:
        self.tell("turn/completed", turn={"id": self.turn_id, "status": "completed", "items": []})


def argument(name: str) -> str:
    for number, word in enumerate(sys.argv):
        if word == name:
            return sys.argv[number + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


def main() -> None:
    if sys.argv[1:] == ["--version"]:
        print(VERSION)
        return
    if sys.argv[1:2] == ["debug"]:
        return
    speech = Acp() if ACP else Codex() if CODEX else Claude()
    if START == "crash":
        die()
    if START == "root":
        sys.exit("--dangerously-skip-permissions cannot be used with root/sudo privileges for security reasons")
    if START == "login" and not ACP and not CODEX:
        sys.exit("Invalid API key · Please run /login")
    if START == "mute":
        forever()
    if START == "deaf":
        os.close(0)
        forever()
    if START in ("garbage", "flood", "endless"):
        WORDS[START](speech, "100")
    speech.serve()


main()
