"""The synchronous client: one method for each thing the daemon can be asked, grouped by noun.

`Client` does not start the daemon (see `launch`). Answers are the dictionaries of `shapes`; streams are `transport.Stream`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from aegis.client.budgets import Budgets
from aegis.client.held import HeldFiles
from aegis.client.shapes import (
    DEFAULT_SESSION,
    Action,
    ApprovalInfo,
    EventPage,
    FramePage,
    ImageSpec,
    InstanceInfo,
    InstanceRequest,
    Letter,
    Mail,
    Receipt,
    RuleProposal,
    SecretInfo,
    Session,
    Stats,
    Transcript,
    Trust,
    Usage,
)  # fmt: skip
from aegis.client.tools import Tools
from aegis.client.transport import Stream, Transport, path_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

#: The longest a single poll may wait at the daemon, in seconds.
MAX_WAIT = 30.0
PAGE = 1000


class Started(NamedTuple):
    """A started instance; `created` is False when an existing one was started again."""

    instance: InstanceInfo
    created: bool


class Client:
    """The daemon behind the socket `path`, which lies in its home."""

    def __init__(self, path: Path) -> None:
        self.home = path.parent
        self._transport = Transport(path)
        self.instances = Instances(self._transport)
        self.mail = Mailbox(self._transport)
        self.sessions = Sessions(self._transport)
        self.approvals = Approvals(self._transport)
        self.secrets = Secrets(self._transport)
        self.config = Config(self._transport)
        self.policies = Policies(self._transport)
        self.tools = Tools(self._transport)
        self.attention = Attention(self._transport)
        self.budgets = Budgets(self._transport)
        self.held = HeldFiles(self._transport)

    def status(self, timeout: float = 10.0, *, restored: bool = False) -> dict[str, Any]:
        """What the daemon says of itself; with `restored` also every instance as it came back when the daemon started."""
        return cast("dict[str, Any]", self._transport.call("GET", "/v1/status", query={"restored": restored}, timeout=timeout).body)

    def shutdown(self) -> None:
        """Ask the daemon to end. Returns when it has heard, not when it has ended."""
        self._transport.call("POST", "/v1/shutdown", {})

    def backup(self, target: Path) -> dict[str, Any]:
        """Write a copy of the database as it is now to `target`, an absolute path where nothing is yet."""
        return cast("dict[str, Any]", self._transport.call("POST", "/v1/backup", {"target": os.fspath(target)}, timeout=3600.0).body)

    def doctor(self, *, sandbox: str | None = None, store: bool = False) -> dict[str, Any]:
        """The daemon's examination of this machine; takes a while with a sandbox or the store."""
        answer = self._transport.call("GET", "/v1/doctor", query={"sandbox": sandbox, "store": store}, timeout=600.0)
        return cast("dict[str, Any]", answer.body)

    def events(
        self,
        after: int,
        *,
        instance: str | None = None,
        session: str | None = None,
        types: Sequence[str] = (),
        limit: int = PAGE,
        before: int | None = None,
    ) -> EventPage:
        """One page of events after the cursor `after`, oldest first; with `before` the newest of those before that number."""
        query = {"after": after, "before": before, "limit": limit, **_place(instance, session, types)}
        return cast("EventPage", self._transport.call("GET", "/v1/events", query=query).body)

    def follow_events(
        self,
        after: int,
        *,
        instance: str | None = None,
        session: str | None = None,
        types: Sequence[str] = (),
        deadline: float | None = None,
    ) -> Stream:
        """Events after the cursor `after` as they happen, without end or up to a deadline on the monotonic clock."""
        query = {"after": after, "follow": True, **_place(instance, session, types)}
        return self._transport.stream("GET", "/v1/events", query=query, deadline=deadline)

    def audit(self, after: int = 0, limit: int = PAGE, *, newest: bool = False, **only: str | None) -> list[dict[str, Any]]:
        """Records of the audit log after the cursor `after`, oldest first: the oldest, or the newest.

        `only` are `principal`, `action`, `decision` and `since`, as the daemon takes them.
        """
        answer = self._transport.call("GET", "/v1/audit", query={"after": after, "limit": limit, "newest": newest, **only})
        return cast("list[dict[str, Any]]", answer.body["records"])

    def follow_audit(self, after: int, **only: str | None) -> Stream:
        """Records of the audit log after the cursor `after` as they come, without end."""
        return self._transport.stream("GET", "/v1/audit", query={"after": after, "follow": True, **only})

    def audit_record(self, ident: int) -> dict[str, Any]:
        """One record of the audit log."""
        return cast("dict[str, Any]", self._transport.call("GET", path_of("audit", str(ident))).body)

    def audit_verify(self) -> dict[str, Any]:
        """What the daemon finds when it reads the whole audit log; see `aegis.core.audit.Finding`."""
        return cast("dict[str, Any]", self._transport.call("GET", "/v1/audit/verify", timeout=3600.0).body)

    def audit_export(self) -> Stream:
        """The whole audit log as it is now, line by line; see `docs/audit.md`."""
        return self._transport.stream("GET", "/v1/audit/export")

    def egress(self, instance: str | None = None, *, after: int = 0, limit: int = 100) -> dict[str, Any]:
        """Connections that were asked for: `connections`, with an id over `after` or else the newest, and `warnings`."""
        query = {"instance": instance, "after": after, "limit": limit}
        return cast("dict[str, Any]", self._transport.call("GET", "/v1/egress", query=query).body)

    def egress_check(self, instance: str, place: str, method: str | None = None) -> dict[str, Any]:
        """What would be said to a connection of an instance to `place`, a `HOST:PORT`, or to a request for a URL, and why."""
        query = {"instance": instance, "place": place, "method": method}
        return cast("dict[str, Any]", self._transport.call("GET", "/v1/egress/check", query=query, timeout=60.0).body)

    def agents(self, project: Path | None) -> list[dict[str, Any]]:
        """The definitions of agents in force for a project."""
        return cast("list[dict[str, Any]]", self._transport.call("GET", "/v1/agents", query={"project": _text(project)}).body)

    def agent(self, name: str, project: Path | None) -> dict[str, Any]:
        """One definition."""
        answer = self._transport.call("GET", path_of("agents", name), query={"project": _text(project)})
        return cast("dict[str, Any]", answer.body)


class Instances:
    """Live agents and what runs in them. `h` is a handle or an id."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def start(self, spec: InstanceRequest) -> Started:
        """Start a new instance, or the stopped one that has this handle."""
        answer = self._transport.call("POST", "/v1/instances", cast("Mapping[str, Any]", spec))
        return Started(cast("InstanceInfo", answer.body), created=answer.status == 201)

    def all(self, state: str | None = None, timeout: float = 30.0) -> list[InstanceInfo]:
        """All instances, or those in one state."""
        answer = self._transport.call("GET", "/v1/instances", query={"state": state}, timeout=timeout)
        return cast("list[InstanceInfo]", answer.body)

    def get(self, h: str) -> InstanceInfo:
        """One instance."""
        return cast("InstanceInfo", self._transport.call("GET", path_of("instances", h)).body)

    def act(self, h: str, action: Action) -> InstanceInfo:
        """Start, pause, resume, restart or disable; returns the instance afterwards."""
        return cast("InstanceInfo", self._transport.call("POST", path_of("instances", h, action), {}).body)

    def delete(self, h: str) -> list[str]:
        """Stop it and all below it, and forget all they kept; returns the handles of those that went with it."""
        return list((self._transport.call("DELETE", path_of("instances", h)).body or {}).get("also") or [])

    def tree(self, root: str | None = None) -> list[dict[str, Any]]:
        """Who spawned whom, parents before their children: every instance, or one and all below it."""
        return cast("list[dict[str, Any]]", self._transport.call("GET", "/v1/tree", query={"root": root}).body)

    def stats(self, h: str) -> Stats:
        """What it uses now."""
        return cast("Stats", self._transport.call("GET", path_of("instances", h, "stats")).body)

    def logs(self, h: str, *, follow: bool = False, tail: int | None = None, since: str | None = None) -> Stream:
        """What its programs wrote. `since` is RFC 3339."""
        query = {"follow": follow, "tail": tail, "since": since}
        return self._transport.stream("GET", path_of("instances", h, "logs"), query=query)

    def exec(
        self, h: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None, stdin: bool = False
    ) -> Stream:
        """Run a program in its sandbox: first `exec_id`, then raw output as `{s, d}`, last `exit_code`. Closing kills it."""
        body: dict[str, Any] = {"command": list(argv), "raw": True, "stdin": stdin}
        if env:
            body["env"] = dict(env)
        if cwd is not None:
            body["cwd"] = cwd
        return self._transport.stream("POST", path_of("instances", h, "exec"), body)

    def feed(self, h: str, exec_id: str, chunks: Iterable[bytes]) -> None:
        """Send the standard input of a running program, to its end."""
        self._transport.upload(path_of("instances", h, "exec", exec_id, "stdin"), chunks)


class Mailbox:
    """Messages to instances, and what comes back."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def send(
        self,
        h: str,
        text: str,
        *,
        session: Session = DEFAULT_SESSION,
        msg_id: str | None = None,
        interrupt: bool = False,
        images: Sequence[ImageSpec] = (),
        expires: float | None = None,
        hold: bool = False,
        report_to: str | None = None,
    ) -> Receipt:
        """Send a message; when this returns it is on disk. The same `msg_id` again changes nothing.

        It fails when nobody took it up within `expires` seconds. With `hold` it waits for an instance that is disabled. The final text of
        its turn goes as mail to the instance `report_to`.
        """
        more: dict[str, Any] = {"expires_s": expires, "hold": hold or None, "report_to": report_to}
        frame = message_frame(text, session=session, msg_id=msg_id, interrupt=interrupt, images=images, **more)
        return cast("Receipt", self._transport.call("POST", path_of("instances", h, "tether"), frame).body)

    def cancel(self, h: str, session: Session = DEFAULT_SESSION) -> bool:
        """Cut the running turn of a session, or let one that waits for its provider try at once. False when there was none."""
        return bool(self._transport.call("POST", path_of("instances", h, "tether"), cancel_frame(session)).body.get("cancelled"))

    def poll(
        self,
        h: str,
        after: int,
        *,
        session: Session | None = DEFAULT_SESSION,
        wait: float = 0.0,
        types: Sequence[str] = (),
        limit: int | None = None,
    ) -> FramePage:
        """Frames after the cursor `after`, waiting up to `wait` seconds (at most `MAX_WAIT`) for the first."""
        query = poll_query(after, session=session, wait=wait, types=types, limit=limit)
        answer = self._transport.call("GET", path_of("instances", h, "tether", "poll"), query=query, timeout=wait + 30.0)
        return cast("FramePage", answer.body)

    def stream(self, h: str, after: int, session: Session | None = DEFAULT_SESSION, *, deadline: float | None = None) -> Stream:
        """Frames after the cursor `after` as they happen, without end or up to a deadline on the monotonic clock."""
        query = {"after_seq": after, **session_query(session)}
        return self._transport.stream("GET", path_of("instances", h, "tether", "stream"), query=query, deadline=deadline)

    def transcript(self, h: str, session: Session = DEFAULT_SESSION) -> Transcript:
        """The whole recorded conversation of a session."""
        path, key = path_of("instances", h, "transcript"), ":".join(session)
        whole = cast("Transcript", self._transport.call("GET", path, query={"session": key}).body)
        while (cursor := whole.get("next")) is not None:
            page = cast("Transcript", self._transport.call("GET", path, query={"session": key, "after": cursor}).body)
            whole["messages"] += page["messages"]
            whole["next"] = page.get("next") if page["messages"] else None
        return whole

    def all(self, h: str | None = None, *, dead: bool = False, limit: int = 100, before: int | None = None) -> list[Mail]:
        """The newest messages to an instance, or to all, and how far each came; oldest first. `dead`: those that failed or expired.

        `before` is the `seq` of one: those before it.
        """
        path = path_of("mail") if h is None else path_of("instances", h, "mail")
        return cast("list[Mail]", self._transport.call("GET", path, query={"dead": dead, "limit": limit, "before_seq": before}).body)

    def get(self, ident: str) -> Mail:
        """One message with its whole text and its times, by its id or at least four characters of the end of that."""
        return cast("Mail", self._transport.call("GET", path_of("mail", ident)).body)

    def retry(self, ident: str, *, hold: bool = False) -> Mail:
        """Let a message that failed or expired wait again; with `hold` also for an instance that is disabled."""
        return cast("Mail", self._transport.call("POST", path_of("mail", ident, "retry"), {"hold": hold}).body)

    def drop(self, ident: str) -> Mail:
        """End a message that waits. Raises CONFLICT for another."""
        return cast("Mail", self._transport.call("POST", path_of("mail", ident, "drop"), {}).body)

    def send_all(self, letters: Sequence[Letter]) -> list[dict[str, Any]]:
        """Send many messages in one request, to any instances: for each its receipt, or `error`, `kind` and `hint`; in the same order."""
        body = cast("Any", list(letters))  # the one body that is a list
        answer = self._transport.call("POST", path_of("mail", "batch"), body, timeout=300.0)
        return cast("list[dict[str, Any]]", answer.body)


class Sessions:
    """The conversations of an instance: what they run with, copies of them, what they used."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def configure(
        self, h: str, session: Session = DEFAULT_SESSION, *, model: str | None = None, mode: str | None = None, effort: str | None = None
    ) -> InstanceInfo:
        """Change what a session runs with from the next model call on; returns the instance afterwards."""
        body = {name: value for name, value in (("model", model), ("mode", mode), ("effort", effort)) if value is not None}
        return cast("InstanceInfo", self._transport.call("POST", session_path(h, session, "settings"), body).body)

    def fork(self, h: str, session: Session, to: Session) -> InstanceInfo:
        """Begin the session `to` as a copy of another; both go on apart. Returns the instance afterwards."""
        return cast("InstanceInfo", self._transport.call("POST", session_path(h, session, "fork"), {"to": ":".join(to)}).body)

    def usage(self, h: str, session: Session | None = None, turn: str | None = None) -> Usage:
        """Tokens, money, tools and time of an instance, of one of its sessions, or of one turn."""
        query = {"session": ":".join(session) if session else None, "turn": turn}
        return cast("Usage", self._transport.call("GET", path_of("instances", h, "usage"), query=query).body)


class Approvals:
    """What agents ask leave for."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, state: str | None = "pending", *, instance: str | None = None, limit: int = PAGE) -> list[ApprovalInfo]:
        """The newest requests in one state, or in all with None, oldest first."""
        query = {"state": state or "all", "instance": instance, "limit": limit}
        return cast("list[ApprovalInfo]", self._transport.call("GET", "/v1/approvals", query=query).body)

    def get(self, ident: str) -> ApprovalInfo:
        """One request, by its whole id."""
        return cast("ApprovalInfo", self._transport.call("GET", path_of("approvals", ident)).body)

    def decide(
        self, ident: str, approve: bool, *, reason: str = "", input: Mapping[str, Any] | None = None, scope: str = "once", rule: str = ""
    ) -> ApprovalInfo:
        """Answer one. `input` takes the place of the tool's. Raises CONFLICT when it was answered or withdrawn before.

        `scope` is how far a yes goes: `once`; `session`, the same call again in this session; `rule`, with the text of `rule()` written.
        """
        body = {"approve": approve, "reason": reason, "input": input, "scope": scope, "rule": rule}
        return cast("ApprovalInfo", self._transport.call("POST", path_of("approvals", ident), body).body)

    def rule(self, ident: str) -> RuleProposal:
        """The rule that a yes with scope `rule` would write. Raises USAGE where no rule is narrow enough."""
        return cast("RuleProposal", self._transport.call("GET", path_of("approvals", ident, "rule")).body)

    def escalate(self, ident: str, *, seconds: float | None = None, reason: str = "") -> ApprovalInfo:
        """Have people told of one again; with `seconds` it waits that much longer from now, at least."""
        body = {"seconds": seconds, "reason": reason}
        return cast("ApprovalInfo", self._transport.call("POST", path_of("approvals", ident, "escalate"), body).body)


class Attention:
    """What the owner was told of, and how."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, limit: int = 100) -> list[dict[str, Any]]:
        """The newest notices, oldest first."""
        return cast("list[dict[str, Any]]", self._transport.call("GET", path_of("attention"), query={"limit": limit}).body)

    def test(self, kind: str) -> dict[str, Any]:
        """Give a notice of that kind to every channel that is on; how each took it."""
        return cast("dict[str, Any]", self._transport.call("POST", path_of("attention", "test"), {"kind": kind}).body)


class Secrets:
    """Names of secrets; their values go in and never come out."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def set(self, name: str, value: str | None, *, hosts: Sequence[str] | None = None, header: str | None = None) -> SecretInfo:
        """Store a value under a name, replacing an earlier one, or keep it with None. `hosts` are those that it may be sent to from now
        on, `header` is how it goes there; None changes neither."""
        given = {"value": value, "hosts": None if hosts is None else list(hosts), "header": header}
        body = {key: each for key, each in given.items() if each is not None}
        return cast("SecretInfo", self._transport.call("PUT", path_of("secrets", name), body).body)

    def show(self, name: str) -> dict[str, Any]:
        """All about one but its value: times, version, `hosts`, `header`, `grants`."""
        return cast("dict[str, Any]", self._transport.call("GET", path_of("secrets", name)).body)

    def versions(self, name: str) -> list[dict[str, Any]]:
        """The values it has and had, newest first, without the values."""
        return cast("list[dict[str, Any]]", self._transport.call("GET", path_of("secrets", name, "versions")).body)

    def rollback(self, name: str, version: int) -> SecretInfo:
        """Make an earlier value the present one again."""
        return cast("SecretInfo", self._transport.call("POST", path_of("secrets", name, "rollback"), {"version": version}).body)

    def grant(self, name: str, kind: str, target: str, *, revoke: bool = False) -> dict[str, Any]:
        """Let the agents of a definition (`agent`) or of a directory (`project`) use it, or with `revoke` not any more."""
        path = path_of("secrets", name, "grants", *(["revoke"] if revoke else []))
        return cast("dict[str, Any]", self._transport.call("POST", path, {"kind": kind, "target": target}).body)

    def rotate_key(self) -> int:
        """Protect every value by a new master key; how many there were."""
        return int(self._transport.call("POST", path_of("secrets", "rotate-key"), {}).body["values"])

    def all(self) -> list[SecretInfo]:
        """All names."""
        return cast("list[SecretInfo]", self._transport.call("GET", "/v1/secrets").body)

    def delete(self, name: str) -> None:
        """Forget a secret."""
        self._transport.call("DELETE", path_of("secrets", name))


class Policies:
    """The rules in force, and what they or others would say."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, project: Path | None = None) -> dict[str, Any]:
        """The rules in force, the security contexts, and what is wrong with their files."""
        return cast("dict[str, Any]", self._transport.call("GET", "/v1/policies", query={"project": _text(project)}).body)

    def show(self, ident: str, project: Path | None = None) -> Sequence[dict[str, Any]]:
        """The rules of a name. Raises NOT_FOUND."""
        answer = self._transport.call("GET", path_of("policies", ident), query={"project": _text(project)})
        return cast("Sequence[dict[str, Any]]", answer.body)

    def schema(self) -> dict[str, str]:
        """The texts `schema` and `built_in`."""
        return cast("dict[str, str]", self._transport.call("GET", "/v1/policies/schema").body)

    def check(self, text: str, name: str) -> dict[str, Any]:
        """The rules that a text is. Raises USAGE with `place`."""
        body = {"text": text, "name": name}
        return cast("dict[str, Any]", self._transport.call("POST", "/v1/policies/check", body=body, timeout=120.0).body)

    def test(self, text: str, name: str) -> Sequence[dict[str, Any]]:
        """The cases of a file, each with `ok`."""
        body = {"text": text, "name": name}
        answer = self._transport.call("POST", "/v1/policies/test", body=body, timeout=120.0)
        return cast("Sequence[dict[str, Any]]", answer.body["cases"])

    def explain(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What the rules say to an action, and what would change it."""
        return cast("dict[str, Any]", self._transport.call("POST", "/v1/policies/explain", body=dict(question)).body)

    def simulate(self, since: float, text: str | None = None, name: str = "draft.cedar") -> dict[str, Any]:
        """What was asked since then, in wall seconds, and would be decided otherwise with the rules of `text`."""
        body = {"since": since, "text": text, "name": name}
        return cast("dict[str, Any]", self._transport.call("POST", "/v1/policies/simulate", body=body, timeout=300.0).body)

    def draft(self, since: float) -> dict[str, Any]:
        """The narrowest rules for what was denied since then, in wall seconds."""
        return cast("dict[str, Any]", self._transport.call("GET", "/v1/policies/draft", query={"since": since}, timeout=300.0).body)


class Config:
    """The configuration in force for a project, and the trust in its declarations."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def show(self, project: Path | None) -> list[dict[str, Any]]:
        """Every key with its value and source."""
        answer = self._transport.call("GET", "/v1/config", query={"project": _text(project)})
        return cast("list[dict[str, Any]]", answer.body["values"])

    def explain(self, key: str, project: Path | None) -> dict[str, Any]:
        """Where the value of one key comes from."""
        answer = self._transport.call("GET", "/v1/config/explain", query={"key": key, "project": _text(project)})
        return cast("dict[str, Any]", answer.body)

    def trust(self, project: Path) -> Trust:
        """Whether the project is trusted as it is now."""
        return cast("Trust", self._transport.call("GET", "/v1/config/trust", query={"project": _text(project)}).body)

    def grant(self, project: Path, digest: str) -> None:
        """Trust the project with exactly the content that has this hash."""
        self._transport.call("POST", "/v1/config/trust", {"project": _text(project), "hash": digest})

    def add_agent(self, name: str, values: Mapping[str, Any], project: Path | None) -> dict[str, Any]:
        """Declare an agent in the project's directory, or, without one, in the home; `values` by its keys."""
        body = {"name": name, "values": dict(values), "project": _text(project)}
        return cast("dict[str, Any]", self._transport.call("POST", "/v1/config/agents", body).body)

    def set_agent(self, name: str, values: Mapping[str, Any], project: Path | None) -> dict[str, Any]:
        """Change keys of a declared agent; None takes one away."""
        body = {"values": dict(values), "project": _text(project)}
        return cast("dict[str, Any]", self._transport.call("PATCH", path_of("config", "agents", name), body).body)

    def remove_agent(self, name: str, project: Path | None) -> dict[str, Any]:
        """Take the declaration of an agent away."""
        answer = self._transport.call("DELETE", path_of("config", "agents", name), query={"project": _text(project)})
        return cast("dict[str, Any]", answer.body)


def message_frame(
    text: str, *, session: Session, msg_id: str | None = None, interrupt: bool = False, images: Sequence[ImageSpec] = (), **more: Any
) -> dict[str, Any]:
    """The frame that carries a message into a session. `more` are further fields of its payload, without those that are None."""
    payload: dict[str, Any] = {"text": text, **{name: value for name, value in more.items() if value is not None}}
    if images:
        payload["images"] = [dict(image) for image in images]
    if interrupt:
        payload["interrupt"] = True
    frame: dict[str, Any] = {"v": 1, "type": "user.message", "session": _session(session), "payload": payload}
    if msg_id is not None:
        frame["msg_id"] = msg_id
    return frame


def session_path(h: str, session: Session, what: str) -> str:
    """The path of what can be asked of a session."""
    return path_of("instances", h, "sessions", ":".join(session), what)


def cancel_frame(session: Session) -> dict[str, Any]:
    """The frame that cuts the running turn of a session."""
    return {"v": 1, "type": "control.cancel", "session": _session(session), "payload": {}}


def answers(frame: Mapping[str, Any], message: str) -> bool:
    """Whether a frame is the end of the turn that answers a message. A turn that was cut short and goes on is not the end."""
    payload = frame["payload"]
    if frame["type"] != "assistant.done" or message not in payload["in_reply_to"]:
        return False
    return not (payload.get("error") or {}).get("will_continue")


def session_query(session: Session | None) -> dict[str, str | None]:
    """The query that picks one session, or all with None."""
    channel, ident = session or (None, None)
    return {"channel": channel, "session_id": ident}


def poll_query(after: int, *, session: Session | None, wait: float, types: Sequence[str], limit: int | None) -> dict[str, Any]:
    """The query of a poll."""
    wait_ms = int(min(max(wait, 0.0), MAX_WAIT) * 1000)
    return {"after_seq": after, "wait_ms": wait_ms or None, "types": ",".join(types) or None, "limit": limit, **session_query(session)}


def pages(client: Client, after: int, instance: str | None = None, session: str | None = None) -> Iterator[dict[str, Any]]:
    """All events after `after` that are there now, page by page."""
    while (page := client.events(after, instance=instance, session=session))["events"]:
        yield from page["events"]
        after = page["next_seq"]


def _place(instance: str | None, session: str | None, types: Sequence[str]) -> dict[str, str | None]:
    """The query that picks events."""
    return {"instance": instance, "session": session, "types": ",".join(types) or None}


def _session(session: Session) -> dict[str, str]:
    return {"channel": session[0], "id": session[1]}


def _text(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)
