"""A client that has read nothing but the OpenAPI document does the main job, and drives every operation there is."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from tests.http.conftest import Api
from tests.http.generated import Generated

#: Operations that end the daemon, or that speak WebSocket (`test_sockets`).
ELSEWHERE = {"shutdown", "events_socket", "instance_events_socket"}


def _done(client: Generated, after: int, message: str) -> dict[str, Any]:
    """The end of the turn that answers a message."""
    while True:
        page = client.call("poll_frames", name="job", after_seq=after, wait_ms=20_000, types="assistant.done").json
        for frame in page["frames"]:
            if message in frame["payload"]["in_reply_to"]:
                return dict(frame["payload"])
        assert not page["timed_out"]
        after = page["next_seq"]


def test_every_operation(api: Api, tmp_path: Path) -> None:
    document = api.ask("GET", "/v1/openapi.json").json
    client = Generated(api, document)
    project = tmp_path / "project"
    project.mkdir()
    # The main job: start an agent, talk to it, read what it said, look at what it did.
    body = {"handle": "job", "agent": "agent", "sandbox": "process", "model": "scripted/directives"}
    assert client.call("start_instance", body).status == 201
    sent = client.call("send_frame", {"type": "user.message", "payload": {"text": "[[say well]]"}, "msg_id": "m-1"}, name="job")
    assert sent.status == 202
    assert _done(client, sent.json["ingress_seq"], sent.json["id"])["text"] == "well"
    assert client.call("send_frame", {"type": "control.ping"}, name="job").json["ingress_seq"]
    tool = '[[call bash {"command": "echo hi"}]] [[say ran]]'
    sent = client.call("send_frame", {"type": "user.message", "payload": {"text": tool}}, name="job")
    assert _done(client, sent.json["ingress_seq"], sent.json["id"])["text"] == "ran"
    assert [message["role"] for message in client.call("transcript", name="job").json["messages"]][:2] == ["user", "assistant"]
    assert client.call("list_mail", name="job").json[0]["state"] == "acknowledged"
    assert client.call("show_mail", id=client.call("list_all_mail").json[0]["id"]).json["position"] is None
    (posted, refused) = client.call("send_batch", [{"to": "job", "text": "[[say one]]"}, {"to": "nobody", "text": "x"}]).json
    assert _done(client, posted["ingress_seq"], posted["id"])["text"] == "one"
    assert refused["kind"] == "not_found"
    assert client.call("drop_mail", id=posted["id"]).status == 409
    assert client.call("retry_mail", {}, id=posted["id"]).status == 409
    assert [node["handle"] for node in client.call("tree", root="job").json] == ["job"]
    lines = client.call("exec", {"command": ["echo", "out"]}, accept="application/x-ndjson", name="job").body
    assert b'"line":"out"' in lines
    client.call("exec", {"command": ["sh", "-c", "echo x >&2"], "raw": True}, accept="application/x-ndjson", name="job")
    assert client.call("instance_usage", name="job").json["turns"] == 3
    assert client.call("instance_usage", name="job", session="host:default").json["calls"]
    client.call("instance_stats", name="job")
    client.call("instance_logs", accept="application/x-ndjson", name="job")
    events = client.call("events", instance="job", limit=1000).json["events"]
    assert {"instance.created", "turn.finished", "mail.accepted"} <= {event["type"] for event in events}
    # Sessions.
    assert client.call("configure_session", {"model": "scripted/echo"}, name="job", session="host:default").status == 200
    assert client.call("fork_session", {"to": "host:copy"}, name="job", session="host:default").status == 201
    info = client.call("show_instance", name="job").json
    assert {session["session"] for session in info["sessions"]} == {"host:default", "host:copy"}
    assert [one["handle"] for one in client.call("list_instances", state="running").json] == ["job"]
    # Budgets.
    assert client.call("set_budget", {"usd": 1.5, "window": "24h"}, name="daily").json["usd"] == 1.5
    assert client.call("set_budget", {"tokens": 10**9}, name="@job").json["places"][0]["spent"]["tokens"] > 0
    assert [one["name"] for one in client.call("list_budgets", instance="job").json] == ["daily", "@job"]
    assert client.call("set_budget", {"usd": "nan"}, name="daily").status == 400
    assert client.call("show_budget", name="daily").json["window"] == 86_400
    assert client.call("remove_budget", name="daily").json["declared"] is None
    assert client.call("remove_budget", name="daily").status == 404
    # The home: secrets, definitions, trust, what was decided.
    assert client.call("set_secret", {"value": "x"}, name="KEY").json["version"] == 1
    assert [one["name"] for one in client.call("list_secrets").json] == ["KEY"]
    client.call("set_secret", {"value": "y", "hosts": ["api.example.com"], "header": "Authorization: Bearer {}"}, name="KEY")
    assert client.call("rollback_secret", {"version": 1}, name="KEY").json["version"] == 3
    assert client.call("grant_secret", {"kind": "agent", "target": "mine"}, name="KEY").json["grants"][0]["target"] == "mine"
    assert client.call("revoke_secret", {"kind": "agent", "target": "mine"}, name="KEY").json["grants"] == []
    assert client.call("show_secret", name="KEY").json["hosts"] == ["api.example.com"]
    assert client.call("rotate_key").json["values"] == 3
    assert [one["version"] for one in client.call("secret_versions", name="KEY").json] == [3, 2, 1]
    client.call("delete_secret", name="KEY")
    declared = client.call("declare_agent", {"name": "mine", "values": {"model": "scripted/echo"}, "project": str(project)})
    assert declared.status == 201
    client.call("change_agent", {"values": {"limits.memory": "1GiB"}, "project": str(project)}, name="mine")
    state = client.call("trust_state", project=str(project)).json
    client.call("trust", {"project": str(project), "hash": state["hash"]})
    assert "mine" in {one["name"] for one in client.call("list_agents", project=str(project)).json}
    client.call("show_agent", name="mine", project=str(project))
    client.call("show_config", project=str(project))
    client.call("explain_config", key="agents.mine.model", project=str(project))
    client.call("remove_agent", name="mine", project=str(project))
    assert "instance.create" in {record["action"] for record in client.call("audit").json["records"]}
    assert client.call("show_audit", id="1").json["id"] == 1
    assert client.call("verify_audit").json["ok"]
    assert client.call("export_audit", accept="application/x-ndjson").status == 200
    client.call("backup", {"target": str(tmp_path / "copy.db")})
    client.call("doctor", store=1)
    client.call("status")
    client.call("openapi")
    client.call("list_connections")
    client.call("check_connection", instance="job", place="example.com:443")
    client.call("list_notices")
    client.call("test_attention", {})
    _rules_and_tools(client, project)
    # What is not there is told in the one shape of errors.
    assert client.call("list_approvals", state="all").json == []
    for name, body_of in (
        ("show_approval", None), ("decide_approval", {"approve": True}), ("propose_rule", None), ("escalate_approval", {"seconds": 60.0})
    ):  # fmt: skip
        answer = client.call(name, body_of, id="none")
        assert (answer.status, answer.json["kind"]) == (404, "not_found")
    assert client.call("exec_input", raw=b"x", name="job", exec_id="none").status == 404
    client.called.add("follow_frames")  # without end: read where the connection is held, in test_following
    # Life and end.
    for action, wanted in (
        ("pause", "paused"),
        ("resume", "running"),
        ("restart", "running"),
        ("disable", "stopped"),
        ("start", "running"),
    ):
        assert client.call("act_on_instance", name="job", action=action).json["state"] == wanted
    assert client.call("start_instance", body).status == 409
    assert client.call("delete_instance", name="job").json["status"] == "deleted"
    assert client.call("show_instance", name="job").status == 404
    assert set(client.operations) - client.called == ELSEWHERE


def _rules_and_tools(client: Generated, project: Path) -> None:
    """Rules, tools, what is held of workspaces."""
    rules = client.call("list_policies").json
    assert "aegis.owner" in {one["id"] for one in rules["policies"]}
    assert "permit" in client.call("show_policy", id="aegis.owner").json[0]["text"]
    assert client.call("policy_schema").status == 200
    text = '@id("no") forbid (principal, action == Action::"tool.call", resource);'
    assert client.call("check_policies", {"text": text}).json["policies"]
    assert client.call("check_policies", {"text": "forbid"}).status == 400
    assert client.call("test_policies", {"text": "cases: []", "name": "cases.yaml"}).status in (200, 400)
    asked = {"principal": "job", "action": "tool.call", "resource": "cmd.run"}
    assert client.call("explain_policies", asked).json["verdict"] in ("allow", "deny", "ask")
    assert client.call("simulate_policies", {"since": 0.0, "text": text}).status == 200
    assert client.call("draft_policies", since=0).status == 200
    assert client.call("list_tools", instance="job").json["tools"] == [], "it was given no family of tools but Aegis's own verbs"
    assert "fs.read" in {one["id"] for one in client.call("list_tools").json["tools"]}
    assert client.call("show_tool", name="fs.read").json["called"] == "fs_read"
    assert client.call("call_tool", {"tool": "nothing.at_all"}).status == 404
    assert client.call("list_tool_servers").json == []
    assert client.call("show_tool_changes", server="none").status == 404
    assert client.call("accept_tools", {"server": "none", "digest": "0"}).status == 404
    assert client.call("show_tool_trust", project=str(project)).json == []
    assert client.call("trust_tool_server", {"project": str(project), "server": "none", "hash": "0"}).status == 404
    assert client.call("list_held").json == []
    assert client.call("look_for_held", {"instance": "job"}).json == []
    for name, body in (("show_held", None), ("decide_held", {"release": True})):
        assert client.call(name, body, id="none").status == 404


def test_input_of_a_program(api: Api) -> None:
    """An operation that is fed while it runs."""
    client = Generated(api, api.ask("GET", "/v1/openapi.json").json)
    api.daemon.start("fed")
    with api.daemon.client.instances.exec("fed", ["cat"], stdin=True) as stream:
        lines = iter(stream)
        ident = next(lines)["exec_id"]
        fed = threading.Thread(target=client.call, args=("exec_input",), kwargs={"raw": b"given", "name": "fed", "exec_id": ident})
        fed.start()
        rest = list(lines)
        fed.join()
    assert rest[-1]["exit_code"] == 0
    api.daemon.client.instances.delete("fed")


def test_approvals_are_answered(api: Api, tmp_path: Path) -> None:
    client = Generated(api, api.ask("GET", "/v1/openapi.json").json)
    if not next(kind for kind in api.daemon.client.doctor()["sandboxes"] if kind["name"] == "bwrap")["ok"]:
        pytest.skip("approvals want a sandbox with a boundary")
    api.daemon.start("asker", approvals="ask", sandbox="bwrap", workspace=str(tmp_path))
    sent = api.daemon.client.mail.send("asker", '[[call bash {"command": "echo hi"}]] [[say ran]]')
    assert api.daemon.client.mail.poll("asker", sent["ingress_seq"], wait=20, types=("approval.requested",))["frames"]
    (waiting,) = client.call("list_approvals", instance="asker").json
    assert client.call("show_approval", id=waiting["id"]).json["handle"] == "asker"
    rule = client.call("propose_rule", id=waiting["id"]).json
    assert rule["text"].startswith("@id(")
    later = client.call("escalate_approval", {"seconds": 30 * 86400.0, "reason": "now"}, id=waiting["id"]).json
    assert later["deadline"] > waiting["deadline"]
    assert client.call("escalate_approval", {"seconds": -1.0}, id=waiting["id"]).status == 400
    assert client.call("decide_approval", {"approve": True, "scope": "rule", "rule": "permit"}, id=waiting["id"]).status == 409
    assert client.call("decide_approval", {"approve": True, "scope": "for ever"}, id=waiting["id"]).status == 400
    assert client.call("decide_approval", {"approve": True}, id=waiting["id"]).json["state"] == "approved"
    assert client.call("decide_approval", {"approve": True}, id=waiting["id"]).status == 409
    assert api.daemon.finish("asker", sent)["outcome"] == "completed"
    api.daemon.client.instances.delete("asker")
