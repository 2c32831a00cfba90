"""Model calls of instances, joined to the rest: who may call (gate), what it used (ledger), which turn it belongs to (agents)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.events import Retrying
from aegis.core.ids import new_id
from aegis.core.principals import Principal, PrincipalKind
from aegis.core.text import one_line
from aegis.models.catalogue import Catalogue
from aegis.models.names import SCRIPTED, SCRIPTS, resolve
from aegis.services.broker import Broker, BrokerClient, Call, LimitHit, Player, Recorder
from aegis.services.broker.ledger import Ledger
from aegis.services.broker.model import none_else
from aegis.services.budgets import Budgets

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from pathlib import Path

    from aegis.core.clock import Clock
    from aegis.core.dialects import Dialect
    from aegis.core.events import Usage
    from aegis.models.names import ProviderSpec
    from aegis.sandboxes.link import Channel
    from aegis.services.agents import Instance
    from aegis.services.gate import Gate
    from aegis.store import Store, Tx

_log = logging.getLogger(__name__)

#: How long the end of a turn waits for the record of a call that has ended, in seconds.
_SETTLE: Final = 1.0
#: Turns whose limit is remembered: the end of a turn asks at once.
_LIMITS: Final = 1024


class _Plane(NamedTuple):
    """The providers that instances with the same declared one see, and the broker that calls them."""

    catalogue: Catalogue
    broker: Broker


async def _to_nobody(instance: str, provider: str, resets_at: float | None, message: str) -> None:
    """Nothing is held."""


class Models:
    """The model plane of the agents service. `home` is where no recording may be."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        gate: Gate,
        secret: Callable[[str], Awaitable[str | None]],
        home: Path,
        budgets: Budgets | None = None,
    ) -> None:
        self._gate = gate
        self._store = store
        self._budgets = budgets or Budgets(store, clock)
        self._ledger = Ledger(store, clock)
        self._clock = clock
        self._secret = secret
        self._home = home
        self._planes: dict[ProviderSpec | None, _Plane] = {}
        self._turns: dict[str, str | None] = {}  # call id -> the turn it was made in
        self._turn_of: dict[str, Callable[[str | None], str | None]] = {}  # instance -> how to find its turns
        self._open: dict[tuple[str, str | None], int] = {}  # calls under way, by instance and session
        self._settled = asyncio.Event()
        self._limits: OrderedDict[str, LimitHit] = OrderedDict()  # turn -> the provider's limit that it met
        self._given_up: OrderedDict[str, str] = OrderedDict()  # turn -> why its calls were not tried any more
        self._recorders: dict[str, Recorder] = {}  # by path
        self._players: dict[str, Player] = {}  # by instance
        self._problems: dict[str, str] = {}  # recording -> what is wrong with it
        #: Why a secret is not for an instance, by id, at a host (None: that of a provider everybody knows); None when it is. Set by the
        #: wiring.
        self.may_use: Callable[[str, str, str | None], AegisError | None] = lambda secret, instance, host: None
        #: Until when (wall seconds) a provider is not to be asked; None when it may be. Set by the wiring.
        self.held: Callable[[str], float | None] = lambda provider: None
        #: The sessions of an instance in which a turn runs; set by the wiring.
        self.sessions_of: Callable[[str], list[str]] = lambda _instance: []
        #: Told of a failed call that its program may try again: instance, session, turn, and what is known of it. Set by the wiring.
        self.on_failing: Callable[[str, str | None, str | None, Retrying], None] = lambda instance, session, turn, fact: None
        #: Told of a provider's limit that lasts: instance, provider, when it ends (wall seconds) if that is known, what it said.
        self.on_limit: Callable[[str, str, float | None, str], Awaitable[object]] = _to_nobody

    def dialects(self, instance: Instance, model: str | None = None) -> frozenset[Dialect]:
        """The dialects that the provider of a model speaks, of the instance's own unless another one is named.

        Raises AegisError when there is no such provider.
        """
        catalogue = self._plane(instance).catalogue
        return catalogue.provider(catalogue.parse(model or instance.launch.model or "").provider).dialects

    def check_model(self, instance: Instance, model: str, speaks: Collection[Dialect]) -> str:
        """The full name of a model that a session may be switched to: of the instance's own provider, or a family's, if it names none.

        `speaks` are the dialects of the session's program. Raises AegisError: NOT_FOUND with the nearest name for an unknown provider,
        USAGE for a wrong name, and for a provider that speaks none of them.
        """
        catalogue = self._plane(instance).catalogue
        own = (instance.launch.model or "").partition("/")[0]
        model = resolve(model)
        name = catalogue.parse(model if "/" in model else f"{own}/{model}")
        if name.provider == SCRIPTED and name.model not in SCRIPTS:
            raise unknown_name("scripted model", str(name), [f"{SCRIPTED}/{script}" for script in SCRIPTS])
        spoken = catalogue.provider(name.provider).dialects
        if spoken.isdisjoint(speaks):
            message = f"`{name.provider}` speaks the dialect {', '.join(sorted(spoken))}, and this agent's program only {', '.join(speaks)}"
            raise AegisError(ErrorKind.USAGE, message, "start another agent with that model")
        return str(name)

    async def serve(
        self,
        channel: Channel,
        instance: Instance,
        turn_of: Callable[[str | None], str | None],
        models: Callable[[], tuple[str, ...]] = none_else,
    ) -> None:
        """Serve one connection of an instance; `models` gives the full names that its sessions were switched to."""
        self._turn_of[instance.id] = turn_of
        launch = instance.launch
        client = BrokerClient(
            instance=instance.id,
            token=instance.token,
            model=launch.model or "",
            models=models,
            record=self._recorder(launch.record) if launch.record and not launch.replay else None,
            replay=self._player(instance.id, launch.replay) if launch.replay else None,
        )
        await self._plane(instance).broker.serve(channel, client)

    async def settled(self, instance: Instance, session: str) -> None:
        """Return when the calls of a session that have ended are in the ledger, at the latest after a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE):
                while self._open.get((instance.id, session)):
                    self._settled.clear()
                    await self._settled.wait()

    def busy(self, instance: str, session: str) -> bool:
        """Whether a call of that session is under way."""
        return bool(self._open.get((instance, session)))

    async def tell(self, instance: Instance, session: str, turn: str | None, usage: Usage) -> None:
        """Record what a program with its own login tells of its use. Of others nothing is taken: the broker has seen their calls."""
        if instance.launch.auth == "login":
            self._budgets.told(new_id("call"), instance.id, session, usage)
            await self._settled_with(instance.id, session, turn, lambda also: self._ledger.tell(instance.id, session, turn, usage, also))

    def free(self, instance: Instance, model: str | None) -> bool:
        """Whether calls of a model, of the instance's own unless another is named, cost no money. A login is a plan that costs some."""
        name = (model or instance.launch.model or "").partition("/")[0]
        if not name or instance.launch.auth == "login":
            return not name
        return _free(self._plane(instance).catalogue, name)

    def limit_of(self, turn: str) -> LimitHit | None:
        """The provider's limit that a call of this turn ran into, the newest one; None when it met none."""
        return self._limits.get(turn)

    def given_up(self, turn: str) -> str | None:
        """Why the calls of this turn were not tried any more; None when that is not so."""
        return self._given_up.get(turn)

    def problem_of(self, path: str) -> str | None:
        """Why calls are not recorded in a file as they should be; None when all is well."""
        return self._problems.get(path)

    def totals(self, tx: Any, *, turn: str | None = None, instance: str | None = None) -> dict[str, Any]:
        """What a turn or an instance has used."""
        return self._ledger.totals(tx, turn=turn, instance=instance)

    def forget(self, tx: Tx, instance: str) -> None:
        """Remove what is known of a deleted instance."""
        self._ledger.forget(tx, instance)
        self._budgets.forget(tx, instance)
        tx.on_commit(lambda: self._drop(instance))

    async def close(self) -> None:
        """Let the last records be written and the connections go."""
        for plane in self._planes.values():
            await plane.broker.close()
            await plane.catalogue.close()
        for recorder in self._recorders.values():
            recorder.close()
        for player in self._players.values():
            player.close()

    def _drop(self, instance: str) -> None:
        self._turn_of.pop(instance, None)
        player = self._players.pop(instance, None)
        if player is not None:
            player.close()

    def _plane(self, instance: Instance) -> _Plane:
        """The providers as the instance was launched with them: a name means what its own project declared."""
        declared = instance.launch.provider
        if declared not in self._planes:
            catalogue = Catalogue({declared.name: declared} if declared else None, clock=self._clock)
            broker = Broker(
                provider=catalogue.provider,
                secret=self._secret,
                admit=lambda call: self._admit(
                    call,
                    free=_free(catalogue, call.model.partition("/")[0]),
                    refused=self._refused(catalogue, declared, call),
                ),
                record=self._record,
                held=lambda provider: self.held(_supply(declared, provider)),
                limited=lambda call, hit: self._limited(call, hit, _supply(declared, hit.provider)),
                failing=self._failing,
                passes=self._passes,
                clock=self._clock,
            )
            self._planes[declared] = _Plane(catalogue, broker)
        return self._planes[declared]

    def _recorder(self, path: str) -> Recorder:
        if path not in self._recorders:
            self._recorders[path] = Recorder(path, self._home, self._clock, lambda problem: self._unwell(path, problem))
        return self._recorders[path]

    def _player(self, instance: str, path: str) -> Player:
        if instance not in self._players:
            self._players[instance] = Player(path, self._home, self._clock)
        return self._players[instance]

    def _unwell(self, path: str, problem: str | None) -> None:
        if problem is None:
            self._problems.pop(path, None)
        else:
            self._problems[path] = problem
            _log.error("%s", problem)

    def _refused(self, catalogue: Catalogue, declared: ProviderSpec | None, call: Call) -> AegisError | None:
        """Why the key of its provider is not for this instance, or not for that host; None when it is, or there is none."""
        name = call.model.partition("/")[0]
        try:
            secret = catalogue.provider(name).secret
        except AegisError:  # an answer that was recorded needs no provider; whoever needs one says so
            return None
        if secret is None:
            return None
        host = urlsplit(declared.base_url).hostname if declared is not None and declared.name == name else None
        return self.may_use(secret, call.instance, host)

    async def _admit(self, call: Call, *, free: bool, refused: AegisError | None = None) -> None:
        turn = self._turns[call.id] = self._turn(call)
        principal = Principal(PrincipalKind.INSTANCE, call.instance)
        decision = await self._gate.check(principal, "model.call", call.model, session=call.session)
        if refused is not None:
            await self._gate.record(msgspec.structs.replace(decision, allow=False, reason=one_line(refused.message, 300)))
            raise refused
        try:
            held = await self._budgets.admit(call, session=self._session(call, turn), free=free)
        except AegisError as error:
            await self._gate.record(msgspec.structs.replace(decision, allow=False, reason=one_line(error.message, 300)))
            if turn is not None:
                self._budgets.note(turn, error)
            raise

        def store(tx: Tx) -> None:
            call.audit = self._gate.audit.write(tx, decision)
            if held is not None:
                self._budgets.opened(tx, held)

        try:
            await self._store.write(store)
        except BaseException:
            self._budgets.drop(call.id)
            raise
        key = (call.instance, call.session)
        self._open[key] = self._open.get(key, 0) + 1

    def _session(self, call: Call, turn: str | None) -> str | None:
        """The session whose budgets a call counts in. A program may name any: one without a turn is not believed while another has one."""
        busy = self.sessions_of(call.instance) if turn is None or call.session is None else ()
        return busy[0] if busy else call.session

    def _passes(self, call: Call) -> str | None:
        """Why a streamed answer is cut; its turn is noted as refused by its budgets."""
        error = self._budgets.passes(call)
        if error is None:
            return None
        turn = self._turns.get(call.id)
        if turn is not None:
            self._budgets.note(turn, error)
        return f"the answer is cut: {error.message}"

    async def _limited(self, call: Call, hit: LimitHit, supply: str) -> None:
        await self.on_limit(call.instance, supply, hit.resets_at, hit.message)

    def _failing(self, call: Call, times: int) -> None:
        turn = self._turns.get(call.id)
        self.on_failing(call.instance, call.session, turn, Retrying(times, 0.0, call.status, one_line(call.error, 400)))

    async def _record(self, call: Call) -> None:
        turn = self._turns.pop(call.id) if call.id in self._turns else self._turn(call)
        if call.limit is not None and call.source == "broker" and turn is not None:
            self._limits[turn] = call.limit
            self._limits.move_to_end(turn)
            if len(self._limits) > _LIMITS:
                self._limits.popitem(last=False)
        if call.given_up and turn is not None:
            self._given_up[turn] = call.given_up
            if len(self._given_up) > _LIMITS:
                self._given_up.popitem(last=False)
        self._budgets.settle(call)
        try:
            await self._settled_with(call.instance, call.session, turn, lambda also: self._ledger.record(call, turn, also))
        finally:
            if call.admitted:
                key = (call.instance, call.session)
                self._open[key] -= 1
                if not self._open[key]:
                    del self._open[key]
                self._settled.set()

    async def _settled_with(
        self, instance: str, session: str | None, turn: str | None, write: Callable[[Callable[[Tx], None]], Awaitable[None]]
    ) -> None:
        """Write a call down together with what it used of budgets."""
        settlement = self._budgets.settlement(instance, session, turn)
        try:
            await write(settlement.write)
        except BaseException:
            settlement.failed()
            raise

    def _turn(self, call: Call) -> str | None:
        """The turn that a call belongs to now."""
        find = self._turn_of.get(call.instance)
        return find(call.session) if find else None


def _free(catalogue: Catalogue, provider: str) -> bool:
    try:
        return catalogue.provider(provider).free
    except AegisError:
        return False


def _supply(declared: ProviderSpec | None, provider: str) -> str:
    """What the limits of a provider are kept under, as instances that were launched with `declared` see it."""
    return declared.supply if declared is not None and declared.name == provider else provider
