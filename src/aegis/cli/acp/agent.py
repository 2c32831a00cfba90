"""The agent that an editor starts: its requests in, from standard input, and answers out; behind it the daemon."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aegis.cli.acp import folders, prompts
from aegis.cli.acp.session import Open
from aegis.cli.acp.wire import INTERNAL_ERROR, METHOD_NOT_FOUND, Answer, Notice, Request, Wire
from aegis.client import launch
from aegis.client.aio import Aegis
from aegis.client.project import find_project
from aegis.core.envelopes import session_key
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from aegis.client.aio import Instance
    from aegis.client.shapes import Session

T = TypeVar("T")

_PROTOCOL: Final = 1
#: The channel of the conversations that editors begin.
_CHANNEL: Final = "acp"
#: Seconds that answers may still take when the input has ended; the end of a turn is not waited for.
_GRACE: Final = 1.0
_PROMPT: Final = "session/prompt"


class Agent:
    """One connection. `write` gets what goes out; `handle` is an instance for everything, `agent` the definition for new ones."""

    def __init__(self, home: Path, write: Callable[[bytes], None], *, handle: str | None = None, agent: str | None = None) -> None:
        self.aegis = Aegis(home)
        self._home = home
        self._write = write
        self._handle = handle
        self._agent = agent
        self._wire = Wire()
        self._open: dict[str, Open] = {}
        self._asked: dict[int, asyncio.Future[dict[str, Any] | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[Any, str] = {}  # ids of prompts -> their sessions
        self._outgoing = asyncio.Event()
        self._starting = asyncio.Lock()

    async def run(self) -> None:
        """Serve until the input ends. What was begun goes on in the daemon."""
        incoming: asyncio.Queue[bytes] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def read() -> None:
            data = b"x"
            while data:
                data = os.read(0, 1 << 16)
                loop.call_soon_threadsafe(incoming.put_nowait, data)

        threading.Thread(target=read, name="input", daemon=True).start()
        writer = asyncio.create_task(self._writing())
        try:
            while data := await incoming.get():
                for message in self._wire.feed(data):
                    self._hear(message)
                self._outgoing.set()
            await self._leave()
        finally:
            tasks = [writer, *self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, *(each.close() for each in self._open.values()), return_exceptions=True)
            await self.aegis.close()

    # For sessions.

    def update(self, session: str, update: dict[str, Any]) -> None:
        """Tell the editor of something in a session."""
        self._wire.tell("session/update", {"sessionId": session, "update": update})
        self._outgoing.set()

    def ask(self, method: str, params: dict[str, Any]) -> tuple[int, asyncio.Future[dict[str, Any] | None]]:
        """Ask the editor: the number of the request, and its answer, None when there is none."""
        number = self._wire.ask(method, params)
        answer: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._outgoing.set()
        return number, answer

    def unask(self, number: int) -> None:
        """An answer is not wanted any more."""
        answer = self._asked.pop(number, None)
        if answer is not None and not answer.done():
            self._wire.tell("$/cancel_request", {"requestId": number})
            answer.set_result(None)
            self._outgoing.set()

    async def again(self, call: Callable[[], Awaitable[T]]) -> T:
        """Ask the daemon; one that does not run is started, and asked again. Only for what may be done twice."""
        try:
            return await call()
        except AegisError as error:
            if error.kind is not ErrorKind.UNREACHABLE:
                raise
        await asyncio.to_thread(launch.ensure_daemon, self._home)
        return await call()

    # What the editor wants.

    def _hear(self, message: Request | Notice | Answer) -> None:
        match message:
            case Answer(number, result):
                answer = self._asked.pop(number, None)
                if answer is not None and not answer.done():
                    answer.set_result(result)
            case Notice(method, params):
                ident = params.get("requestId")
                hashable = isinstance(ident, int | str)
                session = self._running.get(ident) if method == "$/cancel_request" and hashable else params.get("sessionId")
                if method in ("session/cancel", "$/cancel_request") and isinstance(session, str) and session in self._open:
                    self._spawn(self._quietly(self._open[session].cancel()))
            case Request():
                self._spawn(self._serve(message), message.method)

    async def _serve(self, request: Request) -> None:
        verbs: dict[str, Callable[[Request], Coroutine[Any, Any, dict[str, Any]]]] = {
            "initialize": self._initialize,
            "authenticate": self._nothing,
            "session/new": self._new,
            "session/load": self._load,
            "session/resume": self._resume,
            "session/list": self._list,
            "session/fork": self._fork,
            "session/close": self._close,
            _PROMPT: self._prompt,
            "session/set_mode": self._set_mode,
            "session/set_model": self._set_model,
            "session/set_config_option": self._set_option,
        }
        verb = verbs.get(request.method)
        if verb is None:
            self._wire.refuse(request.id, METHOD_NOT_FOUND, f"there is no method {request.method[:80]!r}")
        else:
            try:
                self._wire.respond(request.id, await verb(request))
            except AegisError as error:
                self._wire.fail(request.id, error)
            except Exception as error:
                self._wire.refuse(request.id, INTERNAL_ERROR, f"a defect in Aegis: {type(error).__name__}: {error}")
        self._outgoing.set()

    async def _initialize(self, request: Request) -> dict[str, Any]:
        can = {
            "loadSession": True,
            "promptCapabilities": {"image": True, "audio": False, "embeddedContext": True},
            "mcpCapabilities": {"http": False, "sse": False},
            "sessionCapabilities": {"list": {}, "resume": {}, "fork": {}, "close": {}},
        }
        me = {"name": "aegis", "title": "Aegis", "version": __version__}
        return {"protocolVersion": _PROTOCOL, "agentCapabilities": can, "agentInfo": me, "authMethods": []}

    async def _nothing(self, request: Request) -> dict[str, Any]:
        return {}

    async def _new(self, request: Request) -> dict[str, Any]:
        folder = folders.checked(request.params.get("cwd"))
        instance = await self._instance(folder)
        opened = await self._opened(instance, (_CHANNEL, token_hex(6)))
        status = await self.again(self.aegis.status)
        opened.follow(int(status["head"]))
        return {"sessionId": opened.id, **opened.offer.told()}

    async def _load(self, request: Request) -> dict[str, Any]:
        opened = await self._reopened(request)
        await opened.replay()
        return opened.offer.told()

    async def _resume(self, request: Request) -> dict[str, Any]:
        opened = await self._reopened(request)
        status = await self.again(self.aegis.status)
        opened.follow(int(status["head"]))
        return opened.offer.told()

    async def _list(self, request: Request) -> dict[str, Any]:
        folder = request.params.get("cwd")
        wanted = folders.checked(folder) if folder is not None else None
        if self._handle:
            handle = self._handle
            instances = [await self.again(lambda: self.aegis.instance(handle))]
        else:
            instances = await self.again(self.aegis.instances)
        mine = [each for each in instances if self._handle or not self._agent or each.info["agent"] == self._agent]
        return {"sessions": folders.sessions(mine, wanted)}

    async def _fork(self, request: Request) -> dict[str, Any]:
        instance, key = await self._named(request)
        to = (_CHANNEL, token_hex(6))
        instance.info = await instance.fork(to, session=key)
        opened = await self._opened(instance, to)
        status = await self.again(self.aegis.status)
        opened.follow(int(status["head"]))
        return {"sessionId": opened.id, **opened.offer.told()}

    async def _close(self, request: Request) -> dict[str, Any]:
        opened = self._open.pop(str(request.params.get("sessionId")), None)
        if opened is not None:
            await opened.close()
        return {}

    async def _prompt(self, request: Request) -> dict[str, Any]:
        opened = await self._session(request)
        text, images = prompts.message(request.params.get("prompt"), opened.places)
        self._running[request.id] = opened.id
        try:
            return await opened.prompt(text, images)
        finally:
            del self._running[request.id]

    async def _set_mode(self, request: Request) -> dict[str, Any]:
        await (await self._session(request)).configure(mode=_text(request, "modeId"))
        return {}

    async def _set_model(self, request: Request) -> dict[str, Any]:
        await (await self._session(request)).configure(model=_text(request, "modelId"))
        return {}

    async def _set_option(self, request: Request) -> dict[str, Any]:
        opened, option = await self._session(request), _text(request, "configId")
        known = [each["id"] for each in opened.offer.options()]
        if option not in known:
            raise AegisError(ErrorKind.USAGE, f"there is no option `{option[:80]}`", f"there are: {', '.join(known) or 'none'}")
        await opened.configure(**{option: _text(request, "value")})
        return {"configOptions": opened.offer.options()}

    # Instances and sessions.

    async def _instance(self, folder: Path) -> Instance:
        """The instance that works in a folder, started when there is none."""
        if self._handle:
            handle = self._handle
            return await self.again(lambda: self.aegis.instance(handle))
        handle = folders.handle_for(self._agent, folder)
        async with self._starting:
            try:
                found = await self.again(lambda: self.aegis.instance(handle))
                if found.info["state"] != "failed":
                    return found
            except AegisError as error:
                if error.kind is not ErrorKind.NOT_FOUND:
                    raise
            spec: Any = {"handle": handle, "workspace": str(folder)}
            if project := find_project(folder):
                spec["project"] = str(project)
            try:
                return await self.aegis.start(self._agent, **spec)
            except AegisError as error:
                if error.kind is not ErrorKind.CONFLICT:
                    raise
            return await self.aegis.instance(handle)  # somebody else was quicker

    async def _opened(self, instance: Instance, key: Session) -> Open:
        """A session that is told of from now on; one that is open is closed first."""
        if not instance.info["driver"]:
            raise AegisError(ErrorKind.CONFLICT, f"`{instance.handle}` runs a program, not an agent", "choose one that is an agent")
        models = await self._models(instance)
        opened = Open(self, instance, key, models)
        if (before := self._open.pop(opened.id, None)) is not None:
            await before.close()
        self._open[opened.id] = opened
        return opened

    async def _reopened(self, request: Request) -> Open:
        instance, key = await self._named(request)
        if not any(entry["session"] == ":".join(key) for entry in instance.info["sessions"]):
            told = f"`{instance.handle}` has no conversation `{':'.join(key)}`"
            raise AegisError(ErrorKind.NOT_FOUND, told, "begin a new one, or ask for the list")
        return await self._opened(instance, key)

    async def _session(self, request: Request) -> Open:
        """The open session that a request names; one that was begun on another connection has to be loaded first."""
        opened = self._open.get(str(request.params.get("sessionId")))
        if opened is None:
            told = f"no session {str(request.params.get('sessionId'))[:80]!r} is open"
            raise AegisError(ErrorKind.NOT_FOUND, told, "open it with `session/load` or `session/new`")
        return opened

    async def _named(self, request: Request) -> tuple[Instance, Session]:
        """The instance and the conversation that a session's name means."""
        name, _, session = _text(request, "sessionId").partition("/")
        channel, _, ident = session.partition(":")
        session_key(channel, ident)
        return await self.again(lambda: self.aegis.instance(name)), (channel, ident)

    async def _models(self, instance: Instance) -> list[str]:
        """The models that agents with the same program are declared with."""
        project = instance.info.get("project")
        try:
            agents = await self.again(lambda: self.aegis.agents.all(Path(str(project)) if project else None))
        except AegisError:  # a declaration that is not trusted any more
            return []
        return [str(each["model"]) for each in agents if each.get("provider") == instance.info["driver"] and each.get("model")]

    # The loop.

    def _spawn(self, work: Coroutine[Any, Any, None], name: str = "") -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _quietly(self, work: Awaitable[None]) -> None:
        try:
            await work
        except AegisError:
            return

    async def _leave(self) -> None:
        """The input has ended: what is answered soon still is."""
        soon = [task for task in self._tasks if not task.get_name().startswith(_PROMPT)]
        if soon:
            await asyncio.wait(soon, timeout=_GRACE)
        if data := self._wire.take():
            await asyncio.to_thread(self._write, data)

    async def _writing(self) -> None:
        while True:
            await self._outgoing.wait()
            self._outgoing.clear()
            if data := self._wire.take():
                await asyncio.to_thread(self._write, data)


def _text(request: Request, name: str) -> str:
    value = request.params.get(name)
    if not isinstance(value, str) or not value:
        raise AegisError(ErrorKind.USAGE, f"{request.method} needs `{name}`, a text")
    return value
