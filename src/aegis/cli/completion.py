"""The verb that prints a shell's completion script. The script asks this program, which asks the daemon only if it runs."""

from __future__ import annotations

import click

from aegis.cli.options import Word
from aegis.cli.output import Output
from aegis.cli.verbs import Verb


@click.command(cls=Verb, json=False)
@click.argument("shell", type=Word("script for the shell", ("bash", "zsh", "fish")))
@click.pass_obj
def completion(out: Output, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Examples:
      eval "$(aegis completion bash)"        in ~/.bashrc
      eval "$(aegis completion zsh)"         in ~/.zshrc
      aegis completion fish > ~/.config/fish/completions/aegis.fish
    """
    from click.shell_completion import get_completion_class

    from aegis.cli.commands import ROOT

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(ROOT, {}, "aegis", "_AEGIS_COMPLETE")
    out.raw(1, (script.source_template % script.source_vars()).encode())
