"""The face of budgets: admit, settle, hold, set, show."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from operator import gt
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aegis.core.errors import AegisError
from aegis.core.events import BudgetWarned, InstanceLimited
from aegis.models import Usage
from aegis.models.prices import cost
from aegis.services.budgets import accounts as books
from aegis.services.budgets import keeping, money
from aegis.services.budgets.accounts import Account, Wallet
from aegis.services.budgets.meters import Meter
from aegis.services.budgets.model import KINDS, Budget, Charge, Reservation, refusal
from aegis.services.budgets.money import Used, count, micro

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aegis.core.clock import Clock
    from aegis.core.events import Usage as Told
    from aegis.services.broker.model import Call
    from aegis.services.budgets.model import Blocked, Lineage
    from aegis.store import Store, Tx

_log = logging.getLogger(__name__)

#: For so long, in seconds, what is declared is not looked at again.
_FRESH: Final = 1.0
#: Who waits for a budget looks at the clock at least so often, in seconds: clocks are set, and files are edited.
_RECHECK: Final = 30.0
#: Turns whose refusal is remembered.
_MOST: Final = 1024
_NOTHING: Final = Used()
#: A budget that came near its cap: its name, the place, the kind of amount.
Crossing = tuple[str, str, str]


class Settlement(NamedTuple):
    """What is put on disk when a call has ended."""

    budgets: Budgets
    charges: list[Charge]
    new: list[tuple[Crossing, BudgetWarned]]
    over: list[Crossing]
    instance: str
    session: str | None
    turn: str | None

    def write(self, tx: Tx) -> None:
        """Put it there; runs in the transaction that writes the call down."""
        for charge in self.charges:
            keeping.add(tx, charge)
        keeping.note_warnings(tx, [key for key, _ in self.new], self.over)
        for _, fact in self.new:
            tx.append(fact, instance=self.instance, session=self.session, turn=self.turn)
        tx.on_commit(lambda: self.budgets.written(self))

    def failed(self) -> None:
        """It is not there."""
        self.budgets.unwritten(self)


class Budgets:
    """Owner of the tables `budget_*` and `budgets`, and of the event `budget.warned`."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._meters: dict[tuple[str, str], Meter] = {}
        self._wallets: dict[tuple[str, str | None], Wallet] = {}
        self._hand: dict[str, Budget] = {}
        self._declared: list[Budget] = []
        self._looked = -1e9
        self._held: dict[str, Reservation] = {}  # by call
        self._unwritten: dict[str, Charge] = {}
        self._given_back = asyncio.Event()
        self._warned: set[Crossing] = set()
        self._refused: OrderedDict[str, AegisError] = OrderedDict()  # by turn
        self._waits: dict[tuple[str, str], float] = {}  # instance and session -> until when
        self._alarm: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        #: What files declare, the home's and those of the projects of living instances; set by the wiring.
        self.declared: Callable[[], list[Budget]] = list
        #: Who makes a call in a session of an instance: itself, then those that spawned it. Set by the wiring.
        self.lineage: Callable[[str, str | None], Sequence[Lineage]] = lambda _instance, _session: ()
        #: The handle of an instance, by its id; set by the wiring.
        self.handle_of: Callable[[str], str] = lambda ident: ident
        #: Whether the model of a session costs no money; set by the wiring.
        self.free: Callable[[str, str], bool] = lambda _instance, _session: False
        #: Called in the event loop with the ids of instances that may go on.
        self.on_free: Callable[[list[str]], None] = lambda _instances: None

    async def open(self) -> None:
        """Read what is kept; what a dead daemon left under way counts as used from now on."""
        self._hand = {budget.name: budget for budget in keeping.by_hand(self._store)}
        self._warned = keeping.warnings(self._store)
        left = self._store.read(keeping.left_open)
        now = self._clock.now()
        if left:
            _log.warning("%d model calls were under way when the daemon died; what was reserved for them counts as used", len(left))

        def store(tx: Tx) -> None:
            for call, places, used in left:
                keeping.add(tx, Charge(call, now, used, False, tuple(places), True))
            keeping.prune(tx, now)

        with contextlib.suppress(AegisError):  # a full disk: it is counted at the next start
            await self._store.write(store)
        self._meters.clear()
        self._forget_wallets()

    async def close(self) -> None:
        """Wait for nothing any more."""
        if self._alarm is not None:
            self._alarm.cancel()
            await asyncio.gather(self._alarm, return_exceptions=True)

    # -- a call --

    async def admit(self, call: Call, *, session: str | None, free: bool) -> Reservation | None:
        """Keep what a call may use, which counts in `session`. None for one that uses nothing.

        Waits while a budget has nothing left but for what calls under way may give back. Raises AegisError(LIMIT) that names every budget
        in the way.
        """
        if call.counts_only or call.source != "broker":
            return None
        worst = money.worst(call.model, call.input_estimate, call.max_tokens, free=free)
        least = money.least(call.model, call.input_estimate, free=free)
        while True:
            self._refresh()
            wallet = self._wallet(call.instance, session)
            now = self._clock.now()
            taken = self._take(wallet, now, worst, least, call.model, free)
            if taken is not None:
                break
            self._given_back.clear()
            await self._given_back.wait()
        for meter in wallet.meters:
            meter.reserve(taken, short=taken != worst)
        held = Reservation(call.id, now, call.model, free, worst, taken, wallet.meters, call.instance, session)
        self._held[call.id] = held
        return held

    def _take(self, wallet: Wallet, now: float, worst: Used, least: Used, model: str, free: bool) -> Used | None:
        """What a call may keep; None when it is to wait for calls under way. Raises LIMIT."""
        if not wallet.accounts:
            return worst
        if any(map(gt, least, wallet.smallest)):
            raise refusal(books.too_large(wallet.accounts, now, least, self._subject))
        left, bare = books.room(wallet.accounts, now)
        if (bare.usd <= 0 and worst.usd) or bare.tokens <= 0 or bare.output <= 0:
            raise refusal(books.blocking(wallet.accounts, now, worst, self._subject))
        if not free and not money.known(model) and (strict := books.unpriced(wallet.accounts, now, self._subject)):
            raise refusal(strict)
        if (left.usd <= 0 and worst.usd) or left.tokens <= 0 or left.output <= 0:
            return None
        taken = Used(max(0, min(worst.usd, left.usd)), min(worst.tokens, left.tokens), min(worst.output, left.output))
        if taken != worst and any(meter.short for _, meter in wallet.accounts):
            return None  # one call at a time may have less than it could use, so that what is used passes a cap by one call at most
        return taken

    def opened(self, tx: Tx, held: Reservation) -> None:
        """Put what is kept for a call on disk, in the transaction that says it may be made."""
        keeping.opened(tx, held)

    def drop(self, call: str) -> None:
        """Give back what was kept for a call that is not made."""
        held = self._held.pop(call, None)
        if held is not None:
            self._release(held)
            self._unwritten[call] = Charge(call, held.ts, _NOTHING, False, (), True)  # in case it is on disk all the same

    def passes(self, call: Call) -> AegisError | None:
        """Why a call under way is to be cut: by what has come of its answer, it passes a cap by more than a tenth of it."""
        held, output = self._held.get(call.id), call.pieces
        if held is None or (held.taken == held.worst and output <= held.worst.output):
            return None
        wallet = self._wallets.get((held.instance, held.session))
        if wallet is None or not wallet.accounts:
            return None
        usd = 0 if held.free else money.priced(held.model, Usage(output=output))
        used, now = Used(usd, held.worst.tokens - held.worst.output + output, output), self._clock.now()
        if large := books.too_large(wallet.accounts, now, Used(*(amount * 10 // 11 for amount in used)), self._subject):
            return refusal(large)
        for budget, meter in wallet.accounts:
            spent = meter.spent(budget.window, now)
            if any(cap is not None and spent[kind] + used[kind] > cap + cap // 10 + 1 for kind, cap in enumerate(budget.caps)):
                return refusal(books.blocking(wallet.accounts, now, held.worst, self._subject, used))
        return None

    def settle(self, call: Call) -> Charge | None:
        """What a call really used, counted from now on; None for one that nothing is kept for. `settlement` writes it."""
        held = self._held.pop(call.id, None)
        if held is None:
            return None
        self._release(held)
        used, unknown = _measured(call, held)
        return self._count(call.id, used, unknown, held.meters, opened=True)

    def told(self, call: str, instance: str, session: str | None, fact: Told) -> Charge:
        """The same as `settle` for a call that only its program tells of."""
        usage = Usage(count(fact.input), count(fact.output), count(fact.cached), count(fact.cache_written))
        usd, unknown = _price(fact.model, usage, fact.cost_usd, free=False)
        used = Used(usd, count(usage.input) + count(usage.output), count(usage.output))
        self._refresh()
        return self._count(call, used, unknown, self._wallet(instance, session).meters, opened=False)

    def _count(self, call: str, used: Used, unknown: bool, meters: list[Meter], *, opened: bool) -> Charge:
        now = self._clock.now()
        for meter in meters:
            meter.charge(now, used)
        charge = Charge(call, now, used, unknown, tuple(meter.place for meter in meters), opened)
        self._unwritten[call] = charge
        return charge

    def settlement(self, instance: str, session: str | None, turn: str | None) -> Settlement:
        """What is to be written now: what was used, also what a disk did not take before, and news of budgets that are nearly used up.

        Made in the event loop; its `write` goes into a transaction, and `failed` is called when that came to nothing.
        """
        charges = list(self._unwritten.values())
        self._unwritten.clear()
        new, over = self._crossings(instance, session)
        self._warned.update(key for key, _ in new)
        self._warned.difference_update(over)
        return Settlement(self, charges, new, over, instance, session, turn)

    def written(self, settlement: Settlement) -> None:
        """It is on disk."""
        for charge in settlement.charges:
            for place in charge.places:
                if place in self._meters:
                    self._meters[place].written(charge.ts, charge.used)

    def unwritten(self, settlement: Settlement) -> None:
        """It is not, and goes with the next."""
        self._unwritten.update({charge.call: charge for charge in settlement.charges})
        self._warned.difference_update(key for key, _ in settlement.new)
        self._warned.update(settlement.over)

    def _crossings(self, instance: str, session: str | None) -> tuple[list[tuple[Crossing, BudgetWarned]], list[Crossing]]:
        """Which budgets of a session have just come near their cap, and which of those of which was told have not any more."""
        wallet = self._wallet(instance, session)
        now = self._clock.now()
        new: list[tuple[Crossing, BudgetWarned]] = []
        over: list[Crossing] = []
        for account in wallet.accounts:
            budget, meter = account
            spent = meter.spent(budget.window, now)
            for kind, cap in enumerate(budget.caps):
                if cap is None:
                    continue
                key = (budget.name, meter.subject, KINDS[kind])
                if spent[kind] < cap * budget.warn:
                    if key in self._warned:
                        over.append(key)
                elif key not in self._warned:
                    fact = BudgetWarned(
                        name=budget.name, scope=budget.scope, subject=self._subject(account), kind=KINDS[kind],
                        spent=spent[kind], limit=cap, window=budget.window, level=budget.warn,
                    )  # fmt: skip
                    new.append((key, fact))
        return new, over

    def _release(self, held: Reservation) -> None:
        for meter in held.meters:
            meter.release(held.taken, short=held.taken != held.worst)
        self._given_back.set()

    # -- a turn --

    def note(self, turn: str, error: AegisError) -> None:
        """A call of this turn was refused."""
        self._refused[turn] = error
        self._refused.move_to_end(turn)
        if len(self._refused) > _MOST:
            self._refused.popitem(last=False)

    def refused(self, turn: str) -> AegisError | None:
        """The newest refusal of a call of a turn; None when there was none."""
        return self._refused.get(turn)

    def check(self, instance: str, session: str) -> None:
        """Raise LIMIT when a turn could make no call at all."""
        blocked = self._blocked(instance, session)
        if blocked:
            raise refusal(blocked)

    def held(self, instance: str, session: str) -> float | None:
        """Until when a session waits for a budget that frees by itself; None when it waits for none. Goes on by `on_free`."""
        now = self._clock.now()
        until = self._waits.get((instance, session))
        if until is not None and until > now:
            return until
        blocked = self._blocked(instance, session)
        moments = [each.unblock_at for each in blocked]
        if not moments or None in moments:
            return None  # nothing is in the way, or it does not pass: then the turn ends, and a person is told
        until = max(m for m in moments if m is not None)
        self._wait(instance, session, until)
        return until

    def waiting(self, instance: str) -> float | None:
        """Until when the sessions of an instance that wait for a budget do so, the longest; None when none does."""
        now = self._clock.now()
        return max((until for (ident, _), until in self._waits.items() if ident == instance and until > now), default=None)

    async def hold(self, instance: str, session: str, turn: str, error: AegisError) -> float | None:
        """A turn was refused by budgets: wait until they free, and tell; None when they do not by themselves."""
        until = error.data.get("unblock_at")
        if not isinstance(until, int | float):
            return None
        names = " and ".join(dict.fromkeys(f"budget {each['name']}" for each in error.data["budgets"]))
        fact = InstanceLimited(names, until, error.message)
        await self._store.write(lambda tx: tx.append(fact, instance=instance, session=session, turn=turn))
        self._wait(instance, session, until)
        return until

    def _blocked(self, instance: str, session: str) -> list[Blocked]:
        self._refresh()
        accounts = self._wallet(instance, session).accounts
        least = Used(0 if accounts and self.free(instance, session) else 1, 1, 1)
        return books.blocking(accounts, self._clock.now(), least, self._subject)

    def _wait(self, instance: str, session: str, until: float) -> None:
        self._waits[instance, session] = until
        self._changed.set()
        if self._alarm is None or self._alarm.done():
            self._alarm = asyncio.create_task(self._ring(), name="budgets that free")

    async def _ring(self) -> None:
        """Let those go on whose time has come; ends when nobody waits."""
        while self._waits:
            self._changed.clear()
            now = self._clock.now()
            due = [key for key, until in self._waits.items() if until <= now]
            for key in due:
                del self._waits[key]
            if due:
                self.on_free(list(dict.fromkeys(instance for instance, _ in due)))
                continue
            rest = asyncio.ensure_future(self._clock.sleep(min(_RECHECK, min(self._waits.values()) - now)))
            changed = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait({rest, changed}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                rest.cancel()
                changed.cancel()
            self._refresh()

    # -- what is declared --

    def all(self) -> list[Budget]:
        """Every budget in force, by name."""
        self._refresh()
        return sorted(
            [*{**{b.name: b for b in self._declared}, **self._hand}.values()], key=lambda budget: (bool(budget.instance), budget.name)
        )

    async def put(self, budget: Budget, write: Callable[[Tx], None]) -> None:
        """Set a budget; `write` puts the audit record into the same transaction."""

        def store(tx: Tx) -> None:
            write(tx)
            keeping.put(tx, budget, self._clock.now())

        await self._store.write(store)
        self._hand[budget.name] = budget
        self._renew()

    async def remove(self, name: str, write: Callable[[Tx], None]) -> None:
        """Take away a budget that was set by hand."""

        def store(tx: Tx) -> None:
            write(tx)
            keeping.take(tx, name)

        await self._store.write(store)
        self._hand.pop(name, None)
        self._renew()

    def by_hand(self, name: str) -> Budget | None:
        """A budget that was set by hand."""
        return self._hand.get(name)

    def in_file(self, name: str) -> Budget | None:
        """A budget as a file declares it, or the launch of an instance."""
        self._refresh()
        return next((budget for budget in self._declared if budget.name == name), None)

    def look(self) -> None:
        """Read again what is declared; called when it may have changed."""
        self._looked = -1e9
        self._refresh()

    def _in_force(self) -> list[Budget]:
        """What is declared, and in its place what a person set under the same name."""
        return list({**{budget.name: budget for budget in self._declared}, **self._hand}.values())

    def _refresh(self) -> None:
        now = self._clock.monotonic()
        if now - self._looked < _FRESH:
            return
        self._looked = now
        try:
            found = self.declared()
        except AegisError as error:
            _log.warning("the budgets stay as they were: %s", error.message)
            return
        if found != self._declared:
            self._declared = found
            self._renew()

    def _renew(self) -> None:
        """Something else is in force: whoever waits may try again."""
        self._forget_wallets()
        self._given_back.set()
        waiting = list(dict.fromkeys(instance for instance, _ in self._waits))
        self._waits.clear()
        self._changed.set()
        if waiting:
            self.on_free(waiting)

    def _forget_wallets(self) -> None:
        self._wallets.clear()

    # -- places --

    def forget(self, tx: Tx, instance: str) -> None:
        """Remove what is kept of a deleted instance; what it used stays counted elsewhere."""
        keeping.forget(tx, instance)
        tx.on_commit(lambda: self._drop(instance))

    def _drop(self, instance: str) -> None:
        for place in [p for p in self._meters if p == ("instance", instance) or (p[0] == "session" and p[1].startswith(f"{instance} "))]:
            del self._meters[place]
        self._hand = {name: budget for name, budget in self._hand.items() if budget.instance != instance}
        self._waits = {key: until for key, until in self._waits.items() if key[0] != instance}
        self._forget_wallets()
        self._looked = -1e9

    def moved(self) -> None:
        """An instance came or changed what it was launched with."""
        self._forget_wallets()
        self._looked = -1e9

    def accounts(self, instance: str, session: str | None = None) -> list[Account]:
        """The budgets that a call of an instance counts in."""
        self._refresh()
        return self._wallet(instance, session).accounts

    def brief(self, instance: str, *, acts: str = "call") -> list[dict[str, Any]]:
        """The bounds that an instance's calls count in, in short. Dollars are dollars here."""
        now, found = self._clock.now(), []
        for account in self.accounts(instance):
            budget, meter = account
            spent = meter.spent(budget.window, now)
            for kind, cap in enumerate(budget.caps):
                if cap is not None:
                    blocked = spent[kind] >= cap
                    part = money.MICRO if kind == 0 else 1
                    found.append({
                        "name": budget.name, "scope": budget.scope, "subject": self._subject(account), "kind": KINDS[kind],
                        "spent": spent[kind] / part if part > 1 else spent[kind], "limit": cap / part if part > 1 else cap,
                        "window": budget.window, "state": "blocked" if blocked else "warned" if spent[kind] >= cap * budget.warn else "ok",
                        "unblock_at": meter.frees(budget.window, now, kind, max(0, cap - max(1, cap // 10))) if blocked else None,
                        "acts": acts,
                    })  # fmt: skip
        return found

    def account(self, budget: Budget, subject: str) -> Account:
        """A budget in one place."""
        return Account(budget, self._meter(budget.scope, subject))

    def subject(self, account: Account) -> str:
        """The place of an account for people: a handle, a directory, the name of an agent."""
        return self._subject(account)

    def _wallet(self, instance: str, session: str | None) -> Wallet:
        wallet = self._wallets.get((instance, session))
        if wallet is None:
            self.look()  # a new instance may have brought budgets with it
            if len(self._wallets) > 16 * _MOST:
                self._wallets.clear()
            lineage = self.lineage(instance, session)
            meters = [self._meter(*place) for place in books.places(lineage)]
            found = [
                Account(budget, self._meter(budget.scope, subject))
                for budget in self._in_force()
                for subject in books.subjects(budget, lineage)
            ]
            wallet = self._wallets[instance, session] = books.wallet(meters, found)
        return wallet

    def _meter(self, scope: str, subject: str) -> Meter:
        meter = self._meters.get((scope, subject))
        if meter is None:
            total = keeping.life(self._store, scope, subject)

            def past(since: float, window: float) -> Iterable[tuple[float, Used]]:
                return keeping.past(self._store, scope, subject, since, window)

            meter = self._meters[scope, subject] = Meter(scope, subject, total, past)
        return meter

    def _subject(self, account: Account) -> str:
        budget, meter = account
        if budget.scope in ("instance", "session"):
            ident, _, session = meter.subject.partition(" ")
            return f"{self.handle_of(ident)} {session}".strip()
        return meter.subject


def _measured(call: Call, held: Reservation) -> tuple[Used, bool]:
    """What a call used, in amounts; and whether its price was unknown. What nobody told is estimated, never nothing."""
    usage = call.usage
    if call.outcome == "refused":
        return _NOTHING, False
    broken = call.outcome != "completed" and call.status < 400
    if usage is None and call.outcome == "failed" and not call.received:
        return _NOTHING, False  # no answer came
    if usage is None:
        prompt, answer = call.input_estimate, max(call.pieces, min(held.worst.output, call.received // 4))
        if broken and not call.stream:
            answer = held.worst.output  # the provider may have written all of it, for nobody
        usage, told = Usage(input=count(prompt), output=count(answer)), None
    elif broken and (call.received or usage.input or usage.output):  # cut off: the figures of the end never came
        usage = Usage(
            usage.input or call.input_estimate, max(usage.output, call.pieces), usage.cached, usage.cache_written, usage.cache_written_1h
        )
        told = None
    else:
        told = call.cost_usd
    usd, unknown = _price(call.model, usage, told, free=held.free)
    return Used(usd, count(usage.input) + count(usage.output), count(usage.output)), unknown


def _price(model: str, usage: Usage, told: float | None, *, free: bool) -> tuple[int, bool]:
    """What usage costs, and whether nobody knows that."""
    if free:
        return 0, False
    if told is None:
        told = cost(model, usage)
    known = micro(told)
    return (known, False) if known is not None else (money.priced(model, usage), True)
