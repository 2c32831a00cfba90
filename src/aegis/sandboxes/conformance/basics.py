"""What any sandbox does: it runs programs, gives them a clean environment, and shows them their files."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Final

from aegis.sandboxes.conformance.scratch import OTHER_OWNER, Failed, Scratch, Trial, expect

if TYPE_CHECKING:
    from collections.abc import Iterable

_BIG: Final = 5_000_000
#: All names a program may find in its environment when the instance was given none.
_NAMES: Final = frozenset("PATH HOME TMPDIR LANG TZ PWD SHLVL OLDPWD _ LC_CTYPE".split())


async def _hello(scratch: Scratch) -> str:
    hello = await (await scratch.shared()).link.hello(1.0)
    expect(hello.get("v") == 1, f"it says {hello}")
    return f"Python {hello.get('python')}"


async def _exit_codes(scratch: Scratch) -> str:
    box = await scratch.shared()
    for command, code in (("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9)):
        ran = await box.run(["sh", "-c", command])
        expect(ran.code == code, f"`{command}` ended with {ran.code}")
    ran = await box.run(["sh", "-c", "echo out; echo err >&2"])
    expect((ran.out, ran.err) == ("out\n", "err\n"), f"the output was {ran}")
    return ""


async def _streams(scratch: Scratch) -> str:
    box = await scratch.shared()
    sent = os.urandom(_BIG)
    ran = await box.run(["sha256sum"], stdin=sent)
    expect(ran.out.startswith(hashlib.sha256(sent).hexdigest()), "stdin did not arrive whole")
    ran = await box.python(f"import sys\nfor i in range({_BIG // 10}): sys.stdout.write('%09d\\n' % i)")
    expected = "".join(f"{i:09d}\n" for i in range(_BIG // 10))
    expect(ran.out == expected, f"{len(ran.out)} of {len(expected)} bytes of output arrived whole")
    return f"{_BIG} bytes each way"


async def _environment(scratch: Scratch) -> str:
    os.environ["AEGIS_CANARY_TOKEN"] = "must not be seen inside"
    try:
        box = await scratch.start(scratch.spec(env={"GIVEN": "yes"}))
    finally:
        del os.environ["AEGIS_CANARY_TOKEN"]
    seen: dict[str, str] = json.loads(await box.says("import json, os; print(json.dumps(dict(os.environ)))"))
    await box.sandbox.stop(0.0)
    expect("AEGIS_CANARY_TOKEN" not in seen, "a variable of the daemon is seen")
    strange = _strange(seen)
    expect(not strange, f"unexpected variables: {', '.join(strange)}")
    expect(seen.get("GIVEN") == "yes", "the variable the instance was given is missing")
    return f"{len(seen)} variables"


def _strange(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name not in _NAMES and name != "GIVEN" and not name.startswith("AEGIS_"))


async def _own_directories(scratch: Scratch) -> str:
    box = await scratch.shared()
    script = "import os\nfor n in ('HOME', 'TMPDIR'):\n p = os.path.join(os.environ[n], 'x'); open(p, 'w').write('x'); os.remove(p)"
    ran = await box.python(script)
    expect(ran.code == 0, ran.err.strip()[-200:])
    return ""


async def _home_persists(scratch: Scratch) -> str:
    spec = scratch.spec()
    for script, expected in (("open(p, 'w').write('kept')", ""), ("print(open(p).read())", "kept")):
        box = await scratch.start(spec)
        seen = await box.says(f"import os; p = os.path.join(os.environ['HOME'], 'kept'); {script}")
        await box.sandbox.stop(0.0)
        expect(seen == expected, f"read {seen!r}")
    return ""


async def _workspace(scratch: Scratch) -> str:
    box = await scratch.shared()
    seen = await box.says("import os; print(os.getcwd(), open('readable').read()); open('made', 'w').write('inside'); os.mkdir('dir')")
    expect(seen.endswith("from the host"), f"read {seen!r}")
    made = scratch.workspace / "made"
    if made.read_text() != "inside":
        raise Failed("what was written inside is not on the host")
    owners = {path.stat().st_uid for path in (made, scratch.workspace / "dir")}
    expected = OTHER_OWNER if os.geteuid() == 0 and scratch.kind.strength > 0 else os.geteuid()
    expect(owners == {expected}, f"new files belong to {owners}, the workspace to {expected}")
    expect(scratch.workspace.stat().st_uid == expected, "the workspace changed its owner")
    return f"new files belong to user {expected} on the host"


TRIALS: Final = (
    Trial("hello", False, _hello),
    Trial("exit codes", False, _exit_codes),
    Trial("stdin and output", False, _streams),
    Trial("clean environment", False, _environment),
    Trial("HOME and TMPDIR", False, _own_directories),
    Trial("HOME persists", False, _home_persists),
    Trial("workspace and its owner", False, _workspace),
)
