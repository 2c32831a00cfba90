"""A scripted agent that speaks the Agent Client Protocol, run inside a sandbox. Its script is the text of the prompt.

A prompt is words, done one after the other: `say:TEXT`, `think:TEXT`, `tool`, `ask`, `fs`, `unknown`, `garbage`, `flood:N`, `big:N`,
`hang`, `wait`, `child`, `die:CODE`, `torn`, `stderr:TEXT`, `error:CODE`, `cost`. `--die-at N` ends it instead of writing frame number N.
"""

import json
import os
import subprocess
import sys
import threading

SETTINGS = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[1:])
DIE = int(SETTINGS.get("die-at", -1))
LOCK = threading.Lock()
WRITTEN = 0
ASKED = {}
CUT = threading.Event()
SESSION = "s-1"


def write(**frame):
    global WRITTEN
    line = json.dumps({"jsonrpc": "2.0", **frame}) + "\n"
    with LOCK:
        if WRITTEN == DIE:
            sys.stderr.write(f"dead at {WRITTEN}\n")
            sys.stdout.write(line[: len(line) // 2])
            sys.stdout.flush()
            os._exit(9)
        WRITTEN += 1
        sys.stdout.write(line)
        sys.stdout.flush()


def update(what, **fields):
    write(method="session/update", params={"sessionId": SESSION, "update": {"sessionUpdate": what, **fields}})


def ask(ident, method, params):
    event = threading.Event()
    ASKED[json.dumps(ident)] = event
    write(id=ident, method=method, params=params)
    event.wait()
    return event.answer


def run(ident, text):
    for number, word in enumerate(text.split()):
        name, _, rest = word.partition(":")
        if name == "say":
            message = {"messageId": f"of-{ident}"} if "late" in SETTINGS else {}
            update("agent_message_chunk", content={"type": "text", "text": rest}, **message)
        elif name == "think":
            update("agent_thought_chunk", content={"type": "text", "text": rest})
        elif name == "tool":
            update("tool_call", toolCallId=f"t{number}", title="look", kind="read", status="in_progress", rawInput={"path": "x"})
            update(
                "tool_call_update",
                toolCallId=f"t{number}",
                status="completed",
                content=[{"type": "content", "content": {"type": "text", "text": "seen"}}],
            )
        elif name == "ask":
            options = [
                {"optionId": "a", "kind": "allow_always"},
                {"optionId": "y", "kind": "allow_once"},
                {"optionId": "n", "kind": "reject_once"},
            ]
            call = {"toolCallId": f"t{number}", "title": "rm", "kind": "delete", "rawInput": {"path": "x"}}
            # the id of our own prompt, on purpose
            answer = ask(rest or ident, "session/request_permission", {"sessionId": SESSION, "toolCall": call, "options": options})
            update("agent_message_chunk", content={"type": "text", "text": json.dumps(answer["result"]["outcome"])})
        elif name == "fs":
            answer = ask("fs", "fs/write_text_file", {"sessionId": SESSION, "path": rest, "content": "evil"})
            update("agent_message_chunk", content={"type": "text", "text": str(answer["error"]["code"])})
        elif name == "unknown":
            update("something_new", anything=[1])
            write(method="_vendor/notice", params={})
        elif name == "garbage":
            sys.stdout.write("not json\n{half\n[]\n\x00\xff\n")
            sys.stdout.flush()
        elif name == "flood":
            for _ in range(int(rest)):
                update("agent_message_chunk", content={"type": "text", "text": "x"})
        elif name == "big":
            update("agent_message_chunk", content={"type": "text", "text": "y" * int(rest)})
        elif name == "hang":
            threading.Event().wait()
        elif name == "wait":
            CUT.wait()
        elif name == "child":
            child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            update("agent_message_chunk", content={"type": "text", "text": str(child.pid)})
        elif name == "die":
            os._exit(int(rest))
        elif name == "stderr":
            sys.stderr.write(rest + "\n")
            sys.stderr.flush()
        elif name == "error":
            write(id=ident, error={"code": int(rest), "message": "told so"})
            return
        elif name == "env":
            update("agent_message_chunk", content={"type": "text", "text": os.environ.get(rest, "-")})
    late = SETTINGS.get("late")
    write(id=ident, result={"stopReason": "cancelled" if CUT.is_set() else "end_turn"})
    if late:
        update("agent_message_chunk", messageId=f"of-{ident}", content={"type": "text", "text": "late"})


def main():
    logged_in = False
    for line in sys.stdin:
        frame = json.loads(line)
        method, ident, params = frame.get("method"), frame.get("id"), frame.get("params", {})
        if method == "initialize":
            if "mute" in SETTINGS:
                continue
            capabilities = {
                "loadSession": True,
                "promptCapabilities": {"image": True},
                "mcpCapabilities": {},
                "sessionCapabilities": {"fork": {}},
            }
            version = int(SETTINGS.get("protocol", 1))
            write(id=ident, result={"protocolVersion": version, "agentCapabilities": capabilities, "agentInfo": {"version": "9"}})
        elif method == "authenticate":
            logged_in = True
            write(id=ident, result={})
        elif method in ("session/new", "session/load", "session/fork"):
            if "login" in SETTINGS and not logged_in:
                write(id=ident, error={"code": -32000, "message": "Authentication required"})
            elif params.get("sessionId") == "gone":
                write(id=ident, error={"code": -32002, "message": "Resource not found"})
            else:
                modes = {"currentModeId": "build", "availableModes": [{"id": "build"}, {"id": "plan"}]}
                if method == "session/load":
                    for text in ("one", "two\n\nthree"):
                        update("user_message_chunk", content={"type": "text", "text": text})
                        update("agent_message_chunk", content={"type": "text", "text": "done"})
                write(id=ident, result={"sessionId": SESSION, "modes": modes, "models": {"currentModelId": "m"}})
        elif method == "session/prompt":
            CUT.clear()
            text = "".join(block.get("text", "") for block in params["prompt"])
            threading.Thread(target=run, args=(ident, text), daemon=True).start()
        elif method == "session/cancel":
            CUT.set()
        elif method == "session/set_mode":
            write(id=ident, result={})
        elif method == "session/set_model":
            write(id=ident, **({"error": {"code": -32602, "message": "no such model"}} if params["modelId"] == "bad" else {"result": {}}))
        elif method is not None and ident is not None:
            write(id=ident, error={"code": -32601, "message": "?"})
        elif method is None and (waiting := ASKED.pop(json.dumps(ident), None)):
            waiting.answer = frame
            waiting.set()


main()
