"""Case 22 and 23: the way out of a sandbox, tried from inside. Only the host's loopback is reached for, and only where a rule names it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import ipaddress
import json
import shutil
import socket
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.attacks.conftest import Box
from tests.attacks.test_spawn_sites import EXPECTED, SHELLS, names

from aegis.core.errors import AegisError, ErrorKind

Make = Callable[..., Box]


class Canary:
    """A server on the host's loopback, at all of its addresses, that remembers who came."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.seen: list[str] = []
        canary = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                canary.seen.append(f"{self.command} {self.path} {self.headers['host']}")
                kind, body = canary.pages.get(self.path, ("text/plain", b"the canary"))
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_OPTIONS = do_GET

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
                canary.came += 1
                return super().get_request()  # type: ignore[return-value]

        self.came = 0
        self.server = Server(("", 0), Handler)
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def canary() -> Iterator[Canary]:
    made = Canary()
    yield made
    made.close()


#: Sends raw bytes to the proxy, one connection for each, and prints what came back; `then` is said after the first answer.
RAW = """
import json, os, socket, urllib.parse
url = urllib.parse.urlsplit(os.environ["HTTP_PROXY"])
found = []
for said in json.load(open("/workspace/requests")):
    with socket.create_connection((url.hostname, url.port), 30) as c:
        got = b""
        try:
            for number, piece in enumerate(said):
                c.sendall(piece.encode("latin-1"))
                if number + 1 < len(said):
                    got += c.recv(65536)
            c.shutdown(socket.SHUT_WR)
            while data := c.recv(65536):
                got += data
        except OSError:
            pass
        found.append(got.decode("latin-1"))
print(json.dumps(found))
"""


def send(a: Box, *requests: str | list[str]) -> list[str]:
    """Each on a connection of its own."""
    (a.workspace / "requests").write_text(json.dumps([[r] if isinstance(r, str) else r for r in requests]))
    return list(a.python(RAW))


def get(url: str, host: str | None = None, *headers: str, method: str = "GET") -> str:
    return "\r\n".join([f"{method} {url} HTTP/1.1", f"Host: {host or url.split('/')[2]}", *headers]) + "\r\n\r\n"


def connect(place: str) -> str:
    return f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n"


def status(answer: str) -> int:
    return int(answer.split()[1]) if answer.startswith("HTTP/1.1 ") else 0


def granted(make: Make, *rules: str, handle: str = "a") -> Box:
    return make(handle, permission="full", egress=list(rules))


SPELLINGS = """
127.0.0.1 127.1 127.0.1 127.0.0.01 0177.0.0.1 0x7f.0.0.1 0x7f000001 0x7F.1 2130706433 017700000001 127.0.0.1. 127.0.0.2 127.255.255.254
[::1] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [2002:7f00:1::] [::1%25lo] [::1%lo]
0.0.0.0 0 [::] localhost LOCALHOST localhost. a.localhost localhost.localdomain ip6-localhost 169.254.169.254 [fd00:ec2::254] metadata.google.internal
""".split()


def test_the_hosts_loopback_is_not_reached_in_any_spelling(box: Make, canary: Canary) -> None:
    a = granted(box, "api.example.com:443", f"*.example.com:{canary.port}")
    hosts = [*SPELLINGS, socket.gethostname()]
    answers = send(a, *(connect(f"{host}:{canary.port}") for host in hosts), *(get(f"http://{host}:{canary.port}/") for host in hosts))
    assert all(status(answer) in (400, 403) for answer in answers), [answer[:100] for answer in answers]
    assert canary.came == 0
    asked = a.client.egress("a", limit=1000)["connections"]
    assert asked
    assert not [row for row in asked if row["allowed"]]
    records = [row for row in a.client.audit() if row["action"] == "egress.connect" and row["principal"] == f"instance:{a.id}"]
    assert len(records) == len(asked)
    assert {row["decision"] for row in records} == {"deny"}


def test_a_rule_for_one_spelling_is_for_that_one(box: Make, canary: Canary) -> None:
    a = granted(box, f"127.0.0.1:{canary.port}")
    others = [host for host in SPELLINGS if host != "127.0.0.1"]
    answers = send(a, *(get(f"http://{host}:{canary.port}/") for host in others), get(f"http://127.0.0.1:{canary.port + 1}/"))
    assert all(status(answer) in (400, 403) for answer in answers), [answer[:100] for answer in answers]
    assert canary.came == 0
    assert send(a, get(f"http://127.0.0.1:{canary.port}/x"))[0].endswith("the canary")
    assert canary.seen == [f"GET /x 127.0.0.1:{canary.port}"]


def test_a_name_that_leads_inside_is_not_followed(box: Make, canary: Canary) -> None:
    """Names that this machine itself knows for addresses of its own."""
    own = []
    for name in (socket.gethostname().lower(), "ip6-localhost", "ip6-loopback", "localhost.localdomain"):
        with contextlib.suppress(OSError, UnicodeError):
            addresses = {str(item[4][0]).partition("%")[0] for item in socket.getaddrinfo(name, 80)}
            if all(not ipaddress.ip_address(address).is_global for address in addresses) and name != "localhost":
                own.append(name)
    if not own:
        pytest.skip("this machine knows no name for itself")
    a = granted(box, *(f"{name}:{canary.port}" for name in own))
    answers = send(a, *(connect(f"{name}:{canary.port}") for name in own), *(get(f"http://{name}:{canary.port}/") for name in own))
    assert all(status(answer) == 403 and "leads to" in answer for answer in answers), answers
    assert canary.came == 0


def test_the_daemons_own_ports_are_not_reached(box: Make) -> None:
    """The model endpoint is the guest's; the same port of the host, and a listener of the daemon, are strangers."""
    a = granted(box, "api.example.com:443")
    port = a.sh("echo ${AEGIS_MODEL_URL##*:}").out.strip()
    with socket.create_server(("127.0.0.1", 0)) as listener:  # as `aegis serve --listen` has one
        places = [f"127.0.0.1:{port}", f"localhost:{port}", f"127.0.0.1:{listener.getsockname()[1]}"]
        answers = send(a, *map(connect, places), *(get(f"http://{place}/v1/status") for place in places))
        assert {status(answer) for answer in answers} == {403}
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_there_is_no_way_but_the_proxy(box: Make, canary: Canary) -> None:
    """With rules as without: no route, no resolver, no other protocol."""
    mine = [str(item[4][0]) for item in socket.getaddrinfo(socket.gethostname(), 80, socket.AF_INET)] if _resolves() else []
    for a in (granted(box, "*.example.com:443"), box("b")):
        found = a.attempts(
            f"""
            loopback: socket.create_connection(("127.0.0.1", {canary.port}), 5)
            loopback6: socket.create_connection(("::1", {canary.port}), 5)
            public: socket.create_connection(("192.0.2.1", 443), 5)
            public6: socket.create_connection(("2001:db8::1", 443), 5)
            metadata: socket.create_connection(("169.254.169.254", 80), 5)
            udp: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53))
            udp6: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"x", ("2001:db8::1", 443))
            raw: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
            packet: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            vsock: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            name: socket.getaddrinfo("www.example.com", 443)
            """
            + "\n".join(f"own{n}: socket.create_connection(({address!r}, {canary.port}), 5)" for n, address in enumerate(mine))
        )
        assert "done" not in found.values(), found
    assert canary.came == 0


def _resolves() -> bool:
    with contextlib.suppress(OSError):
        return bool(socket.getaddrinfo(socket.gethostname(), 80, socket.AF_INET))
    return False


def test_an_empty_or_absent_list_is_nothing(box: Make, canary: Canary) -> None:
    for handle, spec in (("a", {}), ("b", {"permission": "full"}), ("c", {"permission": "full", "egress": []})):
        a = box(handle, **spec)
        assert not [name for name in names(a.run("/usr/bin/env").out) if "proxy" in name.lower()]
        assert a.sh('test -z "$HTTP_PROXY"').code == 0
    for wrong in ([""], ["*"], [" *"], ["*:443"], ["0.0.0.0/0:443"], ["169.254.169.254:80"], ["https://example.com"]):
        with pytest.raises(AegisError) as told:
            box("d", permission="full", egress=wrong)
        assert told.value.kind is ErrorKind.USAGE
        assert ascii(wrong[0]) in told.value.message or wrong[0] in told.value.message
    for spec in ({"permission": "write"}, {"permission": "read"}, {"permission": "full", "sandbox": "process"}):
        with pytest.raises(AegisError) as told:
            box("d", egress=["api.example.com:443"], **spec)
        assert told.value.kind in (ErrorKind.USAGE, ErrorKind.DENIED)


def test_what_is_in_the_environment_with_a_way_out(box: Make) -> None:
    a = granted(box, "api.example.com:443")
    proxies = {name for upper in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY") for name in (upper, upper.lower())}
    assert names(a.run("/usr/bin/env").out) - SHELLS == EXPECTED | proxies | {"NODE_USE_ENV_PROXY"}


def test_one_connection_is_not_for_another_host(box: Make, canary: Canary) -> None:
    """The host of the target is the host of the request, each time anew; a tunnel carries what it was made for."""
    other = Canary()
    try:
        a = granted(box, f"127.0.0.1:{canary.port}")
        mine, theirs = f"127.0.0.1:{canary.port}", f"127.0.0.1:{other.port}"
        answers = send(
            a,
            get(f"http://{mine}/", theirs),
            get(f"http://{mine}/", "127.0.0.1"),
            get(f"http://{mine}/", mine, f"Host: {theirs}"),
            get(f"http://{mine}@{theirs}/", mine),
            f"CONNECT {mine} HTTP/1.1\r\nHost: {theirs}\r\n\r\n",
            [get(f"http://{mine}/ok"), get(f"http://{theirs}/")],
            [connect(mine), f"GET / HTTP/1.1\r\nHost: {theirs}\r\n\r\n"],
            [connect(mine), get(f"http://{theirs}/")],
            [connect(mine), connect(theirs)],
            [connect(mine), "\x00\x01\x02 not TLS"],
            [connect(mine), "SSH-2.0-x\r\n"],
        )
        assert [status(answer) for answer in answers[:5]] == [400] * 5, answers[:5]
        assert "the canary" in answers[5]
        assert "403" in answers[5]
        assert all("the canary" not in answer for answer in answers[6:])
        assert other.came == 0
        assert [seen for seen in canary.seen if "/ok" not in seen] == []
    finally:
        other.close()


HELLO = """
import json, os, socket, ssl, sys, urllib.parse
url = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
found = {}
for name in json.loads(sys.argv[2]):
    with socket.create_connection((url.hostname, url.port), 30) as c:
        c.sendall(f"CONNECT {sys.argv[1]} HTTP/1.1\\r\\nHost: {sys.argv[1]}\\r\\n\\r\\n".encode())
        head = c.recv(4096)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            context.wrap_socket(c, server_hostname=name).close()
            found[str(name)] = "done"
        except (OSError, ssl.SSLError) as error:
            found[str(name)] = str(getattr(error, "reason", None) or error)
print(json.dumps(found))
"""


def test_a_tunnel_is_not_for_another_name(box: Make) -> None:
    """What arrives at the server is nothing, whatever name the hello has; the program sees an alert."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        a = granted(box, place)
        found = a.python(HELLO, place, json.dumps(["evil.example.com", "127.0.0.1.evil.example.com"]))
        assert all("ACCESS_DENIED" in said for said in found.values()), found
        for _ in found:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b""
    reasons = [row["reason"] for row in a.client.egress("a")["connections"]]
    assert all("asks for" in reason for reason in reasons), reasons


def test_no_second_request_hides(box: Make, canary: Canary) -> None:
    a = granted(box, f"127.0.0.1:{canary.port}")
    url = f"http://127.0.0.1:{canary.port}"
    hidden = get(f"{url}/HIDDEN")
    chunked = "0\r\n\r\n" + hidden
    wrong = [
        ("Content-Length: 5", "Transfer-Encoding: chunked"), ("Transfer-Encoding: chunked", "Content-Length: 5"), ("Content-Length: 5", "Content-Length: 6"),
        ("Transfer-Encoding: xchunked",), ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"), ("Transfer-Encoding: chunked, chunked",),
        ("Transfer-Encoding:\x0bchunked",), ("Transfer-Encoding : chunked",), ("Content-Length: +5",), ("Content-Length: -5",), ("Content-Length: 5, 6",),
        ("X: a\r\n Transfer-Encoding: chunked",), ("X: a\r\n\tb",), ("X: a\nTransfer-Encoding: chunked",), ("X: a\rTransfer-Encoding: chunked",), ("X: a\x00b",),
        ("X: " + "a" * 100_000,), ("\u00e9: a",), ("X y: a",),
    ]  # fmt: skip
    answers = send(a, *(get(f"{url}/p", None, *lines, method="POST") + chunked for lines in wrong))
    assert all(400 <= status(answer) < 506 and answer.count("HTTP/1.1 ") == 1 for answer in answers), [answer[:200] for answer in answers]
    answers = send(
        a,
        get(f"{url}/p\nGET /HIDDEN"), get(f"{url}/p HTTP/1.1\r\nHost: x\r\n\r\nGET /HIDDEN"), get(f"{url}/p").replace("\r\n", "\n"),
        "a" * 300_000, "\x16\x03\x01\x00" * 20_000, "GET\x00 / HTTP/1.1\r\n\r\n", get(f"{url}/p").replace("1.1", "9.9"),
    )  # fmt: skip
    assert all("HIDDEN" not in seen for seen in canary.seen), canary.seen
    assert send(a, get(f"{url}/fine"))[0].endswith("the canary")


SLOW = """
import os, socket, time, urllib.parse
url = urllib.parse.urlsplit(os.environ["HTTP_PROXY"])
held = []
for number in range(100):
    c = socket.create_connection((url.hostname, url.port), 30)
    c.sendall(b"GET http://127.0.0.1/ HTTP/1.1\\r\\nHost: " if number % 2 else b"")
    held.append(c)
open("/workspace/held", "w").close()
time.sleep(600)
"""


def test_slow_connections_of_one_leave_the_others_alone(box: Make, canary: Canary) -> None:
    a, b = granted(box, f"127.0.0.1:{canary.port}"), granted(box, f"127.0.0.1:{canary.port}", handle="b")
    a.sh(f"nohup \"$AEGIS_PYTHON\" -I -c '{SLOW}' >/dev/null 2>&1 & while [ ! -e held ]; do sleep 0.02; done")
    assert send(b, get(f"http://127.0.0.1:{canary.port}/"))[0].endswith("the canary")
    assert send(a, get(f"http://127.0.0.1:{canary.port}/"))[0].endswith("the canary")
    assert b.ask("[[say still there]]")["text"] == "still there"


def test_a_loopback_port_that_a_rule_names_is_there_inside(box: Make, canary: Canary) -> None:
    a = granted(box, f"127.0.0.1:{canary.port}")
    code = "import json, sys, urllib.request; print(json.dumps(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode()))"
    assert a.python(code, f"http://127.0.0.1:{canary.port}/direct") == "the canary"
    assert canary.seen == [f"GET /direct 127.0.0.1:{canary.port}"]
    (row,) = a.client.egress("a")["connections"]
    assert (row["host"], row["port"], row["allowed"], row["handle"]) == ("127.0.0.1", canary.port, True, "a")


def test_the_check_and_the_events_say_the_same(box: Make, canary: Canary) -> None:
    a = granted(box, f"127.0.0.1:{canary.port}")
    assert a.client.egress_check("a", f"127.0.0.1:{canary.port}")["allowed"]
    denied = a.client.egress_check("a", "10.0.0.1:443")
    assert not denied["allowed"]
    send(a, connect("10.0.0.1:443"))
    (event,) = a.client.events(0, instance="a", types=("instance.egress",))["events"]
    assert event["data"]["reason"] == denied["reason"]
    with pytest.raises(AegisError):
        a.client.egress_check("a", "0x7f.1:80")
    with pytest.raises(AegisError):
        a.client.egress_check("nobody", "a.test:80")


# The real flow of packages, from an index on the loopback.


def wheel() -> bytes:
    """The least wheel that pip installs."""
    files = {
        "small.py": "ANSWER = 42\n",
        "small-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n",
        "small-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={_digest(text)},{len(text)}\n" for name, text in files.items())
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in {**files, "small-1.0.dist-info/RECORD": f"{record}small-1.0.dist-info/RECORD,,\n"}.items():
            archive.writestr(name, text)
    return made.getvalue()


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.mark.parametrize("proxy", [False, True], ids=["direct", "by the proxy"])
def test_pip_installs_from_an_index_that_a_rule_names(box: Make, canary: Canary, proxy: bool) -> None:
    a = granted(box, f"127.0.0.1:{canary.port}")
    if a.sh("command -v pip3 || python3 -m pip --version").code:
        pytest.skip("no pip inside")
    canary.pages["/simple/small/"] = ("text/html", b'<a href="/files/small-1.0-py3-none-any.whl">small-1.0-py3-none-any.whl</a>')
    canary.pages["/files/small-1.0-py3-none-any.whl"] = ("application/zip", wheel())
    how = '--proxy "$HTTP_PROXY"' if proxy else ""
    index = f"--index-url http://127.0.0.1:{canary.port}/simple --trusted-host 127.0.0.1"
    done = a.sh(
        f"python3 -m pip install {how} {index} --no-cache-dir --disable-pip-version-check --target /tmp/got small && cat /tmp/got/small.py"
    )
    assert done.code == 0, done
    assert done.out.endswith("ANSWER = 42\n")
    rows = a.client.egress("a")["connections"]
    assert rows
    assert all(row["allowed"] for row in rows)
    refused = a.sh(
        'python3 -m pip --proxy "$HTTP_PROXY" --retries 1 download --no-cache-dir --index-url https://index.example.com/simple small'
    )
    assert refused.code
    assert 'egress: ["index.example.com:443"]' in refused.out + refused.err


def test_npm_installs_from_a_registry_that_a_rule_names(box: Make, canary: Canary) -> None:
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine")
    a = granted(box, f"127.0.0.1:{canary.port}")
    if a.sh("npm --version").code:
        pytest.skip("no npm inside")
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        text = json.dumps({"name": "small", "version": "1.0.0"}).encode()
        about = tarfile.TarInfo("package/package.json")
        about.size = len(text)
        archive.addfile(about, io.BytesIO(text))
    registry = f"http://127.0.0.1:{canary.port}"
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(made.getvalue()).digest()).decode()
    version = {"name": "small", "version": "1.0.0", "dist": {"tarball": f"{registry}/small.tgz", "integrity": integrity}}
    document = {"name": "small", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    canary.pages["/small"] = ("application/json", json.dumps(document).encode())
    canary.pages["/small.tgz"] = ("application/octet-stream", made.getvalue())
    flags = f"--registry {registry}/ --no-audit --no-fund --no-update-notifier --fetch-retries 0"
    done = a.sh(f"mkdir -p /tmp/n && cd /tmp/n && npm install {flags} small && cat node_modules/small/package.json", env={"HOME": "/tmp"})
    assert done.code == 0, done
    assert '"small"' in done.out
    flags = flags.replace(f"{registry}/", "https://registry.example.com/")
    refused = a.sh(f"cd /tmp/n && npm install {flags} other", env={"HOME": "/tmp"})
    assert refused.code
    assert "registry.example.com:443" in refused.out + refused.err
