"""A server of tools for agents, run inside a sandbox: `add` adds two numbers. Over stdin and stdout, or with a port over HTTP.

With HTTP it writes what stood in `Authorization` to the file `bearer` beside it.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SCHEMA = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}


def result(message):
    method = message["method"]
    if method == "initialize":
        return {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "probe", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": [{"name": "add", "description": "adds", "inputSchema": SCHEMA}]}
    if method == "tools/call":
        given = message["params"]["arguments"]
        return {"content": [{"type": "text", "text": str(given["a"] + given["b"])}], "structuredContent": {"sum": given["a"] + given["b"]}}
    return {}


def answer(message):
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result(message)})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (Path(__file__).parent / "bearer").write_text(self.headers.get("Authorization", ""))
        if "id" in message:
            self.reply(200, answer(message).encode())
        else:
            self.reply(202)

    def do_GET(self):
        self.reply(405)

    def do_DELETE(self):
        self.reply(200)


if len(sys.argv) > 1:
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print("ready", flush=True)
    server.serve_forever()
for line in sys.stdin:
    found = json.loads(line)
    if "id" in found:
        print(answer(found), flush=True)
