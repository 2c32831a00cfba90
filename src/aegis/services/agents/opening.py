"""Starting the program of a session: with the memory that Aegis keeps, or with the program's own name of the session.

What matters for a crash: the program's name of a session is on disk before the first message is sent to it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import SessionOpened
from aegis.core.faults import point
from aegis.core.text import one_line
from aegis.drivers import ConversationSpec
from aegis.services.agents import memory, sessions
from aegis.services.agents.asking import asked_before
from aegis.services.agents.bearers import key_of, program_bearer_of, server_of
from aegis.services.agents.life import state_dir

if TYPE_CHECKING:
    from aegis.core.dialects import Dialect
    from aegis.drivers import Conversation, Driver, McpServer, Message
    from aegis.sandboxes.link import Link
    from aegis.services.agents.life import Life
    from aegis.store import Tx

#: The most characters of a program's own name for a session.
_NAME: Final = 1000


class Opening:
    """One start of the program of a session, and what came of it."""

    def __init__(self, life: Life, key: str) -> None:
        self._life = life
        self._key = key
        self._world = life.world
        self._instance = life.instance
        assert life.instance.launch.driver is not None
        self._driver: Driver = life.world.driver(life.instance.launch.driver)
        self.keeps_memory = self._driver.capabilities.keeps_memory
        #: Which of the pending messages the program has; None when Aegis's own memory tells that.
        self.known: frozenset[str] | None = None
        #: The program does not know the session any more that it was to resume, and began another one.
        self.forgotten = False

    async def start(self, link: Link, turn: str, pending: list[Message]) -> Conversation:
        """Start it for `turn`, which continues one whose messages are `pending`, if there are any. Raises what `Driver.start` raises."""
        if self.keeps_memory:
            async with self._life.opening:
                conversation = await self._resumed(link, turn, pending)
        else:
            conversation = await self._remembering(link)
        try:
            point("session.opened")
        except BaseException:
            with contextlib.suppress(AegisError):
                await conversation.close()
            raise
        return conversation

    async def _remembering(self, link: Link) -> Conversation:
        """A program that is given all of its conversation."""
        row = sessions.row(self._world.store, self._instance.id, self._key)
        history = await memory.history(self._world.store, self._instance.id, self._key)
        history = await memory.with_pictures(self._world.mail, self._instance.id, history)
        spec = self._spec(link, self._dialect(row), row)
        return await self._driver.start(link, msgspec.structs.replace(spec, history=history))

    async def _resumed(self, link: Link, turn: str, pending: list[Message]) -> Conversation:
        """A program that keeps its conversation itself."""
        store, instance, driver = self._world.store, self._instance, self._driver
        row = sessions.row(store, instance.id, self._key)
        resume, forked_from = row.program_session, None
        if resume is None and row.fork_of is not None:
            resume, forked_from = sessions.row(store, instance.id, row.fork_of).program_session, row.fork_of
        spec = self._spec(link, self._dialect(row), row)
        spec = msgspec.structs.replace(spec, resume=resume, fork=forked_from is not None, fresh_id=str(uuid4()), pending=pending)
        try:
            conversation = await driver.start(link, spec)
        except AegisError as error:
            if error.kind is not ErrorKind.NOT_FOUND or resume is None:
                raise
            self._life.log.write(f"session {self._key} cannot be resumed and begins anew: {one_line(error.message)}")
            self.forgotten, forked_from = True, None
            conversation = await driver.start(
                link, msgspec.structs.replace(spec, resume=None, fork=False, pending=[], fresh_id=str(uuid4()))
            )
        opened = conversation.opened
        self.known = frozenset(opened.known)
        name = opened.program_session
        if len(name) > _NAME:
            await conversation.close()
            raise AegisError(ErrorKind.FAILED, f"{driver.name} calls its session by a name of {len(name)} characters")
        fact = SessionOpened(driver.name, name, opened.version, opened.resumed, forked_from)

        def store_(tx: Tx) -> None:
            sessions.change(tx, instance.id, self._key, self._world.clock.now(), program_session=name or None)
            tx.append(fact, instance=instance.id, session=self._key, turn=turn)
            if opened.known:  # the program had them before it was cut down, and nobody could write that down
                self._world.mail.injected(tx, opened.known, instance=instance.id, session=self._key, turn=turn)

        try:
            await store.write(store_)
        except BaseException:  # without its name on disk nothing may be said to it
            with contextlib.suppress(AegisError):
                await conversation.close()
            raise
        return conversation

    def _spec(self, link: Link, dialect: Dialect, row: sessions.Row) -> ConversationSpec:
        launch = self._instance.launch
        model = row.model or launch.model
        assert model is not None
        brokered = self.keeps_memory and launch.auth != "login"
        plane = server_of(link, self._instance, self._key)
        return ConversationSpec(
            session=self._key,
            model=model,
            dialect=dialect,
            system=launch.system,
            permission=launch.permission,
            approvals=asked_before(self._world.gate, launch),
            limits=launch.turn,
            env=self._env(plane),
            endpoint=f"{link.endpoint}/s/{key_of(self._key)}" if brokered else "",
            token=self._instance.token if brokered else "",
            cwd=self._cwd(),
            effort=row.effort or launch.effort,
            mode=row.mode or launch.mode,
            mcp=[plane, *launch.mcp],
        )

    def _env(self, plane: McpServer) -> dict[str, str]:
        """What its own programs find: Aegis's MCP server as this session, which would else be that of the default session."""
        found = {"AEGIS_MCP_URL": plane.url, "AEGIS_MCP_TOKEN": program_bearer_of(self._instance.token, self._key)}
        return found if self.keeps_memory else {**found, "AEGIS_TOKEN": self._instance.token}

    def _dialect(self, row: sessions.Row) -> Dialect:
        """The best dialect that the program speaks and the provider of the session's model understands."""
        if self._instance.launch.auth == "login":
            return self._driver.dialects[0]
        understood = self._world.models.dialects(self._instance, row.model)
        found = next((dialect for dialect in self._driver.dialects if dialect in understood), None)
        if found is None:
            raise AegisError(
                ErrorKind.CONFLICT,
                f"`{self._driver.name}` speaks {' and '.join(self._driver.dialects)}, and the provider of "
                f"`{row.model or self._instance.launch.model}` "
                f"understands {' and '.join(sorted(understood))}",
                "choose a model of another provider",
            )
        return found

    def _cwd(self) -> str:
        """Where the program works, as it is called inside: without a boundary, that is what it is called outside."""
        launch = self._instance.launch
        if launch.sandbox == "process":
            return launch.workspace or str(Path(state_dir(self._world.home, self._instance)) / "home")
        return "/workspace" if launch.workspace is not None else "/home/agent"
