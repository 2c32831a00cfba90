"""Aegis as an agent of the Agent Client Protocol, for an editor that starts it.

`wire` is JSON-RPC and `telling`, `asking`, `prompts` and `offers` are the protocol's words for what Aegis tells, all of it without I/O;
`session` and `agent` are the thin shell between them, standard input and output, and the daemon.
"""

from __future__ import annotations

import click

from aegis.cli.options import complete_agent, complete_handle
from aegis.cli.output import Output
from aegis.cli.verbs import Verb


@click.command("acp", cls=Verb, json=False)
@click.option("--instance", "handle", metavar="HANDLE", shell_complete=complete_handle, help="Talk to this instance, whatever the folder.")
@click.option("--agent", metavar="NAME", shell_complete=complete_agent, help="The agent that works in each folder that is opened.")
@click.pass_obj
def acp(out: Output, handle: str | None, agent: str | None) -> int:
    """Be an agent for an editor, on standard input and output.

    An editor that speaks the Agent Client Protocol, such as Zed, starts this and shows the conversation: text as it comes, tools, changes,
    plans, and what the agent asks leave for, which is answered there. Each folder that is opened gets an instance, whose sandbox has that
    folder as its workspace; each thread is a conversation of it. They go on when the editor is closed, and when the daemon dies.

    \b
    Examples of the command for an editor's settings:
      aegis acp
      aegis acp --agent reviewer
      aegis acp --instance coder
    """
    import asyncio

    from aegis.cli.acp.agent import Agent
    from aegis.client import launch

    if handle and agent:
        raise click.UsageError("--instance and --agent exclude each other", click.get_current_context())
    if out.interactive:
        out.hint("this is for editors, and speaks JSON on standard input; docs/editors.md says how one is told of it")
    asyncio.run(Agent(launch.home(), lambda data: out.raw(1, data), handle=handle, agent=agent).run())
    return 0
