"""Case 1 and 22, for hosts whose requests are looked at: paths, methods, credentials and the programs of others, tried from inside.

The servers are on the host's loopback: `127.0.0.1`, which leads there from inside by itself, and `127.0.0.2`, by the proxy.
"""

from __future__ import annotations

import gzip
import json
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.attacks.conftest import Box
from tests.attacks.test_egress import connect, get, send, status
from tests.attacks.test_spawning import _CALL as CALL
from tests.conftest import RealDaemon
from tests.egress.certificates import authority

from aegis.core.errors import AegisError, ErrorKind

pytestmark = pytest.mark.slow

Make = Callable[..., Box]
VALUE = "sk-real-0123456789-abcdefghij"
HERE, THERE = "127.0.0.1", "127.0.0.2"


class Sites:
    """A server in TLS at both addresses, with certificates of an authority that nobody knows, which remembers what it was sent."""

    def __init__(self, folder: Path) -> None:
        self.seen: list[str] = []
        self.roots = folder / "roots.pem"
        chain = authority(folder / "site.pem", self.roots, HERE, THERE)
        sites = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                sites.seen.append(f"{self.headers['host']} {self.command} {self.path}\n{self.headers}\n{body.decode('latin-1')}")
                said = str(self.headers).encode()
                self.send_response(302 if "/to-there" in self.path else 200)
                self.send_header("location", f"https://{THERE}:{sites.port}/v1/landed?{self.headers.get('authorization', '')}")
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_POST = do_DELETE = do_GET

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None: ...

        self.server = Server(("", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def rule(self, host: str = HERE, **more: Any) -> dict[str, Any]:
        given = {"inspect": True, "methods": ["GET", "POST"], "paths": ["/v1/*"], "roots": str(self.roots)}
        return {"host": f"{host}:{self.port}"} | given | more

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    made = Sites(tmp_path_factory.mktemp("sites"))
    yield made
    made.close()


@pytest.fixture
def sites(served: Sites, house: RealDaemon) -> Sites:
    served.seen.clear()
    house.client.secrets.set("KEY", VALUE)
    return served


def granted(make: Make, *rules: Any, handle: str = "a", **spec: Any) -> Box:
    return make(handle, permission="full", egress=list(rules), **spec)


def test_programs_of_others_take_the_authority(box: Make, sites: Sites) -> None:
    """curl, Python and node reach what is allowed, at both addresses; another authority is not theirs to know."""
    a = granted(box, sites.rule(), sites.rule(THERE))
    fetch = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).status)"
    for host in (HERE, THERE):
        url = f"https://{host}:{sites.port}/v1/x"
        assert a.run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{ssl_verify_result}", url).out == "200 0"
        assert a.python(fetch, url) == 200
        if shutil.which("node"):
            script = "fetch(process.argv[1]).then(r => console.log(r.status), e => console.log(String(e.cause)))"
            assert a.run("node", "-e", script, url).out.strip() == "200" or host == THERE  # older ones know no proxy
    if Path("/etc/ssl/certs/ca-certificates.crt").exists():  # without the variables it is the system's own file
        unset = ["env", *(word for name in ("CURL_CA_BUNDLE", "SSL_CERT_FILE") for word in ("-u", name))]
        assert a.run(*unset, "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"https://{THERE}:{sites.port}/v1/y").out == "200"
    files = a.sh("cat /etc/aegis/*.pem; env; ls /etc/aegis")
    assert "BEGIN CERTIFICATE" in files.out
    assert "PRIVATE" not in files.out
    assert a.sh("echo x >> /etc/aegis/roots.pem").code != 0
    b = box("b")
    assert b.sh("ls /etc/aegis; env | grep -c CERT").out.strip() == "0"
    asked = [row for row in a.client.egress("a", limit=1000)["connections"] if row["method"]]
    assert {(row["method"], row["path"], row["status"]) for row in asked} == {("GET", "/v1/x", 200), ("GET", "/v1/y", 200)} - (
        set() if Path("/etc/ssl/certs/ca-certificates.crt").exists() else {("GET", "/v1/y", 200)}
    )


TRICKS = """
/admin /v1 /V1/x /v1/../admin /v1/%2e%2e/admin /v1/..%2fadmin /v1/%2e%2e%2fadmin /v1//admin //admin /v1/./../admin /v1/..;/admin
/v1/%252e%252e/admin /v1/..%5cadmin /v1/..%255cadmin /v1/a%2f..%2f..%2fadmin /v1/%c0%ae%c0%ae/admin /v1/%00/admin /v1/x%0d%0aHost:evil
/v1/;/../admin /./v1/../admin /v1/x/../../admin /%76%31/../admin /v1/%zz
""".split()


def test_no_spelling_of_a_path_slips_past_a_rule(box: Make, sites: Sites) -> None:
    a = granted(box, sites.rule())
    url = f"https://{HERE}:{sites.port}"
    script = "for p; do curl -sS --path-as-is -o /dev/null -w '%{http_code}\\n' \"$p\"; done"
    said = a.run("/bin/sh", "-c", script, "sh", *(url + trick for trick in TRICKS)).out.split()
    assert said == ["403"] * len(TRICKS), list(zip(TRICKS, said, strict=False))
    assert sites.seen == []
    denied = a.run("curl", "-sS", "-X", "DELETE", f"{url}/v1/x")
    told = json.loads(denied.out)
    assert told["error"]["kind"] == "denied"
    assert told["allowed"] == ["GET, POST /v1/*"]
    assert "methods: [DELETE]" in told["error"]["hint"]
    records = [row for row in a.client.audit() if row["action"] == "egress.request" and row["principal"] == f"instance:{a.id}"]
    assert {row["decision"] for row in records} == {"deny"}
    assert len(records) == len(TRICKS) + 1
    assert a.run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"{url}/v1/%78?up=../..").out == "200"


#: Sends raw bytes in TLS within a tunnel, and prints what came back.
RAW = """
import json, os, socket, ssl, sys, urllib.parse
url, found = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"]), []
place, name = sys.argv[1], sys.argv[1].rpartition(":")[0]
for said in json.load(open("/workspace/requests")):
    with socket.create_connection((url.hostname, url.port), 30) as c:
        c.sendall(f"CONNECT {place} HTTP/1.1\\r\\nHost: {place}\\r\\n\\r\\n".encode())
        got = b""
        c.recv(4096)
        try:
            with ssl.create_default_context().wrap_socket(c, server_hostname=name) as t:
                t.sendall(said.encode("latin-1"))
                while data := t.recv(65536):
                    got += data
        except (OSError, ssl.SSLError) as error:
            got = got or str(error).encode()
        found.append(got.decode("latin-1"))
print(json.dumps(found))
"""


def test_no_second_request_hides_in_tls(box: Make, sites: Sites) -> None:
    a = granted(box, sites.rule(THERE))
    place = f"{THERE}:{sites.port}"
    hidden = get("/HIDDEN", place)
    wrong = [
        *(get("/v1/p", place, *lines, method="POST") + "0\r\n\r\n" + hidden for lines in (
            ("Content-Length: 5", "Transfer-Encoding: chunked"), ("Content-Length: 5", "Content-Length: 6"), ("Transfer-Encoding: xchunked",),
            ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"), ("Transfer-Encoding : chunked",), ("X: a\r\n b",), ("X: a\nb",),
        )),
        get("/v1/p", "evil.example.com"), get("/v1/p", place, f"Host: {place}"), get(f"https://{place}/v1/p", place), get("/v1/p", HERE),
        get("/v1/p\nGET /HIDDEN", place), get("/v1/p", place).replace("\r\n", "\n"), connect(place), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        get("/v1/p", place, "Upgrade: websocket", "Connection: upgrade"),
    ]  # fmt: skip
    (a.workspace / "requests").write_text(json.dumps(wrong))
    answers = a.python(RAW, place)
    assert all(400 <= status(answer) < 506 and answer.count("HTTP/1.1 ") == 1 for answer in answers), [answer[:200] for answer in answers]
    assert sites.seen == []
    (a.workspace / "requests").write_text(json.dumps([get("/v1/p", place) + hidden]))
    (answer,) = a.python(RAW, place)
    assert answer.startswith("HTTP/1.1 200")
    assert "HTTP/1.1 403" in answer
    assert not [seen for seen in sites.seen if "HIDDEN" in seen]


def test_a_secret_goes_to_its_host_and_nowhere_else(box: Make, sites: Sites) -> None:
    """The value is at its host; another host, a redirect, a body, packed or not, and a query get the placeholder, and it is noted."""
    a = granted(box, sites.rule(secret="KEY"), sites.rule(THERE))
    here, there = f"https://{HERE}:{sites.port}/v1", f"https://{THERE}:{sites.port}/v1"
    assert a.sh("echo $KEY").out.startswith("aegis-secret-KEY-")
    script = """
    curl -sS -H "Authorization: Bearer $KEY" $1/mine
    curl -sS -H "Authorization: Bearer $KEY" $2/other
    curl -sS -L --location-trusted -H "Authorization: Bearer $KEY" $1/to-there
    curl -sS -d "key=$KEY" $1/body
    printf %s "key=$KEY" | gzip | curl -sS -H "Content-Encoding: gzip" --data-binary @- $1/packed
    curl -sS "$1/query?key=$KEY"
    curl -sS -u "me:$KEY" $1/basic
    """
    out = a.run("/bin/sh", "-c", script, "sh", here, there)
    assert VALUE not in out.out + out.err
    seen = {item.split("?")[0].split("\n")[0].rpartition("/")[2].split(" ")[0]: item for item in sites.seen}
    assert f"Authorization: Bearer {VALUE}" in seen["mine"]
    assert f"Authorization: Bearer {VALUE}" in seen["to-there"]
    assert all(VALUE not in seen[name] and "aegis-secret-KEY" in seen[name] for name in ("other", "landed", "body", "packed", "query"))
    assert "aegis-secret" not in seen["basic"]
    rows = {row["path"]: row["reason"] for row in a.client.egress("a", limit=1000)["connections"] if row["method"]}
    assert all("was not replaced" in rows[f"/v1/{name}"] for name in ("other", "landed", "body", "packed", "query")), rows
    assert rows["/v1/mine"].endswith("with the secret KEY")
    everything = json.dumps(a.client.audit()) + json.dumps(a.client.egress("a", limit=1000))
    assert VALUE not in everything
    assert VALUE not in a.sh("cat /proc/*/environ /etc/aegis/* 2>/dev/null; env").out


def test_a_placeholder_of_another_instance_is_worth_nothing(box: Make, sites: Sites) -> None:
    a = granted(box, sites.rule(secret="KEY"))
    b = granted(box, sites.rule(secret="KEY"), handle="b")
    theirs = b.sh("printf %s $KEY").out
    assert theirs != a.sh("printf %s $KEY").out
    a.run("curl", "-sS", "-H", f"X-Key: {theirs}", f"https://{HERE}:{sites.port}/v1/x")
    assert theirs in sites.seen[0]
    assert VALUE not in sites.seen[0]


def test_there_is_no_way_around_the_rules_on_requests(box: Make, sites: Sites) -> None:
    """Unset variables, `--noproxy`, another port, another name in the hello, IPv6: none of it reaches the server past the rule."""
    a = granted(box, sites.rule(THERE), f"127.0.0.3:{sites.port}")
    port = sites.port
    tried = a.run(
        "/bin/sh",
        "-c",
        f"""
        t() {{ curl -sSf -m 20 -o /dev/null "$@" && echo reached; }}
        env -u HTTPS_PROXY -u https_proxy curl -sSkf -m 20 -o /dev/null https://{THERE}:{port}/admin && echo reached
        t -k --noproxy '*' https://{THERE}:{port}/admin
        t -k --noproxy '*' https://192.0.2.1:{port}/v1/x
        t -k --noproxy '*' 'https://[2001:db8::1]:{port}/v1/x'
        t -k --noproxy '*' https://[::1]:{port}/v1/x
        t -k --http3 https://{THERE}:{port}/v1/x
        t -p http://{THERE}:22/
        t http://{THERE}:{port}/v1/x -f
        t -k -f --connect-to evil.example.com:443:{THERE}:{port} https://evil.example.com/v1/x
        t -k -f -H 'Host: evil.example.com' https://{THERE}:{port}/v1/x
        t --cacert /etc/ssl/certs/none.pem https://{THERE}:{port}/v1/x
        true
        """,
    )
    assert "reached" not in tried.out, tried
    assert sites.seen == []
    answers = send(
        a, connect(f"{THERE}:22"), connect(f"127.2:{port}"), connect(f"0x7f.0.0.2:{port}"), connect(f"[::ffff:127.0.0.2]:{port}")
    )
    assert all(status(answer) in (400, 403) for answer in answers)
    assert all("application/json" in answer for answer in answers)


POLICIES = """
@id("p-secret")
@reason("nobody reads it")
forbid (principal == Instance::"p", action == Action::"egress.request", resource)
when { context has url_path && context.url_path like "/v1/secret*" };

@id("p-ask")
@ask("it writes there")
forbid (principal == Instance::"p", action == Action::"egress.request", resource)
when { context has method && context.method == "POST" };

@id("p-rate")
@rate("2/1h")
permit (principal == Instance::"q", action == Action::"egress.request", resource);

@id("p-connect")
forbid (principal == Instance::"r", action == Action::"egress.connect", resource == Host::"127.0.0.2");
"""


def test_policies_hold_for_every_reading_of_a_path_and_ask_a_person(box: Make, sites: Sites, house: RealDaemon) -> None:
    folder = house.home / "policies"
    folder.mkdir(exist_ok=True)
    (folder / "web.cedar").write_text(POLICIES)
    try:
        assert not [layer for layer in house.client.policies.list().get("layers", []) if layer.get("problem")]
        a = granted(box, sites.rule(paths=["/*"]), handle="p")
        url = f"https://{HERE}:{sites.port}"
        spellings = ["/v1/secret", "/v1/%73ecret/x", "/v1/secret;x", "/v1%2Fsecret", "/v1/sec%2572et", "/v1;a=b/secret"]
        script = "for p; do curl -sS --path-as-is $p; echo; done"
        denied = [json.loads(line) for line in a.run("/bin/sh", "-c", script, "sh", *(url + p for p in spellings)).out.splitlines() if line]
        assert [item["rule"] for item in denied] == ["p-secret"] * len(spellings), denied
        assert sites.seen == []
        codes: list[str] = []

        def post() -> None:
            codes.append(a.run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-d", "x", f"{url}/v1/post").out)

        for approve in (True, False):
            head = house.client.status()["head"]
            asking = threading.Thread(target=post)
            asking.start()
            with house.client.follow_events(head, instance="p", types=("approval.requested",)) as events:
                next(iter(events))
            (request,) = house.client.approvals.list(instance="p")
            house.client.approvals.decide(request["id"], approve)
            asking.join(60)
        assert codes == ["200", "403"]
        q = granted(box, sites.rule(), handle="q")
        limited = [q.run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"{url}/v1/{n}").out for n in range(3)]
        assert limited == ["200", "200", "403"]
        r = granted(box, f"{THERE}:{sites.port}", handle="r")
        assert "the rule `p-connect`" in send(r, connect(f"{THERE}:{sites.port}"))[0]
    finally:
        (folder / "web.cedar").unlink()
        house.client.policies.list()


def test_a_child_asks_for_no_more_than_its_parent(box: Make, sites: Sites, house: RealDaemon) -> None:
    a = granted(box, sites.rule(methods=["GET"], secret="KEY"), f"{THERE}:{sites.port}")
    host = f"{HERE}:{sites.port}"
    calls = [{"egress": [rule]} for rule in (f"tcp://{host}", f"127.0.0.0/8:{sites.port}", f"{HERE}:{sites.port},{sites.port + 1}")]
    wishes = [("aegis_spawn", {"prompt": "x", "permission": "full", **call}) for call in calls]
    assert all(said["isError"] for said in a.python(CALL, json.dumps(wishes)))
    (said,) = a.python(
        CALL, json.dumps([("aegis_spawn", {"command": ["sleep", "60"], "slug": "kid", "egress": [host], "permission": "full"})])
    )
    assert not said["isError"], said
    try:
        kid = Box(house, "kid", a.workspace)
        assert house.client.instances.get("kid")["egress"] == [sites.rule(methods=["GET"])]  # the secret was not asked for
        script = f"echo $KEY; for m in GET POST; do curl -sS -o /dev/null -w '%{{http_code}} ' -X $m https://{host}/v1/x; done"
        assert kid.sh(script).out == "\n200 403 "
    finally:
        house.client.instances.delete("kid")


def test_empty_and_odd_lists_allow_nothing(box: Make, sites: Sites) -> None:
    """Absent, null, [], [""], "*" and [" *"], at the key itself and within a rule: refused where they are written, or nothing leaves."""
    for egress in (None, "*", [None], [""], ["*"], [" *"], {}, [{}], [[]], "packages"):
        with pytest.raises(AegisError) as told:
            box("d", permission="full", egress=egress)
        assert told.value.kind is ErrorKind.USAGE
    for name in ("methods", "paths"):
        for value in (None, [], [""], "*", ["*"], [" *"], [None]):
            with pytest.raises(AegisError) as told:
                box("d", permission="full", egress=[sites.rule(**{name: value})])
            assert told.value.kind is ErrorKind.USAGE
        absent = sites.rule()
        del absent[name]
        with pytest.raises(AegisError) as told:
            box("d", permission="full", egress=[absent])
        assert f"`{name}`" in told.value.message
    for wrong in (
        {"unknown": 1}, {"inspect": False}, {"host": ""}, {"host": "packages"}, {"host": f"tcp://{HERE}:1"}, {"host": "10.0.0.0/8:443"},
        {"header": "Authorization: {}"}, {"secret": "KEY", "header": "Host: {}"}, {"secret": "KEY", "header": "X: {}\r\nHost: x"},
        {"secret": "KEY", "header": "X: none"}, {"secret": "KEY", "host": "*.example.com:443"}, {"secret": "NOT_THERE"}, {"roots": "roots.pem"},
    ):  # fmt: skip
        with pytest.raises(AegisError) as told:
            box("d", permission="full", egress=[sites.rule() | wrong])
        assert told.value.kind in (ErrorKind.USAGE, ErrorKind.NOT_FOUND), wrong
    a = granted(box)
    assert a.sh("env | grep -ci -e proxy -e cert").out.strip() == "0"
