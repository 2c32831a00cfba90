"""The table of routes: every operation of the HTTP API, in the order in which they are tried, those that are asked most first."""

from __future__ import annotations

from typing import Final

from aegis.core.audit import Finding
from aegis.daemon.http import (
    approvals,
    attention,
    audit,
    budgets,
    declare,
    document,
    egress,
    events,
    held,
    home,
    instances,
    mail,
    policies,
    secrets,
    sessions,
    shapes,
    tether,
    tools,
    tree,
)
from aegis.daemon.http.table import BYTES, NDJSON, SSE, Parameter, Row, flag, integer, text
from aegis.sandboxes import Stats
from aegis.services.agents.launching import StartRequest
from aegis.services.budgets.setting import Wish
from aegis.services.config import AgentDefinition, Edited, Explanation, TrustState
from aegis.services.gate.questions import Question
from aegis.services.guarding import Held
from aegis.services.secrets import SecretDetails
from aegis.services.tools import Result
from aegis.services.tools.declared import TrustOffer
from aegis.services.tools.pinning import Change
from aegis.services.tools.registry import ServerInfo
from aegis.vaults import SecretInfo, VersionInfo

_INSTANCE: Final = "/v1/instances/{name}"
_SESSION: Final = f"{_INSTANCE}/sessions/{{session:path}}"  # an id may hold slashes

#: What the parameters of paths mean, for the rows that do not say otherwise.
PLACES: Final = {
    "name": "a handle or an id of an instance",
    "session": "a session, as `channel:id`",
    "exec_id": "the id that the first line of the exec gave",
    "id": "a whole id",
}

_after = integer("after", "only what has a higher number: the cursor", 0)
_project = text("project", "the directory whose declarations apply; the home alone without it")
_instance = text("instance", "only of this instance, a handle or an id")
_secret = text("name", "the name of the secret", pattern="^[A-Za-z_][A-Za-z0-9_]{0,127}$")
_budget = text("name", "its name: that of a declaration, `NAME@DIRECTORY` in a project, `@HANDLE` of an instance")
_frames = (
    text("channel", "only of this channel"),
    text("session_id", "only of the sessions with this id"),
    text("reply_to_msg_id", "only about the message that was sent under this `msg_id`"),
)
_box = (
    integer("limit", "at most so many", 100, 1, 1000),
    flag("dead", "only dead letters: those that failed or expired"),
    integer("before_seq", "look back: those before this number"),
)


def _limit(default: int, high: int = 1000) -> Parameter:
    return integer("limit", "at most so many", default, 1, high)


ROWS: Final = (
    Row(
        method="POST", path=f"{_INSTANCE}/tether", handler=tether.ingress, name="send_frame", tag="messages",
        summary="Send a frame: a message, a cancel, a ping. The answer says that it is on disk.",
        body=tether.IngressFrame, answer=shapes.FrameReceipt, status=202, errors=(409, 422, 429),
    ),
    Row(
        method="GET", path=f"{_INSTANCE}/tether/poll", handler=tether.poll, name="poll_frames", tag="messages",
        summary="Frames after a cursor, a page; waits for the first if asked to.",
        query=(
            integer("after_seq", "only frames after this number: the cursor", 0), *_frames,
            integer("before_seq", "look back: the frames before this number"), _limit(50, 200),
            integer("wait_ms", "wait so long for the first frame, in milliseconds", 0, 0, 30_000),
            text("types", "only these types, with commas between"),
        ),
        answer=shapes.FramePage,
    ),
    Row(
        method="GET", path="/v1/status", handler=home.status, name="status", tag="daemon",
        summary="The version, the newest number of the log, counts.",
        query=(flag("restored", "also every instance as it came back with this daemon, and why it could not be started"),),
        answer=shapes.Status,
    ),
    Row(
        method="GET", path="/v1/openapi.json", handler=document.show, name="openapi", tag="daemon",
        summary="This API as an OpenAPI 3.1 document.", answer=dict,
    ),
    Row(
        method="POST", path="/v1/shutdown", handler=home.shutdown, name="shutdown", tag="daemon",
        summary="The daemon ends.", answer=shapes.Stopping, status=202,
    ),
    Row(
        method="GET", path="/v1/doctor", handler=home.doctor, name="doctor", tag="daemon",
        summary="Examines the machine.",
        query=(text("sandbox", "run the conformance suite of this one too"), flag("store", "look at the health of the database too")),
        answer=shapes.Examination, errors=(404,),
    ),
    Row(
        method="POST", path="/v1/backup", handler=home.backup, name="backup", tag="daemon",
        summary="Writes a copy of the database as it is now.", body=home.BackupRequest, answer=shapes.Backup, errors=(409,),
    ),
    Row(
        method="GET", path="/v1/events", handler=events.events, name="events", tag="events",
        summary="The log: a page, or without end as lines of JSON or server-sent events.",
        query=(
            _after, integer("before", "look back: the newest before this number"), _limit(100), _instance,
            text("session", "only of this session, as `channel:id`"), text("types", "only these types, with commas between"),
            flag("follow", "lines of JSON without end"),
        ),
        answer=shapes.EventPage, streams=(NDJSON, SSE), errors=(404,),
    ),
    Row(
        method="GET", path="/v1/events/ws", handler=events.upgrade, name="events_socket", tag="events",
        summary="Events over WebSocket: subscriptions with cursors, several on one connection.",
        status=101, errors=(426, 429), socket=events.socket,
    ),
    Row(
        method="GET", path=f"{_INSTANCE}/events/ws", handler=events.upgrade, name="instance_events_socket", tag="events",
        summary="The same of one instance.", status=101, errors=(426, 429), socket=events.socket,
    ),
    Row(
        method="GET", path="/v1/audit", handler=audit.index, name="audit", tag="audit",
        summary="Who asked for what, and what was decided: the oldest after a number, or the newest; followed with `follow`.",
        query=(
            _after, _limit(100), flag("newest", "the newest, not the oldest"), flag("follow", "lines of JSON without end"),
            text("principal", "only of this one: `KIND:ID`, a handle, or a person's name"),
            text("action", "only these actions, with commas between; `*` stands for anything, as in `secret.*`"),
            text("decision", "only this one", choices=("allow", "deny", "ask")),
            text("since", "only from this time on, RFC 3339 or seconds"),
        ),
        answer=audit.AuditPage, streams=(NDJSON,),
    ),
    Row(
        method="GET", path="/v1/audit/verify", handler=audit.verify, name="verify_audit", tag="audit",
        summary="Reads the whole record and says whether it is what was written.", answer=Finding,
    ),
    Row(
        method="GET", path="/v1/audit/export", handler=audit.export, name="export_audit", tag="audit",
        summary="The whole record as lines: what it is, the signed heads, the rows. `aegis audit verify FILE` checks it anywhere.",
        answer=audit.AuditLine, streams=(NDJSON,), pages=False,
    ),
    Row(
        method="GET", path="/v1/audit/{id}", handler=audit.show, name="show_audit", tag="audit",
        summary="One record.", places=(text("id", "its number", pattern="^[0-9]{1,18}$"),), answer=audit.AuditRecord, errors=(404,),
    ),
    Row(
        method="GET", path="/v1/policies", handler=policies.index, name="list_policies", tag="policies",
        summary="The rules in force, the security contexts, and what is wrong with their files.", query=(_project,), answer=shapes.Policies,
    ),
    Row(
        method="GET", path="/v1/policies/schema", handler=policies.schema, name="policy_schema", tag="policies",
        summary="What rules can speak of, and the rules that are built in, as Cedar text.", answer=shapes.PolicySchema,
    ),
    Row(
        method="GET", path="/v1/policies/draft", handler=policies.draft, name="draft_policies", tag="policies",
        summary="The narrowest rules for what was denied.",
        query=(text("since", "only denials since then, in wall seconds; a day without"),), answer=shapes.PolicyDraft,
    ),
    Row(
        method="POST", path="/v1/policies/check", handler=policies.check, name="check_policies", tag="policies",
        summary="Whether a text is rules that can be read. Nothing comes into force.",
        body=policies.PolicyText, answer=shapes.CheckedPolicies,
    ),
    Row(
        method="POST", path="/v1/policies/test", handler=policies.test, name="test_policies", tag="policies",
        summary="Asks the rules in force the cases of a file.", body=policies.PolicyText, answer=shapes.PolicyCases, errors=(404,),
    ),
    Row(
        method="POST", path="/v1/policies/explain", handler=policies.explain, name="explain_policies", tag="policies",
        summary="What the rules say to an action, which ones, and what would change it. Nothing is done.",
        body=Question, answer=shapes.PolicyExplanation, errors=(404,),
    ),
    Row(
        method="POST", path="/v1/policies/simulate", handler=policies.simulate, name="simulate_policies", tag="policies",
        summary="Asks other rules what the audit record holds. Nothing is done.", body=policies.Simulation, answer=shapes.PolicySimulation,
    ),
    Row(
        method="GET", path="/v1/policies/{id:path}", handler=policies.show, name="show_policy", tag="policies",
        summary="A rule by its id; a project and the home may have one each.", places=(text("id", "the id of a rule"),), query=(_project,),
        answer=list[shapes.Policy],
    ),
    Row(
        method="GET", path="/v1/egress", handler=egress.index, name="list_connections", tag="egress",
        summary="Connections that were asked for, those that were denied too: the oldest after an id, else the newest.",
        query=(_instance, _after, _limit(100)), answer=shapes.ConnectionPage, errors=(404,),
    ),
    Row(
        method="GET", path="/v1/egress/check", handler=egress.check, name="check_connection", tag="egress",
        summary="What would be said to a connection or a request, and why; nothing is connected.",
        query=(
            text("instance", "a handle or an id", required=True), text("place", "`HOST:PORT` or a URL", required=True),
            text("method", "of the request, with a URL; GET without"),
        ),
        answer=shapes.EgressVerdict, errors=(404,),
    ),
    Row(
        method="GET", path="/v1/budgets", handler=budgets.index, name="list_budgets", tag="budgets",
        summary="What is bounded, what was spent of it, what is reserved, and when it frees.",
        query=(_instance,), answer=list[budgets.BudgetInfo], errors=(404,),
    ),
    Row(
        method="GET", path="/v1/budgets/{name:path}", handler=budgets.show, name="show_budget", tag="budgets",
        summary="One budget, in all the places it applies to.", places=(_budget,), answer=budgets.BudgetInfo,
    ),
    Row(
        method="PUT", path="/v1/budgets/{name:path}", handler=budgets.put, name="set_budget", tag="budgets",
        summary="Sets a budget, or another value of one that a file declares.",
        places=(_budget,), body=Wish, answer=budgets.BudgetInfo, errors=(404,),
    ),
    Row(
        method="DELETE", path="/v1/budgets/{name:path}", handler=budgets.remove, name="remove_budget", tag="budgets",
        summary="Takes away what was set; what a file declares under that name counts again.",
        places=(_budget,), answer=budgets.Removed, errors=(409,),
    ),
    Row(
        method="GET", path="/v1/secrets", handler=secrets.index, name="list_secrets", tag="secrets",
        summary="Names, never values.", answer=list[SecretInfo],
    ),
    Row(
        method="POST", path="/v1/secrets/rotate-key", handler=secrets.rotate_key, name="rotate_key", tag="secrets",
        summary="Protects every value by a new master key.", answer=secrets.Rotated, errors=(503,),
    ),
    Row(
        method="GET", path="/v1/secrets/{name}", handler=secrets.show, name="show_secret", tag="secrets",
        summary="All about one but its value.", places=(_secret,), answer=SecretDetails,
    ),
    Row(
        method="PUT", path="/v1/secrets/{name}", handler=secrets.put, name="set_secret", tag="secrets",
        summary="Stores a value under a name, replacing an earlier one, or says to which hosts it may be sent.",
        places=(_secret,), body=secrets.SecretValue, answer=SecretInfo,
    ),
    Row(
        method="GET", path="/v1/secrets/{name}/versions", handler=secrets.versions, name="secret_versions", tag="secrets",
        summary="The values that it has and had, without the values; the newest first.", places=(_secret,), answer=list[VersionInfo],
    ),
    Row(
        method="POST", path="/v1/secrets/{name}/rollback", handler=secrets.rollback, name="rollback_secret", tag="secrets",
        summary="Makes an earlier value the present one again.", places=(_secret,), body=secrets.Rollback, answer=SecretInfo,
    ),
    Row(
        method="POST", path="/v1/secrets/{name}/grants", handler=secrets.grant, name="grant_secret", tag="secrets",
        summary="Lets an agent or a project use it; from the first grant on nobody else may.",
        places=(_secret,), body=secrets.Granted, answer=SecretDetails,
    ),
    Row(
        method="POST", path="/v1/secrets/{name}/grants/revoke", handler=secrets.revoke, name="revoke_secret", tag="secrets",
        summary="Takes a grant back.", places=(_secret,), body=secrets.Granted, answer=SecretDetails,
    ),
    Row(
        method="DELETE", path="/v1/secrets/{name}", handler=secrets.delete, name="delete_secret", tag="secrets",
        summary="Forgets it.", places=(_secret,), answer=shapes.Deleted,
    ),
    Row(
        method="GET", path="/v1/tools", handler=tools.index, name="list_tools", tag="tools",
        summary="Tools: all there are, or what an instance, or an instance of an agent, is offered. Servers are started for it.",
        query=(_project, text("instance", "what this one is offered, a handle or an id"), text("agent", "what one of it would be offered")),
        answer=tools.ToolPage, errors=(404,),
    ),
    Row(
        method="POST", path="/v1/tools/call", handler=tools.call, name="call_tool", tag="tools",
        summary="Calls a tool as the person; it ends when the client goes away.", body=tools.CallRequest, answer=Result,
        errors=(404, 409, 422, 429, 502, 504),
    ),
    Row(
        method="GET", path="/v1/tools/servers", handler=tools.servers, name="list_tool_servers", tag="tools",
        summary="The declared MCP servers, and how each is.", query=(_project,), answer=list[ServerInfo], errors=(404,),
    ),
    Row(
        method="GET", path="/v1/tools/pins", handler=tools.change, name="show_tool_changes", tag="tools",
        summary="How what a server offers now differs from what was accepted, and the digest to agree to.",
        query=(text("server", "its name", required=True), _project), answer=Change, errors=(404, 409),
    ),
    Row(
        method="POST", path="/v1/tools/pins", handler=tools.pin, name="accept_tools", tag="tools",
        summary="Accepts exactly what a server offers now.", body=tools.PinRequest, answer=Change, errors=(404, 409),
    ),
    Row(
        method="GET", path="/v1/tools/trust", handler=tools.offers, name="show_tool_trust", tag="tools",
        summary="The servers of a project's `.mcp.json`, what each would do, and the hash to agree to.",
        query=(text("project", "the directory", required=True),), answer=list[TrustOffer], errors=(404,),
    ),
    Row(
        method="POST", path="/v1/tools/trust", handler=tools.trust, name="trust_tool_server", tag="tools",
        summary="Trusts exactly this declaration.", body=tools.TrustServer, answer=TrustOffer, errors=(404, 409),
    ),
    Row(
        method="GET", path="/v1/tools/{name}", handler=tools.show, name="show_tool", tag="tools",
        summary="One tool.", places=(text("name", "its id, `server.tool`"),),
        query=(_project, text("instance", "as this one is offered it")), answer=tools.ToolInfo,
    ),
    Row(
        method="GET", path="/v1/agents", handler=home.list_agents, name="list_agents", tag="configuration",
        summary="The definitions of agents in force.", query=(_project,), answer=list[AgentDefinition], errors=(404,),
    ),
    Row(
        method="GET", path="/v1/agents/{name}", handler=home.show_agent, name="show_agent", tag="configuration",
        summary="One definition.", places=(text("name", "the name of the agent"),), query=(_project,), answer=AgentDefinition,
    ),
    Row(
        method="GET", path="/v1/config", handler=home.show_config, name="show_config", tag="configuration",
        summary="Every key with its value and its source.", query=(_project,), answer=shapes.ConfigValues, errors=(404,),
    ),
    Row(
        method="GET", path="/v1/config/explain", handler=home.explain_config, name="explain_config", tag="configuration",
        summary="Where the value of a key comes from.", query=(text("key", "the whole key", required=True), _project),
        answer=Explanation, errors=(404,),
    ),
    Row(
        method="GET", path="/v1/config/trust", handler=home.trust_state, name="trust_state", tag="configuration",
        summary="Whether a project is trusted, what its declarations would do, and the hash to agree to.",
        query=(text("project", "the directory", required=True),), answer=TrustState, errors=(404,),
    ),
    Row(
        method="POST", path="/v1/config/trust", handler=home.trust, name="trust", tag="configuration",
        summary="Trusts exactly this content.", body=home.TrustRequest, answer=shapes.Trusted, errors=(404, 409),
    ),
    Row(
        method="POST", path="/v1/config/agents", handler=declare.add, name="declare_agent", tag="configuration",
        summary="Declares an agent, in a project's directory or in the home.", body=declare.AddRequest, answer=Edited, status=201,
        errors=(404, 409),
    ),
    Row(
        method="PATCH", path="/v1/config/agents/{name}", handler=declare.change, name="change_agent", tag="configuration",
        summary="Changes keys of a declared agent; null takes one away.", places=(text("name", "the name of the agent"),),
        body=declare.ChangeRequest, answer=Edited, errors=(409,),
    ),
    Row(
        method="DELETE", path="/v1/config/agents/{name}", handler=declare.remove, name="remove_agent", tag="configuration",
        summary="Takes the declaration away; its instances stay.", places=(text("name", "the name of the agent"),),
        query=(_project, text("hash", "only while the files have this hash")), answer=Edited, errors=(409,),
    ),
    Row(
        method="GET", path="/v1/instances", handler=instances.index, name="list_instances", tag="instances",
        summary="All instances, or those in one state.", query=(text("state", "such as `running`"),), answer=list[shapes.InstanceInfo],
    ),
    Row(
        method="GET", path="/v1/tree", handler=tree.index, name="tree", tag="instances",
        summary="Who spawned whom, with state and cost: every instance, or one and all below it.",
        query=(text("root", "a handle or an id: this one and all below it"),), answer=list[tree.TreeNode], errors=(404,),
    ),
    Row(
        method="POST", path="/v1/instances", handler=instances.create, name="start_instance", tag="instances",
        summary="Starts an instance: a new one, or the stopped one of that handle.",
        body=StartRequest, answer=shapes.InstanceInfo, status=201, also={200: "a stopped one was started again"},
        errors=(404, 409, 422, 429, 504),
    ),
    Row(
        method="GET", path=_INSTANCE, handler=instances.show, name="show_instance", tag="instances",
        summary="One instance: its settings, its activity, its sessions.", answer=shapes.InstanceInfo,
    ),
    Row(
        method="DELETE", path=_INSTANCE, handler=instances.delete, name="delete_instance", tag="instances",
        summary="Stops it and forgets all it kept.", answer=shapes.Deleted, errors=(409,),
    ),
    Row(
        method="GET", path="/v1/approvals", handler=approvals.index, name="list_approvals", tag="approvals",
        summary="What waits for a person, or was answered.",
        query=(text("state", "one of its states, or `all`; `pending` unless told"), _instance, _limit(100)),
        answer=list[approvals.ApprovalInfo], errors=(404,),
    ),
    Row(
        method="GET", path="/v1/approvals/{id}", handler=approvals.show, name="show_approval", tag="approvals",
        summary="One, with all of its input.", answer=approvals.ApprovalInfo,
    ),
    Row(
        method="POST", path="/v1/approvals/{id}", handler=approvals.decide, name="decide_approval", tag="approvals",
        summary="Answers it, once.", body=approvals.Verdict, answer=approvals.ApprovalInfo, errors=(409,),
    ),
    Row(
        method="GET", path="/v1/approvals/{id}/rule", handler=approvals.rule, name="propose_rule", tag="approvals",
        summary="The rule that a yes with scope `rule` would write.", answer=approvals.RuleProposal,
    ),
    Row(
        method="POST", path="/v1/approvals/{id}/escalate", handler=approvals.escalate, name="escalate_approval", tag="approvals",
        summary="Has people told of it again, and may put its deadline off.", body=approvals.Escalation, answer=approvals.ApprovalInfo,
        errors=(409,),
    ),
    Row(
        method="GET", path="/v1/held", handler=held.index, name="list_held", tag="workspaces",
        summary="What was taken out of workspaces because your own programs would act on it.",
        query=(text("state", "one of its states, or `all`; `held` unless told"), _instance, _limit(100)),
        answer=list[Held], errors=(404,),
    ),
    Row(
        method="POST", path="/v1/held", handler=held.look, name="look_for_held", tag="workspaces",
        summary="Looks at the workspace of an instance now; what is held of it.", body=held.LookRequest, answer=list[Held], errors=(404,),
    ),
    Row(
        method="GET", path="/v1/held/{id}", handler=held.show, name="show_held", tag="workspaces",
        summary="One, with its content and its difference to what was there.", answer=held.HeldText,
    ),
    Row(
        method="POST", path="/v1/held/{id}", handler=held.decide, name="decide_held", tag="workspaces",
        summary="Puts it back where it was, or removes it for good.", body=held.HeldVerdict, answer=Held, errors=(409,),
    ),
    Row(
        method="GET", path="/v1/attention", handler=attention.index, name="list_notices", tag="attention",
        summary="What a person was told, or is about to be.", query=(_limit(100),), answer=list[attention.NoticeInfo],
    ),
    Row(
        method="POST", path="/v1/attention/test", handler=attention.test, name="test_attention", tag="attention",
        summary="A notice to every channel that is on.", body=attention.TestRequest, answer=attention.AttentionTest,
    ),
    Row(
        method="GET", path=f"{_INSTANCE}/stats", handler=instances.stats, name="instance_stats", tag="instances",
        summary="Processes, processor time, memory.", answer=Stats, errors=(409,),
    ),
    Row(
        method="GET", path=f"{_INSTANCE}/usage", handler=sessions.usage, name="instance_usage", tag="sessions",
        summary="Tokens, money, tools, time: of all it did, of one session, or of one turn.",
        query=(text("session", "only of this one, as `channel:id`"), text("turn", "only of this turn")), answer=shapes.UsageInfo,
    ),
    Row(
        method="POST", path=f"{_SESSION}/settings", handler=sessions.configure, name="configure_session", tag="sessions",
        summary="What it runs with from the next model call on.", body=sessions.Settings, answer=shapes.InstanceInfo,
        errors=(409, 422, 504),
    ),
    Row(
        method="POST", path=f"{_SESSION}/fork", handler=sessions.fork, name="fork_session", tag="sessions",
        summary="Begins another session as a copy of this one.", body=sessions.Fork, answer=shapes.InstanceInfo, status=201,
        errors=(409, 422, 504),
    ),
    Row(
        method="GET", path=f"{_INSTANCE}/logs", handler=instances.logs, name="instance_logs", tag="instances",
        summary="What its programs wrote, as lines.",
        query=(
            flag("follow", "without end"), integer("tail", "only the last so many", None, 0, 1_000_000),
            text("since", "only from this time on, RFC 3339 or seconds"),
        ),
        answer=shapes.LogLine, streams=(NDJSON,), pages=False,
    ),
    Row(
        method="POST", path=f"{_INSTANCE}/exec", handler=instances.execute, name="exec", tag="instances",
        summary="Runs a program in the sandbox and tells its output; it ends when its reader goes away.",
        body=instances.ExecRequest, answer=shapes.ExecLine, streams=(NDJSON,), pages=False, errors=(409,),
    ),
    Row(
        method="POST", path=f"{_INSTANCE}/exec/{{exec_id}}/stdin", handler=instances.stdin, name="exec_input", tag="instances",
        summary="The standard input of a program, to its end.", raw=BYTES, answer=shapes.Written,
    ),
    Row(
        method="GET", path=f"{_INSTANCE}/tether/stream", handler=tether.stream, name="follow_frames", tag="messages",
        summary="Frames as they come, without end, as lines of JSON or server-sent events.",
        query=(integer("after_seq", "only frames after this number; from now on without it"), *_frames),
        answer=shapes.Frame, streams=(NDJSON, SSE), pages=False,
    ),
    Row(
        method="GET", path=f"{_INSTANCE}/transcript", handler=tether.transcript, name="transcript", tag="messages",
        summary="The conversation of a session, as messages.",
        query=(text("session", "as `channel:id`; `host:default` unless told"), _after, _limit(500)), answer=shapes.Transcript,
    ),
    Row(
        method="GET", path=f"{_INSTANCE}/mail", handler=mail.index, name="list_mail", tag="messages",
        summary="The messages to it and how far each came.", query=_box, answer=list[shapes.MailInfo],
    ),
    Row(
        method="GET", path="/v1/mail", handler=mail.everywhere, name="list_all_mail", tag="messages",
        summary="The newest messages to all instances.", query=_box, answer=list[shapes.MailInfo],
    ),
    Row(
        method="POST", path="/v1/mail/batch", handler=mail.batch, name="send_batch", tag="messages",
        summary="Many messages at once, a list or lines of JSON; for each a receipt or an error.",
        body=list[mail.Letter], takes=(NDJSON,), answer=list[mail.Posted],
    ),
    Row(
        method="GET", path="/v1/mail/{id}", handler=mail.show, name="show_mail", tag="messages",
        summary="One message and its times.", answer=mail.MailReceipt, errors=(409,),
    ),
    Row(
        method="POST", path="/v1/mail/{id}/retry", handler=mail.retry, name="retry_mail", tag="messages",
        summary="Lets a message that failed or expired wait again.", body=mail.Retry, answer=mail.MailReceipt, errors=(409, 429),
    ),
    Row(
        method="POST", path="/v1/mail/{id}/drop", handler=mail.drop, name="drop_mail", tag="messages",
        summary="Ends a message that waits.", answer=mail.MailReceipt, errors=(409,),
    ),
    Row(
        method="POST", path=f"{_INSTANCE}/{{action}}", handler=instances.act, name="act_on_instance", tag="instances",
        summary="Starts, pauses, resumes, restarts or disables it.",
        places=(text("action", "what to do", choices=("start", "pause", "resume", "restart", "disable")),),
        answer=shapes.InstanceInfo, errors=(409, 422, 429, 504),
    ),
)  # fmt: skip
