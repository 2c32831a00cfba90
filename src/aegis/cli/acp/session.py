"""One conversation with an instance, as an editor has it open: its events go out as updates, its prompts in as messages."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any, Final

from aegis.cli.acp import asking
from aegis.cli.acp.offers import Offer
from aegis.cli.acp.places import Places
from aegis.cli.acp.telling import Telling
from aegis.core import events as e
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from aegis.cli.acp.agent import Agent
    from aegis.client.aio import Instance
    from aegis.client.shapes import ImageSpec, Session
    from aegis.core.events import Event

#: Reasons of a program to end its turn that the protocol has a word for.
_REASONS: Final = frozenset({"max_tokens", "max_turn_requests", "refusal"})


class Prompt:
    """A message of the editor that waits for the end of its turn."""

    def __init__(self) -> None:
        self.id = f"acp-{secrets.token_hex(10)}"
        self.message = ""  # Aegis's own id, once it is known
        self.cancelled = False
        self.done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def end(self, result: dict[str, Any] | AegisError) -> None:
        """Its answer is there."""
        if self.done.done():
            return
        if self.cancelled:
            result = {"stopReason": "cancelled"}
        if isinstance(result, AegisError):
            self.done.set_exception(result)
        else:
            self.done.set_result(result)


class Open:
    """A session that is open. `again` makes a call to the daemon, and makes it again when that died."""

    def __init__(self, agent: Agent, instance: Instance, key: Session, models: Iterable[str]) -> None:
        self.id = f"{instance.id}/{':'.join(key)}"
        self.instance = instance
        self.key = key
        self.places = Places(instance.info)
        self.telling = Telling(self.places)
        self.offer = Offer(instance.info, ":".join(key), models)
        self.telling.size = self.offer.size
        self._agent = agent
        self._prompts: dict[str, Prompt] = {}
        self._asked: dict[str, int] = {}  # requests for leave that the editor shows -> the number of the request
        self._asking: set[asyncio.Task[None]] = set()
        self._cursor = 0
        self._following: asyncio.Task[None] | None = None

    def follow(self, after: int | None = None) -> None:
        """Tell of everything from a number on, or from where it stopped."""
        self._cursor = self._cursor if after is None else after
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow())

    async def replay(self) -> None:
        """Tell of everything so far, then of what follows; what waits for an answer is asked."""
        after, session = 0, ":".join(self.key)
        async for event in self._agent.aegis.events(instance=self.instance.id):
            after = event.seq
            if event.session == session and not event.type.endswith(".delta"):
                self._tell(event)
        self.follow(max(after, self._cursor))
        for item in await self._agent.aegis.approvals.all(instance=self.instance.id):
            if item["session"] == session:
                self._ask(item["id"])

    async def prompt(self, text: str, images: list[ImageSpec]) -> dict[str, Any]:
        """Send a message and wait for the end of the turn that deals with it. Raises AegisError."""
        prompt = Prompt()
        self.telling.own.add(prompt.id)
        self._prompts[prompt.id] = prompt
        try:
            send = self._agent.again(lambda: self.instance.send(text, session=self.key, msg_id=prompt.id, images=images))
            receipt = await send
            prompt.message = receipt.id
            if prompt.cancelled:  # meanwhile
                await self._dropped(prompt)
            self.follow()  # a daemon that was stopped may be back
            return await prompt.done
        finally:
            del self._prompts[prompt.id]

    async def cancel(self) -> None:
        """Cut what runs; its prompts are answered as cancelled when it has ended."""
        waiting = [prompt for prompt in self._prompts.values() if not prompt.cancelled]
        for prompt in waiting:
            prompt.cancelled = True
        if await self._agent.again(lambda: self.instance.cancel(self.key)):
            return
        for prompt in waiting:  # its turn is over, or has not begun: then the message need not be kept
            if prompt.message and not prompt.done.done():
                await self._dropped(prompt)

    async def _dropped(self, prompt: Prompt) -> None:
        """Take a message back. One that is in a turn by now is cut when that is told."""
        try:
            await self._agent.again(lambda: self.instance.drop(prompt.message))
        except AegisError as error:
            if error.kind is not ErrorKind.CONFLICT:
                raise

    async def configure(self, **values: str) -> None:
        """Change what it runs with. Raises AegisError."""
        await self._agent.again(lambda: self.instance.configure(self.key, **values))
        if self.offer.change(**values):
            self._told_settings()

    def answered(self, ident: str, number: int) -> bool:
        """The editor answered a request for leave; whether it still waited for that."""
        if self._asked.get(ident) != number:
            return False
        del self._asked[ident]
        return True

    async def close(self) -> None:
        """Tell no more. What runs goes on."""
        tasks = [task for task in (self._following, *self._asking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for prompt in list(self._prompts.values()):
            prompt.end({"stopReason": "cancelled"})

    async def _follow(self) -> None:
        try:
            session = ":".join(self.key)
            async for event in self.instance.watch(self._cursor):  # all of the instance: its end is no event of a session
                self._cursor = event.seq
                if event.session == session:
                    self._tell(event)
                elif event.type == e.InstanceDeleted.type:
                    raise AegisError(ErrorKind.NOT_FOUND, f"`{self.instance.handle}` was deleted", "begin a new thread")
            lost = AegisError(ErrorKind.UNREACHABLE, "the daemon was stopped", "what was sent is kept: `aegis up` goes on with it")
        except AegisError as error:
            lost = error
        for prompt in list(self._prompts.values()):
            prompt.end(lost)

    def _tell(self, event: Event) -> None:
        for update in self.telling.of(event):
            self._agent.update(self.id, update)
        try:
            fact = event.fact
        except KeyError:
            return
        match fact:
            case e.SessionSettings():
                if self.offer.change(model=fact.model, mode=fact.mode, effort=fact.effort):
                    self._told_settings()
            case e.ApprovalRequested(ident) if self._following is not None:
                self._ask(ident)
            case e.ApprovalDecided(ident):
                self._withdraw(ident)
            case e.MailFailed(ids, reason):
                for prompt in self._of(lambda prompt: prompt.message in ids):
                    prompt.end(AegisError(ErrorKind.FAILED, f"the message was not delivered: {reason}"))
            case e.MailAccepted(message, msg_id=str(own)) if own in self._prompts:
                self._prompts[own].message = message
            case e.MailInjected(ids):
                if any(prompt.cancelled for prompt in self._of(lambda prompt: prompt.message in ids)):
                    self._later(self._agent.again(lambda: self.instance.cancel(self.key)))
            case e.TurnFinished() if not (fact.error or {}).get("will_continue"):
                for prompt in self._of(lambda prompt: prompt.id in fact.reply_to or prompt.message in fact.in_reply_to):
                    prompt.end(_end(fact))

    def _of(self, wanted: Callable[[Prompt], bool]) -> list[Prompt]:
        return [prompt for prompt in self._prompts.values() if wanted(prompt)]

    def _told_settings(self) -> None:
        self._agent.update(self.id, {"sessionUpdate": "config_option_update", "configOptions": self.offer.options()})
        if self.offer.modes() is not None:
            self._agent.update(self.id, {"sessionUpdate": "current_mode_update", "currentModeId": self.offer.now["mode"]})

    def _ask(self, ident: str) -> None:
        """Show a request for leave, unless it is shown."""
        if ident not in self._asked:
            self._asked[ident] = 0
            self._later(self._question(ident))

    async def _question(self, ident: str) -> None:
        item = await self._agent.again(lambda: self._agent.aegis.approvals.get(ident))
        if item["state"] != "pending" or ident not in self._asked:
            self._asked.pop(ident, None)
            return
        number, answer = self._agent.ask("session/request_permission", asking.request(item, self.id, self.telling))
        self._asked[ident] = number
        decided = asking.verdict(item, await answer)
        if self.answered(ident, number) and decided is not None:
            await self._agent.again(lambda: self._agent.aegis.approvals.decide(ident, decided.approve, input=decided.input))

    def _withdraw(self, ident: str) -> None:
        """It was decided elsewhere, or is not wanted any more."""
        number = self._asked.pop(ident, 0)
        if number:
            self._agent.unask(number)

    def _later(self, work: Awaitable[Any]) -> None:
        """Do something aside; that a request was answered elsewhere meanwhile is no error."""

        async def quietly() -> None:
            try:
                await work
            except AegisError:
                return

        task = asyncio.create_task(quietly())
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)


def _end(fact: e.TurnFinished) -> dict[str, Any] | AegisError:
    """The answer to a prompt, from the end of its turn."""
    if fact.outcome == e.Outcome.CANCELLED:
        return {"stopReason": "cancelled"}
    if fact.outcome != e.Outcome.COMPLETED:
        return AegisError.from_dict(fact.error) if fact.error else AegisError(ErrorKind.FAILED, f"the turn ended as {fact.outcome}")
    used = {"inputTokens": fact.input, "outputTokens": fact.output, "totalTokens": fact.input + fact.output}
    return {"stopReason": fact.reason if fact.reason in _REASONS else "end_turn", "usage": used | {"cachedReadTokens": fact.cached}}
