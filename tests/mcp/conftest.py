"""A house in the test's own process, with instances that exist and do not run, and a way to the MCP server of each."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.agents.conftest import Bench, bench, open_bench, program  # noqa: F401, RUF100  (fixtures)
from tests.broker.conftest import TcpChannel

from aegis.services.agents import Instance, Launch
from aegis.services.agents.bearers import bearer_of, path_of, program_bearer_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

DEFAULT = "host:default"


class Reply(NamedTuple):
    """An answer of HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """One connection to the MCP endpoint of an instance, as a program in its sandbox has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, instance: Instance) -> None:
        self.reader, self.writer, self.instance = reader, writer, instance
        self.ident = 0

    async def raw(self, data: bytes) -> Reply:
        """Send bytes and read one answer."""
        self.writer.write(data)
        return await self.read()

    async def read(self) -> Reply:
        """Read one answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        status = int(head[0].split()[1])
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b""
            while size := int((await self.reader.readline()).strip() or b"0", 16):
                body += await self.reader.readexactly(size)
                await self.reader.readline()
            await self.reader.readline()
            return Reply(status, headers, body)
        return Reply(status, headers, await self.reader.readexactly(int(headers.get("content-length", 0))))

    async def post(
        self, message: Any, *, session: str = DEFAULT, headers: Mapping[str, str] | None = None, path: str | None = None
    ) -> Reply:
        """POST a message; `headers` come on top of the right ones, those of None are left out."""
        return await self.http("POST", message, session=session, headers=headers, path=path)

    async def http(
        self,
        method: str,
        message: Any = b"",
        *,
        session: str = DEFAULT,
        headers: Mapping[str, str | None] | None = None,
        path: str | None = None,
    ) -> Reply:
        return await self.raw(self.request(method, message, session=session, headers=headers, path=path))

    def request(
        self,
        method: str,
        message: Any = b"",
        *,
        session: str = DEFAULT,
        headers: Mapping[str, str | None] | None = None,
        path: str | None = None,
    ) -> bytes:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        found: dict[str, str | None] = {
            "host": "127.0.0.1:4000",
            "authorization": f"Bearer {bearer_of(self.instance.token, session)}",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "content-length": str(len(body)),
            **(headers or {}),
        }
        lines = [f"{name}: {value}" for name, value in found.items() if value is not None]
        return "\r\n".join([f"{method} {path or path_of(session)} HTTP/1.1", *lines, "", ""]).encode("latin-1") + body

    async def call(self, name: str, arguments: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """Call a tool; its result."""
        self.ident += 1
        message = {"jsonrpc": "2.0", "id": self.ident, "method": "tools/call", "params": {"name": name, "arguments": arguments or {}}}
        reply = await self.post(message, **options)
        found = reply.json
        assert found["id"] == self.ident, found
        assert "result" in found, found
        return dict(found["result"])

    def as_program(self, session: str = DEFAULT) -> dict[str, str]:
        """The headers of a program that is not the session's own."""
        return {"authorization": f"Bearer {program_bearer_of(self.instance.token, session)}"}

    def close(self) -> None:
        """Go away."""
        self.writer.close()


class Rig:
    """The house, and instances by handle."""

    def __init__(self, bench: Bench) -> None:  # noqa: F811
        self.bench = bench
        self.house = bench.house
        self.held: list[str] = []  # `hold` and `release`, as they came

    async def have(self, handle: str, *, parent: str | None = None, **launch: Any) -> Instance:
        """An instance that exists and does not run."""
        found = Launch(**({"agent": "agent", "sandbox": "process", "model": "scripted/directives"} | launch))
        above = self.house.registry.get(parent).id if parent is not None else None
        return await self.house.registry.create(handle, found, lambda tx: None, parent=above)

    @asynccontextmanager
    async def wire(self, handle: str) -> AsyncIterator[Wire]:
        """A connection to the endpoint of an instance."""
        instance = self.house.registry.get(handle)
        life: Any = SimpleNamespace(instance=instance, hold=lambda: self.held.append("hold"), release=lambda: self.held.append("release"))
        tasks: list[asyncio.Task[None]] = []

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.append(asyncio.ensure_future(self.house.plane.serve(TcpChannel(reader, writer), life)))  # type: ignore[arg-type]

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        wires: list[Wire] = []
        try:
            host, port = server.sockets[0].getsockname()
            wires.append(Wire(*await asyncio.open_connection(host, port), instance))
            wires[0].port = port  # type: ignore[attr-defined]
            yield wires[0]
        finally:
            for wire in wires:
                wire.close()
            server.close()
            for task in tasks:
                async with asyncio.timeout(10):
                    await asyncio.gather(task, return_exceptions=True)

    def audit(self, action: str) -> list[dict[str, Any]]:
        """The audit rows of one action."""
        return [record for record in self.house.gate.list(limit=1000) if record["action"] == action]


@pytest.fixture
async def rig(bench: Bench) -> Rig:  # noqa: F811
    """A house with `alpha` and `beta`, who know each other, `child` of alpha, and `far` of another project."""
    rig = Rig(bench)
    await rig.have("alpha")
    await rig.have("beta")
    await rig.have("child", parent="alpha")
    await rig.have("far", project="/elsewhere")
    return rig


def text(result: dict[str, Any]) -> str:
    """What a result says to a model."""
    return str(result["content"][0]["text"])
