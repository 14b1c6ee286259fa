"""A Sigul site for tests: real processes, real NSS TLS, on loopback, in a directory of its own.

    site = Site.make(directory)          certificates, database, administrator `admin`
    with site.running():                 bridge and server as their own processes
        site.sigul("list-users", secrets=[site.admin_password])

Host names are those of production (`sigul-bridge.example.org`); nss-wrapper resolves them for the
processes started here, so that the machine's own hosts file is left alone.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sigul_stack.pki import make_site
from tests.fork_server import ForkServer, fork_server

BRIDGE_NAME = "sigul-bridge.example.org"
SERVER_NAME = "sigul-server.example.org"
ADMIN_PASSWORD = "admin-pw"
_TOP = Path(__file__).parent.parent
#: Seconds for one program to finish; making a key is the slowest.
PROGRAM_SECONDS = 60.0
#: Seconds for a daemon to be ready, or to end.
DAEMON_SECONDS = 30.0


def module(name: str) -> list[str]:
    """The command line of one of the package's programs; `bridge` and `server` are the daemons."""
    prefix = "sigul_" if name in ("bridge", "server") else ""
    return [sys.executable, "-m", f"sigul_stack.cli.{prefix}{name}"]


#: Below the ports that the kernel gives to outgoing connections, so that none of those can take a
#: port between here and a daemon's start. Each process that runs tests has a part of its own.
_PORTS = range(10_000, 32_000)
_PORTS_EACH = 2_000


@functools.cache
def _own_ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = worker * _PORTS_EACH % len(_PORTS)
    # Not always the same, in case another checkout's tests run at the same time.
    own = itertools.cycle(_PORTS[first : first + _PORTS_EACH])
    return itertools.islice(own, os.getpid() % _PORTS_EACH, None)


def free_port() -> int:
    """A TCP port on loopback that nothing listens on just now, another one at each call."""
    for port in itertools.islice(_own_ports(), _PORTS_EACH):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise RuntimeError(f"none of {_PORTS_EACH} ports is free: what else runs on this machine?")


def nul(*secrets: str) -> bytes:
    """Secrets as `--batch` reads them."""
    return b"".join(secret.encode() + b"\0" for secret in secrets)


def wait_until(condition: object, seconds: float, what: str) -> None:
    """Wait until `condition()` is true, at most `seconds`."""
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)


def has_ended(pid: int) -> bool:
    """Whether a process has ended, even where nobody has collected it (as PID 1 of a container)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


@functools.cache
def _wrapper_library() -> str:
    for directory in ("/usr/lib", "/usr/lib64", *map(str, Path("/usr/lib").glob("*-linux-gnu"))):
        found = Path(directory) / "libnss_wrapper.so"
        if found.exists():
            return str(found)
    raise AssertionError("libnss_wrapper.so is missing: install the package libnss-wrapper")


#: The line with a request's id that `sigul` says behind an error, and an id in a line of its log.
_REQUEST = re.compile(rb"^Request ID: ([0-9a-f]{16})\r?\n", re.MULTILINE)
_ABOUT = re.compile(rb"^((?:DEBUG|INFO|WARNING|ERROR): )\{[0-9a-z]+\} ", re.MULTILINE)
#: The host names that every site has; each of them has its own hosts file.
_ADDRESSES = {BRIDGE_NAME: "127.0.0.1", SERVER_NAME: "127.0.0.1"}


def _hosts(addresses: Mapping[str, str]) -> str:
    return "".join(f"{address} {name}\n" for name, address in addresses.items())


def _forks() -> ForkServer:
    """What forks the programs of sites with the usual names."""
    return fork_server(_wrapper_library(), _hosts(_ADDRESSES))


def popen(
    command: Sequence[str], *, env: Mapping[str, str], fresh: bool = False, **how: Any
) -> subprocess.Popen[Any]:
    """Start a program of a site; `env` is its whole environment, `how` is as for Popen.

    One of the package's own is forked from a process that has imported it, unless it is to be
    `fresh`: for tests of how the program itself starts (tests/fork_server.py).
    """
    if not fresh and _forks().can_start(command, env):
        return _forks().start(command, env=env, **how)
    return subprocess.Popen(command, env=env, **how)


def fork(
    command: Sequence[str], env: Mapping[str, str] = os.environ, cwd: Path = _TOP, **how: Any
) -> subprocess.Popen[Any]:
    """Fork a program of no site, which looks no host name up; `how` is as for Popen.

    It has no terminal (tests/fork_server.py).
    """
    return _forks().start(command, env=env, cwd=cwd, **how)


def ties(log: str) -> list[tuple[str, str]]:
    """The requests' ids and the connections that a log's lines tie together, in order."""
    return re.findall(r"\{([0-9a-f]{16})\} Request \1 is on connection (\S+)$", log, re.MULTILINE)


def without_ids(said: bytes) -> bytes:
    """What `sigul` said on standard error, without requests' ids, which differ each time."""
    return _ABOUT.sub(rb"\1", _REQUEST.sub(b"", said))


class Told(subprocess.CompletedProcess[bytes]):
    """What `sigul` did. `stderr` is `without_ids`; all of it is in `said`.

    `requests` are the ids that stand behind errors.
    """

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        super().__init__(done.args, done.returncode, done.stdout, without_ids(done.stderr))
        self.said: bytes = done.stderr
        self.requests = [found.decode() for found in _REQUEST.findall(done.stderr)]


@dataclass(eq=False)
class Process:
    """A daemon that was started in the foreground, and its log."""

    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        """The log so far."""
        return self.log.read_text(errors="replace")

    @property
    def serving(self) -> int:
        """The newest child process: of a bridge the one that serves, as long as none ends."""
        pid = self.popen.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[-1])

    def wait_for(self, text: str, count: int = 1, seconds: float = DAEMON_SECONDS) -> None:
        """Wait until the log holds `text` `count` times."""

        def there() -> bool:
            if self.text.count(text) >= count:
                return True
            assert self.popen.poll() is None, f"the process has ended:\n{self.text}"
            return False

        wait_until(there, seconds, f"{text!r} ({count} times) in {self.log}")

    def stop(self, number: int = signal.SIGTERM, seconds: float = DAEMON_SECONDS) -> int:
        """End the process; returns its exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(seconds)
            raise AssertionError(f"{self.log} did not end within {seconds} s") from None


@dataclass
class Site:
    """A site in `directory`. Names and ports may be changed before `configure`."""

    directory: Path
    bridge_name: str = BRIDGE_NAME
    server_name: str = SERVER_NAME
    client_port: int = field(default_factory=free_port)
    server_port: int = field(default_factory=free_port)
    admin: str = "admin"
    admin_password: str = ADMIN_PASSWORD
    addresses: Mapping[str, str] = field(default_factory=lambda: dict(_ADDRESSES))
    #: Where the bridge listens.
    listen_address: str = "127.0.0.1"
    #: Further lines, by file and section: {"server": {"server": "workers: 1"}}.
    extra: dict[str, dict[str, str]] = field(default_factory=dict)
    #: The server's max-secret-delay, in seconds; None: its own. Tests give many wrong secrets in a
    #: row; those of the delay are in tests/hostile.
    secret_delay: float | None = 0.001
    #: The server's processes; None: its own number, four. A fifth of a site's start is two of them.
    workers: int | None = None
    processes: list[Process] = field(default_factory=list)
    #: What stands before every command line, such as `nsenter` and its options.
    prefix: tuple[str, ...] = ()
    #: Further variables of every program's environment.
    variables: dict[str, str] = field(default_factory=dict)
    #: Whether its daemons are started, not forked: where a test looks at what they hold.
    fresh: bool = False

    # ------------------------------------------------------------------------------------- making

    @classmethod
    def make(cls, directory: Path, users: Sequence[str] = ("admin",), **settings: object) -> Site:
        """A new site with certificates for `users`, configuration, database and administrator."""
        site = cls(directory, **settings)  # type: ignore[arg-type]
        make_site(directory / "pki", bridge=site.bridge_name, server=site.server_name, users=users)
        site.configure()
        site.run(*module("server_create_db"), "-c", str(site.path("server.conf")))
        site.run(
            *module("server_add_admin"), "-c", str(site.path("server.conf")), "--batch",
            "-n", site.admin, secrets=[site.admin_password],
        )  # fmt: skip
        return site

    @classmethod
    def copy(cls, template: Site, directory: Path) -> Site:
        """A site like `template`, which is not running, with ports of its own."""
        shutil.copytree(template.directory, directory)
        site = cls(
            directory,
            template.bridge_name,
            template.server_name,
            admin=template.admin,
            admin_password=template.admin_password,
            extra={name: dict(lines) for name, lines in template.extra.items()},
            secret_delay=template.secret_delay,
            workers=template.workers,
        )
        site.configure()
        return site

    def path(self, name: str) -> Path:
        """A file of the site."""
        return self.directory / name

    def forget_logs(self) -> None:
        """Have its clients know nothing of the server's signing log, as on their first day."""
        for path in self.path("pki").rglob("signing-log.json"):
            path.unlink()

    def configure(self) -> None:
        """Write (again) the three configuration files and the hosts file."""
        for name in ("log", "run", "server", "server/keys", "server/gnupg", "server/spool"):
            self.path(name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.write_configuration(
            "bridge",
            {
                "bridge": f"server-cn: {self.server_name}\n"
                f"listen-address: {self.listen_address}\n"
                f"client-listen-port: {self.client_port}\n"
                f"server-listen-port: {self.server_port}\n",
                "nss": self.nss_lines("bridge"),
            },
        )
        delay = "" if self.secret_delay is None else f"max-secret-delay: {self.secret_delay}\n"
        given = self.extra.get("server", {}).get("server", "")
        if self.workers is not None and "workers:" not in given:
            delay += f"workers: {self.workers}\n"
        limit = "max-file-payload-size"
        if limit not in given:
            # Not a limit for any operation; a file without the line gives a warning.
            delay += f"{limit}: {1024**4}\n"
        # RSA keys of the usual 4096 bits take seconds to make.
        own = self.extra.get("server", {}).get("gnupg", "")
        lengths = "".join(
            f"{name}: 2048\n"
            for name in ("gnupg-key-length", "gnupg-subkey-length")
            if name not in own
        )
        self.write_configuration(
            "server",
            {
                "server": f"bridge-hostname: {self.bridge_name}\nbridge-port: {self.server_port}\n"
                f"spool-directory: {self.path('server/spool')}\n{delay}",
                "database": f"database-path: {self.path('server/server.sqlite')}\n",
                "gnupg": f"gnupg-home: {self.path('server/gnupg')}\n{lengths}",
                "keys": f"keys-storage: {self.path('server/keys')}\n",
                "nss": self.nss_lines("server"),
            },
        )
        self.client_configuration(self.admin)
        self.path("hosts").write_text(_hosts(self.addresses))

    def nss_lines(self, directory: str) -> str:
        """The [nss] section for one of the site's databases."""
        database = self.path("pki") / directory
        return f"nss-dir: {database}\nnss-password-file: {database}/nss-password\n"

    def client_configuration(self, user: str, name: str = "client") -> Path:
        """Write a client's configuration for `user`, who has a certificate; returns its path."""
        return self.write_configuration(
            name,
            {
                "client": f"bridge-hostname: {self.bridge_name}\nbridge-port: {self.client_port}\n"
                f"server-hostname: {self.server_name}\nuser-name: {user}\n",
                "nss": self.nss_lines(f"clients/{user}"),
            },
        )

    def write_configuration(self, name: str, sections: Mapping[str, str]) -> Path:
        """Write NAME.conf from its sections, and the `extra` lines for them."""
        extra = self.extra.get(name, {})
        text = ""
        for section in {**sections, **extra}:
            text += f"[{section}]\n{sections.get(section, '')}{extra.get(section, '')}\n"
        path = self.path(f"{name}.conf")
        path.write_text(text)
        return path

    # ------------------------------------------------------------------------------------ running

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every program of the site."""
        return {
            **os.environ,
            "LD_PRELOAD": _wrapper_library(),
            "NSS_WRAPPER_HOSTS": str(self.path("hosts")),
            "HOME": str(self.directory),
            **self.variables,
        }

    def run(
        self,
        *command: str,
        secrets: Sequence[str] = (),
        stdin: bytes | None = None,
        code: int | None = 0,
        seconds: float = PROGRAM_SECONDS,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end; it must exit with `code` (None: any).

        `environment` is added to the site's. `fresh`: see `popen`.
        """
        pipe = subprocess.PIPE
        words = [*self.prefix, *command]
        env = {**self.environment, **(environment or {})}
        with popen(
            words, env=env, fresh=fresh, cwd=cwd, stdin=pipe, stdout=pipe, stderr=pipe
        ) as program:
            try:
                told = program.communicate(nul(*secrets) if stdin is None else stdin, seconds)
            except BaseException:
                program.kill()
                raise
        done = subprocess.CompletedProcess(words, program.returncode, *told)
        assert code is None or done.returncode == code, (
            f"{' '.join(command)} exited with {done.returncode}, not {code}\n"
            f"stdout: {done.stdout[-2000:]!r}\nstderr: {done.stderr.decode(errors='replace')}\n"
            + "".join(f"--- {item.log}\n{item.text[-4000:]}\n" for item in self.processes)
        )
        return done

    def sigul(
        self,
        *arguments: str,
        secrets: Sequence[str] = (),
        code: int | None = 0,
        config: Path | str = "client.conf",
        options: Sequence[str] = (),
        **further: object,
    ) -> Told:
        """Run `sigul --batch` with a command and its secrets."""
        done = self.run(
            *module("sigul"), "--batch", "-c", str(self.directory / config), *options, *arguments,
            secrets=secrets, code=code, **further,  # type: ignore[arg-type]
        )  # fmt: skip
        return Told(done)

    def start(
        self,
        program: str,
        *,
        config: str | None = None,
        verbose: bool = True,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start `bridge` or `server` in the foreground, its standard error in a log file.

        `prefix` stands before its command line, `environment` is added to the site's.
        """
        number = len(self.processes)
        log = self.path(f"log/{program}-{number}.log")
        with log.open("wb") as stream:
            started = popen(
                [
                    *self.prefix,
                    *prefix,
                    *module(program),
                    "-c",
                    str(self.path(config or f"{program}.conf")),
                    *(["-v"] if verbose else []),
                ],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                fresh=self.fresh,
                env={**self.environment, **(environment or {})},
            )
        process = Process(started, log)
        self.processes.append(process)
        return process

    def start_bridge(self) -> Process:
        """Start the bridge and wait until it listens."""
        bridge = self.start("bridge")
        bridge.wait_for("[BRIDGE_REQUEST] Waiting for the server to connect")
        return bridge

    def start_server(
        self,
        waiting: int = 1,
        *,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start the server and wait until so many of its workers wait at the bridge."""
        server = self.start("server", prefix=prefix, environment=environment)
        server.wait_for("Waiting for a request at the bridge", waiting)
        return server

    @contextlib.contextmanager
    def running(self) -> Iterator[tuple[Process, Process]]:
        """Bridge and server run while the block lasts."""
        try:
            bridge = self.start_bridge()
            server = self.start_server()
            yield bridge, server
        finally:
            self.stop_all()

    def stop_all(self) -> None:
        """End whatever is still running, the newest first."""
        while self.processes:
            self.processes.pop().stop()
