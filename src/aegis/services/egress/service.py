"""The gate itself: what an instance may reach, the record of what it reached for, and the connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import InstanceEgress
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.egress.addresses import Address, inside, is_own, unnameable
from aegis.services.egress.dialling import Resolver, Unreachable, connect, lookup
from aegis.services.egress.packages import Packages, Sources
from aegis.services.egress.places import Malformed, Place, read_place
from aegis.services.egress.proxy import Patience, Proxy, Refused
from aegis.services.egress.rules import Rules
from aegis.services.gate import Decision, Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from aegis.core.clock import Clock
    from aegis.services.egress.dialling import Resolve
    from aegis.services.egress.heads import ByteChannel
    from aegis.store import Store, Tx

_logger = logging.getLogger(__name__)

ACTION: Final = "egress.connect"
_PIECE: Final = 64 * 1024


class Launched(Protocol):
    """What is needed of a launch."""

    @property
    def permission(self) -> str:
        """Rules count with `full` alone."""
        ...

    @property
    def egress(self) -> list[str]:
        """The rules, as written."""
        ...

    @property
    def env(self) -> dict[str, str]:
        """What the person set in the environment; it comes before what is told here."""
        ...


class Placed(Protocol):
    """What is needed of an instance."""

    id: str
    handle: str

    @property
    def launch(self) -> Launched:
        """What it was started with."""
        ...


class Bounds(msgspec.Struct, frozen=True):
    """How much one instance may ask for: connections at one time, and new ones in a rush and in the long run. More must wait."""

    connections: int = 128
    rush: int = 256
    per_second: float = 32.0


class Verdict(NamedTuple):
    """What is said to a wish to connect. `addresses` are those that were looked at; `problem` is why an allowed one leads nowhere."""

    place: Place
    allowed: bool
    reason: str
    rule: str = ""
    hint: str = ""
    raw: bool = False
    addresses: tuple[Address, ...] = ()
    problem: str = ""


class Egress:
    """Serves the `egress` channels of all instances. Owner of the table `egress` and of the event `instance.egress`."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        gate: Gate,
        packages: Packages,
        *,
        resolve: Resolve | None = None,
        own: Callable[[Address], bool] = is_own,
        patience: Patience | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._gate = gate
        self._packages = packages
        self._resolver = Resolver() if resolve is None else None
        self._resolve: Resolve = resolve or self._resolver  # type: ignore[assignment]
        self._own = own
        self._patience = patience or Patience()
        self._bounds = bounds or Bounds()
        self._rules: dict[tuple[str, ...], Rules] = {}
        self._guests: dict[str, _Guest] = {}
        self._serving: set[asyncio.Task[Any]] = set()

    async def serve(self, channel: ByteChannel, instance: Placed) -> None:
        """Serve one connection of an instance, to its end."""
        task = asyncio.current_task()
        assert task is not None
        guest = self._guests.setdefault(instance.id, _Guest(self._bounds, self._clock))
        if guest.open >= self._bounds.connections:
            await channel.close(error="too many connections are open")
            return
        self._serving.add(task)
        guest.open += 1
        try:
            await guest.turn()
            proxy = Proxy(channel, _Reach(self, instance, guest), self._patience)
            to = channel.info.get("to")
            if to is None:
                await proxy.serve()
            else:
                await proxy.carry(_forwarded(to))
        except Malformed as error:
            await channel.close(error=str(error))
        finally:
            guest.open -= 1
            self._serving.discard(task)

    async def environment(self, launch: Launched) -> dict[str, str]:
        """What the sandbox of a launch gets into its environment so that programs find the way out; nothing without rules."""
        rules = self._rules_of(launch)
        if not rules.all and not rules.packages:
            return {}
        sources = await self._sources(rules)
        for warning in sources.warnings:
            _logger.warning("egress: %s", warning)
        on_loopback = {str(place) for place in sources.places if place.address is not None and place.address.is_loopback}
        env = {"AEGIS_EGRESS": "1", **sources.environment}
        if forwarded := sorted({*rules.loopback, *on_loopback}):
            env["AEGIS_EGRESS_TO"] = ",".join(forwarded)
        return {name: value for name, value in env.items() if name not in launch.env}

    async def check(self, instance: Placed, place: str) -> dict[str, Any]:
        """What would be said to a connection to `place`, a `HOST:PORT`, and why. Nothing is connected or recorded."""
        try:
            wanted = read_place(place, 443)
        except Malformed as error:
            raise AegisError(ErrorKind.USAGE, str(error), "write HOST:PORT") from None
        verdict = await self.judge(instance, wanted)
        return {
            "host": wanted.host,
            "port": wanted.port,
            "allowed": verdict.allowed,
            "reason": verdict.reason,
            "rule": verdict.rule,
            "hint": verdict.hint,
            "addresses": [str(address) for address in verdict.addresses],
            "problem": verdict.problem,
        }

    async def warnings(self, instance: Placed) -> list[str]:
        """What a person should know of where an instance's packages come from."""
        return list((await self._sources(self._rules_of(instance.launch))).warnings)

    def list(self, instance: str | None = None, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Connections that were asked for, with an id over `after`, oldest first; without `after` the newest, oldest first.

        `ms` is None while one is open, and for ever when the daemon died under it.
        """
        order = "ASC" if after else "DESC"
        where = "id > ? AND instance = ?" if instance is not None else "id > ?"
        given = (after, instance, limit) if instance is not None else (after, limit)
        sql = f"SELECT {', '.join(_COLUMNS)} FROM egress WHERE {where} ORDER BY id {order} LIMIT ?"
        rows = self._store.read(lambda db: db.execute(sql, given).fetchall())
        found = [dict(zip(_COLUMNS, row, strict=True)) | {"allowed": bool(row[6])} for row in rows]
        return found if after else found[::-1]

    def forget(self, tx: Tx, instance: str) -> None:
        """Remove what is kept of a deleted instance, in the transaction that deletes it."""
        tx.execute("DELETE FROM egress WHERE instance = ?", (instance,))
        tx.on_commit(lambda: self._guests.pop(instance, None))

    async def close(self) -> None:
        """Cut every connection and record its end."""
        tasks = list(self._serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._resolver is not None:
            self._resolver.close()

    async def judge(self, instance: Placed, place: Place, *, clear: bool = False) -> Verdict:
        """Decide, looking at the addresses that a name leads to."""
        rules = self._rules_of(instance.launch)
        if (refusal := _unreachable_by_any(place)) is not None:
            return Verdict(place, False, refusal)
        rule = rules.find(place)
        packages = rule is None and rules.packages and place in (await self._sources(rules)).places
        if rule is None and not packages:
            return _unnamed(instance, rules, place)
        text = rule.text if rule is not None else "packages"
        raw = rule is not None and rule.raw
        if clear and place.port == 443 and not raw:
            return Verdict(place, False, f"port 443 of {place.host} is for TLS, and this is HTTP in the clear", text, "use https")
        if place.address is not None:
            return Verdict(place, True, f"the rule `{text}`", text, raw=raw, addresses=(place.address,))
        try:
            async with self._guest(instance).resolving:
                found = await lookup(self._resolve, place.host, place.port, self._patience.resolve)
        except Unreachable as error:
            return Verdict(place, True, f"the rule `{text}`", text, problem=str(error))
        for address in found:
            what = _why_not(address, self._own)
            if what is None:
                continue
            if unnameable(address) is not None:
                return Verdict(place, False, f"{place.host} leads to {address}, which no rule reaches: {unnameable(address)}", text)
            if not packages and not rules.admits(address, place.port):
                said = f"{place.host} leads to {address}, which is {what}, and no rule names that address"
                return Verdict(place, False, said, text, _add(Place(str(address), place.port, address)))
        return Verdict(place, True, f"the rule `{text}`", text, raw=raw, addresses=tuple(found))

    async def record(self, instance: Placed, verdict: Verdict) -> int:
        """Write down what was said, before anything follows from it; returns the number of the row."""
        data = {"addresses": [str(address) for address in verdict.addresses]} if verdict.addresses else {}
        place, now = verdict.place, self._clock.now()
        decision = Decision(_principal(instance), ACTION, str(place), verdict.allowed, verdict.reason, data)

        def write(tx: Tx) -> int:
            self._gate.write(tx, decision)
            tx.append(InstanceEgress(place.host, place.port, verdict.allowed, verdict.reason), instance=instance.id)
            done = None if verdict.allowed else 0.0
            row = tx.execute(
                "INSERT INTO egress (ts, instance, host, port, allowed, reason, ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (now, instance.id, place.host, place.port, verdict.allowed, verdict.reason, done),
            )
            return int(row.lastrowid or 0)

        return await self._store.write(write)

    async def finish(self, row: int, **values: Any) -> None:
        """Complete a row; what cannot be written is lost, and the instance's work is not."""
        sets = ", ".join(f"{name} = ?" for name in values)
        with contextlib.suppress(AegisError):
            await self._store.write(lambda tx: tx.execute(f"UPDATE egress SET {sets} WHERE id = ?", (*values.values(), row)))

    async def recant(self, instance: Placed, place: Place, row: int, reason: str) -> None:
        """Write down that a connection which was allowed turned out to be for something else."""
        decision = Decision(_principal(instance), ACTION, str(place), False, reason)

        def write(tx: Tx) -> None:
            self._gate.write(tx, decision)
            tx.append(InstanceEgress(place.host, place.port, False, reason), instance=instance.id)
            tx.execute("UPDATE egress SET allowed = 0, reason = ? WHERE id = ?", (reason, row))

        await self._store.write(write)

    def _rules_of(self, launch: Launched) -> Rules:
        key = tuple(launch.egress) if launch.permission == "full" else ()
        if key not in self._rules:
            self._rules[key] = Rules(key)
        return self._rules[key]

    def _guest(self, instance: Placed) -> _Guest:
        return self._guests.setdefault(instance.id, _Guest(self._bounds, self._clock))

    async def _sources(self, rules: Rules) -> Sources:
        return await self._packages.sources() if rules.packages else Sources()


class _Reach:
    """`Reach` for one instance."""

    def __init__(self, egress: Egress, instance: Placed, guest: _Guest) -> None:
        self._egress = egress
        self._instance = instance
        self._guest = guest
        self._first = True

    async def __call__(self, place: Place, *, clear: bool = False) -> _Way:
        if not self._first:
            await self._guest.turn()
        self._first = False
        egress = self._egress
        try:
            verdict = await egress.judge(self._instance, place, clear=clear)
            row = await egress.record(self._instance, verdict)
        except AegisError as error:
            raise Refused(503, f"the connection cannot be recorded, so it is not made: {error.message}") from None
        if not verdict.allowed:
            raise Refused(403, verdict.reason, verdict.hint)
        began = egress._clock.monotonic()
        try:
            if verdict.problem:
                raise Unreachable(verdict.problem)
            sock = await connect(verdict.addresses, place.port, egress._patience.connect)
        except Unreachable as error:
            ms = (egress._clock.monotonic() - began) * 1000
            await egress.finish(row, reason=f"{verdict.reason}; {error}", ms=ms)
            raise Refused(502, f"{place} is allowed, but was not reached: {error}") from None
        address = sock.getpeername()[0]
        reader, writer = await asyncio.open_connection(sock=sock, limit=_PIECE)
        return _Way(egress, self._instance, verdict, row, str(address), reader, writer)


class _Way:
    """`Way` of one recorded connection."""

    def __init__(
        self,
        egress: Egress,
        instance: Placed,
        verdict: Verdict,
        row: int,
        address: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.place = verdict.place
        self.raw = verdict.raw
        self.reader = reader
        self.writer = writer
        self.sent = 0
        self.received = 0
        self._egress = egress
        self._instance = instance
        self._reason = verdict.reason
        self._row = row
        self._address = address
        self._began = egress._clock.monotonic()
        self._closed = False

    async def deny(self, reason: str) -> None:
        self._reason = reason
        await self._egress.recant(self._instance, self.place, self._row, reason)

    def note(self, text: str) -> None:
        self._reason = f"{self._reason}; {text}"

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.writer.transport.abort() if self.writer.transport.get_write_buffer_size() else self.writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self.writer.wait_closed()
        ms = (self._egress._clock.monotonic() - self._began) * 1000
        values = {"address": self._address, "sent": self.sent, "received": self.received, "ms": ms, "reason": self._reason}
        await asyncio.shield(self._egress.finish(self._row, **values))


class _Guest:
    """What is counted of one instance, while the daemon runs."""

    def __init__(self, bounds: Bounds, clock: Clock) -> None:
        self.open = 0
        self.resolving = asyncio.Semaphore(4)
        self._bounds = bounds
        self._clock = clock
        self._room = float(bounds.rush)
        self._at = clock.monotonic()

    async def turn(self) -> None:
        """Return when it may ask for another connection."""
        now = self._clock.monotonic()
        self._room = min(float(self._bounds.rush), self._room + (now - self._at) * self._bounds.per_second) - 1
        self._at = now
        if self._room < 0:
            await self._clock.sleep(-self._room / self._bounds.per_second)


_COLUMNS: Final = ("id", "ts", "instance", "host", "port", "address", "allowed", "reason", "sent", "received", "ms")


def _forwarded(to: Any) -> Place:
    """The loopback place that a connection inside was made to. Raises Malformed."""
    place = read_place(to if isinstance(to, str) else "")
    if place.address is None or not place.address.is_loopback:
        raise Malformed(f"{place} is not on the loopback")
    return place


def _unreachable_by_any(place: Place) -> str | None:
    """Why no rule reaches a place; None when one might."""
    if place.address is not None and (reason := unnameable(place.address)) is not None:
        return f"{place.host} is never reached from a sandbox: {reason}"
    if place.host == "localhost" or place.host.endswith(".localhost"):
        return "`localhost` is the sandbox itself; this machine is reached by a rule for its address, such as `127.0.0.1:PORT`"
    return None


def _unnamed(instance: Placed, rules: Rules, place: Place) -> Verdict:
    """The denial of what no rule names."""
    if instance.launch.egress and instance.launch.permission != "full":
        said = f"`{instance.handle}` has rules for egress, but not the permission `full`, without which they do not count"
        return Verdict(place, False, said)
    what = inside(place.address) if place.address is not None else None
    if ports := rules.ports_of(place):
        said = f"{place.host} is allowed on port {', '.join(map(str, ports))}, not on {place.port}"
    elif what is not None:
        said = f"{place.host} is {what}, and no rule names that address"
    else:
        said = f"no egress rule of `{instance.handle}` allows {place}"
    return Verdict(place, False, said, hint=_add(place))


def _why_not(address: Address, own: Callable[[Address], bool]) -> str | None:
    """What keeps an address that a name leads to from being reached without a rule of its own."""
    return inside(address) or ("this machine's own" if own(address) else None)


def _add(place: Place) -> str:
    return f'to allow it, add to the agent: egress: ["{place}"]'


def _principal(instance: Placed) -> Principal:
    return Principal(PrincipalKind.INSTANCE, instance.id)
