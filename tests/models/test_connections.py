"""The sockets under the `http` kind: encryption, addresses, ends and bounds, against real servers on the loopback."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aegis.models.connections import _MOST_UNREAD, Transport, _Stream

_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@asynccontextmanager
async def _server(*pieces: bytes, context: ssl.SSLContext | None = None, close: bool = False) -> AsyncIterator[tuple[int, list[int]]]:
    """A server that answers each request with these pieces as chunks; its port, and a list that grows with each connection."""
    connections: list[int] = []
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(len(connections))
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or b"0"))
                writer.write(_HEAD)
                for piece in pieces:
                    writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
                await writer.drain()
                if close:
                    return
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], connections
        await asyncio.gather(*serving)


@asynccontextmanager
async def _client(context: ssl.SSLContext | None = None, timeout: float | None = None) -> AsyncIterator[httpx.AsyncClient]:
    transport = Transport(keepalive=4, expiry=60.0, context=context or ssl.create_default_context())
    async with httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client:
        yield client


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return cert_file, key_file


async def test_an_encrypted_answer_comes_back_whole(certificate: tuple[Path, Path]) -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(*certificate)
    large = b"x" * 3_000_000
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    async with _server(b"one", large, context=served) as (port, connections), _client(trusting) as client:
        for _ in range(2):
            answer = await client.post(f"https://localhost:{port}/", content=b"y" * 100_000)
            assert answer.content == b"one" + large
        assert len(connections) == 1  # kept for the second call


async def test_a_certificate_of_nobody_is_refused(certificate: tuple[Path, Path]) -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(*certificate)
    async with _server(b"secret", context=served) as (port, _), _client() as client:
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await client.get(f"https://localhost:{port}/")


async def test_the_next_address_is_tried_when_the_first_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    real: Callable[..., Any] = loop.getaddrinfo

    async def two(host: str, port: int, **how: Any) -> Any:
        return [*await real("127.0.0.2", port, **how), *await real("127.0.0.1", port, **how)]

    monkeypatch.setattr(loop, "getaddrinfo", two)
    async with _server(b"here") as (port, _), _client() as client:
        assert (await client.get(f"http://there.test:{port}/")).content == b"here"


async def test_nobody_who_listens_is_a_connect_error() -> None:
    async with _server() as (port, _):
        pass
    async with _client() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{port}/")


async def test_a_connection_that_its_server_ended_is_not_used_again() -> None:
    async with _server(b"once", close=True) as (port, connections), _client() as client:
        for count in (1, 2, 3):
            assert (await client.get(f"http://127.0.0.1:{port}/")).content == b"once"
            assert len(connections) == count


async def test_a_silent_server_meets_the_time_limit() -> None:
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read()
            writer.close()
            await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        async with _client(timeout=0.05) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        await ended.wait()


class _Told:
    """A transport that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")


async def test_what_nobody_reads_is_not_collected_without_end() -> None:
    stream, transport = _Stream(asyncio.get_running_loop()), _Told()
    stream.connection_made(transport)  # type: ignore[arg-type]
    for _ in range(3):
        stream.data_received(b"x" * _MOST_UNREAD)
    assert transport.told == ["pause"]
    assert len(await stream.read(65536)) == 3 * _MOST_UNREAD
    assert transport.told == ["pause", "resume"]
