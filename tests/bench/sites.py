"""A site made with plain certutil, of the programs in one directory: ours, or those of a 1.x.

Nothing here knows our package: certificates, configuration and database are made as 1.2's
documentation has it, so that either side is measured in the same way; where the figures are of
tuned databases, `sigul-stack pki tune` tunes those of both. Each program is started as itself,
never forked from a process that has it loaded (as tests/site.py does, to save time).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from tests.site import BRIDGE_NAME, SERVER_NAME, _hosts, _wrapper_library, free_port, nul

#: `default`: as certutil makes it, 10,000 rounds; `tuned`: one, after `sigul-stack pki tune`.
Rounds = Literal["default", "tuned"]
OURS: Final = Path(sys.executable).parent
ADMIN_PASSWORD: Final = "bench-admin"
KEY_PASSPHRASE: Final = "bench-passphrase"
KEY: Final = "bench"
#: Longest time of one program, in seconds: a 1.2 signs 5 GiB in three minutes.
_SECONDS: Final = 600.0
#: The password of each database; as random as one has to be to be tuned.
NSS_PASSWORD: Final = "9fS2qLw7XbT0ZrK4vJmE8yUcPd3HgNa61oIxQkVtBhRs5MFe"
#: What a site needs in its programs' directory.
PROGRAMS: Final = (
    "sigul", "sigul_bridge", "sigul_server", "sigul_server_create_db", "sigul_server_add_admin",
)  # fmt: skip


def certutil(directory: Path, *arguments: str) -> bytes:
    """Run certutil on a database whose password is in `nss-password` beside it."""
    password = str(directory / "nss-password")
    words = ["certutil", *arguments, "-d", f"sql:{directory}", "-f", password]
    return subprocess.run(
        words, check=True, capture_output=True, timeout=_SECONDS, input=b"y\n0\ny\n"
    ).stdout  # fmt: skip


def make_databases(top: Path, rounds: Rounds) -> None:
    """NSS databases `ca`, `bridge`, `server`, `client` below `top`, with RSA 2048 certificates."""
    noise = top / "noise"
    top.mkdir()
    noise.write_bytes(os.urandom(2048))
    names = {"bridge": BRIDGE_NAME, "server": SERVER_NAME, "client": "admin"}
    for number, name in enumerate(("ca", *names), 1):
        directory = top / name
        directory.mkdir(mode=0o700)
        (directory / "nss-password").write_text(f"{NSS_PASSWORD}\n")
        certutil(directory, "-N")
        if name == "ca":
            certutil(
                directory, "-S", "-x", "-n", "ca", "-s", "CN=bench-ca", "-t", "CT,,", "-2", "-m",
                "1", "-v", "12", "-z", str(noise), "-k", "rsa", "-g", "2048",
            )  # fmt: skip
            (top / "ca.pem").write_bytes(certutil(directory, "-L", "-n", "ca", "-a"))
            continue
        cn = names[name]
        request, issued = top / f"{name}.req", top / f"{name}.pem"
        certutil(directory, "-A", "-n", "ca", "-t", "CT,,", "-i", str(top / "ca.pem"))
        certutil(
            directory, "-R", "-s", f"CN={cn}", "-o", str(request), "-z", str(noise), "-k", "rsa",
            "-g", "2048", "-a",
        )  # fmt: skip
        certutil(
            top / "ca", "-C", "-c", "ca", "-i", str(request), "-o", str(issued), "-a", "-m",
            str(number), "-v", "12", "-8", cn,
        )  # fmt: skip
        certutil(directory, "-A", "-n", f"sigul-{name}-cert", "-t", "u,u,u", "-i", str(issued))
    if rounds == "tuned":
        subprocess.run(
            [OURS / "sigul-stack", "pki", "tune", *(top / name for name in names)],
            check=True, capture_output=True, timeout=_SECONDS,
        )  # fmt: skip


def program(directory: Path, name: str) -> Path:
    """A program in `directory` or its `bin`; ValueError where there is none."""
    for path in (directory / name, directory / "bin" / name):
        if os.access(path, os.X_OK) and path.is_file():
            return path
    raise ValueError(f"{directory} has no program {name}: --peer needs {', '.join(PROGRAMS)}")


@dataclass
class BenchSite:
    """One site; `programs` is the directory with sigul, sigul_bridge, sigul_server and others."""

    directory: Path
    programs: Path
    admin_password: str = ADMIN_PASSWORD
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @classmethod
    def make(cls, directory: Path, programs: Path, rounds: Rounds) -> BenchSite:
        """A new site with an administrator; bridge and server do not run yet."""
        site = cls(directory, programs)
        directory.mkdir()
        for name in ("log", "run", "gnupg", "keys"):
            (directory / name).mkdir(mode=0o700)
        make_databases(directory / "pki", rounds)
        (directory / "hosts").write_text(
            _hosts({BRIDGE_NAME: "127.0.0.1", SERVER_NAME: "127.0.0.1"})
        )
        site._configure()
        config = ["-c", str(directory / "server.conf")]
        site.run("sigul_server_create_db", *config)
        site.run(
            "sigul_server_add_admin", *config, "--batch", "-n", "admin", given=[site.admin_password]
        )
        return site

    def _configure(self) -> None:
        clients, servers = free_port(), free_port()
        limits = "".join(
            f"max-{name}-size: {1024**4}\n" for name in ("file-payload", "rpms-payloads")
        )
        sections = {
            "bridge": f"[bridge]\nclient-listen-port: {clients}\nserver-listen-port: {servers}\n"
            f"max-rpms-payloads-size: {1024**4}\n",
            "server": f"[server]\nbridge-hostname: {BRIDGE_NAME}\nbridge-port: {servers}\n{limits}"
            "max-memory-payload-size: 1048576\n"
            f"[database]\ndatabase-path: {self.directory}/server.sqlite\n"
            # Of a length that every version makes: what is compared is the same work.
            f"[gnupg]\ngnupg-home: {self.directory}/gnupg\n"
            "gnupg-key-type: RSA\ngnupg-key-length: 2048\n"
            "gnupg-subkey-type: RSA\ngnupg-subkey-length: 2048\n"
            f"[keys]\nkeys-storage: {self.directory}/keys\n",
            "client": f"[client]\nbridge-hostname: {BRIDGE_NAME}\nbridge-port: {clients}\n"
            f"server-hostname: {SERVER_NAME}\nuser-name: admin\n",
        }
        for name, text in sections.items():
            database = self.directory / "pki" / name
            path = self.directory / f"{name}.conf"
            path.touch(mode=0o600)
            path.write_text(f"{text}[nss]\nnss-dir: {database}\nnss-password: {NSS_PASSWORD}\n")

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the site's programs."""
        return {
            **os.environ,
            "LD_PRELOAD": _wrapper_library(),
            "NSS_WRAPPER_HOSTS": str(self.directory / "hosts"),
            "HOME": str(self.directory),
        }

    def words(self, name: str, *arguments: str) -> list[str]:
        """A command line of one of the site's programs; `sigul` as scripts call it."""
        first = ["--batch", "-c", str(self.directory / "client.conf")] if name == "sigul" else []
        return [str(program(self.programs, name)), *first, *arguments]

    def run(self, name: str, *arguments: str, given: Sequence[str] = ()) -> bytes:
        """Run one program to its end; RuntimeError with what it said where it fails."""
        done = subprocess.run(
            self.words(name, *arguments), env=self.environment, input=nul(*given),
            capture_output=True, timeout=_SECONDS,
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.decode(errors="replace")
            raise RuntimeError(f"{name} {' '.join(arguments)}: exit {done.returncode}: {said}")
        return done.stdout

    @contextlib.contextmanager
    def running(self) -> Iterator[BenchSite]:
        """Bridge and server run while the block lasts, and answer when it starts."""
        try:
            for name in ("bridge", "server"):
                directories = [
                    f"--internal-{kind}-dir={self.directory / place}"
                    for kind, place in (("log", "log"), ("pid", "run"))
                ]
                with (self.directory / f"log/{name}.err").open("wb") as log:
                    self.daemons[name] = subprocess.Popen(
                        self.words(
                            f"sigul_{name}", "-c", str(self.directory / f"{name}.conf"),
                            *directories,
                        ),
                        env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    )  # fmt: skip
            self._wait()
            yield self
        finally:
            for daemon in reversed(self.daemons.values()):
                daemon.send_signal(signal.SIGTERM)
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait(20)
            self.daemons.clear()
            home = str(self.directory / "gnupg")
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, timeout=30)

    def _wait(self) -> None:
        end = time.monotonic() + 60
        while True:
            try:
                self.run("sigul", "list-users", given=[self.admin_password])
                return
            except RuntimeError:
                if time.monotonic() > end or any(
                    d.poll() is not None for d in self.daemons.values()
                ):
                    logs = [p.read_text()[-1500:] for p in (self.directory / "log").glob("*.err")]
                    print("\n".join(logs), file=sys.stderr)
                    raise
                time.sleep(0.2)

    def make_key(self) -> None:
        """The key `bench`, RSA of 2048 bits, as is the subkey that signs."""
        self.run("sigul", "new-key", KEY, given=[self.admin_password, KEY_PASSPHRASE])
