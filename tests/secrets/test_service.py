"""Who may use a secret, and where; what its use leaves behind; what is put on record."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aegis.core.clock import ManualClock
from aegis.core.errors import AegisError, ErrorKind
from aegis.core.events import Text, TextDelta, ToolResult
from aegis.core.principals import Principal, PrincipalKind
from aegis.services.agents import memory
from aegis.services.gate import Gate
from aegis.services.secrets import Binding, Holder, Secrets
from aegis.store import Store, Tx
from aegis.vaults.local import LocalVault

ME = Principal(PrincipalKind.PERSON, "me")
KEY = "sk-canary-77aa55cc33ee"


class World:
    def __init__(self, store: Store, home: Path) -> None:
        self.store = store
        self.gate = Gate(store, ManualClock())
        self.vault = LocalVault(store, home, clock=ManualClock())
        self.secrets = Secrets(self.vault, self.gate.pass_through, store=store, clock=ManualClock())
        self.secrets.gate = self.gate
        self.holders = {
            "i_a": Holder("a", "coder", "/p/one", frozenset({"KEY"})),
            "i_b": Holder("b", "tester", None, frozenset({"KEY"})),
            "i_c": Holder("c", "coder", None, frozenset()),
        }
        self.secrets.holder = self.holders.get
        self.gate.facts = lambda ident: (
            {"handle": self.holders[ident].handle, "agent": self.holders[ident].agent} if ident in self.holders else None
        )

    def uses(self) -> list[tuple[str, str, str]]:
        rows = self.gate.list(limit=1000)
        return [(row["principal"], row["decision"], row["data"]["host"]) for row in rows if row["action"] == "secret.use"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = await Store.open(tmp_path / "aegis.db", ManualClock())
    yield World(store, tmp_path)
    await store.close()


async def refused(world: World, instance: str, host: str = "api.example.com") -> AegisError:
    with pytest.raises(AegisError) as caught:
        await world.secrets.use("KEY", instance=instance, host=host)
    assert caught.value.kind is ErrorKind.DENIED
    assert KEY not in str(caught.value.to_dict())
    return caught.value


async def test_a_use_is_recorded_once_whatever_was_said(world: World) -> None:
    await world.secrets.set(ME, "KEY", KEY)
    assert await world.secrets.use("KEY", instance="i_a", host="api.example.com") == KEY
    assert "--secret KEY" in (await refused(world, "i_c")).hint
    await refused(world, "i_nobody")
    assert world.uses() == [
        ("instance:i_a", "allow", "api.example.com"),
        ("instance:i_c", "deny", "api.example.com"),
        ("instance:i_nobody", "deny", "api.example.com"),
    ]
    assert "was not started with the secret `KEY`" in world.gate.list(limit=1000)[-2]["reason"]
    await world.secrets.delete(ME, "KEY")
    with pytest.raises(AegisError) as caught:
        await world.secrets.use("KEY", instance="i_a", host="api.example.com")
    assert caught.value.kind is ErrorKind.NOT_FOUND


async def test_grants(world: World) -> None:
    await world.secrets.set(ME, "KEY", KEY)
    for ident in ("i_a", "i_b"):  # whatever declares it
        assert await world.secrets.use("KEY", instance=ident, host="h") == KEY
    await world.secrets.grant(ME, "KEY", "agent", "tester")
    assert await world.secrets.use("KEY", instance="i_b", host="h") == KEY
    error = await refused(world, "i_a")
    assert "aegis secret grant KEY --agent coder" in error.hint
    with pytest.raises(AegisError):
        await world.secrets.reveal_for_broker("KEY", "i_a")
    assert await world.secrets.reveal_for_broker("KEY", "i_b") == KEY
    assert await world.secrets.reveal_for_broker("KEY") == KEY  # no instance is known: the daemon's own use
    await world.secrets.grant(ME, "KEY", "project", "/p/one")
    assert await world.secrets.use("KEY", instance="i_a", host="h") == KEY
    await refused(world, "i_c")  # a grant gives nothing to whoever does not declare it
    details = await world.secrets.show(ME, "KEY")
    assert {(grant.kind, grant.target) for grant in details.grants} == {("agent", "tester"), ("project", "/p/one")}
    assert KEY not in str(details)
    for kind, target in (("agent", "tester"), ("project", "/p/one")):
        await world.secrets.revoke(ME, "KEY", kind, target)
    assert await world.secrets.use("KEY", instance="i_b", host="h") == KEY
    with pytest.raises(AegisError) as caught:
        await world.secrets.revoke(ME, "KEY", "agent", "tester")
    assert caught.value.kind is ErrorKind.NOT_FOUND
    for kind, target in (("agent", ""), ("agent", "a b"), ("agent", "a\nb"), ("project", "relative"), ("project", "/x\0")):
        with pytest.raises(AegisError) as caught:
            await world.secrets.grant(ME, "KEY", kind, target)
        assert caught.value.kind is ErrorKind.USAGE
    with pytest.raises(AegisError):
        await world.secrets.grant(ME, "OTHER", "agent", "x")


async def test_bound_hosts(world: World) -> None:
    await world.secrets.set(ME, "KEY", KEY, hosts=["API.example.com.", "*.z.org", "10.0.0.1"], header="Authorization: Bearer {}")
    for host in ("api.example.com", "API.EXAMPLE.COM", "api.example.com.", "a.z.org", "a.b.z.org", "10.0.0.1"):
        assert await world.secrets.use("KEY", instance="i_a", host=host) == KEY
        assert host in world.secrets.hosts_of("KEY")
    for host in ("example.com", "evil-api.example.com", "api.example.com.evil.org", "z.org", "evilz.org", "10.0.0.10", ""):
        error = await refused(world, "i_a", host)
        assert "--keep --host" in error.hint
        assert host not in world.secrets.hosts_of("KEY")
    assert world.secrets.binding("KEY") == Binding(("api.example.com", "*.z.org", "10.0.0.1"), "Authorization: Bearer {}")
    await world.secrets.set(ME, "KEY", KEY + "2")  # a new value keeps them
    await refused(world, "i_a", "example.com")
    await world.secrets.set(ME, "KEY", None, hosts=["example.com"])
    assert await world.secrets.use("KEY", instance="i_a", host="example.com") == KEY + "2"
    assert world.secrets.binding("KEY").header == "Authorization: Bearer {}"
    with pytest.raises(AegisError):
        await world.secrets.reveal_for_broker("KEY", "i_a", "api.example.com")
    await world.secrets.set(ME, "KEY", None, hosts=[], header="")
    assert world.secrets.binding("KEY") == Binding()
    assert "example.com" not in world.secrets.hosts_of("KEY")  # bound to none
    assert await world.secrets.use("KEY", instance="i_a", host="anything") == KEY + "2"  # a rule may name any


async def test_what_a_deleted_secret_was_granted_is_forgotten(world: World) -> None:
    await world.secrets.set(ME, "KEY", KEY, hosts=["a.b"])
    await world.secrets.grant(ME, "KEY", "agent", "tester")
    await world.secrets.delete(ME, "KEY")
    await world.secrets.set(ME, "KEY", KEY)
    details = await world.secrets.show(ME, "KEY")
    assert (details.grants, details.hosts, details.version) == ((), (), 1)


@pytest.mark.parametrize("host", ["", "http://a.b", "a b", "a.b:443", "a..b", "*", "*.", "a.*.b", "ä.de", "a\nb", "-", "a/b", "x" * 300])
async def test_hosts_that_are_none(world: World, host: str) -> None:
    with pytest.raises(AegisError) as caught:
        await world.secrets.set(ME, "KEY", KEY, hosts=[host])
    assert caught.value.kind is ErrorKind.USAGE
    assert await world.vault.get("KEY") is None  # nothing of it was done


@pytest.mark.parametrize(
    "header", ["x", "Authorization", "Authorization: ", "A: {} {}", "A B: {}", "A: {}\r\nB: c", ": {}", "{}: x", "A: {}é"]
)
async def test_headers_that_are_none(world: World, header: str) -> None:
    with pytest.raises(AegisError) as caught:
        await world.secrets.set(ME, "KEY", KEY, header=header)
    assert caught.value.kind is ErrorKind.USAGE


async def test_what_is_stored_is_known_at_once_and_what_was_stored_too(world: World) -> None:
    secrets = world.secrets
    await secrets.set(ME, "KEY", KEY)
    assert secrets.redactor.clean_text(KEY) == "[secret KEY]"
    await secrets.set(ME, "KEY", KEY[::-1])
    assert secrets.redactor.clean_text(f"{KEY} {KEY[::-1]}") == "[secret KEY] [secret KEY]"
    again = Secrets(world.vault, world.gate.pass_through, store=world.store)
    await again.open()
    assert again.redactor.clean_text(f"{KEY} {KEY[::-1]}") == "[secret KEY] [secret KEY]"
    await secrets.delete(ME, "KEY")
    assert secrets.redactor.clean_text(KEY) == KEY


async def test_no_record_holds_a_value(world: World) -> None:
    await world.secrets.set(ME, "KEY", KEY)
    world.store.cleaner, world.gate.audit.clean = world.secrets.redactor, world.secrets.redactor.clean

    def put(tx: Tx) -> None:
        tx.append(Text(f"it is {KEY}"), instance="i_a")
        tx.append(ToolResult("c", "bash", True, f"export K={KEY}"), instance="i_a")
        content = [
            {"type": "thinking", "text": f"hm {KEY}", "signature": "s1"},
            {"type": "thinking", "text": "hm", "signature": "s2"},
            {"type": "tool_result", "output": KEY},
        ]
        memory.append(tx, instance="i_a", session="s", turn="t", ts=0.0, message={"role": "user", "content": content})

    await world.store.write(put)
    world.store.emit(TextDelta(f"it is {KEY}"), instance="i_a")
    await world.gate.pass_through(ME, "mail.send", f"x {KEY}", text=KEY)
    told = [bytes(event.data).decode() for event in world.store.events().events]
    assert len(told) == 3
    (message,) = await memory.history(world.store, "i_a", "s")
    assert "signature" not in message["content"][0]  # it was for the whole thought
    assert message["content"][1]["signature"] == "s2"
    told += [str(message), str(world.gate.list())]
    for text in told:
        assert KEY not in text
        assert "[secret KEY]" in text
    found = await world.gate.audit.verify()
    assert found.ok
