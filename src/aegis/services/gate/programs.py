"""What is known of programs: which of them start others, which words of theirs are files, and what is dangerous about a call.

Tables and small pure functions; `calls` puts them together. A program that is not known counts as one that may write what it is given.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash", "mksh", "fish", "rbash"})


class Wrapper(NamedTuple):
    """A program that starts the command in its arguments. `valued` and `flags` are options that it is known to have; others are not
    understood. `operands` stand between its options and the command."""

    valued: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    operands: int = 0
    computed: bool = False  # it adds arguments of its own


def _options(valued: str = "", flags: str = "", operands: int = 0, *, computed: bool = False) -> Wrapper:
    return Wrapper(frozenset(valued.split()), frozenset(flags.split()), operands, computed)


WRAPPERS: Final = {
    "env": _options("-u --unset -C --chdir", "-i --ignore-environment -0 --null -v --debug -"),
    "sudo": _options("-u -g -h -p -C -T -r -t -U -D -R --user --group --host --chdir", "-E -H -n -S -k -b -A -B -P --non-interactive"),
    "doas": _options("-u -C", "-n -s -L"),
    "xargs": _options(
        "-I -n -P -L -d -a -s -E --max-args --max-procs --max-lines --delimiter --arg-file --replace",
        "-0 -r -t -p -x --null --no-run-if-empty --verbose",
        computed=True,
    ),
    "nohup": _options(),
    "setsid": _options("", "-c -f -w --ctty --fork --wait"),
    "command": _options("", "-p"),
    "builtin": _options(),
    "exec": _options("-a", "-c -l"),
    "time": _options("-f -o --format --output", "-p -v -a --portability --verbose --append"),
    "nice": _options("-n --adjustment"),
    "ionice": _options("-c -n --class --classdata", "-t"),
    "timeout": _options("-s -k --signal --kill-after", "-v --foreground --preserve-status --verbose", 1),
    "stdbuf": _options("-i -o -e --input --output --error"),
    "chrt": _options("", "-b -f -i -o -r", 1),
    "taskset": _options("", "-a", 1),
    "strace": _options("-e -o -p -s", "-f -ff -c -t -tt -q -y"),
    "ltrace": _options("-e -o", "-f"),
    "flock": _options("-w -E --wait --timeout", "-n -x -s -e -u --nonblock --exclusive --shared", 1),
    "unbuffer": _options(),
    "busybox": _options(),
    "watch": _options("-n --interval", "-d -t -g -e -x -c"),
    "parallel": _options("-j --jobs", "-k --keep-order", computed=True),
}
#: Tools whose word `run` or `exec` starts what comes after it.
RUNNERS: Final = {
    "uv": "run", "poetry": "run", "pipenv": "run", "pdm": "run", "rye": "run", "hatch": "run", "bundle": "exec", "npm": "exec",
    "pnpm": "exec", "conda": "run",
}  # fmt: skip

#: Interpreters, and their options that take code.
INLINE: Final = {
    "python": "c", "pypy": "c", "perl": "eE", "ruby": "e", "node": "ep", "nodejs": "ep", "php": "rBE", "lua": "e", "osascript": "e",
    "bun": "e", "deno": "", "Rscript": "e", "tclsh": "", "julia": "eE",
}  # fmt: skip
_INLINE_LONG: Final = frozenset({"--eval", "--print", "--run", "eval", "-exec"})

#: Variables that make a program load or start something else.
LOADING: Final = re.compile(
    r"PATH|IFS|SHELL|ENV|BASH_ENV|BASH_FUNC.*|PROMPT_COMMAND|PS4|LD_.*|DYLD_.*|GIT_.*|(GIT_)?PAGER|(GIT_)?EDITOR|VISUAL|LESSOPEN|"
    r"PYTHON(PATH|STARTUP|HOME|WARNINGS|BREAKPOINT)|NODE_(OPTIONS|PATH)|PERL5?(OPT|LIB|DB)|RUBY(OPT|LIB)|JAVA_TOOL_OPTIONS|"
    r"RUSTC_WRAPPER|CC|CXX|MAKEFLAGS|SSH_ASKPASS|BROWSER|https?_proxy|HTTPS?_PROXY|ALL_PROXY|(PIP|UV|NPM)_.*"
)

#: Programs that only look at the files they are given, and programs whose arguments are no files.
READERS: Final = frozenset(
    "cat ls ll dir head tail less more wc stat file diff cmp md5sum sha1sum sha256sum sha512sum cksum od xxd hexdump strings tree du df "
    "realpath readlink basename dirname test [ sort uniq cut nl tac rev column comm join paste cd pushd source . grep egrep fgrep rg "
    "ag ack jq yq find fd awk gawk mawk sed which type nproc".split()
)
WRITERS: Final = frozenset(
    "rm rmdir unlink mv cp ln install touch mkdir chmod chown chgrp truncate shred tee rsync mkfifo mknod split csplit patch".split()
)
NO_FILES: Final = frozenset("echo printf true false : export unset set shift exit return sleep kill pkill killall seq date".split())
#: How many of the first arguments of these are no files.
PATTERNS: Final = {"grep": 1, "egrep": 1, "fgrep": 1, "rg": 1, "ag": 1, "ack": 1, "sed": 1, "awk": 1, "gawk": 1, "mawk": 1,
                   "jq": 1, "yq": 1, "chmod": 1, "chown": 1, "chgrp": 1}  # fmt: skip
#: Options whose value is a file that is written.
OUTPUTS: Final = {
    "curl": ("-o", "--output"),
    "wget": ("-O", "--output-document"),
    "gcc": ("-o",),
    "cc": ("-o",),
    "sort": ("-o", "--output"),
}
#: Programs that speak to the host that they are given, without a URL.
SPEAKERS: Final = frozenset("curl wget ssh nc ncat netcat telnet ping ping6 dig nslookup host http https socat ftp sftp".split())
_FETCHERS: Final = frozenset("curl wget fetch aria2c http https nc ncat netcat".split())

_SAFE_SETTINGS: Final = re.compile(
    r"(user\.(name|email)|color\..*|advice\..*|init\.defaultbranch|core\.(quotepath|autocrlf|filemode|longpaths)|commit\.gpgsign|"
    r"tag\.gpgsign|gc\.auto|log\.showsignature|diff\.(renames|nopref[ia]x|mnemonicprefix)|safe\.directory|pull\.rebase)=.*",
    re.IGNORECASE,
)
#: Settings of git whose value is a command line.
GIT_COMMANDS: Final = re.compile(
    r"(core\.(sshcommand|pager|editor|fsmonitor|askpass|gitproxy)|sequence\.editor|gpg\.(.*\.)?program|credential\.(.*\.)?helper|"
    r"diff\.external|(diff|filter|merge|difftool|mergetool|pager|alias|interactive|uploadpack|browser|man)\..*)=(.*)",
    re.IGNORECASE | re.DOTALL,
)
_SIMPLE_SED: Final = re.compile(
    r"\s*(?:(?:\d+|\$|/[^/]*/)(?:,(?:\d+|\$|/[^/]*/))?)?\s*(?:[pdq=]|s([/|#,!])(?:(?!\1)[^\\\n]|\\.)*\1(?:(?!\1)[^\\\n]|\\.)*\1[gpiI0-9]*)\s*"
)
_RUNNING_AWK: Final = re.compile(r"system|getline|[|>@]|-v")
_EXECUTING: Final = re.compile(
    r"--(to-command|checkpoint-action|use-compress-program|exec|upload-pack|receive-pack|rsh|pre|ext-diff|exec-path|config-env|"
    r"pager|editor|rsync-path|info-script|new-volume-script)\b"
)
_INSTALLS: Final = {
    "pip": {"install"}, "pip3": {"install"}, "pipx": {"install", "run"}, "uv": {"add", "pip", "tool"}, "npm": {"install", "i", "add", "ci"},
    "pnpm": {"install", "i", "add"}, "yarn": {"add", "install"}, "apt": {"install"}, "apt-get": {"install"}, "dnf": {"install"},
    "yum": {"install"}, "apk": {"add"}, "brew": {"install"}, "cargo": {"install", "add"}, "gem": {"install"}, "go": {"install", "get"},
    "poetry": {"add", "install"}, "conda": {"install"}, "pacman": {"-S"},
}  # fmt: skip
_PUBLISHES: Final = {"npm": {"publish"}, "twine": {"upload"}, "docker": {"push"}, "cargo": {"publish"}, "gem": {"push"}, "gh": {"release"}}


def inline(name: str, args: Sequence[str]) -> bool | None:
    """Whether an interpreter is given code on its line: True; False for a file or module, None where it reads its input."""
    options = INLINE.get(re.sub(r"[0-9.]+$", "", name))
    if options is None:
        return False
    for n, arg in enumerate(args):
        if arg in _INLINE_LONG or any(arg.startswith(f"{long}=") for long in _INLINE_LONG):
            return True
        if arg in ("-m", "-W", "-X", "-r", "--require") and name not in ("php",):
            return False if arg == "-m" else inline(name, args[n + 2 :])
        if arg.startswith("-") and not arg.startswith("--") and len(arg) > 1:
            if any(char in options for char in arg[1:]):
                return True
        elif not arg.startswith("-"):
            return False
    return None


def is_interpreter(name: str) -> bool:
    """Whether it runs code of its own language."""
    return re.sub(r"[0-9.]+$", "", name) in INLINE


def hides_code(name: str, args: Sequence[str]) -> bool:
    """Whether what the program does is in a text that is not understood here."""
    if any(_EXECUTING.match(arg) for arg in args):
        return True
    operands = [arg for arg in args if not arg.startswith("-")]
    match name:
        case "sed":
            scripts = [args[n + 1] for n, arg in enumerate(args[:-1]) if arg in ("-e", "--expression")] or operands[:1]
            files = any(re.match(r"-[a-zA-Z]*f|--file|--expression=|-e.", arg) for arg in args)
            return files or not all(
                _SIMPLE_SED.fullmatch(part) for script in scripts for part in re.split(r"[;\n]", script) if part.strip()
            )
        case "awk" | "gawk" | "mawk":
            return any(re.match(r"-[fiEl]|--", arg) for arg in args) or bool(operands and _RUNNING_AWK.search(operands[0]))
        case "git":
            return subcommand("git", args) in ("filter-branch", "submodule", "difftool", "mergetool", "hook") or (
                subcommand("git", args) in ("rebase", "bisect") and any(arg in ("-x", "run") or arg.startswith("-x") for arg in args)
            )
        case (
            "ssh" | "docker" | "podman" | "kubectl" | "su" | "script" | "expect" | "gdb" | "vim" | "vi" | "ex" | "emacs" | "nvim" | "alias"
        ):
            return name != "ssh" or len(operands) > 1
    return False


def git_settings(args: Sequence[str]) -> list[str]:
    """The settings that a line gives to git, `key=value`, but for those that only change how it looks."""
    sub, found, n = subcommand("git", args), [], 0
    while n < len(args) and args[n] != sub:
        if args[n] == "-c" and n + 1 < len(args):
            n += 1
            found.append(args[n])
        elif args[n].startswith("-c") and "=" in args[n]:
            found.append(args[n][2:])
        n += 1
    return [setting for setting in found if not _SAFE_SETTINGS.fullmatch(setting)]


def subcommand(name: str, args: Sequence[str]) -> str | None:
    """The first argument that is no option; of git not the value of one either."""
    skip = False
    for arg in args:
        if skip:
            skip = False
        elif name == "git" and arg in ("-C", "-c", "--git-dir", "--work-tree", "--namespace", "--exec-path", "--config-env"):
            skip = True
        elif not arg.startswith("-"):
            return arg
    return None


def risks(name: str, args: Sequence[str]) -> list[str]:
    """What is dangerous about a command, for people."""
    found = []
    flags = {char for arg in args if re.fullmatch(r"-[A-Za-z]+", arg) for char in arg[1:]}
    sub = subcommand(name, args)
    if name == "rm" and (flags & {"r", "R"} or "--recursive" in args):
        found.append("deletes recursively")
    if name == "find" and "-delete" in args:
        found.append("deletes recursively")
    if name in ("shred", "mkfs", "wipefs") or (name == "dd" and any(arg.startswith("of=/dev/") for arg in args)):
        found.append("destroys data")
    if name in ("chmod", "chown", "chgrp") and (flags & {"R"} or "--recursive" in args):
        found.append("changes permissions recursively")
    if name in ("sudo", "doas", "su"):
        found.append("runs as another user")
    if name == "git":
        found += _of_git(sub, args, flags)
    if sub in _INSTALLS.get(name, ()) or name in ("npx", "uvx", "bunx") or (
        is_interpreter(name) and "-m" in args and {"pip", "install"} <= set(args)
    ):  # fmt: skip
        found.append("installs packages")
    if sub in _PUBLISHES.get(name, ()):
        found.append("publishes")
    if name == "curl" and (flags & {"d", "F", "T"} or any(arg.startswith(("--data", "--form", "--upload", "--json")) for arg in args)):
        found.append("sends data to the network")
    return found


def _of_git(sub: str | None, args: Sequence[str], flags: set[str]) -> list[str]:
    found = []
    if sub == "push":
        forced = "f" in flags or any(arg.startswith(("--force", "--mirror")) or re.match(r"\+\S", arg) for arg in args)
        found += ["force-pushes"] if forced else []
        found += ["deletes a branch of the remote"] if "--delete" in args or any(re.match(r":\S", arg) for arg in args) else []
    if (sub == "reset" and "--hard" in args) or (sub == "clean" and "f" in flags) or (sub == "checkout" and "--" in args):
        found.append("discards uncommitted work")
    if sub == "config" and not {"--get", "--list", "-l", "--get-all"} & set(args):
        found.append("changes git's configuration")
    return found


def fetches(name: str) -> bool:
    """Whether it gets something from the network."""
    return name in _FETCHERS
