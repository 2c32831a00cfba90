"""What of the host must not be reachable from inside: files, processes, networks; and what a spec may not ask for."""

from __future__ import annotations

import json
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from aegis.core.errors import AegisError
from aegis.sandboxes import Mount
from aegis.sandboxes.conformance.scratch import CANARY, PROTECTED, Scratch, Trial, expect

if TYPE_CHECKING:
    from aegis.sandboxes import SandboxSpec

#: Reads each path and prints those that gave something.
_READ = """
import os, sys, json
seen = {}
for path in sys.argv[1:]:
    try: seen[path] = os.listdir(path) if os.path.isdir(path) else open(path, 'rb').read(4096).decode('latin-1')
    except OSError: pass
print(json.dumps(seen))
"""
_NETWORK = """
import json, socket, sys
reached = []
def attempt(name, family, kind, address):
    s = socket.socket(family, kind); s.settimeout(1)
    try:
        s.connect(address)
        if kind == socket.SOCK_DGRAM: s.send(b'knock')
        else: reached.append(name)
    except OSError: pass
tcp, udp, six, abstract, path = json.loads(sys.argv[1])
attempt('tcp', socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', tcp))
attempt('udp', socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', udp))
if six: attempt('ipv6', socket.AF_INET6, socket.SOCK_STREAM, ('::1', six))
attempt('abstract unix', socket.AF_UNIX, socket.SOCK_STREAM, '\\0' + abstract)
attempt('unix', socket.AF_UNIX, socket.SOCK_STREAM, path)
try:
    socket.getaddrinfo('dns-must-not-work.invalid', 80); reached.append('dns')
except OSError: pass
reached += [name for _, name in socket.if_nameindex() if name != 'lo']
print(json.dumps(reached))
"""
_PLANT = """
import os, shutil, sys
for name in sys.argv[1:]:
    for attempt in (
        lambda: open(name, 'w').write('planted'), lambda: open(name, 'a').write('planted'), lambda: os.truncate(name, 0),
        lambda: os.remove(name), lambda: os.rename(name, name + '.old'), lambda: os.rename('readable', name),
        lambda: os.link('readable', name), lambda: os.chmod(name, 0o777),
    ):
        try: attempt()
        except OSError: pass
for directory in ('.git', '.git/hooks', '.aegis', '.aegis/agents'):
    try: open(os.path.join(directory, 'planted'), 'w').write('x')
    except OSError: pass
    moves = (lambda: os.rename(directory, directory + '.old'), lambda: shutil.rmtree(directory), lambda: os.symlink('/', directory))
    for attempt in moves:
        try: attempt()
        except OSError: pass
"""


async def _files(scratch: Scratch) -> str:
    other = await scratch.start(scratch.spec())
    await other.says("import os; open(os.path.join(os.environ['HOME'], 'secret'), 'w').write('" + CANARY + "')")
    box = await scratch.shared()
    homes = [str(home / name) for home in (scratch.home, scratch.real_home) for name in (".", "aegisd.sock", "guest", "state")]
    secrets = [str(scratch.outside / "secret"), str(other.sandbox.spec.state / "home/secret")]
    paths = ["/etc/shadow", "/boot", "/var/lib", "/sys/kernel", *secrets, *homes]
    seen: dict[str, object] = json.loads(await box.says(_READ, *paths))
    await other.sandbox.stop(0.0)
    expect(not seen, f"readable inside: {', '.join(seen)}")
    everywhere = f"cat $(find / -name secret -not -path '/proc/*' 2>/dev/null) /proc/*/root{scratch.outside}/secret /dev/null"
    expect(CANARY not in (await box.run(["sh", "-c", everywhere])).out, "a file of the host, or of another instance, is found inside")
    return ""


async def _symlinks(scratch: Scratch) -> str:
    box = await scratch.shared()
    outside = scratch.outside / "secret"
    script = "import os, sys; os.symlink(sys.argv[1], 'own'); os.symlink('../outside/secret', 'relative')"
    await box.says(script, str(outside))
    ran = await box.run(["cat", "link", "own", "relative"])
    expect(CANARY not in ran.out, "a symbolic link leads out of the workspace")
    return ""


async def _processes(scratch: Scratch) -> str:
    box = await scratch.shared()
    script = "import os, json; print(json.dumps({p: open('/proc/%s/cmdline' % p).read() for p in os.listdir('/proc') if p.isdigit()}))"
    seen: dict[str, str] = json.loads(await box.says(script))
    foreign = [line for line in seen.values() if "aegis-guest" not in line and "-I" not in line]
    expect(len(seen) <= 3 and not foreign, f"{len(seen)} processes are seen, among them {foreign[:3]}")
    return f"{len(seen)} processes"


async def _network(scratch: Scratch) -> str:
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        six_port = 0
        if socket.has_dualstack_ipv6():
            six = stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
            six_port = six.getsockname()[1]
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        name = f"aegis-conformance-{os.getpid()}-{tcp.getsockname()[1]}"
        abstract.bind("\0" + name)
        abstract.listen()
        path = str(scratch.home / "s.sock")
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(path)
        unix.listen()
        ports = [tcp.getsockname()[1], udp.getsockname()[1], six_port, name, path]
        reached = json.loads(await (await scratch.shared()).says(_NETWORK, json.dumps(ports)))
        udp.setblocking(False)
        try:
            udp.recv(64)
            reached.append("udp")
        except BlockingIOError:
            pass
    expect(not reached, f"reached: {', '.join(reached)}")
    return ""


async def _descriptors(scratch: Scratch) -> str:
    box = await scratch.shared()
    script = (
        "import os, json\nd = '/proc/self/fd/'; print(json.dumps({n: os.readlink(d + n) for n in os.listdir(d) if os.path.lexists(d + n)}))"
    )
    seen = json.loads(await box.says(script))
    extra = {n: to for n, to in seen.items() if int(n) > 2}
    expect(not extra, f"inherited: {extra}")
    return ""


async def _protected(scratch: Scratch) -> str:
    box = await scratch.start(scratch.spec())
    await box.says(_PLANT, *PROTECTED)
    await box.sandbox.stop(0.0)
    changed = [name for name, text in PROTECTED.items() if _text(scratch.workspace / name) != text]
    planted = [str(path) for path in scratch.workspace.glob(".git/hooks/*") if path.name != "pre-commit"]
    expect(not changed and not planted, f"an agent can change {', '.join(changed + planted)}")
    return ""


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


async def _read_only(scratch: Scratch) -> str:
    box = await scratch.start(scratch.spec(writable=False))
    ran = await box.run(
        ["sh", "-c", "cat readable; echo x > written; echo x >> readable; mkdir d; rm readable; mount -o remount,rw /workspace"]
    )
    await box.sandbox.stop(0.0)
    expect(ran.out == "from the host", f"read {ran.out!r}")
    there = (scratch.workspace / "readable").read_text()
    expect(there == "from the host" and not (scratch.workspace / "written").exists(), "a read-only workspace was written")
    return ""


async def _refusals(scratch: Scratch) -> str:
    """What would put the home, or the whole machine, inside is refused before anything starts."""
    home = scratch.home
    forbidden = {"the home": home, "what holds the home": home.parent, "the machine": Path("/"), "the state": scratch.spec().state}
    for name, source in forbidden.items():
        spec = scratch.spec()
        for field in ("workspace", "mounts"):
            mount = Mount(source, "/workspace" if field == "workspace" else "/data")
            await _refused(scratch, spec, field, mount, f"{name} as {field}")
    for target in ("/proc", "/dev/x", "/usr", "/etc/ssl", "/run/aegis/lib", "/", "/workspace/x", "relative", "/a/../usr"):
        await _refused(scratch, scratch.spec(), "mounts", Mount(scratch.outside, target), f"a mount at {target}")
    await _refused(scratch, scratch.spec(), "mounts", Mount(scratch.outside / "missing", "/data"), "a source that does not exist")
    return ""


async def _refused(scratch: Scratch, spec: SandboxSpec, field: str, mount: Mount, what: str) -> None:
    changed = msgspec.structs.replace(spec, **{field: mount if field == "workspace" else (mount,)})
    try:
        box = await scratch.start(changed)
    except AegisError as error:
        expect(error.hint, f"{what}: refused without a hint")
        return
    await box.sandbox.stop(0.0)
    expect(False, f"{what} is not refused")


TRIALS: Final = (
    Trial("files of the host", True, _files),
    Trial("symbolic links", True, _symlinks),
    Trial("processes of the host", True, _processes),
    Trial("network", True, _network),
    Trial("inherited descriptors", False, _descriptors),
    Trial("declarations and git hooks", True, _protected),
    Trial("read-only workspace", True, _read_only),
    Trial("refusals", True, _refusals),
)
