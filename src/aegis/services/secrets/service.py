"""The verbs on secrets, and their use at the last moment."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.clock import Clock, SystemClock
from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.gate.model import Effect, Facet
from aegis.services.secrets.grants import Binding, Grant, Grants, Hosts, Kind, check_binding
from aegis.services.secrets.redaction import Redactor

if TYPE_CHECKING:
    from aegis.services.gate import Gate
    from aegis.store import Store
    from aegis.vaults import SecretInfo, Vault, VersionInfo

#: The largest value, in bytes of UTF-8.
MAX_VALUE: Final = 64 * 1024
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_AGENT: Final = re.compile(r"[^\s/\x00-\x1f\x7f]{1,64}")

#: `(principal, action, resource)`; raises AegisError(DENIED). Actions: `secret.set`, `secret.list`, `secret.delete`, `secret.grant`,
#: `secret.revoke`, `secret.rotate`.
Authorize = Callable[[Principal, str, str], Awaitable[None]]


class Holder(msgspec.Struct, frozen=True):
    """What is known of an instance that is to use a secret: its definition, its project, the secrets that it was launched with."""

    handle: str
    agent: str
    project: str | None
    secrets: frozenset[str]


class SecretDetails(msgspec.Struct, frozen=True):
    """All that may be shown of a secret, and never its value. Times are wall time in seconds."""

    name: str
    created_at: float
    updated_at: float
    version: int
    hosts: tuple[str, ...]
    header: str | None
    grants: tuple[Grant, ...]


class Secrets:
    """The verbs on secrets. Without a `store` there are values alone: no grants, and no hosts they are bound to."""

    def __init__(self, vault: Vault, authorize: Authorize, *, store: Store | None = None, clock: Clock | None = None) -> None:
        self._vault = vault
        self._authorize = authorize
        self._grants = Grants(store) if store is not None else None
        self._clock = clock or SystemClock()
        #: Finds every stored value in what is put on record.
        self.redactor = Redactor()
        #: Where uses are decided and recorded; set by the wiring.
        self.gate: Gate | None = None
        #: What is known of an instance, by id; None when there is none. Set by the wiring.
        self.holder: Callable[[str], Holder | None] = lambda _instance: None

    async def open(self) -> None:
        """Know the values that are stored. One that cannot be opened is not known, and does not keep the daemon from starting."""
        if not await self._vault.list():
            self.redactor.know(())
            return
        self.redactor.know(await self._vault.values())

    async def set(
        self, principal: Principal, name: str, value: str | None, *, hosts: list[str] | None = None, header: str | None = None
    ) -> SecretInfo:
        """Store a value under `name`, replacing an earlier one, which is kept as a version. Without a value only the rest changes.

        `hosts` are those that it may be sent to from now on, `header` is how; neither changes when both are None. Raises AegisError USAGE,
        TOO_LARGE, NOT_FOUND or DENIED.
        """
        check_name(name)
        if value is not None:
            _check_value(name, value)
        elif hosts is None and header is None:
            raise AegisError(ErrorKind.USAGE, f"neither a value nor hosts for `{name}`", f"`aegis secret set {name}` asks for the value")
        binding = None
        if hosts is not None or header is not None:
            before = self.binding(name)
            binding = check_binding(list(before.hosts) if hosts is None else hosts, before.header if header is None else header or None)
        await self._authorize(principal, "secret.set", name)
        if value is None:
            info = await self._known(name)
        if binding is not None and self._grants is not None:
            await self._grants.bind(name, binding)  # before the value, which must not be sent where it may not for a moment
        if value is not None:
            info = await self._vault.set(name, value)
            await self.open()
        return info

    async def list(self, principal: Principal) -> list[SecretInfo]:
        """Names, times and versions; never values."""
        await self._authorize(principal, "secret.list", "*")
        return await self._vault.list()

    async def show(self, principal: Principal, name: str) -> SecretDetails:
        """All about one but its value. Raises AegisError NOT_FOUND with the nearest name, or DENIED."""
        check_name(name)
        await self._authorize(principal, "secret.list", name)
        info, binding = await self._known(name), self.binding(name)
        grants = self._grants.of(name) if self._grants is not None else ()
        return SecretDetails(name, info.created_at, info.updated_at, info.version, binding.hosts, binding.header, grants)

    async def delete(self, principal: Principal, name: str) -> None:
        """Remove `name`, its versions, grants and hosts. Raises AegisError NOT_FOUND with the nearest name, or DENIED."""
        check_name(name)
        await self._authorize(principal, "secret.delete", name)
        if not await self._vault.delete(name):
            raise self._unknown(name, await self._vault.list())
        if self._grants is not None:
            await self._grants.forget(name)
        await self.open()

    async def versions(self, principal: Principal, name: str) -> Sequence[VersionInfo]:
        """The values it has and had, newest first, without the values. Raises NOT_FOUND or DENIED."""
        check_name(name)
        await self._authorize(principal, "secret.list", name)
        await self._known(name)
        return await self._vault.versions(name)

    async def rollback(self, principal: Principal, name: str, version: int) -> SecretInfo:
        """Make an earlier value the present one again. Raises NOT_FOUND, also for a version that is not kept, or DENIED."""
        check_name(name)
        await self._authorize(principal, "secret.set", name)
        await self._known(name)
        info = await self._vault.rollback(name, version)
        if info is None:
            raise AegisError(
                ErrorKind.NOT_FOUND,
                f"`{name}` has no earlier version {version}",
                f"`aegis secret versions {name}` shows those that are kept",
            )
        return info

    async def rotate_key(self, principal: Principal) -> int:
        """Protect every value by a new master key; how many there were. Raises DENIED, or UNAVAILABLE when one cannot be opened."""
        await self._authorize(principal, "secret.rotate", "*")
        return await self._vault.rotate_key()

    async def grant(self, principal: Principal, name: str, kind: Kind, target: str) -> SecretDetails:
        """Let an agent or a project use it: from the first grant on nobody else may. Raises NOT_FOUND, USAGE or DENIED."""
        check_name(name)
        _check_target(kind, target)
        await self._authorize(principal, "secret.grant", name)
        await self._known(name)
        if self._grants is not None:
            await self._grants.add(name, kind, target, self._clock.now())
        return await self._details(name)

    async def revoke(self, principal: Principal, name: str, kind: Kind, target: str) -> SecretDetails:
        """Take a grant back. After the last one, whoever declares the secret may use it again. Raises NOT_FOUND or DENIED."""
        check_name(name)
        await self._authorize(principal, "secret.revoke", name)
        await self._known(name)
        if self._grants is None or not await self._grants.remove(name, kind, target):
            raise AegisError(
                ErrorKind.NOT_FOUND, f"`{name}` was not granted to {kind} `{target[:200]}`", f"`aegis secret show {name}` lists its grants"
            )
        return await self._details(name)

    def binding(self, name: str) -> Binding:
        """Where a secret may be sent, and in which header."""
        return self._grants.binding(name) if self._grants is not None else Binding()

    def hosts_of(self, name: str) -> Hosts:
        """The hosts that a secret is bound to."""
        return Hosts(self.binding(name).hosts)

    async def use(self, name: str, *, instance: str, host: str) -> str:
        """The value, to be sent to `host` for an instance at this moment. One audit row says that it was asked for, and what was said.

        Raises AegisError: DENIED when the instance does not have it, it is granted to others, or is bound to other hosts; NOT_FOUND when
        it is not stored; UNAVAILABLE when it cannot be opened.
        """
        assert self.gate is not None  # set by the wiring
        principal, effect = Principal(PrincipalKind.INSTANCE, instance), Effect(facets=(Facet(host=host),))
        refused = self.refused(name, instance, host)
        if refused is not None:
            decision = self.gate.decide(principal, "secret.use", name, effect=effect, host=host)
            await self.gate.record(msgspec.structs.replace(decision, allow=False, ask=False, reason=refused.message))
            raise refused
        await self.gate.record(await self.gate.check(principal, "secret.use", name, effect=effect, host=host))
        value = await self._vault.get(name)
        if value is None:
            raise AegisError(ErrorKind.NOT_FOUND, f"the secret `{name}` is not stored", f"`aegis secret set {name}`")
        return value

    async def reveal_for_broker(self, name: str, instance: str | None = None, host: str | None = None) -> str | None:
        """The value, for a broker that presents it outside every sandbox at this moment; None when there is none.

        Where it is known for which instance and to which host, the grants and the bound hosts hold. Raises DENIED.
        """
        if instance is not None and (refused := self.refused(name, instance, host, declared=False)) is not None:
            raise refused
        return await self._vault.get(name)

    async def reveal_for_server(self, name: str, instance: str | None, host: str) -> str | None:
        """As `reveal_for_broker`, for a tool server of an instance, or of a person's own calls, whom the bound hosts hold, too."""
        if instance is None and host and not (binding := self.binding(name)).allows(host):
            told = f"the secret `{name}` is bound to {', '.join(binding.hosts)}, and not to {host[:253]}"
            raise AegisError(ErrorKind.DENIED, told, f"`aegis secret show {name}`")
        return await self.reveal_for_broker(name, instance, host or None)

    def refused(self, name: str, instance: str, host: str | None, *, declared: bool = True) -> AegisError | None:
        """Why an instance, by id, may not use a secret at `host` (None: wherever it goes); None when it may. `declared`: it must have been
        started with it."""
        holder = self.holder(instance)
        if holder is None:
            return None if not declared else AegisError(ErrorKind.DENIED, f"there is no instance `{instance[:80]}`")
        if declared and name not in holder.secrets:
            return AegisError(
                ErrorKind.DENIED,
                f"`{holder.handle}` was not started with the secret `{name}`",
                f"declare `secrets: [{name}]` for its agent, or start it with `--secret {name}`",
            )
        grants = self._grants.of(name) if self._grants is not None else ()
        if grants and not any(grant.target == (holder.agent if grant.kind == "agent" else holder.project) for grant in grants):
            return AegisError(
                ErrorKind.DENIED,
                f"the secret `{name}` is granted to others than `{holder.handle}`, of agent `{holder.agent}`",
                f"`aegis secret grant {name} --agent {holder.agent}` grants it; `aegis secret show {name}` lists its grants",
            )
        if host is not None and not (binding := self.binding(name)).allows(host):
            return AegisError(
                ErrorKind.DENIED,
                f"the secret `{name}` is bound to {', '.join(binding.hosts)}, and not to {host[:253]}",
                f"`aegis secret set {name} --keep --host {binding.hosts[0]} --host {host[:253]}` binds it to both",
            )
        return None

    async def _details(self, name: str) -> SecretDetails:
        info, binding = await self._known(name), self.binding(name)
        grants = self._grants.of(name) if self._grants is not None else ()
        return SecretDetails(name, info.created_at, info.updated_at, info.version, binding.hosts, binding.header, grants)

    async def _known(self, name: str) -> SecretInfo:
        found = await self._vault.list()
        for info in found:
            if info.name == name:
                return info
        raise self._unknown(name, found)

    @staticmethod
    def _unknown(name: str, known: Sequence[SecretInfo]) -> AegisError:
        return unknown_name("secret", name, [info.name for info in known], "`aegis secret list` shows them")


def check_name(name: str) -> str:
    """Return `name` if it may name a secret, else raise a USAGE error."""
    if not _NAME.fullmatch(name):
        raise AegisError(
            ErrorKind.USAGE, f"{name[:60]!r} cannot name a secret", "use 1 to 128 ASCII letters, digits and `_`, not beginning with a digit"
        )
    return name


def _check_target(kind: str, target: str) -> None:
    if kind == "agent" and not _AGENT.fullmatch(target):
        raise AegisError(ErrorKind.USAGE, f"{target[:80]!r} cannot name an agent", "`aegis agent list` shows them")
    if kind == "project" and (not target.startswith("/") or "\0" in target or len(target) > 4096):
        raise AegisError(ErrorKind.USAGE, f"{target[:80]!r} is not the absolute path of a directory", "name the directory of the project")


def _check_value(name: str, value: str) -> None:
    """Refuse a value that could not be stored or presented. The message never repeats it."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise AegisError(ErrorKind.USAGE, f"the value of secret `{name}` is not valid text", "secrets are UTF-8 text") from None
    if not value or "\0" in value:
        problem = "is empty" if not value else "contains a NUL character"
        raise AegisError(
            ErrorKind.USAGE,
            f"the value of secret `{name}` {problem}",
            f"`aegis secret set {name}` reads it from the terminal or standard input",
        )
    if size > MAX_VALUE:
        raise AegisError(ErrorKind.TOO_LARGE, f"the value of secret `{name}` has {size} bytes", f"at most {MAX_VALUE} bytes are kept")
