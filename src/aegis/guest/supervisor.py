"""The guest process: speaks the tether, and owns everything that runs in the sandbox.

Started with a connected stream socket whose number is in `AEGIS_TETHER_FD`. It says `hello`, then does what channels and
control messages ask for (`aegis.tether.frames`). When the tether ends, or breaks, or this process is told to end, everything
below it is killed first.
"""

from __future__ import annotations

import _socket
import os
import sys
import time

from aegis.guest import kernel, processes
from aegis.guest.endpoint import Endpoint
from aegis.guest.logs import Log
from aegis.guest.loop import READ, WRITE, Loop
from aegis.guest.programs import NotStarted, Program, Request
from aegis.tether.jsontext import dumps, loads
from aegis.tether.mux import Closed, Data, Eof, Mux, Opened, TetherBroken, Writable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Any, Protocol

    class Handler(Protocol):
        """What stands behind a channel."""

        def data(self, payload: bytes) -> None: ...
        def eof(self) -> None: ...
        def writable(self) -> None: ...
        def closed(self) -> None: ...

else:
    import _signal

_READ_SIZE = 128 * 1024
#: Bytes from the daemon or to it after which the memory they took is given back, once a channel ends.
_MUCH = 4 * 1024 * 1024
#: Seconds that the dead have for being reaped before this process goes as well.
_REAP = 1.0
_LAST_WORD = 0.005


class Guest:
    """All that one guest is."""

    def __init__(self, tether: _socket.socket, environ: dict[str, str], limits: dict[str, str]) -> None:
        self.loop = Loop()
        self.mux = Mux("guest")
        self.log = Log(self.mux)
        self.channels: dict[int, Handler] = {}
        self.environ = environ
        self.cwd = _cwd()
        self.mark = f"{os.getpid()}.{time.time_ns():x}"  # unique on this host, whatever the pid namespace
        self._tether = tether
        self._unsent = memoryview(b"")
        self._programs: dict[int, Program] = {}
        self._ending = False
        self._last_words = 20  # so often is waited for what ended programs have still to say
        self._traffic = 0  # bytes since memory was last given back
        self._listen()
        environ.update(AEGIS_LIB=sys.path[0], AEGIS_PYTHON=sys.executable)
        #: By these the daemon finds its own again; no program is started with others.
        names = ("AEGIS_INSTANCE", "AEGIS_HOME_ID", "AEGIS_DAEMON")
        self.marks: dict[str, str] = {name: environ[name] for name in names if name in environ}
        hello: dict[str, Any] = {"v": 1, "pid": os.getpid(), "python": sys.version.split()[0], "uid": os.getuid(), "cwd": self.cwd}
        hello.update(limits=limits, interpreter=sys.executable, lib=sys.path[0])
        try:
            hello["endpoint"] = environ["AEGIS_MODEL_URL"] = Endpoint(self, {"kind": "model"}).url
        except OSError as error:
            hello.update(endpoint=None, endpoint_error=error.strerror)
        try:
            hello["mcp"] = Endpoint(self, {"kind": "mcp"}).url
            environ["AEGIS_MCP_URL"] = hello["mcp"] + "/mcp"
        except OSError as error:
            hello.update(mcp=None, mcp_error=error.strerror)
        forwarded = environ.pop("AEGIS_EGRESS_TO", "")
        if environ.pop("AEGIS_EGRESS", "") == "1":
            hello.update(self._open_egress(forwarded.split(",") if forwarded else []))
        self._say({"jsonrpc": "2.0", "method": "hello", "params": hello})
        self._flush()

    def run(self) -> None:
        """Work until the tether ends. Does not return: the process ends with it."""
        try:
            while True:
                self.loop.turn()
                if self.mux.pending:
                    self._flush()
        finally:  # whatever went wrong, nothing is left running; an exception goes to stderr
            self._kill_all()

    def now(self) -> float:
        """Seconds on a clock that does not go back."""
        return time.monotonic()

    def open(self, opening: dict[str, str], make: Callable[[int], Handler]) -> None:
        """Open a channel to the daemon, served by what `make` makes for its number. Raises RuntimeError when there are too many."""
        channel = self.mux.open(opening)
        self.channels[channel] = make(channel)

    def finish(self, channel: int, info: dict[str, Any]) -> None:
        """Close a channel from this end."""
        if self.channels.pop(channel, None) is not None:
            self.mux.close(channel, info)
            self._relax()

    def _open_egress(self, places: list[str]) -> dict[str, Any]:
        """Listen for what goes out: the proxy that programs are told of, and each of `places`, loopback addresses that lead to the
        host's own. What the hello says of it."""
        said: dict[str, Any] = {}
        try:
            said["proxy"] = Endpoint(self, {"kind": "egress"}).url
        except OSError as error:
            return {"proxy": None, "proxy_error": error.strerror}
        for place in places:
            host, _, port = place.rpartition(":")
            try:
                Endpoint(self, {"kind": "egress", "to": place}, host.strip("[]"), int(port))
            except (OSError, ValueError) as error:
                said.setdefault("forward_errors", {})[place] = str(error)
        for name, value in (("HTTP_PROXY", said["proxy"]), ("HTTPS_PROXY", said["proxy"]), ("NO_PROXY", "127.0.0.1,localhost,::1")):
            if name not in self.environ and name.lower() not in self.environ:
                self.environ[name] = self.environ[name.lower()] = value
        self.environ.setdefault("NODE_USE_ENV_PROXY", "1")
        return said

    # The wire.

    def _listen(self) -> None:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        _signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP):
            _signal.signal(number, lambda *_: None)  # the number arrives in the pipe
        self.loop.watch(read, READ, lambda: self._signalled(os.read(read, 512)))
        self.loop.watch(self._tether.fileno(), READ, self._receive)

    def _receive(self) -> None:
        try:
            data = self._tether.recv(_READ_SIZE)
            if not data:
                self._die(0)
            self._traffic += len(data)
            for event in self.mux.feed(data):
                self._dispatch(event)
        except BlockingIOError:
            return
        except (OSError, TetherBroken) as error:
            os.write(2, f"aegis guest: the tether broke: {error}\n".encode())
            self._die(1)

    def _flush(self) -> None:
        try:
            while self._unsent or self.mux.pending:
                if not self._unsent:
                    self._unsent = memoryview(self.mux.outgoing())
                    self._traffic += len(self._unsent)
                self._unsent = self._unsent[self._tether.send(self._unsent) :]
            self.loop.watch(self._tether.fileno(), READ, self._receive)
        except BlockingIOError:
            self.loop.watch(self._tether.fileno(), READ | WRITE, self._both)
        except OSError:
            self._die(1)

    def _both(self) -> None:
        self._flush()
        self._receive()

    def _say(self, message: dict[str, Any]) -> None:
        self.mux.control(dumps(message))

    def _dispatch(self, event: object) -> None:
        match event:
            case Data(0, payload):
                self._control(payload)
            case Opened(channel, info):
                self._opened(channel, info)
            case Data(channel, _) | Eof(channel) | Writable(channel) | Closed(channel, _):
                self._channel_event(channel, event)

    def _channel_event(self, channel: int, event: object) -> None:
        if channel == self.log.channel:
            self.log.refuse() if isinstance(event, Closed) else self.log.flush()
            return
        handler = self.channels.get(channel)
        if handler is None:  # finished from this end in the same breath
            return
        match event:
            case Data(_, payload):
                handler.data(payload)
            case Eof():
                handler.eof()
            case Writable():
                handler.writable()
            case Closed():
                del self.channels[channel]
                handler.closed()
                self._relax()

    def _relax(self) -> None:
        if self._traffic > _MUCH:
            self._traffic = 0
            self.loop.after(0.0, kernel.give_back)  # when what is at hand is done

    def _opened(self, channel: int, info: dict[str, Any]) -> None:
        try:
            if info["kind"] != "exec":
                raise NotStarted("usage", f"the guest has no channel of kind {info['kind']}")
            if self._ending:
                raise NotStarted("conflict", "the sandbox is stopping")
            program = Program(self, channel, Request(info))
        except NotStarted as error:
            self.mux.close(channel, {"error": str(error), "kind": error.kind})
            return
        self.channels[channel] = program
        self._programs[program.pid] = program

    # Control.

    def _control(self, payload: bytes) -> None:
        try:
            message = loads(payload)
            ident, method, params = message.get("id"), message["method"], message.get("params") or {}
        except (ValueError, KeyError, AttributeError):
            raise TetherBroken("a control message that is no request") from None
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": ident}
        call = {"ping": self._ping, "stats": self._stats, "signal": self._signal, "shutdown": self._shutdown}.get(method)
        try:
            if call is None:
                answer["error"] = {"code": -32601, "message": f"no method {method}"}
            else:
                answer["result"] = call(params)
        except (KeyError, TypeError, ValueError) as error:
            answer["error"] = {"code": -32602, "message": f"{method}: {type(error).__name__}: {error}"}
        if ident is not None:
            self._say(answer)

    def _ping(self, params: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _stats(self, params: dict[str, Any]) -> dict[str, Any]:
        return processes.usage(os.getpid())

    def _signal(self, params: dict[str, Any]) -> dict[str, Any]:
        program = self.channels.get(params["channel"])
        if not isinstance(program, Program):
            raise KeyError(f"no program on channel {params['channel']}")
        program.signal(int(params["signal"]), bool(params.get("tree")))
        return {}

    def _shutdown(self, params: dict[str, Any]) -> dict[str, Any]:
        self._ending = True
        self.loop.after(max(0.0, float(params.get("grace", 0.0))), lambda: self._die(0))
        processes.send(processes.members([os.getpid()]), _signal.SIGTERM)
        self.loop.after(0.0, self._reap)  # after the answer
        return {}

    # Life and death.

    def _signalled(self, numbers: bytes) -> None:
        if any(number != _signal.SIGCHLD for number in numbers):
            self._die(0)
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                if self._ending and self._last_words and any(isinstance(handler, Program) for handler in self.channels.values()):
                    self._last_words -= 1
                    self.loop.after(_LAST_WORD, self._reap)  # the end of its output is still to be read
                elif self._ending:
                    self._die(0)
                return
            if not pid:
                return
            program = self._programs.pop(pid, None)  # others are orphans that were adopted
            if program is not None:
                program.exited(os.waitstatus_to_exitcode(status))

    def _kill_all(self) -> None:
        deadline = time.monotonic() + _REAP
        while time.monotonic() < deadline:
            if os.getpid() == 1:
                processes.send([-1], 9)  # everything in the namespace but this process
            else:
                processes.kill(lambda: processes.members([os.getpid()]))
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.001)

    def _die(self, code: int) -> None:
        self._kill_all()
        if self._ending and not code:
            try:
                self._tether.send(self._unsent or self.mux.outgoing())
            except OSError:
                pass
        os._exit(code)


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"


def main() -> None:
    """Be the guest. Needs `AEGIS_TETHER_FD`."""
    for number in range(3):  # so that no descriptor of ours is ever taken for a program's stdio
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    environ = dict(os.environ)
    tether = int(environ.pop("AEGIS_TETHER_FD"))
    os.set_inheritable(tether, False)
    kernel.protect()
    limits = kernel.limit(environ)
    sock = _socket.socket(fileno=tether)
    sock.setblocking(False)
    Guest(sock, environ, limits).run()
