"""Verbs about rules: which are in force, what they say to an action, what other rules would have said."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aegis.cli import render
from aegis.cli.options import complete_handle
from aegis.cli.reach import client, project
from aegis.cli.verbs import Verb
from aegis.core.errors import AegisError, ErrorKind

if TYPE_CHECKING:
    from aegis.cli.output import Output, Piece

_COLORS = {"allow": "green", "permit": "green", "deny": "red", "forbid": "red", "ask": "yellow"}
_MAX = 16 * 1024 * 1024
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


@click.command("list", cls=Verb)
@click.option("--all", "everything", is_flag=True, help="Also the rules that are built in.")
@click.pass_obj
def list_(out: Output, everything: bool) -> None:
    """List the rules in force.

    Those of the home are `.cedar` files and security contexts in its folder `policies`; those of a trusted project lie in
    `.aegis/policies` and hold for its instances. Files are read again when they change. What is wrong with one is said here; until it
    is mended, what was in force before stays.
    """
    told = client().policies.list(project())
    out.data(told)
    for problem in told["problems"]:
        kept = "what was in force before stays" if problem["kept"] else "agents may do NOTHING until that is mended"
        out.warn(f"rules of {problem['source']}: {problem['problem']}; {kept}")
        if problem["hint"]:
            out.hint(problem["hint"])
    shown = [rule for rule in told["policies"] if everything or not rule["built_in"]]
    if shown:
        out.table(("ID", "", "ABOUT", "FROM", "SAYS"), map(_row, shown))
    for context in told["contexts"]:
        out.say("security context ", (context["name"], "bold"), f"  {context['description']}  ", (context["place"], "dim"))
    if not shown:
        out.say(f"no rules of yours; the {len(told['policies'])} that are built in hold (--all)")
        out.hint(f"write one in {told['folder']}/NAME.cedar; `aegis policy draft` proposes some")


@click.command(cls=Verb)
@click.argument("ident", metavar="ID", required=False)
@click.option("--schema", is_flag=True, help="Show what rules can speak of: actions, attributes, what a call touches.")
@click.option("--built-in", "built_in", is_flag=True, help="Show the rules that are built in, with what they mean.")
@click.pass_obj
def show(out: Output, ident: str | None, schema: bool, built_in: bool) -> None:
    """Show one rule, the schema, or the rules that are built in.

    \b
    Examples:
      aegis policy show no-push
      aegis policy show --schema
    """
    if (ident is not None) + schema + built_in != 1:
        raise click.UsageError("give the ID of a rule, or one of --schema and --built-in", click.get_current_context())
    daemon = client()
    if ident is None:
        told = daemon.policies.schema()
        text = told["schema" if schema else "built_in"]
        out.data({"text": text})
        out.say(text.rstrip("\n"))
        return
    for rule in daemon.policies.show(ident, project()):
        out.data(rule)
        out.say((f"// {rule['id']}, {rule['source']}: {rule['place']}", "dim"))
        out.say(rule["text"])


@click.command(cls=Verb)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.pass_obj
def check(out: Output, file: Path | None) -> int:
    """Say whether a file of rules can be read.

    Without FILE it says whether the rules in force are as their files are now. The exit code is 2 when something is wrong. FILE `-` is
    standard input.

    \b
    Examples:
      aegis policy check git.cedar
    """
    daemon = client()
    if file is None:
        told = daemon.policies.list(project())
        out.data({"problems": told["problems"]})
        for problem in told["problems"]:
            out.warn(problem["problem"])
            if problem["hint"]:
                out.hint(problem["hint"])
        if not told["problems"]:
            out.say(("ok", "green"), f"  {len([rule for rule in told['policies'] if not rule['built_in']])} rules of yours are in force")
        return ErrorKind.USAGE.codes.exit if told["problems"] else 0
    found = daemon.policies.check(_text(file), "stdin.cedar" if str(file) == "-" else str(file))
    out.data(found)
    out.say(("ok", "green"), f"  {len(found['policies'])} rules")
    if any(rule["effect"] == "permit" and rule["actions"] is None for rule in found["policies"]):
        out.warn("a `permit` for every action: name the action in the head of the rule")
    return 0


@click.command(cls=Verb)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--example", is_flag=True, help="Print a file of cases to begin with.")
@click.pass_obj
def test(out: Output, file: Path | None, example: bool) -> int:
    """Ask the rules in force the cases of a file, and compare.

    FILE is YAML: under `cases` a list, each with `principal`, `action`, `resource`, what is touched, and `expect`. The exit code is 1
    when a case does not come out as expected.

    \b
    Examples:
      aegis policy test --example > cases.yaml
      aegis policy test cases.yaml
    """
    if example == (file is not None):
        raise click.UsageError("give a FILE, or --example", click.get_current_context())
    if file is None:
        out.data({"text": _EXAMPLE})
        out.say(_EXAMPLE.rstrip("\n"))
        return 0
    found = client().policies.test(_text(file), str(file))
    failed = [case for case in found if not case["ok"]]
    out.data({"cases": found})
    for case in found:
        mark: Piece = ("ok    ", "green") if case["ok"] else ("FAILED", "red")
        rule = f" by `{case['rule']}`" if case["rule"] else ""
        more = "" if case["ok"] else f": expected {case['expect']}{rule}, the verdict is {case['verdict']} ({case['reason']})"
        out.say(mark, f"  {case['name']}{more}")
    out.say(f"{len(found) - len(failed)} of {len(found)} as expected")
    return 1 if failed else 0


@click.command(cls=Verb)
@click.argument("who", metavar="WHO", shell_complete=complete_handle)
@click.argument("action")
@click.argument("resource", required=False, default="")
@click.option("--arguments", metavar="JSON", help="The arguments of the tool, as a JSON object.")
@click.option("--command", metavar="LINE", help="A command line that it would run.")
@click.option("--path", metavar="PATH", help="A path that it would touch, as it is inside.")
@click.option("--writes", is_flag=True, help="It would change PATH.")
@click.option("--host", metavar="HOST[:PORT]", help="A host that it would reach.")
@click.option("--method", metavar="WORD", help="The method of the request to HOST.")
@click.option("--relation", help="What the other instance is to it: descendant, acquainted, stranger, self.")
@click.pass_obj
def explain(out: Output, /, who: str, action: str, resource: str, arguments: str | None, host: str | None, **more: Any) -> int:
    """Say what the rules say to an action, which ones, and what would change it.

    WHO is the handle of an instance, `owner`, or attributes with commas between: `agent=coder,tools=fs+cmd`. Nothing is done or
    recorded. The exit code is 4 when it is denied.

    \b
    Examples:
      aegis policy explain coder tool.call cmd.run --command 'git push origin main'
      aegis policy explain agent=coder,tools=fs tool.call fs.write --path /workspace/.env --writes
      aegis policy explain coder egress.connect api.example.com:443
    """
    question: dict[str, Any] = {"principal": _who(who), "action": action, "resource": resource}
    question |= {name: said for name, said in more.items() if said}
    if arguments is not None:
        question["arguments"] = _object(arguments)
    if host is not None:
        name, _, port = host.rpartition(":") if host.rpartition(":")[2].isdecimal() else (host, "", "")
        question |= {"host": name.strip("[]")} | ({"port": int(port)} if port else {})
    told = client().policies.explain(question)
    out.data(told)
    out.say((told["verdict"], _COLORS[told["verdict"]]), f"  {told['reason']}")
    if told["policies"]:
        out.say(("by ", "dim"), ", ".join(told["policies"]))
    if len(told["parts"]) > 1:
        out.table(
            ("ABOUT", "", "WHY"),
            ([part["about"], (part["verdict"], _COLORS[part["verdict"]]), part["reason"]] for part in told["parts"]),
        )
    out.pairs([(name, _bound(said)) for name, said in told["obligations"].items() if said is not None], "  ")
    for n, line in enumerate(told["change"]):
        out.say((("to change it: " if not n else "") + line) if "\n" not in line else line)
    return ErrorKind.DENIED.codes.exit if told["verdict"] == "deny" else 0


@click.command(cls=Verb)
@click.argument("draft", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--since", default="1d", show_default=True, metavar="AGO", help="Look at the records since then: `30m`, `12h`, `7d`.")
@click.pass_obj
def simulate(out: Output, draft: Path | None, since: str) -> None:
    """Ask other rules what was asked before.

    What would be decided otherwise is listed. The rules of DRAFT are added to those in force; a file of the same name in the home is left
    out for it. Without DRAFT the rules in force are compared to what was decided at the time. Nothing is done: it is the audit record that
    is read.

    \b
    Examples:
      aegis policy simulate --since 1d new.cedar
    """
    text = _text(draft) if draft is not None else None
    told = client().policies.simulate(_since(since), text, draft.name if draft is not None else "draft.cedar")
    out.data(told)
    for change in told["changes"]:
        out.say(
            (f"{render.when(change['ts'])}  ", "dim"), (f"{change['handle']} ", "bold"), f"{change['action']} {change['resource']}: ",
            (change["before"], _COLORS[change["before"]]), " would be ", (change["after"], _COLORS[change["after"]]),
            f"  {change['reason']}",
        )  # fmt: skip
    out.say(f"{told['changed']} of {told['replayed']} records would be decided otherwise")
    if told["gone"]:
        out.say((f"{told['gone']} are of instances that were deleted, and cannot be asked again", "dim"))
    if told["incomplete"]:
        out.say((f"{told['incomplete']} touched more than the record keeps: what is left out was not asked", "dim"))


@click.command(cls=Verb)
@click.option("--since", default="1d", show_default=True, metavar="AGO", help="Look at the denials since then: `30m`, `12h`, `7d`.")
@click.pass_obj
def draft(out: Output, since: str) -> None:
    """Write the narrowest rules for what was denied.

    Each names the agent, the tool and exactly what was touched. They are printed, not put into force: read them, widen what you mean,
    and put them into a file in the home's folder `policies`.
    """
    told = client().policies.draft(_since(since))
    out.data(told)
    for text in told["rules"]:
        out.say(text)
    for ident, count in told["forbidden"].items():
        out.warn(f"{count} were forbidden by `{ident}`, which no `permit` changes")
    if not told["rules"]:
        out.say("nothing was denied for want of a rule")


def _row(rule: dict[str, Any]) -> list[Piece]:
    about = "every action" if rule["actions"] is None else ", ".join(rule["actions"][:3]) + (" ..." if len(rule["actions"]) > 3 else "")
    source = rule["source"] if rule["built_in"] else rule["place"]
    return [(rule["id"], "bold"), (rule["effect"], _COLORS[rule["effect"]]), about, (source, "dim"), rule["says"]]


def _bound(said: Any) -> str:
    return f"{said['calls']} calls in {said['seconds']:g} s" if isinstance(said, dict) else str(said)


def _who(text: str) -> str | dict[str, Any]:
    """A handle, or attributes of an instance that need not exist."""
    if "=" not in text:
        return text
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, _, said = part.partition("=")
        listed = name in ("tools", "servers", "security")
        found[name] = [each for each in said.split("+") if each] if listed else int(said) if said.isdecimal() else said
    return found


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise AegisError(ErrorKind.USAGE, f"--arguments is not JSON: {error}", """write an object: '{"path": "a"}'""") from error
    if not isinstance(found, dict):
        raise AegisError(ErrorKind.USAGE, "--arguments is not a JSON object", """write one: '{"path": "a"}'""")
    return found


def _text(file: Path) -> str:
    try:
        content = sys.stdin.buffer.read(_MAX + 1) if str(file) == "-" else _read(file)
        text = content.decode()
    except OSError as error:
        raise AegisError(ErrorKind.NOT_FOUND, f"{file} cannot be read: {error.strerror}", "check the path") from error
    except UnicodeDecodeError as error:
        raise AegisError(ErrorKind.USAGE, f"{file}: not UTF-8 at byte {error.start}") from error
    if len(content) > _MAX // 16:
        raise AegisError(ErrorKind.TOO_LARGE, f"{file} is larger than {_MAX // 16:,} bytes", "split it, or make it smaller")
    return text


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_MAX + 1)


def _since(text: str) -> float:
    """Wall seconds of so long ago. Raises USAGE."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.isdecimal() or len(number) > 6:
        raise AegisError(ErrorKind.USAGE, f"--since {text!r} is not a length of time", "write `30m`, `12h` or `7d`")
    return time.time() - int(number) * _UNITS[unit]


_EXAMPLE = """\
# What rules are expected to say. `principal` is a handle, `owner`, or attributes of an agent that need not exist.
cases:
  - name: an agent may not change its owner's configuration
    principal: {agent: coder}
    action: config.edit
    resource: coder
    expect: deny

  - name: the owner always may
    principal: owner
    action: config.edit
    resource: coder
    expect: allow
    rule: aegis.owner

  - name: an agent with the tools for files may read one
    principal: {agent: coder, tools: [fs]}
    action: tool.call
    resource: fs.read
    path: /workspace/README.md
    expect: allow

  - name: an agent without them may not
    principal: {agent: coder, tools: []}
    action: tool.call
    resource: fs.read
    path: /workspace/README.md
    expect: deny

  - name: a command line is judged command by command
    principal: {agent: coder, tools: [cmd]}
    action: tool.call
    resource: cmd.run
    command: make test && ls -l
    expect: allow
"""
