"""The gate itself: what an instance may reach, the record of what it reached for, and the connections."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import InstanceEgress
from aegis.sandboxes import ALL_ROOTS, ROOTS
from aegis.services.egress.addresses import Address, is_own, unnameable
from aegis.services.egress.authority import Authority
from aegis.services.egress.credentials import Adding, Passing, placeholder
from aegis.services.egress.dialling import Resolver, Unreachable, connect, lookup
from aegis.services.egress.exchanging import Patience, Refused
from aegis.services.egress.packages import Packages, Sources
from aegis.services.egress.paths import read_path
from aegis.services.egress.places import Malformed, Place, read_place
from aegis.services.egress.proxy import Proxy
from aegis.services.egress.rules import Rules, read_header
from aegis.services.egress.securing import Trust
from aegis.services.egress.verdicts import (
    CONNECT,
    Policies,
    Verdict,
    addition,
    principal_of,
    shown_path,
    unmatched,
    unnamed,
    unreachable_by_any,
    why_not,
)
from aegis.services.egress.ways import PIECE, Admission, Inspected, Plain
from aegis.services.gate import Decision, Gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from aegis.core.clock import Clock
    from aegis.core.egress import EgressRule
    from aegis.services.egress.dialling import Resolve
    from aegis.services.egress.heads import ByteChannel
    from aegis.services.egress.proxy import Way
    from aegis.store import Store, Tx

_logger = logging.getLogger(__name__)

#: The variables by which programs find whom to trust: those for all certificates, and those for certificates besides the usual ones.
_ALL_ROOTS: Final = tuple(
    "SSL_CERT_FILE REQUESTS_CA_BUNDLE CURL_CA_BUNDLE GIT_SSL_CAINFO PIP_CERT AWS_CA_BUNDLE CARGO_HTTP_CAINFO npm_config_cafile "
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH".split()
)
_MORE_ROOTS: Final = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")


class Launched(Protocol):
    """What is needed of a launch."""

    @property
    def permission(self) -> str:
        """Rules count with `full` alone."""
        ...

    @property
    def egress(self) -> list[str | EgressRule]:
        """The rules, as written."""
        ...

    @property
    def secrets(self) -> list[str]:
        """The names of the secrets that it may use."""
        ...

    @property
    def env(self) -> dict[str, str]:
        """What the person set in the environment; it comes before what is told here."""
        ...


class Placed(Protocol):
    """What is needed of an instance."""

    id: str
    handle: str
    token: str

    @property
    def launch(self) -> Launched:
        """What it was started with."""
        ...


class Bounds(msgspec.Struct, frozen=True):
    """How much one instance may ask for: connections at one time, and new ones, or requests that are looked at, in a rush and in the long
    run. More must wait."""

    connections: int = 128
    rush: int = 256
    per_second: float = 32.0
    requests_rush: int = 1024
    requests_per_second: float = 128.0


class Entrusted(NamedTuple):
    """What the sandbox of an instance gets: variables, and certificates in PEM that programs inside trust."""

    environment: dict[str, str] = {}
    roots: str = ""


async def _no_secret(name: str, *, instance: str, host: str) -> str:
    raise AegisError(ErrorKind.UNAVAILABLE, f"no secret can be used here, `{name}` neither")


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
        self.clock = clock
        self._gate = gate
        self._packages = packages
        self._resolver = Resolver() if resolve is None else None
        self._resolve: Resolve = resolve or self._resolver  # type: ignore[assignment]
        self._own = own
        self.patience = patience or Patience()
        self.trust = Trust()
        #: Reveals a secret for an instance and a host, having recorded it; raises AegisError. Set by the wiring.
        self.use: Callable[..., Awaitable[str]] = _no_secret
        #: Which secrets are bound to hosts, by their names. Set by the wiring.
        self.hosts_of: Callable[[str], Collection[str]] = lambda _name: ()
        #: The header that a secret is sent in, as `Name: text with {}`, where somebody said it for the secret itself. Set by the wiring.
        self.header_of: Callable[[str], str | None] = lambda _name: None
        self._policies = Policies(gate, self.patience.person)
        self._authorities: dict[str, Authority] = {}
        self._bounds = bounds or Bounds()
        self._rules: dict[tuple[str | EgressRule, ...], Rules] = {}
        self._guests: dict[str, _Guest] = {}
        self._serving: set[asyncio.Task[Any]] = set()

    @property
    def resolve(self) -> Resolve:
        """How names become addresses here."""
        return self._resolve

    async def serve(self, channel: ByteChannel, instance: Placed) -> None:
        """Serve one connection of an instance, to its end."""
        task = asyncio.current_task()
        assert task is not None
        guest = self._guests.setdefault(instance.id, _Guest(self._bounds, self.clock))
        if guest.open >= self._bounds.connections:
            await channel.close(error="too many connections are open")
            return
        self._serving.add(task)
        guest.open += 1
        try:
            await guest.connections.next()
            proxy = Proxy(channel, _Reach(self, instance, guest), self.patience)
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

    def entrust(self, instance: Placed) -> Entrusted:
        """What the sandbox of an instance that starts now gets: an authority of its own, and what stands for its secrets.

        Nothing without rules on requests.
        """
        rules = self._rules_of(instance.launch)
        if not any(rule.inspect for rule in rules.all):
            return Entrusted()
        authority = self._authorities[instance.id] = Authority(instance.handle, self.clock.now)
        env = dict.fromkeys(_ALL_ROOTS, ALL_ROOTS) | dict.fromkeys(_MORE_ROOTS, ROOTS)
        bound = {name for name in instance.launch.secrets if any(rule.sends_to(self.hosts_of(name)) for rule in rules.all)}
        env |= {name: placeholder(name, instance.token) for name in {*rules.secrets, *bound}}
        return Entrusted({name: value for name, value in env.items() if name not in instance.launch.env}, authority.pem)

    def authority(self, instance: Placed) -> Authority:
        """Who makes the certificates for an instance."""
        if instance.id not in self._authorities:
            self._authorities[instance.id] = Authority(instance.handle, self.clock.now)
        return self._authorities[instance.id]

    def bound(self, instance: Placed, place: Place) -> set[str]:
        """The names of the secrets whose placeholders are replaced in requests to a place."""
        rules = self._rules_of(instance.launch).inspecting(place)
        named = {rule.inspect.secret for rule in rules if rule.inspect is not None and rule.inspect.secret is not None}
        return named | {name for name in instance.launch.secrets if place.host in self.hosts_of(name)}

    def headers_of(self, names: Collection[str]) -> list[Adding]:
        """The headers that secrets say themselves to be sent in."""
        found: dict[str, Adding] = {}
        for name in sorted(names):
            said = self.header_of(name)
            with contextlib.suppress(Malformed):
                if said is not None and (header := read_header(said)) is not None:
                    found.setdefault(header[0].lower(), Adding(*header, name))
        return list(found.values())

    def passing(self, instance: Placed, bound: Collection[str], place: Place, note: Callable[[str], None]) -> Passing:
        """Who fills in the secrets of one request, and watches it."""
        return Passing(instance.token, bound, lambda name: self.use(name, instance=instance.id, host=place.host), note)

    async def check(self, instance: Placed, place: str, method: str = "GET") -> dict[str, Any]:
        """What would be said to a connection to `place`, a `HOST:PORT`, or to a request for a URL, and why.

        Nothing is connected or recorded.
        """
        scheme, _, rest = place.rpartition("://")
        named, slash, path = (rest if scheme else place).partition("/")
        if scheme not in ("", "http", "https") or not method.isascii() or not method.isalpha():
            raise AegisError(ErrorKind.USAGE, f"{place[:200]!r} cannot be asked for with {method[:40]!r}", "write HOST:PORT or a URL")
        try:
            wanted = read_place(named, 80 if scheme == "http" else 443)
        except Malformed as error:
            raise AegisError(ErrorKind.USAGE, str(error), "write HOST:PORT or a URL") from None
        target = f"/{path}" if slash or scheme else ""
        in_clear = (method.upper(), target or "/") if scheme == "http" else None
        verdict = await self.judge(instance, wanted, request=in_clear, asking=False)
        if verdict.allowed and verdict.by is not None and target:
            addresses, problem = verdict.addresses, verdict.problem
            verdict = await self.judge_request(instance, wanted, method.upper(), target, asking=False)
            verdict = verdict._replace(addresses=addresses, problem=problem)
        return {
            "host": wanted.host,
            "port": wanted.port,
            "method": verdict.method,
            "path": verdict.path,
            "allowed": verdict.allowed,
            "reason": verdict.reason,
            "rule": verdict.rule,
            "hint": verdict.hint,
            "addresses": [str(address) for address in verdict.addresses],
            "problem": verdict.problem,
            "inspected": verdict.by is not None,
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
        tx.on_commit(lambda: (self._guests.pop(instance, None), self._authorities.pop(instance, None)))

    async def close(self) -> None:
        """Cut every connection and record its end."""
        tasks = list(self._serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._resolver is not None:
            self._resolver.close()

    async def judge(self, instance: Placed, place: Place, *, request: tuple[str, str] | None = None, asking: bool = True) -> Verdict:
        """Decide on a connection, looking at the addresses that a name leads to.

        Args:
            request: the method and the target of one that is made in the clear.
            asking: whether a person is asked where the rules of the gate want one to be.
        """
        verdict = await self._by_rules(instance, place, clear=request is not None)
        if not verdict.allowed:
            return verdict
        verdict = await self._policies.connect(instance, verdict, asking=asking)
        if request is None or not verdict.allowed:
            return verdict
        return await self.judge_clear(instance, verdict, request, asking=asking)

    async def judge_clear(self, instance: Placed, verdict: Verdict, request: tuple[str, str], *, asking: bool = True) -> Verdict:
        """Decide on a request in the clear to a place that is allowed: rules for places say nothing of it, those of the gate may."""
        path = read_path(request[1])
        return await self._policies.request(instance, verdict._replace(method=request[0], path=shown_path(path)), path, asking=asking)

    async def judge_request(self, instance: Placed, place: Place, method: str, target: str, *, asking: bool = True) -> Verdict:
        """Decide on a request to a place where they are looked at."""
        if asking:
            await self._guest(instance).requests.next()
        path = read_path(target)
        rules = self._rules_of(instance.launch).inspecting(place)
        fits = [rule for rule in rules if rule.inspect is not None and rule.inspect.allows(method, path)]
        if not fits:
            return unmatched(place, method, path, rules)
        # Of several that let it pass, one that adds a header: that is why somebody wrote it.
        rule = next((rule for rule in fits if rule.inspect is not None and rule.inspect.header is not None), fits[0])
        verdict = Verdict(place, True, f"the rule `{rule.text}`", rule.text, by=rule, method=method, path=shown_path(path))
        return await self._policies.request(instance, verdict, path, asking=asking)

    async def _by_rules(self, instance: Placed, place: Place, *, clear: bool) -> Verdict:
        """What the rules of the instance say, and the addresses."""
        rules = self._rules_of(instance.launch)
        if (refusal := unreachable_by_any(place)) is not None:
            return Verdict(place, False, refusal)
        rule = rules.find(place)
        packages = rule is None and rules.packages and place in (await self._sources(rules)).places
        if rule is None and not packages:
            return unnamed(instance, rules, place)
        text = rule.text if rule is not None else "packages"
        raw = rule is not None and rule.raw
        by = rule if rule is not None and rule.inspect is not None else None
        if clear and by is not None:
            return Verdict(place, False, f"requests to {place} are looked at, and go there in TLS alone", text, "use https")
        if clear and place.port == 443 and not raw:
            return Verdict(place, False, f"port 443 of {place.host} is for TLS, and this is HTTP in the clear", text, "use https")
        if place.address is not None:
            return Verdict(place, True, f"the rule `{text}`", text, raw=raw, addresses=(place.address,), by=by)
        try:
            async with self._guest(instance).resolving:
                found = await lookup(self._resolve, place.host, place.port, self.patience.resolve)
        except Unreachable as error:
            return Verdict(place, True, f"the rule `{text}`", text, problem=str(error), by=by)
        for address in found:
            what = why_not(address, self._own)
            if what is None:
                continue
            if unnameable(address) is not None:
                return Verdict(place, False, f"{place.host} leads to {address}, which no rule reaches: {unnameable(address)}", text)
            if not packages and not rules.admits(address, place.port):
                said = f"{place.host} leads to {address}, which is {what}, and no rule names that address"
                return Verdict(place, False, said, text, addition(Place(str(address), place.port, address)))
        return Verdict(place, True, f"the rule `{text}`", text, raw=raw, addresses=tuple(found), by=by)

    async def admit(self, instance: Placed, verdict: Verdict, *, tunnel: int | None = None) -> Admission:
        """Hold what was said to what the rules ask for besides, and record it.

        Raises Refused when it is denied, or cannot be recorded.
        """
        holding = contextlib.AsyncExitStack()
        try:
            verdict, audited = await self.hold(instance, verdict, holding)
            row = await self.record(instance, verdict, tunnel=tunnel, audited=audited)
        except AegisError as error:
            await holding.aclose()
            what = "request" if tunnel is not None else "connection"
            raise Refused(503, f"the {what} cannot be recorded, so it is not made: {error.message}") from None
        if not verdict.allowed:
            raise verdict.refused()
        return Admission(verdict, row, holding)

    async def hold(self, instance: Placed, verdict: Verdict, holding: contextlib.AsyncExitStack) -> tuple[Verdict, bool]:
        """The verdict after the bounds of the rules that allow it, which hold until the end of `holding`; and whether it is recorded."""
        if not verdict.allowed or not verdict.bounds.held:
            return verdict, False
        passing = self._gate.passing(principal_of(instance), verdict.action, str(verdict.place), effect=verdict.effect)
        try:
            await holding.enter_async_context(passing)
        except AegisError as error:
            if error.kind is not ErrorKind.DENIED:
                raise
            return verdict._replace(allowed=False, reason=str(error.data.get("reason", error.message)), hint=error.hint), True
        return verdict, True

    async def record(self, instance: Placed, verdict: Verdict, *, tunnel: int | None = None, audited: bool = False) -> int:
        """Write down what was said, before anything follows from it; returns the number of the row.

        Args:
            tunnel: the row of the connection that a request came by.
            audited: it is in the audit log already.
        """
        place, now = verdict.place, self.clock.now()
        decision = verdict.decision(principal_of(instance))

        def write(tx: Tx) -> int:
            if not audited:
                self._gate.write(tx, decision)
            told = InstanceEgress(place.host, place.port, verdict.allowed, verdict.reason, verdict.method, verdict.path)
            tx.append(told, instance=instance.id)
            done = None if verdict.allowed else 0.0
            asked = (verdict.method or None, verdict.path or None, tunnel)
            row = tx.execute(
                "INSERT INTO egress (ts, instance, host, port, allowed, reason, ms, method, path, tunnel) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (now, instance.id, place.host, place.port, verdict.allowed, verdict.reason, done, *asked),
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
        decision = Decision(principal_of(instance), CONNECT, str(place), False, reason)

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
        return self._guests.setdefault(instance.id, _Guest(self._bounds, self.clock))

    async def _sources(self, rules: Rules) -> Sources:
        return await self._packages.sources() if rules.packages else Sources()


class _Reach:
    """`Reach` for one instance."""

    def __init__(self, egress: Egress, instance: Placed, guest: _Guest) -> None:
        self._egress = egress
        self._instance = instance
        self._guest = guest
        self._first = True

    async def __call__(self, place: Place, *, request: tuple[str, str] | None = None, made: Way | None = None) -> Any:
        if made is not None and request is not None:
            verdict = await self._egress.judge_clear(self._instance, Verdict(place, True, "a connection that was allowed"), request)
            verdict, _ = await self._egress.hold(self._instance, verdict, made.holding)
            if not verdict.allowed:
                await made.deny(verdict.reason)
                raise verdict.refused()
            return made
        if not self._first:
            await self._guest.connections.next()
        self._first = False
        egress = self._egress
        try:
            verdict = await egress.judge(self._instance, place, request=request)
        except AegisError as error:
            raise Refused(503, f"the connection cannot be judged, so it is not made: {error.message}") from None
        admission = await egress.admit(self._instance, verdict)
        row = admission.row
        if verdict.by is not None:
            return Inspected(egress, self._instance, admission)
        began = egress.clock.monotonic()
        try:
            if verdict.problem:
                raise Unreachable(verdict.problem)
            sock = await connect(verdict.addresses, place.port, egress.patience.connect)
        except Unreachable as error:
            ms = (egress.clock.monotonic() - began) * 1000
            await egress.finish(row, reason=f"{verdict.reason}; {error}", ms=ms)
            await admission.holding.aclose()
            raise Refused(502, f"{place} is allowed, but was not reached: {error}") from None
        address = str(sock.getpeername()[0])
        return Plain(egress, self._instance, admission, address, await asyncio.open_connection(sock=sock, limit=PIECE))


class _Guest:
    """What is counted of one instance, while the daemon runs."""

    def __init__(self, bounds: Bounds, clock: Clock) -> None:
        self.open = 0
        self.resolving = asyncio.Semaphore(4)
        self.connections = _Turns(bounds.rush, bounds.per_second, clock)
        self.requests = _Turns(bounds.requests_rush, bounds.requests_per_second, clock)


class _Turns:
    """So many in a rush, and so many in the long run."""

    def __init__(self, rush: int, per_second: float, clock: Clock) -> None:
        self._rush = float(rush)
        self._per_second = per_second
        self._clock = clock
        self._room = float(rush)
        self._at = clock.monotonic()

    async def next(self) -> None:
        """Return when there may be another."""
        now = self._clock.monotonic()
        self._room = min(self._rush, self._room + (now - self._at) * self._per_second) - 1
        self._at = now
        if self._room < 0:
            await self._clock.sleep(-self._room / self._per_second)


_COLUMNS: Final = tuple("id ts instance host port address allowed reason sent received ms method path status".split())


def _forwarded(to: Any) -> Place:
    """The loopback place that a connection inside was made to. Raises Malformed."""
    place = read_place(to if isinstance(to, str) else "")
    if place.address is None or not place.address.is_loopback:
        raise Malformed(f"{place} is not on the loopback")
    return place
