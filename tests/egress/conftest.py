"""The gate in the test's own process: a real store, real sockets on the loopback, a resolver that the test scripts."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aegis.core.clock import SystemClock
from aegis.core.egress import EgressRule
from aegis.services.egress import Egress, Packages
from aegis.services.egress.proxy import Patience
from aegis.services.egress.service import Bounds
from aegis.services.gate import Gate
from aegis.store import Store


@dataclass
class Launch:
    """What the gate needs of a launch."""

    egress: list[str | EgressRule] = field(default_factory=list)
    permission: str = "full"
    secrets: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)


@dataclass
class Instance:
    """What the gate needs of an instance."""

    launch: Launch
    id: str = "inst_1"
    handle: str = "a"
    token: str = "the token"


class TcpChannel:
    """A channel of the tether, played by a TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: dict[str, Any]) -> None:
        self.reader, self.writer, self.info = reader, writer, info

    async def read(self) -> bytes:
        return await self.reader.read(65536)

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def eof(self) -> None:
        with suppress(OSError):
            self.writer.write_eof()

    async def close(self, **info: Any) -> None:
        """As the guest does: the client gets all, and may still talk for a moment."""
        await self.eof()
        self.lingering = asyncio.create_task(self._linger())

    async def _linger(self) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                while await self.reader.read(65536):
                    pass
        self.writer.close()


class Wire:
    """A client's connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, data: bytes | str) -> None:
        self.writer.write(data.encode("latin-1") if isinstance(data, str) else data)
        await self.writer.drain()

    async def head(self) -> str:
        """The next head of an answer."""
        return (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)).decode("latin-1")

    async def rest(self) -> bytes:
        """All that comes until the end."""
        with suppress(ConnectionResetError):
            return await asyncio.wait_for(self.reader.read(), 20)
        return b""

    async def ask(self, data: bytes | str) -> str:
        """Say it, and read all that comes back to the end."""
        with suppress(OSError):
            await self.say(data)
        return (await self.rest()).decode("latin-1")


class Site:
    """A server on the loopback that keeps what it was sent, and answers each request with `answer`."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        self.port = 0
        self.done = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = b""
        try:
            while data := await reader.read(65536):
                got += data
                head, found, body = got.partition(b"\r\n\r\n")
                length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
                chunked = b"transfer-encoding: chunked" in head.lower()
                if found and (body.endswith(b"0\r\n\r\n") if chunked else len(body) >= length):
                    writer.write(self.answer)
                    await writer.drain()
                    break
        finally:
            self.seen.append(got)
            self.done.set()
            writer.close()


class Outside:
    """The gate, how to reach it, and what the world behind it says."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.names: dict[str, list[str] | Exception] = {}
        self.asked: list[str] = []
        self.own: set[str] = set()
        self.instance = Instance(Launch())
        self.info: dict[str, Any] = {}
        self.tool_output: dict[str, str | None] = {"pip": None, "npm": None}
        self.clock = SystemClock()
        self.gate = Gate(store, self.clock)
        self.packages = Packages({"PATH": "/nowhere"}, self.clock, self._run)
        self.ends: list[BaseException | None] = []
        self.egress = self.make()
        self._server: asyncio.Server | None = None
        self._wires: list[Wire] = []
        self.sites: list[asyncio.Server] = []

    def make(self, patience: Patience | None = None, bounds: Bounds | None = None) -> Egress:
        """A gate with other limits takes the place of the one there was."""
        self.egress = Egress(
            self.store,
            self.clock,
            self.gate,
            self.packages,
            resolve=self._resolve,
            own=lambda address: str(address) in self.own,
            patience=patience or Patience(head=20, resolve=20, connect=20, half=20),
            bounds=bounds,
        )
        return self.egress

    def allow(self, *rules: str | EgressRule) -> None:
        """Give the instance these rules."""
        self.instance.launch.egress = list(rules)

    async def wire(self) -> Wire:
        """A connection to the proxy."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        wire = Wire(*await asyncio.open_connection("127.0.0.1", self._server.sockets[0].getsockname()[1]))
        self._wires.append(wire)
        return wire

    async def ask(self, data: bytes | str) -> str:
        """One connection: say, and read to the end."""
        return await (await self.wire()).ask(data)

    async def site(self, name: str | None = "site.test", tls: ssl.SSLContext | None = None) -> Site:
        """A server under a name, which leads to the loopback; `allow` it by name and address."""
        site = Site()
        server = await asyncio.start_server(site.serve, "127.0.0.1", 0, ssl=tls)
        site.port = server.sockets[0].getsockname()[1]
        self.sites.append(server)
        if name is not None:
            self.names[name] = ["127.0.0.1"]
        return site

    def admitted(self, site: Site, name: str = "site.test") -> None:
        """Rules that let a site be reached."""
        self.allow(f"{name}:{site.port}", f"127.0.0.1:{site.port}")

    def rows(self) -> list[dict[str, Any]]:
        return self.egress.list(self.instance.id)

    def audit(self) -> list[dict[str, Any]]:
        return [row for row in self.gate.list() if row["action"].startswith("egress.")]

    def facts(self) -> list[Any]:
        return [event.fact for event in self.store.events(types=["instance.egress"]).events]

    async def ended(self, count: int = 1) -> None:
        """Return when so many connections are over and recorded."""
        async with asyncio.timeout(20):
            while len(self.ends) < count:
                await asyncio.sleep(0.002)

    async def close(self) -> None:
        await self.egress.close()
        for server in [*self.sites, *([self._server] if self._server else [])]:
            server.close()
        for wire in self._wires:
            wire.writer.close()
            with suppress(OSError, ssl.SSLError):
                await wire.writer.wait_closed()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.egress.serve(TcpChannel(reader, writer, {"kind": "egress", **self.info}), self.instance)
            self.ends.append(None)
        except BaseException as error:
            self.ends.append(error)
            writer.close()

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        found = self.names.get(host, OSError("name or service not known"))
        if isinstance(found, Exception):
            raise found
        return found

    async def _run(self, argv: list[str], environ: Any) -> str | None:
        return self.tool_output[Path(argv[0]).name]


@pytest.fixture
async def outside(tmp_path: Path) -> AsyncIterator[Outside]:
    store = await Store.open(tmp_path / "aegis.db", SystemClock())
    made = Outside(store)
    yield made
    await made.close()
    await store.close()


class Certified:
    """A certificate for `site.test`, and who trusts it."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site.test")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("site.test"), x509.DNSName("*.site.test")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.path = folder / "site.pem"
        encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.path.write_bytes(encoded + certificate.public_bytes(serialization.Encoding.PEM))
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(self.path)
        self.client = ssl.create_default_context(cafile=str(self.path))


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    return Certified(tmp_path_factory.mktemp("tls"))


def hello(server_name: str | None) -> bytes:
    """A real client's hello."""
    context = ssl.create_default_context()
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    with suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()
