"""The entry of the program: from arguments to an exit code.

`--version` is answered before anything is imported. Whatever goes wrong ends as one line on standard error, a hint, and the
exit code of the error's kind; a defect of Aegis itself shows its traceback when AEGIS_DEBUG is set. A reader that stops
reading ends the program quietly.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from aegis.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    import click

    from aegis.core.errors import AegisError

_COMPLETE = "_AEGIS_COMPLETE"
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    out = Output()
    try:
        if args in (["--version"], ["-V"]):
            from aegis.core.version import __version__

            out.say(f"aegis {__version__}")
            code = 0
        else:
            code = _run(args, out)
        out.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        out.abandon()
        return 0


def _run(args: list[str], out: Output) -> int:
    import click

    from aegis.cli.commands import ROOT
    from aegis.core.errors import AegisError, ErrorKind

    if instruction := os.environ.get(_COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(ROOT, {"obj": out}, "aegis", _COMPLETE, instruction)
    # Known before the arguments are parsed, so that a wrong one is reported as asked, too.
    out.json = "--json" in (args[: args.index("--")] if "--" in args else args)
    try:
        with ROOT.make_context("aegis", args, obj=out) as context:
            code = ROOT.invoke(context)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except (click.Abort, EOFError):
        return INTERRUPTED
    except click.ClickException as exc:
        error = _usage(exc)
    except AegisError as exc:
        error = exc
    except BrokenPipeError:
        raise
    except Exception as exc:
        if os.environ.get("AEGIS_DEBUG"):
            raise
        error = AegisError(ErrorKind.INTERNAL, f"{type(exc).__name__}: {exc}", "run it again with AEGIS_DEBUG=1 to see where")
    out.error(error)
    return error.exit_code


def _usage(exc: click.ClickException) -> AegisError:
    """A wrong command line as one of our errors, with the nearest right name."""
    from click import NoSuchOption, UsageError

    from aegis.core.errors import AegisError, ErrorKind

    context = exc.ctx if isinstance(exc, UsageError) else None
    see = f"see `{context.command_path if context else 'aegis'} --help`"
    if isinstance(exc, NoSuchOption):
        near = exc.possibilities or []
        message = f"no option `{exc.option_name}` in `{context.command_path if context else 'aegis'}`"
        return AegisError(ErrorKind.USAGE, message, f"did you mean `{near[0]}`?" if near else see, nearest=near[0] if near else None)
    message = exc.format_message().rstrip(".")
    return AegisError(ErrorKind.USAGE, message[:1].lower() + message[1:], see)


if __name__ == "__main__":
    sys.exit(main())
