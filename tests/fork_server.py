"""The package's programs without the start of an interpreter: forked from one that imported them.

    program = fork_server().start(command, stdin=PIPE, stdout=PIPE, env=environment)

A start of `sigul` is mostly imports, and tests have some 1,500 of them. Here one process per run of
pytest (per xdist worker) imports the package, nss among it, and touches nothing: it never opens
NSS, looks no host up, sets no logging up. For each program it forks a child, which takes over
standard descriptors, environment and directory, and then runs the module as `python -m` does:
what the program does in there ends the process as in a program of its own.

A new envelope (`keystore/envelope.py`) of such a program takes no 65 MB of hashing: it says so
itself, in one byte, and whoever opens it does as it says. One that is not forked writes 1.2's.

What an interpreter and the loader take from the environment they take at their start, and
nss-wrapper takes the hosts file at the first fork: `can_start` refuses a command that is to have
these otherwise. What a fork cannot show is how the program itself starts: which modules it imports,
terminals, descriptors that are closed, its command line in /proc. Tests of that start a process:
`Site.run(…, fresh=True)`, or `subprocess`.

This end: `control` passes the child's three descriptors and a socket, `reply`, one message a
program. The child reads its request from `reply` (JSON, up to the end), and the fork server
answers there: the process ID in a line, and once the child has ended its return code in another.
The fork server ends at the end of `control`, and ends its children with SIGKILL: that holds also
where pytest is killed.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import sigul_stack
from sigul_stack.database import Database, create
from sigul_stack.keystore import envelope

_TOP = Path(__file__).parent.parent
#: The programs, as `python -m` has them; peers of tests are like them.
_PROGRAMS = re.compile(r"sigul_stack\.cli\.\w+|tests\.peers")
#: What an interpreter, the loader or a library that is imported here reads as it starts.
_READ_AT_START = re.compile("PYTHON|LD_|LC_|LANG|TZ|MALLOC_|GLIBC_|OPENSSL_")
#: What stands in a new envelope for 65,536 bytes.
FEW_BYTES = 96
#: Seconds for the fork server to answer: it has nothing else to do.
_ANSWER_SECONDS = 60.0


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in environment.items() if _READ_AT_START.match(name)}


# ------------------------------------------------------------------------------------- for tests


class ForkServer:
    """A process that forks programs; it is started by `fork_server`."""

    def __init__(self, wrapper: str, hosts: str) -> None:
        """Start it with nss-wrapper, the library `wrapper`, and the text of its hosts file."""
        self._hosts = hosts
        descriptor, name = tempfile.mkstemp(prefix="hosts-")
        with open(descriptor, "w") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(hosts)
        # For daemons that have become another user, too. The fork server removes it at its end.
        Path(name).chmod(0o644)
        self._environment = {
            **os.environ, "LD_PRELOAD": wrapper, "NSS_WRAPPER_HOSTS": name,
        }  # fmt: skip
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
                cwd=_TOP, env=self._environment,
                # Ctrl-C at pytest's terminal is for pytest, who then ends this.
                start_new_session=True,
            )  # fmt: skip
        self._sending = threading.Lock()
        atexit.register(self.close)

    def can_start(self, command: Sequence[str], environment: Mapping[str, str]) -> bool:
        """Whether `command` is one of the package's programs, with an environment as here."""
        return (
            list(command[:2]) == [sys.executable, "-m"]
            and _PROGRAMS.fullmatch(command[2]) is not None
            # This looks the bridge up in several threads, which after a fork nss-wrapper fails at.
            and "--output-dir" not in command
            and _read_at_start(environment) == _read_at_start(self._environment)
            and Path(environment["NSS_WRAPPER_HOSTS"]).read_text() == self._hosts
        )

    def start(self, command: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
        """Start what `can_start` agrees to; `how` as for Popen, `env` among it."""
        return _Forked(self, command, **how)

    def send(self, *descriptors: int) -> None:
        """Have a program forked, which gets these descriptors: the standard ones, and `reply`."""
        with self._sending:
            socket.send_fds(self._control, [b"x"], descriptors)

    def close(self) -> None:
        """End it, and whatever it has started that still runs."""
        self._control.close()
        self._process.wait(_ANSWER_SECONDS)


class _Forked(subprocess.Popen[bytes]):
    """A process that is the fork server's child, not ours: the server tells how it ended.

    Pipes and `communicate` are Popen's own; overridden is how it starts and waits. These methods
    are CPython's, the same in 3.11 to 3.13 (Lib/subprocess.py).
    """

    def __init__(self, server: ForkServer, command: Sequence[str], **how: Any) -> None:
        self._server = server
        self._reading = threading.Lock()
        super().__init__(command, **how)

    def _execute_child(
        self, args: Sequence[str], executable: object, preexec_fn: object, close_fds: object,
        pass_fds: object, cwd: Any, env: Mapping[str, str], startupinfo: object,
        creationflags: object, shell: object, p2cread: int, p2cwrite: int, c2pread: int,
        c2pwrite: int, errread: int, errwrite: int, *_further: object,
    ) -> None:  # fmt: skip
        # -1 is for what the program has in common with this process.
        descriptors = [
            number if given == -1 else given
            for number, given in enumerate((p2cread, c2pwrite, errwrite))
        ]
        request = {
            "module": args[2],
            "arguments": [os.fspath(argument) for argument in args[3:]],
            "environment": dict(env),
            "cwd": os.fspath(cwd or Path.cwd()),
        }
        ours, theirs = socket.socketpair()
        with theirs:
            self._server.send(*descriptors, theirs.fileno())
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
        with ours:
            ours.settimeout(_ANSWER_SECONDS)
            ours.sendall(json.dumps(request).encode())
            ours.shutdown(socket.SHUT_WR)
            ours.settimeout(None)
            self._reply = ours.detach()
        weakref.finalize(self, os.close, self._reply)
        self.pid = self._number(_ANSWER_SECONDS)
        self._child_created = True

    def _number(self, timeout: float | None) -> int:
        """The fork server's next line."""
        if not select.select([self._reply], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        line = b""
        while not line.endswith(b"\n"):
            piece = os.read(self._reply, 1)
            if not piece:
                raise RuntimeError("the fork server has ended: its standard error may say why")
            line += piece
        return int(line)

    def _wait(self, timeout: float | None) -> int:
        with self._reading:
            if self.returncode is None:
                self.returncode = self._number(timeout)
        return self.returncode

    def _internal_poll(self, *_: object, **__: object) -> int | None:
        if not self._reading.acquire(blocking=False):  # another thread waits
            return None
        self._reading.release()
        try:
            return self._wait(0)
        except subprocess.TimeoutExpired:
            return None


@functools.cache
def fork_server(wrapper: str, hosts: str) -> ForkServer:
    """The fork server of this process for these, which is started at first use."""
    return ForkServer(wrapper, hosts)


# --------------------------------------------------------------------------- in the fork server


def _import_programs() -> None:
    """Import all of the package, and what it imports late and often."""
    for module in pkgutil.walk_packages(sigul_stack.__path__, "sigul_stack.", _not_imported):
        # Alembic runs these; they are no modules of the package.
        if ".migrations." not in module.name:
            importlib.import_module(module.name)
    for name in ("tests.peers", "encodings.idna", "encodings.utf_8_sig", "koji", "psycopg", "tqdm"):
        importlib.import_module(name)
    # Python keeps the regular expressions of its argparse, for the process, and SQLAlchemy much of
    # what a first query takes.
    argparse.ArgumentParser(usage="[-a]").parse_args([])
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/database"
        create(url)
        with contextlib.closing(Database(url)) as database, database.read() as reader:
            reader.user("")
            reader.access("", "")
    envelope._CODED_COUNT = FEW_BYTES
    # Else each child's first collection would copy all of this process.
    gc.collect()
    gc.freeze()


def _not_imported(name: str) -> NoReturn:
    raise ImportError(f"{name} cannot be imported")


def _forked(control: socket.socket) -> list[int]:
    """Fork a child for each message; this returns in the child, with its descriptors."""
    running: dict[int, socket.socket] = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for ready, _event in poll.poll():
            if ready != control.fileno():
                poll.unregister(ready)
                with running.pop(ready) as reply:
                    _tell(reply, _return_code(ready))
                os.close(ready)
                continue
            message, descriptors, _flags, _address = socket.recv_fds(control, 1, 4)
            if not message:
                for process in running:
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                Path(os.environ["NSS_WRAPPER_HOSTS"]).unlink(missing_ok=True)
                os._exit(0)
            child = os.fork()
            if not child:
                return descriptors
            for descriptor in descriptors[:3]:
                os.close(descriptor)
            reply = socket.socket(fileno=descriptors[3])
            _tell(reply, child)
            process = os.pidfd_open(child)
            running[process] = reply
            poll.register(process, select.POLLIN)


def _tell(reply: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for this program any more
        reply.sendall(b"%d\n" % number)


def _return_code(process: int) -> int:
    """What subprocess calls so: the exit code, or the negative number of a signal."""
    ended = os.waitid(os.P_PIDFD, process, os.WEXITED)
    assert ended is not None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _read_request(descriptor: int) -> dict[str, Any]:
    with socket.socket(fileno=descriptor) as reply:
        return json.loads(b"".join(iter(lambda: reply.recv(65536), b"")))  # type: ignore[no-any-return]


def _become(descriptors: Sequence[int]) -> None:
    """Be the process of a program that was just started, as far as it can tell."""
    request = _read_request(descriptors[3])
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream = _like(getattr(sys, f"__{name}__"), number, mode)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]
    sys.argv = [request["module"], *request["arguments"]]
    # It is to run as `__main__`, as if it had not been imported.
    sys.modules.pop(request["module"], None)


def _like(old: io.TextIOWrapper, number: int, mode: str) -> io.TextIOWrapper:
    """A standard stream as the interpreter has made `old`, for what the descriptor is by now."""
    raw = io.FileIO(number, mode, closefd=False)
    raw.name = old.name
    binary: Any = raw
    if not isinstance(old.buffer, io.RawIOBase):
        binary = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    stream = io.TextIOWrapper(
        binary, old.encoding, old.errors, "\n", old.line_buffering, old.write_through
    )
    stream.mode = mode
    return stream


if __name__ == "__main__":
    _import_programs()
    _become(_forked(socket.socket(fileno=int(sys.argv[1]))))
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
