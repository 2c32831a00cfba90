"""The wiring: the only place that knows every part and joins them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aegis.core.text import one_line
from aegis.daemon.budgets import Purses
from aegis.daemon.doctor import Doctor
from aegis.daemon.mcp.offering import family_of
from aegis.daemon.mcp.plane import Plane
from aegis.daemon.models import Models
from aegis.daemon.programs import gather
from aegis.models.catalogue import Catalogue
from aegis.sandboxes.bwrap import Bwrap
from aegis.sandboxes.process import ProcessKind
from aegis.services.agents import Agents, World
from aegis.services.agents.asking import answered_within, place_of
from aegis.services.agents.descending import Descending
from aegis.services.agents.facts import Facts
from aegis.services.agents.launching import Launching, declared
from aegis.services.agents.logins import Logins
from aegis.services.agents.records import passed_on
from aegis.services.agents.registry import Registry
from aegis.services.agents.spawning import Spawning
from aegis.services.approvals import Approvals, ApprovedRules
from aegis.services.attention import Attention, Notice
from aegis.services.attention.channels import Channels
from aegis.services.broker import check_recording
from aegis.services.budgets import Budgets
from aegis.services.config import Config
from aegis.services.egress import Egress, Packages
from aegis.services.gate import Gate
from aegis.services.gate.policies import rule_lines
from aegis.services.guarding import Guarding
from aegis.services.limits import ProviderLimits
from aegis.services.mail import Mail
from aegis.services.secrets import Holder, Secrets
from aegis.services.tools.builtin import built_in
from aegis.services.tools.declared import Declared
from aegis.services.tools.pinning import Pins
from aegis.services.tools.registry import Tools
from aegis.services.tools.servers import Ground, Servers
from aegis.store import Store, Timer, Timers
from aegis.vaults.local import LocalVault

if TYPE_CHECKING:
    from aegis.core.clock import Clock
    from aegis.sandboxes import SandboxKind
    from aegis.sandboxes.link import Program
    from aegis.services.agents import Instance

_EXPIRY = "mail.expiry"


@dataclass(kw_only=True)
class House:
    """Every part of a running daemon."""

    home: Path
    clock: Clock
    store: Store
    gate: Gate
    mail: Mail
    registry: Registry
    agents: Agents
    launching: Launching
    spawning: Spawning
    descending: Descending
    approvals: Approvals
    limits: ProviderLimits
    budgets: Budgets
    egress: Egress
    secrets: Secrets
    config: Config
    models: Models
    plane: Plane
    tools: Tools
    doctor: Doctor
    timers: Timers
    attention: Attention
    guarding: Guarding
    started_at: float
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    listens: list[str] = field(default_factory=list)
    #: Programs that wait for their standard input, by exec id.
    programs: dict[str, Program] = field(default_factory=dict)
    pid: int = field(default_factory=os.getpid)

    async def close(self) -> None:
        """End everything in the order that loses nothing: sandboxes, model calls, the store."""
        await self.agents.close()
        await self.tools.close()
        await self.guarding.close()
        await self.egress.close()
        await self.models.close()
        await self.budgets.close()
        await self.gate.audit.close()
        await self.store.close()


async def build(home: Path, clock: Clock) -> House:
    """Open the home and join the parts; nothing has begun to work yet when this returns. Raises what `Store.open` raises."""
    store = await Store.open(home / "aegis.db", clock)
    try:
        house = _join(home, clock, store)
        await house.secrets.open()
        return house
    except BaseException:
        await store.close()
        raise


def _holder(instance: Instance | None) -> Holder | None:
    """What the use of a secret depends on."""
    if instance is None:
        return None
    launch = instance.launch
    return Holder(instance.handle, launch.agent, launch.project, frozenset((*launch.secrets, *launch.exposed)))


def _join(home: Path, clock: Clock, store: Store) -> House:
    gate = Gate(store, clock)
    mail = Mail(store, clock, gate)
    registry = Registry(store, clock)
    facts = Facts(registry)
    gate.relation, gate.facts = registry.relation, facts.of
    gate.judge.ancestors, gate.judge.family = facts.ancestors, family_of
    gate.policies.folder = home / "policies"
    timers = Timers(store, clock)
    approvals = Approvals(store, clock, gate, timers)
    egress = Egress(store, clock, gate, Packages(os.environ, clock, shared=registry.shared))
    vault = LocalVault(store, home, clock=clock)
    secrets = Secrets(vault, gate.pass_through, store=store, clock=clock)
    secrets.gate, secrets.holder = gate, lambda ident: _holder(registry.find(ident))
    store.cleaner, gate.audit.clean = secrets.redactor, secrets.redactor.clean
    egress.use, egress.hosts_of = secrets.use, secrets.hosts_of
    egress.header_of = lambda name: secrets.binding(name).header

    async def stored() -> set[str]:
        return {info.name for info in await vault.list()}

    foreign = gather(home, os.environ.get("PATH", os.defpath), lambda: config.load(None).programs, registry.shared)
    config = Config(store, clock, home, os.environ, foreign.drivers.keys)
    budgets = Budgets(store, clock)
    models = Models(store, clock, gate, secrets.reveal_for_broker, home, budgets)
    purses = Purses(config, registry, models, store)
    budgets.declared, budgets.lineage, budgets.free, budgets.handle_of = purses.declared, purses.lineage, purses.free, registry.handle_of
    limits = ProviderLimits(store, clock, timers)
    kinds: dict[str, SandboxKind] = {kind.name: kind for kind in (Bwrap(), ProcessKind())}
    doctor = Doctor(home, kinds, lambda: Catalogue(declared(config.load(None))), stored, foreign)
    logins = Logins(Path.home(), foreign.logins, registry)
    plane = Plane(gate, clock)
    ground = Ground(
        home=home,
        clock=clock,
        kinds=kinds,
        strongest=doctor.strongest,
        egress=egress,
        resolve=egress.resolve,
        reveal=secrets.reveal_for_server,
    )
    tools = Tools(store, clock, gate, Declared(store, clock, gate, config.load), Pins(store, clock), Servers(ground))
    tools.clean = secrets.redactor.clean_text
    guarding = Guarding(store, clock, gate, home)
    world = World(
        home=home,
        store=store,
        clock=clock,
        gate=gate,
        mail=mail,
        registry=registry,
        models=models,
        limits=limits,
        budgets=budgets,
        approvals=approvals,
        egress=egress,
        logins=logins,
        kinds=kinds,
        drivers=foreign.drivers,
        reveal=secrets.reveal_for_broker,
        plane=plane,
        guard=guarding,
    )
    gate.policies.projects, config.rule_lines = config.rules_of, rule_lines
    agents = Agents(world)
    agents.returning.verdicts, agents.returning.stored = doctor.verdicts, stored
    for source in built_in(
        holding=agents.holding,
        gate=gate,
        egress=egress,
        settings=lambda: config.load(None).web,
        reveal=secrets.reveal_for_broker,
        clock=clock,
    ):
        tools.register(source)
    attention = Attention(
        store,
        clock,
        gate,
        Channels(home, os.environ, registry.shared),
        settings=lambda: config.load(None).notify,
        find=registry.find,
        ancestors=registry.ancestors,
    )
    launching = Launching(
        home=home,
        definitions=config,
        kinds=kinds,
        strongest=doctor.strongest,
        stored=stored,
        drivers=foreign.drivers,
        logins=logins,
        check_recording=lambda path: check_recording(path, home),
    )

    async def hindered(instance: Instance, reason: str) -> None:
        text = one_line(f"{instance.handle} cannot go on: {reason}", 300)
        await attention.add(
            Notice(kind="needs-you", instance=instance.id, cause=reason, handle=instance.handle, text=text, since=clock.now())
        )

    async def expire(timer: Timer) -> None:
        data: dict[str, Any] = timer.data
        await store.write(lambda tx: mail.expire(tx, timer.key, instance=data["instance"], session=data["session"]))

    async def limited(instance: str, provider: str, resets_at: float | None, message: str) -> None:
        await limits.hit(provider, until=resets_at, reason=one_line(message, 400))

    launching.require_context = gate.policies.require_context
    agents.returning.on_hindered = hindered
    mail.on_accepted = agents.deliver
    mail.require = registry.require
    mail.admit_images, mail.admit, mail.take_in = agents.admit_images, agents.admit, agents.take_in
    mail.passed_on, mail.handle_of = passed_on, registry.handle_of
    limits.users, limits.on_held, limits.on_free = agents.using, agents.held, agents.freed
    budgets.on_free, models.sessions_of = agents.budgets_freed, agents.busy_sessions
    models.may_use = lambda name, ident, host: secrets.refused(name, ident, host, declared=False)
    models.held, models.on_limit, models.on_failing = limits.held, limited, agents.retrying
    approvals.on_change, approvals.turn_of = agents.look, agents.turn_of
    approvals.rules = ApprovedRules(
        home / "policies", gate.facts, lambda ident: place_of(registry.get(ident).launch)[1], gate.policies.refresh
    )
    approvals.terms = lambda instance: answered_within(registry.find(instance))
    gate.ask = approvals.for_effect
    mail.set_expiry = lambda tx, envelope: timers.set(
        tx, _EXPIRY, envelope.id, envelope.expires or 0.0, {"instance": envelope.instance, "session": envelope.session}
    )
    timers.on(_EXPIRY, expire)
    house = House(
        home=home,
        clock=clock,
        store=store,
        gate=gate,
        mail=mail,
        registry=registry,
        agents=agents,
        launching=launching,
        spawning=Spawning(world, agents, launching),
        descending=Descending(world, agents),
        approvals=approvals,
        limits=limits,
        budgets=budgets,
        egress=egress,
        secrets=secrets,
        config=config,
        models=models,
        plane=plane,
        tools=tools,
        doctor=doctor,
        timers=timers,
        attention=attention,
        guarding=guarding,
        started_at=clock.now(),
    )
    plane.house = house
    return house
