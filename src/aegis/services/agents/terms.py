"""Whether what a launch asks for fits together: the program, its model, and what it may do.

All of it is checked before anything starts. Of files it only looks whether they are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from aegis.core.errors import AegisError, ErrorKind, unknown_name
from aegis.drivers import Permission
from aegis.models.names import FAMILIES, SCRIPTED, SCRIPTS, ModelName, merge, parse, resolve

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from aegis.core.dialects import Dialect
    from aegis.drivers import Driver
    from aegis.models.names import ProviderSpec
    from aegis.services.agents.logins import Logins
    from aegis.services.agents.model import Launch, MountRule

#: Which model an agent gets when nobody names one: the first that its program can speak to and whose secret it was given or, given
#: none, is stored; else the offline one.
DEFAULT_MODELS: Final = (
    ("ANTHROPIC_API_KEY", FAMILIES["sonnet"]),
    ("OPENAI_API_KEY", "openai/gpt-5.1"),
    ("GEMINI_API_KEY", FAMILIES["pro"]),
)
OFFLINE_MODEL: Final = "scripted/echo"
SPOKEN: Final[dict[Dialect, str]] = {
    "anthropic": "Anthropic Messages",
    "openai": "OpenAI Chat Completions",
    "responses": "OpenAI Responses",
    "gemini": "Gemini",
}


def default_model(driver: Driver, available: Collection[str], *, login: bool) -> str:
    """The model for a program when nobody names one."""
    for secret, model in DEFAULT_MODELS:
        provider = merge({}).get(model.partition("/")[0])
        if provider is not None and (login or secret in available) and not provider.dialects.isdisjoint(driver.dialects):
            return model
    return OFFLINE_MODEL


def model_name(wanted: str, aliases: Mapping[str, str], declared: Mapping[str, ProviderSpec], driver: Driver) -> ModelName:
    """The model that a name, an alias or a family means, which `driver` can speak to. Raises USAGE or NOT_FOUND naming what it is not."""
    wanted = resolve(wanted, aliases)
    if "/" not in wanted:
        known = [*aliases, *FAMILIES, *(model for _, model in DEFAULT_MODELS), OFFLINE_MODEL]
        raise unknown_name("model", wanted, known, "write `provider/model`")
    providers = merge(declared)
    name = parse(wanted, (*providers, SCRIPTED))
    if name.provider == SCRIPTED:
        if name.model not in SCRIPTS:
            raise unknown_name("scripted model", str(name), [f"{SCRIPTED}/{script}" for script in SCRIPTS])
        return name
    spoken = providers[name.provider].dialects
    if spoken.isdisjoint(driver.dialects):
        fit = [p for p, spec in providers.items() if not spec.dialects.isdisjoint(driver.dialects)]
        raise AegisError(
            ErrorKind.USAGE,
            f"{driver.name} speaks {_words(driver.dialects)}; the model provider `{name.provider}` speaks {_words(spoken)}",
            f"choose a model of {', '.join(f'`{p}`' for p in [*fit, SCRIPTED])}",
        )
    return name


def speaks(driver: Driver, model: str, declared: Mapping[str, ProviderSpec]) -> bool:
    """Whether the program can use a model, by its full name."""
    try:
        model_name(model, {}, declared, driver)
    except AegisError:
        return False
    return True


def check_program(launch: Launch, driver: Driver) -> None:
    """Refuse what the program cannot do. Raises USAGE or NOT_FOUND with the nearest word, DENIED for a promise that nobody could keep."""
    able = driver.capabilities
    if launch.effort is not None:
        if not able.efforts:
            raise AegisError(ErrorKind.USAGE, f"{driver.name} cannot be told how hard to think", f"leave out the effort `{launch.effort}`")
        if launch.effort not in able.efforts:
            raise unknown_name(f"effort of {driver.name}", launch.effort, able.efforts)
    if launch.mode is not None and driver.name == "native":
        raise AegisError(ErrorKind.USAGE, "the native agent has no modes", f"leave out the mode `{launch.mode}`")
    if launch.mode is not None and able.modes and launch.mode not in able.modes:
        raise unknown_name(f"mode of {driver.name}", launch.mode, able.modes)
    check_mode(launch, driver, launch.mode)
    if launch.approvals == "ask" and not able.permission_requests:
        raise AegisError(
            ErrorKind.USAGE,
            f"{driver.name} does not ask before it uses a tool, so nobody can be asked to approve it",
            "leave out `approvals: ask`; permission `read` keeps it from writing",
        )
    if launch.approvals == "ask" and launch.sandbox == "process":
        raise AegisError(
            ErrorKind.DENIED,
            "the sandbox `process` has no boundary, so nothing would hold the program to a person's answer",
            "choose a sandbox with a boundary (see `aegis doctor`), or leave out `approvals: ask`",
        )


def check_mode(launch: Launch, driver: Driver, mode: str | None) -> None:
    """Refuse a mode in which nobody would be asked who is to be. Raises CONFLICT."""
    if launch.approvals == "ask" and mode in driver.capabilities.unasking:
        asking = [m for m in driver.capabilities.modes if m not in driver.capabilities.unasking]
        raise AegisError(
            ErrorKind.CONFLICT,
            f"in the mode `{mode}` {driver.name} does not ask for everything, and with `approvals: ask` a person is to be asked",
            f"choose {' or '.join(f'`{m}`' for m in asking)}, or leave out `approvals: ask`",
        )


def check_rights(launch: Launch) -> None:
    """Refuse rights that the permission does not hold, or that the sandbox could not hold to."""
    writable = next((mount.source for mount in launch.mounts if mount.writable), None)
    if launch.permission != "full":
        what = f"egress to {launch.egress[0]}" if launch.egress else f"the writable mount {writable}" if writable else None
        if what is not None:
            raise AegisError(ErrorKind.USAGE, f"{what} needs the permission `full`", "`--permission full`, or leave it out")
    if launch.sandbox == "process":
        if launch.permission == "read":
            raise AegisError(
                ErrorKind.DENIED,
                "the sandbox `process` has no boundary, so it cannot keep an agent with permission `read` from writing",
                "choose a sandbox with a boundary (see `aegis doctor`), or give it permission `write`",
            )
        if launch.egress:
            raise AegisError(
                ErrorKind.DENIED,
                "the sandbox `process` has no boundary: what runs in it reaches the whole network, whatever the egress rules say",
                "choose a sandbox with a boundary (see `aegis doctor`), or leave out the egress rules",
            )


def check_login(launch: Launch, logins: Logins) -> None:
    """Refuse `auth: login` unless a person has granted all that it takes, has logged in, and no other instance has the login."""
    if launch.auth != "login":
        return
    login = logins.known.get(launch.driver or "")
    if login is None:
        raise AegisError(
            ErrorKind.USAGE,
            f"{launch.driver} has no login of its own that Aegis knows",
            "leave out `auth: login`: the daemon holds the key",
        )
    missing = [rule for rule in login.egress if rule not in launch.egress]
    if launch.permission != "full" or missing:
        flags = " ".join(f"--egress {rule}" for rule in missing)
        raise AegisError(
            ErrorKind.USAGE,
            f"with its own login {launch.driver} speaks to its provider itself, which takes permission `full` and egress to its hosts",
            f"`--permission full {flags}`".replace(" `", "`"),
            egress=missing,
        )
    logins.check(launch.driver or "")


def permission(wanted: str) -> Permission:
    """The permission of that name. Raises NOT_FOUND with the nearest."""
    for known in get_args(Permission):
        if wanted == known:
            return wanted  # type: ignore[return-value]
    raise unknown_name("permission", wanted, get_args(Permission))


def word(what: str, wanted: str, known: Iterable[str]) -> str:
    """A word of a closed set. Raises NOT_FOUND with the nearest."""
    words = tuple(known)
    if wanted not in words:
        raise unknown_name(what, wanted, words)
    return wanted


def recording(what: str, wanted: str | None, home: Path, shown: Collection[str], mounts: Collection[MountRule]) -> str | None:
    """The path of a file of recorded model calls. It may be nowhere where an agent could exchange it.

    Args:
        what: `record` or `replay`; the first is made, the second must be there.
        shown: the workspace, if there is one.
    """
    if wanted is None:
        return None
    path = Path(wanted).expanduser()
    if not path.is_absolute():
        raise AegisError(ErrorKind.USAGE, f"the path to {what}, {wanted!r}, is not absolute", "give the whole path")
    path = path.resolve()
    for place in (str(home), *shown, *(mount.source for mount in mounts)):
        if path.is_relative_to(place):
            why = "the Aegis home" if place == str(home) else "a directory that a sandbox sees"
            raise AegisError(ErrorKind.DENIED, f"the path to {what}, {path}, lies in {why}", "choose a file somewhere else")
    if what == "replay" and not path.is_file():
        raise AegisError(ErrorKind.NOT_FOUND, f"there is no recording {path}", "record one first: `--record PATH`")
    if what == "record" and (path.is_dir() or not path.parent.is_dir()):
        raise AegisError(ErrorKind.NOT_FOUND, f"{path} is not a file in an existing directory", f"`mkdir -p {path.parent}`")
    return str(path)


def _words(dialects: Iterable[Dialect]) -> str:
    return " and ".join(SPOKEN[dialect] for dialect in SPOKEN if dialect in set(dialects))
