"""`sigul-stack demo`: a whole site on this machine, as plain processes, to try and to learn from.

Everything lies in one directory and nothing is touched outside it: certificates, database, keys,
configuration, logs, PID files, and the passwords, each in a file of its own that only its owner can
read. Host names are as in production; the configuration dials 127.0.0.1 for them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..errors import SigulError, TransportError
from ..secret import Secret
from ..system.files import write_whole
from ..system.programs import run as run_program
from ..system.wall import OWN_DOMAIN
from .outcome import say, say_text
from .shared_arguments import Subparsers, add_command, argument

BRIDGE_NAME: Final = "sigul-bridge.example.org"
SERVER_NAME: Final = "sigul-server.example.org"
ADMIN: Final = "admin"
KEY: Final = "demo"
#: A site's ports are two of as many from here on, by where its directory is. They are below those
#: that programs are given at random.
FIRST_PORT: Final = 10000
PORTS: Final = 10000
#: Seconds for any one step; the slowest is the making of a key.
STEP_SECONDS: Final = 120.0
#: Seconds for a daemon to end; it lets requests in flight finish.
END_SECONDS: Final = 75.0
#: Characters of the passwords that are made.
PASSWORD_CHARACTERS: Final = 24


def add_parser(subparsers: Subparsers) -> None:
    """Add the `demo` command."""
    add_command(
        subparsers,
        "demo",
        run,
        argument(
            "--directory", type=Path, default=Path(".demo"), help="where the site lies (.demo)"
        ),
        argument("--stop", action="store_true", help="stop the site; its files stay"),
        help="run a whole site here, to try it",
        description="Makes a site (certificates, database, an administrator, a first key) in one"
        " directory, starts bridge and server, signs a file and verifies it. Again: goes on with"
        " what is there.",
    )


def run(options: argparse.Namespace) -> None:
    """Start or stop the demo site."""
    site = DemoSite(options.directory.absolute())
    if options.stop:
        stopped = site.stop()
        say(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")
        return
    site.make()
    site.start()
    site.prove()
    programs = Path(sys.executable).parent
    say_text(_SUMMARY.format(site=site.directory, programs=programs, key=KEY))


def _say(text: str) -> None:
    say(f"  {text}", flush=True)


_SUMMARY: Final = """
A Sigul site is running: bridge, signing server, one administrator, one key.

  list the users   printf '%s\\0' "$(cat {site}/admin-password)" |
                     {programs}/sigul --batch -c {site}/client.conf list-users
  sign a file      printf '%s\\0' "$(cat {site}/key-passphrase)" |
                     {programs}/sigul --batch -c {site}/client.conf \\
                     sign-data -a -o FILE.asc {key} FILE
  what was signed  {programs}/sigul-stack audit list -c {site}/server.conf
  all commands     {programs}/sigul --help-commands
  logs             {site}/log/
  stop it          make demo-stop      (its files stay; `make demo` goes on with them)"""


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"sigul_stack.cli.{name}"]


#: The daemons' programs, which are also their modules' names, and their configuration files.
_DAEMONS: Final = {"sigul_bridge": "bridge.conf", "sigul_server": "server.conf"}


class DemoSite:
    """The site in `directory`. Steps that are done are not done again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    # ------------------------------------------------------------------------------------- making

    def make(self) -> None:
        """Certificates, configuration, database and administrator, whatever is missing."""
        from ..pki import make_site

        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_site(self._path("pki"), bridge=BRIDGE_NAME, server=SERVER_NAME, users=[ADMIN])
        for name in ("log", "run", "server", "server/keys", "server/gnupg", "server/spool"):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        if not self._path("client.conf").exists():
            self._write_configuration()
            _say("configuration written")
        for name in ("admin-password", "key-passphrase"):
            if not self._path(name).exists():
                password = Secret.random(PASSWORD_CHARACTERS).reveal()
                write_whole(self._path(name), password, replace=False)
        self._make_database()

    def _make_database(self) -> None:
        if self._path("server/server.sqlite").exists():
            return
        # Under another name until the administrator is in, so that a run that is cut off here
        # starts again with nothing.
        self._path("server/new.sqlite").unlink(missing_ok=True)
        draft = self._path("server-new.conf")
        draft.write_text(
            self._path("server.conf").read_text().replace("/server.sqlite", "/new.sqlite")
        )
        self._run([*_module("server_create_db"), "-c", str(draft)])
        self._run(
            [*_module("server_add_admin"), "-c", str(draft), "--batch", "-n", ADMIN],
            secrets=["admin-password"],
        )
        self._path("server/new.sqlite").rename(self._path("server/server.sqlite"))
        draft.unlink()
        _say(f"database made, with the administrator '{ADMIN}'")

    def _write_configuration(self) -> None:
        from ..config import PROGRAMS

        client_port, server_port = _free_ports(self.directory)
        site = self.directory

        def section(program: str, name: str, text: str) -> str:
            """A section: its lines, and those that any new site has there."""
            strict = PROGRAMS[program]().new_site(name)
            return f"[{name}]\n{text}" + "".join(f"{o}: {v}\n" for o, v in strict.items()) + "\n"

        def nss(program: str, directory: str) -> str:
            return section(
                program,
                "nss",
                f"nss-dir: {site}/pki/{directory}\n"
                f"nss-password-file: {site}/pki/{directory}/nss-password\n",
            )

        self._write(
            "bridge.conf",
            section(
                "bridge",
                "bridge",
                f"server-cn: {SERVER_NAME}\nlisten-address: 127.0.0.1\n"
                f"client-listen-port: {client_port}\nserver-listen-port: {server_port}\n",
            )
            + nss("bridge", "bridge"),
        )
        self._write(
            "server.conf",
            section(
                "server",
                "server",
                f"bridge-hostname: {BRIDGE_NAME}\nbridge-address: 127.0.0.1\n"
                f"bridge-port: {server_port}\nspool-directory: {site}/server/spool\n",
            )
            + section("server", "database", f"database-path: {site}/server/server.sqlite\n")
            + section("server", "gnupg", f"gnupg-home: {site}/server/gnupg\n")
            + section("server", "keys", f"keys-storage: {site}/server/keys\n")
            + nss("server", "server"),
        )
        # The client's last: it tells that all were written.
        self._write(
            "client.conf",
            section(
                "client",
                "client",
                f"bridge-hostname: {BRIDGE_NAME}\nbridge-address: 127.0.0.1\n"
                f"bridge-port: {client_port}\nserver-hostname: {SERVER_NAME}\nuser-name: {ADMIN}\n",
            )
            + nss("client", f"clients/{ADMIN}"),
        )

    def _write(self, name: str, text: str) -> None:
        self._path(name).write_text(f"# Written by `sigul-stack demo`.\n{text}")

    # ------------------------------------------------------------------------- starting, stopping

    def start(self) -> None:
        """Start bridge and server, where they are not running."""
        for program, configuration in _DAEMONS.items():
            if self._pid(program) is not None:
                _say(f"{program} is running")
                continue
            self._run(
                [
                    *_module(program),
                    *("-d", "-c", str(self._path(configuration))),
                    f"--internal-log-dir={self._path('log')}",
                    f"--internal-pid-dir={self._path('run')}",
                ]
            )
            _say(f"{program} started")

    def stop(self) -> list[str]:
        """End what runs; returns the names of the programs that did."""
        stopped = []
        for program in reversed(_DAEMONS):
            if (pid := self._pid(program)) is None:
                continue
            os.kill(pid, signal.SIGTERM)
            end = time.monotonic() + END_SECONDS
            while self._pid(program) is not None:
                if time.monotonic() > end:
                    raise SigulError(
                        f"{program} (process {pid}) did not end within {END_SECONDS:g} s",
                        f"see {self._path('log')}",
                    )
                time.sleep(0.05)
            stopped.append(program)
        return stopped

    def _pid(self, program: str) -> int | None:
        """The process of a daemon that runs."""
        try:
            pid = int(self._path(f"run/{program}.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if f"sigul_stack.cli.{program}".encode() in command else None

    # ------------------------------------------------------------------------------------ proving

    def prove(self) -> None:
        """List the users and sign a file through both layers; verify the signature with gpg."""
        from ..client.verify import verify

        users = self._sigul(["list-users"], secrets=["admin-password"]).decode()
        _say(f"list-users, through the double TLS: {' '.join(users.split())}")
        public = self._path("demo-key.asc")
        if not public.exists():
            if f"{KEY} (".encode() not in self._sigul(["list-keys"], secrets=["admin-password"]):
                self._sigul(["new-key", KEY], secrets=["admin-password", "key-passphrase"])
                _say(f"key '{KEY}' made")
            armored = self._sigul(["get-public-key", KEY], secrets=["key-passphrase"])
            write_whole(public, armored, replace=True, mode=0o644)
        text = self._path("hello.txt")
        text.write_text("Hello from the demo site.\n")
        signature = self._path("hello.txt.asc")
        self._sigul(
            ["sign-data", "-a", "-o", str(signature), KEY, str(text)], secrets=["key-passphrase"]
        )
        verify(public.read_bytes(), text, signature)
        _say(f"{text.name} signed with key '{KEY}', and the signature verified with gpg")
        self._prove_log()

    def _prove_log(self) -> None:
        """Verify the signing log, whole."""
        from ..evidence.log_reader import LogReader, verify_log

        reader = LogReader.open(self._path("server/signing-log"))
        if (key := reader.public_key) is None:
            raise SigulError(
                "the signing log has lost its public key", "begin with a new directory"
            )
        head = verify_log(reader, key)
        _say(f"all of it is in the signing log: {head.size} decisions, which verify")

    def _sigul(self, arguments: Sequence[str], secrets: Sequence[str]) -> bytes:
        configuration = str(self._path("client.conf"))
        return self._run(
            [*_module("sigul"), "--batch", "-c", configuration, *arguments], secrets=secrets
        )

    # -------------------------------------------------------------------------------------- tools

    def _path(self, name: str) -> Path:
        return self.directory / name

    def _run(self, command: Sequence[str], secrets: Sequence[str] = ()) -> bytes:
        """Run a program, its secrets on standard input, each ended by NUL; its output."""
        done = run_program(
            command,
            package="sigul-stack",
            time_limit=STEP_SECONDS,
            stdin=b"".join(self._path(name).read_bytes() + b"\0" for name in secrets),
            environment=os.environ,
            timeout_cure=f"see the logs in {self._path('log')}",
            # Bridge and server stay.
            wall=replace(OWN_DOMAIN, lasting=True),
        )
        if done.returncode != 0:
            raise SigulError(
                f"'{' '.join(command)}' failed (exit code {done.returncode}):"
                f" {done.stderr.strip()}\nThe logs are in {self._path('log')}"
            )
        return done.stdout


def usual_ports(directory: Path) -> tuple[int, int]:
    """The ports of the site in `directory`, where they are free: (for clients, for servers)."""
    place = hashlib.sha256(os.fsencode(directory.resolve())).digest()
    server_port = FIRST_PORT + 2 * (int.from_bytes(place[:2], "big") % (PORTS // 2))
    return server_port + 1, server_port


def _free_ports(directory: Path) -> tuple[int, int]:
    """Two free ports on 127.0.0.1, the usual ones of the site in `directory` if they are."""
    for one, other in (usual_ports(directory), (0, 0)):
        try:
            with (
                socket.create_server(("127.0.0.1", one)) as clients,
                socket.create_server(("127.0.0.1", other)) as servers,
            ):
                return clients.getsockname()[1], servers.getsockname()[1]
        except OSError as error:
            reason = error.strerror
    raise TransportError(f"no free port on 127.0.0.1: {reason}")
