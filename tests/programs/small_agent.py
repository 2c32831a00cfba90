"""A small agent that speaks the Agent Client Protocol, standard library only; its data file is all that Aegis knows of it.

A prompt is words, done one after the other: `say:TEXT`, `model:TEXT` (asks its model), `look` (a tool that needs no leave), `write:NAME`
(one that does), `wait` (until it is cut), `env:NAME`, `set` (what it runs with), `recall` (the prompts so far). It keeps its sessions in HOME.
"""

import json
import os
import sys
import threading
import urllib.request
import uuid
from pathlib import Path

LOCK = threading.Lock()
ASKED = {}
CUT = threading.Event()
SET = {"mode": "ask", "effort": os.environ.get("SMALL_EFFORT", "")}
FOLDER = Path.home() / ".small"
STATE = {"id": "", "prompts": []}
MODES = {"currentModeId": "ask", "availableModes": [{"id": "ask"}, {"id": "plan"}]}


def send(**frame):
    with LOCK:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **frame}) + "\n")
        sys.stdout.flush()


def update(what, **fields):
    send(method="session/update", params={"sessionId": STATE["id"], "update": {"sessionUpdate": what, **fields}})


def say(text):
    update("agent_message_chunk", content={"type": "text", "text": text})


def ask(method, **params):
    ident = f"q{len(ASKED)}"
    ASKED[ident] = event = threading.Event()
    send(id=ident, method=method, params={"sessionId": STATE["id"], **params})
    event.wait()
    return event.result


def model(text):
    body = {"model": os.environ["SMALL_MODEL"], "max_tokens": 100, "messages": [{"role": "user", "content": text}]}
    headers = {"x-api-key": os.environ["SMALL_KEY"], "anthropic-version": "2023-06-01", "content-type": "application/json"}
    request = urllib.request.Request(os.environ["SMALL_URL"] + "/v1/messages", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return "".join(block.get("text", "") for block in json.load(answer)["content"])


def write(call, name):
    given = {"toolCallId": call, "title": f"write {name}", "kind": "edit", "rawInput": {"path": name}}
    update("tool_call", status="pending", **given)
    options = [{"optionId": "yes", "kind": "allow_once", "name": "Yes"}, {"optionId": "no", "kind": "reject_once", "name": "No"}]
    outcome = ask("session/request_permission", toolCall=given, options=options)["outcome"]
    if outcome.get("optionId") != "yes":
        update("tool_call_update", toolCallId=call, status="failed")
        return
    try:
        Path(name).write_text("written")
    except OSError as error:
        text = {"type": "content", "content": {"type": "text", "text": str(error)}}
        update("tool_call_update", toolCallId=call, status="failed", content=[text])
    else:
        update("tool_call_update", toolCallId=call, status="completed")


def turn(ident, text):
    STATE["prompts"].append(text)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / STATE["id"]).write_text(json.dumps(STATE))
    for number, word in enumerate(text.split()):
        name, _, rest = word.partition(":")
        call = f"{ident}.{number}"
        if name == "say":
            say(rest)
        elif name == "model":
            say(model(rest))
        elif name == "look":
            update("tool_call", toolCallId=call, title="look", kind="read", status="in_progress", rawInput={"path": "."})
            text = {"type": "content", "content": {"type": "text", "text": " ".join(sorted(os.listdir(".")))}}
            update("tool_call_update", toolCallId=call, status="completed", content=[text])
        elif name == "write":
            write(call, rest)
        elif name == "env":
            say(os.environ.get(rest, "-"))
        elif name == "set":
            say(json.dumps(SET, sort_keys=True))
        elif name == "recall":
            say(" | ".join(STATE["prompts"]))
        elif name == "wait":
            CUT.wait()
        if CUT.is_set():
            break
    send(id=ident, result={"stopReason": "cancelled" if CUT.is_set() else "end_turn"})


def opened(method, params):
    if method == "session/new":
        STATE.update(id=str(uuid.uuid4()), prompts=[])
    else:
        try:
            STATE.update(json.loads((FOLDER / params["sessionId"]).read_text()))
        except OSError:
            return {"error": {"code": -32002, "message": "Resource not found"}}
        if method == "session/fork":
            STATE["id"] = str(uuid.uuid4())
        else:
            for text in STATE["prompts"]:
                update("user_message_chunk", content={"type": "text", "text": text})
                say("replayed")
    option = {"id": "effort", "category": "thought_level", "currentValue": SET["effort"], "options": [{"value": "low"}, {"value": "high"}]}
    return {"result": {"sessionId": STATE["id"], "modes": MODES, "configOptions": [option]}}


def main():
    for line in sys.stdin:
        frame = json.loads(line)
        method, ident, params = frame.get("method"), frame.get("id"), frame.get("params", {})
        if method == "initialize":
            can = {"loadSession": True, "promptCapabilities": {"image": False}, "sessionCapabilities": {"fork": {}}}
            send(id=ident, result={"protocolVersion": 1, "agentCapabilities": can, "agentInfo": {"name": "small", "version": "1.2.3"}})
        elif method in ("session/new", "session/load", "session/fork"):
            send(id=ident, **opened(method, params))
        elif method == "session/prompt":
            CUT.clear()
            text = "".join(block.get("text", "") for block in params["prompt"])
            threading.Thread(target=turn, args=(ident, text), daemon=True).start()
        elif method == "session/cancel":
            CUT.set()
        elif method == "session/set_mode":
            SET["mode"] = params["modeId"]
            send(id=ident, result={})
        elif method == "session/set_config_option":
            SET[params["configId"]] = params["value"]
            send(id=ident, result={})
        elif method is None and ident in ASKED:
            ASKED[ident].result = frame["result"]
            ASKED[ident].set()
        elif ident is not None:
            send(id=ident, error={"code": -32601, "message": "Method not found"})


if "--version" in sys.argv:
    print("small 1.2.3")
else:
    main()
