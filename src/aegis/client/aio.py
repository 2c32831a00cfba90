"""Aegis for a user's own Python, asynchronous.

    async with Aegis() as aegis:
        agent = await aegis.start("coder", workspace=".")
        async for event in agent.turn("what does this project do?"):
            if event.type == "turn.text.delta":
                print(event.fact.text, end="")

Entering starts the daemon of the home when it does not run. A turn that fails raises nothing: its last event, the
`turn.finished`, says how it ended. What the daemon refuses is an `AegisError`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

import httpx
import msgspec

from aegis.client import api, launch
from aegis.client.lasting import fresh_id
from aegis.client.letters import Letters
from aegis.client.project import find_project
from aegis.client.shapes import (
    DEFAULT_SESSION,
    Action,
    ApprovalInfo,
    FramePage,
    ImageSpec,
    InstanceInfo,
    InstanceSpec,
    RuleProposal,
    SecretInfo,
    Session,
    Stats,
    Transcript,
    Usage,
)  # fmt: skip
from aegis.client.transport import error_of, path_of, unreachable
from aegis.core.envelopes import Receipt
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import ApprovalRequested, Event, InstanceEgress, MailFailed, MailInjected, TurnFinished, TurnStarted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

_CALL = httpx.Timeout(120.0)
_ENDLESS = httpx.Timeout(30.0, read=None)


class ExecResult(msgspec.Struct, frozen=True):
    """How a program ended and what it wrote. `exit_code` is negative for a signal."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """The standard output as text."""
        return self.stdout.decode("utf-8", "replace")


class Aegis:
    """A connection to the daemon of `home` (default: the home in force). Use it as an async context manager."""

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self.home = launch.home() if home is None else Path(home).expanduser().absolute()
        self._http = Http(launch.socket_path(self.home))
        self.secrets = Secrets(self._http)
        self.approvals = Approvals(self._http)
        self.agents = Agents(self._http)
        self.egress = Egress(self._http)
        self.mail = Letters(self._http)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(launch.ensure_daemon, self.home)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection; the daemon and its instances go on."""
        await self._http.close()

    async def status(self) -> dict[str, Any]:
        """What the daemon says of itself."""
        return cast("dict[str, Any]", await self._http.call("GET", "/v1/status"))

    async def start(self, agent: str | None = None, **spec: Unpack[InstanceSpec]) -> Instance:
        """Start an instance of `agent`; what `spec` may hold stands in `InstanceSpec`.

        A relative `workspace` is meant from here, and the project is that of the working directory unless one is given.
        """
        body: dict[str, Any] = dict(spec)
        if agent is not None:
            body["agent"] = agent
        if "workspace" in spec:
            body["workspace"] = str(Path(spec["workspace"]).expanduser().resolve())
        if "project" not in spec and (project := find_project(Path.cwd())):
            body["project"] = str(project)
        return Instance(self._http, await self._http.call("POST", "/v1/instances", body))

    async def instance(self, handle: str) -> Instance:
        """The instance with this handle or id."""
        return Instance(self._http, await self._http.call("GET", path_of("instances", handle)))

    async def instances(self, state: str | None = None) -> list[Instance]:
        """All instances, or those in one state."""
        found = await self._http.call("GET", "/v1/instances", query={"state": state})
        return [Instance(self._http, info) for info in found]

    async def events(self, *, after: int = 0, follow: bool = False, instance: str | None = None) -> AsyncIterator[Event]:
        """Events after the cursor `after`: those there are now, or with `follow` those to come as well.

        One that follows goes on when the daemon dies, with another one, and ends when somebody stops it.
        """
        if follow:
            async for event in _lasting(self._http, after, instance):
                yield event
            return
        while True:
            query = {"after": after, "instance": instance, "limit": api.PAGE}
            page = msgspec.json.decode(await self._http.fetch("GET", "/v1/events", query=query), type=_Page)
            for event in page.events:
                yield event
            if not page.events:
                return
            after = page.next_seq


class Instance:
    """A live agent. `info` is what was last heard of it."""

    def __init__(self, http: Http, info: InstanceInfo) -> None:
        self._http = http
        self.info = info

    def __repr__(self) -> str:
        return f"<Instance {self.handle} {self.info['state']}>"

    @property
    def id(self) -> str:
        """Its identifier, which no other instance ever gets."""
        return self.info["id"]

    @property
    def handle(self) -> str:
        """Its name."""
        return self.info["handle"]

    async def refresh(self) -> InstanceInfo:
        """Ask for its present state."""
        self.info = await self._http.call("GET", self._path())
        return self.info

    async def pause(self) -> InstanceInfo:
        """Freeze it; its memory stays."""
        return await self._act("pause")

    async def resume(self) -> InstanceInfo:
        """Let it go on."""
        return await self._act("resume")

    async def restart(self) -> InstanceInfo:
        """Stop its sandbox and start a new one; its conversations go on."""
        return await self._act("restart")

    async def delete(self) -> list[str]:
        """Stop it and all below it, and forget all they kept; returns the handles of those that went with it."""
        return list((await self._http.call("DELETE", self._path()) or {}).get("also") or [])

    async def tree(self) -> list[dict[str, Any]]:
        """It and all below it, parents before their children, with state and cost."""
        return cast("list[dict[str, Any]]", await self._http.call("GET", "/v1/tree", query={"root": self.handle}))

    async def stats(self) -> Stats:
        """What it uses now."""
        return cast("Stats", await self._http.call("GET", self._path("stats")))

    async def send(
        self,
        text: str,
        *,
        session: Session = DEFAULT_SESSION,
        msg_id: str | None = None,
        interrupt: bool = False,
        images: Sequence[ImageSpec] = (),
        expires: float | None = None,
        hold: bool = False,
        report_to: str | None = None,
    ) -> Receipt:
        """Send a message; when this returns it is on disk. The same `msg_id` again changes nothing.

        `images` are made by `aegis.client.images.read_image`. It fails when nobody took it up within `expires` seconds. With `hold` it
        waits for an instance that is disabled. The final text of its turn goes as mail to the instance `report_to`.
        """
        more: dict[str, Any] = {"expires_s": expires, "hold": hold or None, "report_to": report_to}
        frame = api.message_frame(text, session=session, msg_id=msg_id, interrupt=interrupt, images=images, **more)
        told = await self._http.call("POST", self._path("tether"), frame)
        return Receipt(told["id"], told["ingress_seq"], told["duplicate"])

    async def cancel(self, session: Session = DEFAULT_SESSION) -> bool:
        """Cut the running turn of a session, or let one that waits for its provider try at once. False when there was none."""
        told = await self._http.call("POST", self._path("tether"), api.cancel_frame(session))
        return bool(told.get("cancelled"))

    async def drop(self, message: str) -> None:
        """End a message that waits, by Aegis's id of it. Raises CONFLICT when it does not wait."""
        await self._http.call("POST", path_of("mail", message, "drop"), {})

    async def configure(
        self, session: Session = DEFAULT_SESSION, *, model: str | None = None, mode: str | None = None, effort: str | None = None
    ) -> InstanceInfo:
        """Change what a session runs with from the next model call on."""
        body = {name: value for name, value in (("model", model), ("mode", mode), ("effort", effort)) if value is not None}
        self.info = await self._http.call("POST", api.session_path(self.id, session, "settings"), body)
        return self.info

    async def fork(self, to: Session, *, session: Session = DEFAULT_SESSION) -> InstanceInfo:
        """Begin the session `to` as a copy of another; both go on apart."""
        self.info = await self._http.call("POST", api.session_path(self.id, session, "fork"), {"to": ":".join(to)})
        return self.info

    async def usage(self, session: Session | None = None, turn: str | None = None) -> Usage:
        """Tokens, money, tools and time: of all it did, of one session, or of one turn."""
        query = {"session": ":".join(session) if session else None, "turn": turn}
        return cast("Usage", await self._http.call("GET", self._path("usage"), query=query))

    async def watch(self, after: int | None = None, *, session: Session | None = None) -> AsyncIterator[Event]:
        """Its events after a cursor (None: from now on), of one session or all, without end and across the death of the daemon.

        Ends when somebody stops the daemon.
        """
        if after is None:
            after = int((await self._http.call("GET", "/v1/status"))["head"])
        async for event in self._events(after, ":".join(session) if session else None):
            yield event

    async def turn(
        self,
        text: str,
        *,
        session: Session = DEFAULT_SESSION,
        msg_id: str | None = None,
        interrupt: bool = False,
        images: Sequence[ImageSpec] = (),
    ) -> AsyncIterator[Event]:
        """Send a message and yield the events of the turn that answers it, pieces of text included, to its `turn.finished`.

        When the message joins a turn that already runs, the events begin there. A turn that is cut short and goes on is followed
        by the one that continues it. When the message cannot be delivered, the only event is its `mail.failed`. A daemon that
        dies is started again, and the turn goes on; of the pieces of text that it had not yet stored some are then missing here,
        never in the whole texts.
        """
        receipt = await self.send(text, session=session, msg_id=msg_id or fresh_id(), interrupt=interrupt, images=images)
        turn: str | None = None
        async for event in self._events(receipt.seq):
            if turn is None and _concerns(event, receipt.id):
                if event.type == MailFailed.type:
                    yield event
                    return
                turn = event.turn
            if turn is not None and event.turn == turn:
                yield event
                if event.type == TurnFinished.type:
                    if not (cast("TurnFinished", event.fact).error or {}).get("will_continue"):
                        return
                    turn = None
        raise AegisError(
            ErrorKind.UNREACHABLE, f"the daemon was stopped before `{self.handle}` answered", "what was sent is kept: `aegis up`"
        )

    def _events(self, after: int, session: str | None = None) -> AsyncIterator[Event]:
        return _lasting(self._http, after, self.id, session)

    async def read(
        self, after: int, *, session: Session | None = DEFAULT_SESSION, wait: float = 0.0, types: Sequence[str] = ()
    ) -> FramePage:
        """Frames after the cursor `after`, waiting up to `wait` seconds (at most 30) for the first."""
        query = api.poll_query(after, session=session, wait=wait, types=types, limit=None)
        return cast("FramePage", await self._http.call("GET", self._path("tether", "poll"), query=query))

    async def transcript(self, session: Session = DEFAULT_SESSION) -> Transcript:
        """The recorded conversation of a session."""
        return cast("Transcript", await self._http.call("GET", self._path("transcript"), query={"session": ":".join(session)}))

    async def exec(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None, stdin: bytes | None = None
    ) -> ExecResult:
        """Run a program in the sandbox to its end. Cancelling this kills it."""
        body: dict[str, Any] = {"command": list(argv), "raw": True, "stdin": stdin is not None}
        if env:
            body["env"] = dict(env)
        if cwd is not None:
            body["cwd"] = cwd
        written = {1: bytearray(), 2: bytearray()}
        feeding: asyncio.Task[None] | None = None
        try:
            async with self._http.stream("POST", self._path("exec"), body) as lines:
                async for line in lines:
                    item = json.loads(line)
                    if "s" in item:
                        written[item["s"]] += base64.b64decode(item["d"])
                    elif item.get("done"):
                        return ExecResult(int(item["exit_code"]), bytes(written[1]), bytes(written[2]))
                    elif stdin is not None:
                        feeding = asyncio.create_task(self._feed(item["exec_id"], stdin))
        finally:
            if feeding is not None:
                feeding.cancel()
        raise AegisError(ErrorKind.UNREACHABLE, f"the daemon ended while `{argv[0]}` ran in `{self.handle}`")

    async def _feed(self, exec_id: str, data: bytes) -> None:
        try:
            await self._http.upload(self._path("exec", exec_id, "stdin"), data)
        except AegisError:
            pass  # the program ended without reading all of it, which its exit code tells better

    async def _act(self, action: Action) -> InstanceInfo:
        self.info = await self._http.call("POST", self._path(action), {})
        return self.info

    def _path(self, *parts: str) -> str:
        return path_of("instances", self.id, *parts)


class Approvals:
    """What agents ask leave for, and the answers."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def all(self, state: str | None = "pending", *, instance: str | None = None) -> list[ApprovalInfo]:
        """The newest requests in one state, or in all with None, oldest first."""
        query = {"state": state or "all", "instance": instance, "limit": api.PAGE}
        return cast("list[ApprovalInfo]", await self._http.call("GET", "/v1/approvals", query=query))

    async def get(self, ident: str) -> ApprovalInfo:
        """One request, by its whole id."""
        return cast("ApprovalInfo", await self._http.call("GET", path_of("approvals", ident)))

    async def decide(
        self, ident: str, approve: bool, *, reason: str = "", input: Mapping[str, Any] | None = None, scope: str = "once", rule: str = ""
    ) -> ApprovalInfo:
        """Answer one. `input` takes the place of the tool's. Raises CONFLICT when it was answered or withdrawn before.

        `scope` is how far a yes goes: `once`; `session`, the same call again in this session; `rule`, with the text of `rule()` written.
        """
        body = {"approve": approve, "reason": reason, "input": input, "scope": scope, "rule": rule}
        return cast("ApprovalInfo", await self._http.call("POST", path_of("approvals", ident), body))

    async def rule(self, ident: str) -> RuleProposal:
        """The rule that a yes with scope `rule` would write. Raises USAGE where no rule is narrow enough."""
        return cast("RuleProposal", await self._http.call("GET", path_of("approvals", ident, "rule")))

    async def escalate(self, ident: str, *, seconds: float | None = None, reason: str = "") -> ApprovalInfo:
        """Have people told of one again; with `seconds` it waits that much longer from now, at least."""
        body = {"seconds": seconds, "reason": reason}
        return cast("ApprovalInfo", await self._http.call("POST", path_of("approvals", ident, "escalate"), body))

    async def watch(self, *, instance: str | None = None) -> AsyncIterator[ApprovalInfo]:
        """Each request that waits now, then each as it is made, without end and across the death of the daemon.

        One that was answered before its turn here came is left out. Ends when somebody stops the daemon.
        """
        head = int((await self._http.call("GET", "/v1/status"))["head"])
        seen = set()
        for waiting in await self.all(instance=instance):
            seen.add(waiting["id"])
            yield waiting
        async for event in _lasting(self._http, head, instance, types=ApprovalRequested.type):
            ident = cast("ApprovalRequested", event.fact).approval_id
            if ident not in seen and (found := await self.get(ident))["state"] == "pending":
                yield found


class Agents:
    """Definitions of agents. `project` is the directory whose `.aegis.yaml` is meant; None for the home alone."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def all(self, project: Path | None = None) -> list[dict[str, Any]]:
        """The definitions in force."""
        return cast("list[dict[str, Any]]", await self._http.call("GET", "/v1/agents", query=_within(project)))

    async def get(self, name: str, project: Path | None = None) -> dict[str, Any]:
        """One definition."""
        return cast("dict[str, Any]", await self._http.call("GET", path_of("agents", name), query=_within(project)))

    async def add(self, name: str, values: Mapping[str, Any], project: Path | None = None) -> dict[str, Any]:
        """Declare an agent; `values` by its keys, such as `limits.memory`. Raises CONFLICT when there is one of this name."""
        body = {"name": name, "values": dict(values), **_within(project)}
        return cast("dict[str, Any]", await self._http.call("POST", path_of("config", "agents"), body))

    async def set(self, name: str, values: Mapping[str, Any], project: Path | None = None) -> dict[str, Any]:
        """Change keys of a declared agent; None takes a key away."""
        body = {"values": dict(values), **_within(project)}
        return cast("dict[str, Any]", await self._http.call("PATCH", path_of("config", "agents", name), body))

    async def remove(self, name: str, project: Path | None = None) -> dict[str, Any]:
        """Take a declaration away; its instances stay."""
        return cast("dict[str, Any]", await self._http.call("DELETE", path_of("config", "agents", name), query=_within(project)))


class Egress:
    """The way out of sandboxes: what was asked for, and what would be said."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def log(self, instance: str | None = None, *, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Connections that were asked for, the newest, or the oldest with an id over `after`; oldest first."""
        told = await self._http.call("GET", "/v1/egress", query={"instance": instance, "after": after, "limit": limit})
        return cast("list[dict[str, Any]]", told["connections"])

    async def check(self, instance: str, place: str, method: str | None = None) -> dict[str, Any]:
        """What would be said to a connection of an instance to `place`, a `HOST:PORT`, or to a request for a URL, and why."""
        query = {"instance": instance, "place": place, "method": method}
        return cast("dict[str, Any]", await self._http.call("GET", "/v1/egress/check", query=query))

    async def watch(self, instance: str | None = None, *, after: int | None = None) -> AsyncIterator[Event]:
        """Each connection that is asked for after a cursor (None: from now on), as an event, without end and across the death of the
        daemon. Ends when somebody stops the daemon."""
        if after is None:
            after = int((await self._http.call("GET", "/v1/status"))["head"])
        async for event in _lasting(self._http, after, instance, types=InstanceEgress.type):
            yield event


class Secrets:
    """Names of secrets; their values go in and never come out."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def set(self, name: str, value: str) -> SecretInfo:
        """Store a value under a name, replacing an earlier one."""
        return cast("SecretInfo", await self._http.call("PUT", path_of("secrets", name), {"value": value}))

    async def all(self) -> list[SecretInfo]:
        """All names."""
        return cast("list[SecretInfo]", await self._http.call("GET", "/v1/secrets"))

    async def delete(self, name: str) -> None:
        """Forget a secret."""
        await self._http.call("DELETE", path_of("secrets", name))


class Http:
    """HTTP to the socket at `path`, with every failure as an `AegisError`."""

    def __init__(self, path: Path) -> None:
        self.home = path.parent
        self._path = path
        self._client = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=os.fspath(path)), base_url="http://aegis", timeout=_CALL)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, query: Mapping[str, Any] | None = None) -> Any:
        """One request and its whole answer, decoded from JSON."""
        data = await self.fetch(method, path, body, query=query)
        return json.loads(data) if data.strip() else None

    async def fetch(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, query: Mapping[str, Any] | None = None
    ) -> bytes:
        """One request and its whole answer."""
        with self._translated():
            response = await self._client.request(method, path, json=body, params=_given(query))
        if response.status_code >= 400:
            raise error_of(response.status_code, response.content)
        return response.content

    async def upload(self, path: str, data: bytes) -> None:
        """Send raw bytes."""
        with self._translated():
            response = await self._client.post(path, content=data, timeout=_ENDLESS)
        if response.status_code >= 400:
            raise error_of(response.status_code, response.content)

    def stream(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, query: Mapping[str, Any] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """One request and the lines of its answer; leaving closes the connection."""
        return self._stream(method, path, body, query)

    @asynccontextmanager
    async def _stream(
        self, method: str, path: str, body: Mapping[str, Any] | None, query: Mapping[str, Any] | None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        with self._translated():
            request = self._client.build_request(method, path, json=body, params=_given(query), timeout=_ENDLESS)
            response = await self._client.send(request, stream=True)
        try:
            if response.status_code >= 400:
                raise error_of(response.status_code, await response.aread())
            yield self._lines(response)
        finally:
            await response.aclose()

    async def _lines(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """Lines ended by a newline alone; an object that is an error is raised."""
        pending: list[bytes] = []
        with self._translated():
            async for data in response.aiter_raw():
                head, *lines = data.split(b"\n")
                pending.append(head)
                for line in lines:
                    whole, pending = b"".join(pending), [line]
                    if whole.startswith(b'{"error":'):
                        raise AegisError.from_dict(json.loads(whole))
                    if whole.strip():
                        yield whole

    def _translated(self) -> _Translated:
        return _Translated(self._path)


class _Translated:
    """Turns what httpx raises into an `AegisError`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, httpx.TimeoutException):
            raise AegisError(ErrorKind.TIMEOUT, "the daemon did not answer in time", "see `aegis status`") from exc
        if isinstance(exc, httpx.HTTPError):
            raise unreachable(self._path, exc or type(exc).__name__) from exc


class _Page(msgspec.Struct):
    """A page of events."""

    events: list[Event]
    next_seq: int


async def _lasting(
    http: Http, after: int, instance: str | None, session: str | None = None, types: str | None = None
) -> AsyncIterator[Event]:
    """Events after a cursor, across the death of the daemon, until somebody stops the daemon."""
    while True:
        try:
            async for event in _follow(http, after, instance, session, types):
                after = event.seq
                yield event
            return
        except AegisError as error:
            if error.kind is not ErrorKind.UNREACHABLE:
                raise
        await asyncio.to_thread(launch.ensure_daemon, http.home)


async def _follow(
    http: Http, after: int, instance: str | None, session: str | None = None, types: str | None = None
) -> AsyncIterator[Event]:
    query = {"after": after, "instance": instance, "session": session, "types": types, "follow": 1}
    async with http.stream("GET", "/v1/events", query=query) as lines:
        async for line in lines:
            yield msgspec.json.decode(line, type=Event)


def _concerns(event: Event, message: str) -> bool:
    """Whether `event` ties the message to a turn, or says that no turn will have it."""
    match event.type:
        case TurnStarted.type:
            return message in cast("TurnStarted", event.fact).in_reply_to
        case MailInjected.type | MailFailed.type:
            return message in cast("MailInjected | MailFailed", event.fact).message_ids
        case TurnFinished.type:
            return message in cast("TurnFinished", event.fact).in_reply_to
    return False


def _within(project: Path | None) -> dict[str, Any]:
    """The part of a request that names the project."""
    return {} if project is None else {"project": os.fspath(project)}


def _given(query: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (query or {}).items() if value is not None}
