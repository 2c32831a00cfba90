"""Verbs about tools: what agents can call, calls of one's own, and the MCP servers behind them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from aegis.cli.options import complete_handle
from aegis.cli.reach import client, project, required_project
from aegis.cli.verbs import Verb
from aegis.core.errors import AegisError, ErrorKind, unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aegis.cli.output import Output, Piece

_instance = click.option("--instance", "-i", metavar="HANDLE", shell_complete=complete_handle, help="What this instance is offered.")


@click.command(cls=Verb)
@click.option("--agent", "-a", metavar="NAME", help="What an instance of this agent would be offered.")
@_instance
@click.pass_obj
def list_(out: Output, agent: str | None, instance: str | None) -> None:
    """List tools.

    Without an option it is all that there is: what Aegis brings along, and the tools of every declared MCP server, which is started
    for that. A tool that a server changed is not there until you accept it.

    \b
    Examples:
      aegis tools list
      aegis tools list --instance coder
    """
    told = client().tools.all(project(), instance=instance, agent=agent)
    for item in told["tools"]:
        out.data(item)
    for name, why in told["notes"].items():
        out.warn(f"{name}: {why}")
    if told["tools"]:
        out.table(("TOOL", "", "WHAT IT DOES"), map(_row, told["tools"]))
    else:
        out.say("there are no tools; `aegis tools servers` shows the declared servers")


@click.command(cls=Verb)
@click.argument("tool")
@_instance
@click.pass_obj
def show(out: Output, tool: str, instance: str | None) -> None:
    """Show one tool.

    What it says of itself, and the schema of its arguments.
    """
    told = client().tools.get(tool, project(), instance=instance)
    out.data(told)
    out.say((told["id"], "bold"), f"  ({told['called']} over MCP)")
    out.say(told["description"] or "it says nothing of itself")
    out.say(json.dumps(told["schema"], indent=2, ensure_ascii=False))


@click.command(cls=Verb)
@click.argument("tool")
@click.option("--args", "given", metavar="JSON", default="{}", help="The arguments, a JSON object.")
@click.option("--instance", "-i", metavar="HANDLE", shell_complete=complete_handle, help="Call it where the calls of this one are made.")
@click.pass_obj
def call(out: Output, tool: str, given: str, instance: str | None) -> int:
    """Call a tool yourself.

    It is judged and recorded as yours. The exit code is 1 when the tool says that it failed.

    \b
    Examples:
      aegis tools call github.get_issue --args '{"number": 7}'
      aegis tools call fs.read --args '{"path": "README.md"}' --instance coder
    """
    try:
        arguments = json.loads(given)
    except ValueError as error:
        raise AegisError(ErrorKind.USAGE, f"--args is no JSON: {error}", """such as --args '{"path": "README.md"}'""") from None
    if not isinstance(arguments, dict):
        raise AegisError(ErrorKind.USAGE, "--args is no JSON object", """such as --args '{"path": "README.md"}'""")
    told = client().tools.call(tool, arguments, instance=instance, project=project())
    out.data(told)
    for part in told["content"]:
        out.say(part["text"] if part.get("type") == "text" else f"[{part.get('mimeType') or part.get('type')}]")
    return 1 if told["is_error"] else 0


@click.command(cls=Verb)
@click.pass_obj
def servers(out: Output) -> None:
    """List the declared MCP servers, and how each is."""
    told = client().tools.servers(project())
    for item in told:
        out.data(item)
    if not told:
        out.say("no MCP server is declared; `tool_servers` in the configuration declares one")
        return
    out.table(("SERVER", "FROM", "STATE", "TOOLS", "WHAT"), map(_server, told))
    for item in told:
        _notes(out, item)


@click.command(cls=Verb)
@click.argument("server")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.pass_obj
def pin(out: Output, server: str, yes: bool) -> None:
    """Accept the tools of an MCP server as it defines them now.

    The first use of a server accepts what it offers. What it changes or adds later is not offered to any agent until you have
    looked at the difference, which this shows.
    """
    daemon, where = client(), project()
    told = daemon.tools.change(server, where)
    changed = bool(told["changed"] or told["added"] or told["removed"])
    if changed and not yes:
        for line in told["diff"]:
            out.say((line, "green" if line.startswith("+") else "red" if line.startswith("-") else "dim"))
        if not out.interactive:
            raise AegisError(ErrorKind.DENIED, f"nobody is there to accept what `{server}` offers now", "read it; --yes accepts it")
        if not out.ask("Accept these definitions?"):
            raise AegisError(ErrorKind.DENIED, f"what `{server}` changed stays as it was accepted")
    if changed:
        told = daemon.tools.pin(server, told["digest"], where)
    out.data({"server": server, "accepted": changed, **told})
    counts = [f"{len(told[what])} {what}" for what in ("changed", "added", "removed") if told[what]]
    out.say(("accepted ", "green") if changed else "nothing is different at ", server, f": {', '.join(counts)}" if counts else "")


@click.command(cls=Verb)
@click.argument("server", required=False)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.pass_obj
def trust(out: Output, server: str | None, yes: bool) -> None:
    """Let a server of the project's `.mcp.json` be used.

    Such a file comes with a repository, and each entry is a program to be started. It does nothing before you agree to exactly what
    it says now. Without SERVER every one that is not trusted yet is shown.
    """
    daemon, where = client(), required_project(None)
    found = {offer["server"]: offer for offer in daemon.tools.offers(where)}
    if server is not None and server not in found:
        raise unknown_name("server", server, found, "`.mcp.json` of the project declares them")
    wanted = [found[server]] if server is not None else list(found.values())
    for offer in wanted:
        if offer["trusted"]:
            out.data(offer)
            out.say(("already trusted ", "green"), offer["server"])
            continue
        if not yes:
            for line in offer["summary"]:
                out.say(line)
            if not out.interactive:
                raise AegisError(ErrorKind.DENIED, f"nobody is there to agree to `{offer['server']}`", "read it; --yes agrees to it")
            if not out.ask(f"Trust {offer['server']}?"):
                raise AegisError(ErrorKind.DENIED, f"`{offer['server']}` stays untrusted")
        out.data(daemon.tools.trust(offer["server"], offer["hash"], where))
        out.say(("trusted ", "green"), offer["server"])
    if not wanted:
        out.say("the project has no `.mcp.json` with a server that could be used; `aegis tools servers` says why")


def _row(item: Mapping[str, Any]) -> list[Piece]:
    about = " ".join(str(item["description"]).split())
    return [(item["id"], "bold"), ("changes" if item["changes"] else "reads", "dim"), about[:100]]


def _server(item: Mapping[str, Any]) -> list[Piece]:
    style = {"running": "green", "failed": "red", "not trusted": "yellow", "invalid": "red"}.get(item["state"], "dim")
    what = " ".join(item["command"]) or item["url"]
    return [(item["name"], "bold"), item["origin"], (item["state"], style), str(item["pinned"] or ""), what[:80]]


def _notes(out: Output, item: Mapping[str, Any]) -> None:
    name = item["name"]
    if item["problem"]:
        out.warn(f"{name}: {item['problem']}")
    if item["state"] == "not trusted":
        out.hint(f"{name} is not started before you have read and accepted it: `aegis tools trust {name}`")
    for what in ("changed", "added", "removed"):
        if item[what]:
            out.warn(f"{name}: {what}: {', '.join(item[what][:10])}; `aegis tools pin {name}` shows it")
    for tool, why in item["refused"].items():
        out.warn(f"{name}: {tool} is not offered: {why}")
