"""The commands of docs/migrate.md, run: from 0.207, 1.2 and 1.4, step by step, and back at each.

What has not moved is a scripted peer of that version. An old server answers with what it has: users
by SQL as 1.x puts it, a signature by plain gpg in the site's GnuPG home. `systemctl` lines of the
page start and stop the old programs, which are these peers; a line that begins with `sigul` is the
old client; everything else is run by bash, with the page's directories replaced by the test's.

One site a version, with some thirty requests and as many programs of the page: a minute each, and
more where others work on the machine.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sigul_stack.database import SchemaState, schema_state
from sigul_stack.keystore.envelope import is_outdated
from tests.held_data import held
from tests.integration.commands_support import Gpg, end_agent, person
from tests.integration.test_legacy_site import copy_writable, legacy_site
from tests.peers import length_bytes
from tests.site import Site, has_ended, nul, wait_until
from tests.wire import field_map, u32

from .conftest import PeerFactory
from .scripted import Peer

PAGE = Path(__file__).parents[2] / "docs" / "migrate.md"
#: Seconds for a command of the page; a first start of the server has GnuPG convert its keys.
COMMAND_SECONDS = 120.0

PASSWORD, PASSPHRASE = "rootroot", "release-pw"
#: Version of the protocol, key, and the options of gpg with which the old one opens its envelopes.
VERSIONS = {
    "0.207": (0, "74B33158AD66254773DD9AAF4A97277BB3438B50", ["--ignore-mdc-error"]),
    "1.2": (1, "590E47224B3E643159772BDF3B6BFAAF4F1C07C7", []),
    "1.4": (1, "590E47224B3E643159772BDF3B6BFAAF4F1C07C7", []),
}


def blocks() -> dict[str, list[str]]:
    """The page's commands, by the heading that they stand under."""
    found: dict[str, list[str]] = {}
    heading = ""
    fenced = False
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced and line == "```console"
        elif fenced:
            assert line.startswith("$ "), line
            found.setdefault(heading, []).append(line.removeprefix("$ "))
        elif line.startswith("#"):
            heading = line.lstrip("#").strip()
    return found


#: The order in which the page is followed, its ways back included; and which parts are new then.
BEFORE, CONVERT = "Before", "Databases of certificates in the old format"
BRIDGE, SERVER, COPY = "1. The bridge", "2. The server", "The copy back"
CLIENTS, OFF = "3. The clients, one by one", "4. The last old client is gone"
BACK = {
    step: f"Back from {number}" for number, step in enumerate((BRIDGE, SERVER, CLIENTS, OFF), 1)
}


def test_each_block_of_the_page_is_run() -> None:
    assert list(blocks()) == [
        BEFORE, CONVERT, BRIDGE, BACK[BRIDGE], SERVER, BACK[SERVER], COPY, CLIENTS,
        BACK[CLIENTS], OFF, BACK[OFF],
    ]  # fmt: skip


@dataclass
class Move:
    """A site that moves, and its old programs."""

    site: Site
    version: str
    peer: PeerFactory
    work: Path
    #: The old client, and somebody's GnuPG home with the key's public part.
    client: Peer
    person: Gpg
    #: The old programs that run.
    old: dict[str, Peer] = field(default_factory=dict)
    #: What each command of the page printed, by the command.
    printed: dict[str, bytes] = field(default_factory=dict)

    @property
    def protocol(self) -> int:
        return VERSIONS[self.version][0]

    @property
    def key(self) -> str:
        return VERSIONS[self.version][1]

    def place(self, command: str) -> str:
        """A command of the page with the directories of the test."""
        top = self.site.directory
        pid, log = top / "run", top / "log"
        places = {
            " -d -c": f" --internal-pid-dir={pid} --internal-log-dir={log} -d -c",
            "/opt/sigul-stack/.venv/bin/": f"{Path(sys.executable).parent}/",
            "/etc/sigul/": f"{top}/",
            "/etc/pki/sigul/": f"{top}/nss/",
            "/var/lib/sigul": f"{top}/server",
            "/run/": f"{pid}/",
        }
        return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], command)

    def follow(self, heading: str, *, codes: tuple[int, ...] = (0,)) -> None:
        """Run a block of the page."""
        for command in blocks()[heading]:
            if found := re.fullmatch(r"systemctl (start|stop) sigul_(bridge|server)", command):
                (self.start if found[1] == "start" else self.stop)(found[2])
            elif command.startswith("sigul "):
                self.old_client(command)
            else:
                self.run(command, codes)

    def run(self, command: str, codes: tuple[int, ...] = (0,)) -> None:
        done = subprocess.run(
            ["bash", "-euc", self.place(command)], cwd=self.work, env=self.site.environment,
            capture_output=True, timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
        logs = "".join(path.read_text() for path in self.site.path("log").glob("sigul_*.log"))
        assert done.returncode in codes, f"{command}\n{done.stderr.decode()}\n{logs[-4000:]}"
        self.printed[command] = done.stdout

    # ------------------------------------------------------------------------- the old programs

    def start(self, name: str) -> None:
        """Start an old bridge, or have an old server at hand."""
        self.old[name] = self.peer(self.site, name)
        if name == "bridge":
            speaks = (self.protocol,) if self.protocol == 0 else (1,)
            self.old[name].start(requests=100, speaks=speaks)
            self.old[name].wait_for("listening")

    def stop(self, name: str) -> None:
        self.old.pop(name).stop()

    def old_client(self, command: str, *, ends: bool = True) -> None:
        """The request of an old client, answered by whichever server there is."""
        signs = "sign-data" in command
        if server := self.old.get("server"):
            payload = self.old_signature() if signs else b"".join(
                name.encode() + b"\0" for name in self.old_users()
            )  # fmt: skip
            fields: dict[str, bytes] = {} if signs else {"num-users": u32(len(self.old_users()))}
            # Each part in a chunk of its own, as the strictest clients read them.
            cuts = 4 + len(field_map(fields)) + 64, length_bytes(self.protocol), len(payload)
            server.start(speaks=(self.protocol,), payload=payload, fields=fields, cuts=cuts)
            # An old bridge begins TLS with a server when a client has come.
            if "bridge" in self.old:
                self.old["bridge"].wait_for("server")
            else:
                server.wait_for("waiting")
        script: dict[str, object] = {"op": "list-users", "secrets": {"password": b"rootroot"}}
        if signs:
            script = {
                "op": "sign-data", "secrets": {"passphrase": PASSPHRASE.encode()},
                "fields": {"key": b"release"}, "payload": (self.work / "hello").read_bytes(),
            }  # fmt: skip
        outcome = self.client.attempt(user="root", version=self.protocol, **script)
        if not ends:
            assert outcome["error"] is not None, outcome
            return
        assert outcome["error"] is None, outcome
        if server is not None:
            (request,) = server.result()
            assert request["version"] == self.protocol
        found = outcome["result"]
        if signs:
            self.verify(found["payload"])
        else:
            assert sorted(found["payload"].decode().split("\0")[:-1]) == self.old_users()

    def old_users(self) -> list[str]:
        """The users, as an old server asks for them."""
        return [name for (name,) in self.sql("SELECT users.name FROM users ORDER BY users.name")]

    def sql(self, query: str, *values: object) -> list[tuple[str, ...]]:
        path = self.site.path("server/server.sqlite")
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            return database.execute(query, values).fetchall()

    def envelopes(self) -> dict[str, bytes]:
        return {
            name: bytes(sealed)  # type: ignore[arg-type]
            for name, sealed in self.sql(
                "SELECT users.name, key_accesses.encrypted_passphrase FROM key_accesses"
                " JOIN users ON users.id = key_accesses.user_id"
                " JOIN keys ON keys.id = key_accesses.key_id WHERE keys.name = 'release'"
            )
        }

    def old_signature(self, user: str = "root", passphrase: str = PASSPHRASE) -> bytes:
        """A signature as an old server makes it: gpg opens the envelope, and then the key.

        In a copy: this gpg would move the keys of 0.x into the home's new form.
        """
        home = self.work / "old-home"
        shutil.copytree(
            self.site.path("server/gnupg"), home, ignore=shutil.ignore_patterns("S.*", "*.lock")
        )
        options = VERSIONS[self.version][2]
        try:
            secret = self.gpg(home, passphrase, *options, "-d", data=self.envelopes()[user])
            return self.gpg(
                home, secret.decode(), "-u", self.key, "--detach-sign",
                data=(self.work / "hello").read_bytes(),
            )  # fmt: skip
        finally:
            end_agent(home)
            shutil.rmtree(home)

    @staticmethod
    def gpg(home: Path, passphrase: str, *arguments: str, data: bytes) -> bytes:
        return subprocess.run(
            ["gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback", "--quiet",
             f"--passphrase={passphrase}", *arguments],
            input=data, capture_output=True, timeout=60, check=True,
        ).stdout  # fmt: skip

    def verify(self, signature: bytes) -> None:
        (self.work / "signature").write_bytes(signature)
        assert self.person.signer(self.work / "signature", self.work / "hello") == self.key

    def end(self) -> None:
        """End what runs, of ours and of old programs."""
        for name in ("server", "bridge"):
            if (pid := self.site.path(f"run/sigul_{name}.pid")).exists():
                number = int(pid.read_text())
                subprocess.run(["kill", str(number)], check=False, timeout=10)
                wait_until(lambda: has_ended(number), 60, f"{name}'s end")  # noqa: B023
        end_agent(self.site.path("server/gnupg"))


# ------------------------------------------------------------------------------------- old sites


def old_format(site: Site, name: str, nickname: str) -> None:
    """Make an NSS database of the old format of one of the site's."""
    source, target = site.path("pki") / name, site.path("nss") / name.rpartition("/")[2]
    if name == "clients/root":
        target = site.path("nss/client")
    target.mkdir(parents=True)
    password = target / "nss-password"
    password.write_text("nss-pw\n")
    bundle, ca = target / "bundle", held("legacy-site", "ca.pem")
    words = ["-w", str(password), "-k", str(password)]
    commands: tuple[list[str | Path], ...] = (
        ["pk12util", "-o", bundle, "-n", nickname, "-d", f"sql:{source}", *words],
        ["certutil", "-N", "-d", f"dbm:{target}", "-f", password],
        ["certutil", "-A", "-d", f"dbm:{target}", "-f", password, "-n", "my-ca", "-t", "CT,,",
         "-a", "-i", ca],
        ["pk12util", "-i", bundle, "-d", f"dbm:{target}", *words],
    )  # fmt: skip
    for command in commands:
        subprocess.run(command, check=True, timeout=60, capture_output=True)
    bundle.unlink()


def old_configuration(site: Site, version: str) -> None:
    """Write the files that the old programs had."""
    old = version == "0.207"
    comment = " ; the port for servers" if old else ""
    rpms = "max-rpms-payload-size: 10737418240\n" if old else ""
    prefix, tls = ("dbm:", "tls1.0") if old else ("", "tls1.2")

    def nss(name: str) -> str:
        return (
            f"[nss]\nnss-dir: {prefix}{site.path('nss')}/{name}\nnss-password: nss-pw\n"
            f"nss-min-tls: {tls}\nnss-max-tls: tls1.2\n"
        )

    def write(name: str, text: str) -> None:
        site.path(f"{name}.conf").write_text(text + nss(name))

    write(
        "bridge",
        f"[bridge]\nbridge-cert-nickname: sigul-bridge-cert\n"
        f"client-listen-port: {site.client_port}\nserver-listen-port: {site.server_port}\n{rpms}"
        "[koji]\n[daemon]\nunix-user:\nunix-group:\n",
    )
    write(
        "server",
        f"[server]\nbridge-hostname: localhost\nbridge-port: {site.server_port}{comment}\n"
        f"max-file-payload-size: 1073741824\n{rpms}server-cert-nickname: sigul-server-cert\n"
        f"[database]\ndatabase-path: {site.path('server/server.sqlite')}\n"
        f"[gnupg]\ngnupg-home: {site.path('server/gnupg')}\ngnupg-key-type: RSA\n"
        "gnupg-key-length: 2048\ngnupg-subkey-type:\n"
        # 0.x has no such section; without it ours would make the machine's own directory.
        f"[keys]\nkeys-storage: {site.path('server/keys')}\n"
        "[daemon]\nunix-user:\nunix-group:\n[binding]\nenabled:\n",
    )
    write(
        "client",
        f"[client]\nbridge-hostname: localhost\nbridge-port: {site.client_port}\n"
        "client-cert-nickname: sigul-client-cert\nserver-hostname: localhost\nuser-name: root\n",
    )


def old_data(site: Site, version: str) -> None:
    """What the old server keeps: of 1.2 the site has it already."""
    if version == "0.207":
        for name in ("server/gnupg", "server/keys"):
            shutil.rmtree(site.path(name))
        site.path("server/server.sqlite").unlink()
        copy_writable(held("site-0.207", "gnupg"), site.path("server/gnupg"))
        copy_writable(held("site-0.207", "server.sqlite"), site.path("server/server.sqlite"))
    if version == "1.4":
        path = site.path("server/server.sqlite")
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute("PRAGMA writable_schema = ON")
            database.execute(
                "UPDATE sqlite_master SET sql = replace(sql, 'VARCHAR(5)', 'VARCHAR(6)')"
                " WHERE name = 'keys'"
            )
            # Of a type that came with 1.3: whoever does not know it serves all other keys.
            database.execute(
                "INSERT INTO keys (name, keytype, fingerprint) VALUES (?, ?, ?)",
                ["on-a-token", "PKCS11", "pkcs11:token=Sigul;object=release;type=private"],
            )


#: What the two versions' moves show, which differ from that of 0.207 in what is left out: minutes.
PROVEN = (
    "docs/migrate.md", "sigul_stack/cli/database.py", "sigul_stack/database", "sigul_stack/health",
    "tests/data/legacy-site",
)  # fmt: skip


@pytest.fixture(
    params=[
        version if version == "0.207" else pytest.param(version, marks=pytest.mark.long(*PROVEN))
        for version in VERSIONS
    ]
)
def move(request: pytest.FixtureRequest, tmp_path: Path, peer: PeerFactory) -> Iterator[Move]:
    """A site of one of the versions, whose old bridge and server run."""
    site = legacy_site(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    (work / "hello").write_text("hello\n")
    (work / "admin-password").write_bytes(nul(PASSWORD))
    (work / "key-passphrase").write_bytes(nul(PASSPHRASE))
    for name in ("run/sigul", "nss"):
        site.path(name).mkdir(exist_ok=True)
    old_data(site, request.param)
    if request.param == "0.207":
        for name in ("bridge", "server", "client"):
            place = "clients/root" if name == "client" else name
            old_format(site, place, f"sigul-{name}-cert")
    else:
        for name, place in (("bridge", "bridge"), ("server", "server"), ("client", "clients/root")):
            copy_writable(site.path("pki") / place, site.path("nss") / name)
    old_configuration(site, request.param)
    client = peer(site, "client", database="clients/root")
    with person(tmp_path / "person", public_key(request.param)) as somebody:
        found = Move(site, request.param, peer, work, client, somebody)
        found.start("bridge")
        found.start("server")
        yield found
        found.end()


def public_key(version: str) -> bytes:
    """What the key `release` is verified with."""
    if version == "0.207":
        return held("site-0.207", "gnupg", "pubring.gpg").read_bytes()
    return held("legacy-site", "expected", "release.asc.out").read_bytes()


# ----------------------------------------------------------------------------------------- moves


@pytest.mark.long("sigul_stack")
@pytest.mark.timeout(600)
def test_a_site_moves_step_by_step_and_back_at_each(move: Move) -> None:
    site, old = move.site, move.version == "0.207"
    url = f"sqlite:///{site.path('server/server.sqlite')}"
    secrets = {path.name: path.read_bytes() for path in site.path("server/gnupg").glob("*ring.gpg")}
    # Nothing but warnings, and of these there are some: it is a file in the field.
    move.follow(BEFORE, codes=(0, 1))
    state = SchemaState.LEGACY_NO_KEYTYPE if old else SchemaState.LEGACY
    assert schema_state(url) is state
    if old:
        move.follow(CONVERT)
    move.follow(BRIDGE)
    move.follow(BACK[BRIDGE])
    move.follow(BRIDGE)

    move.follow(SERVER)
    assert schema_state(url) is (SchemaState.CURRENT if old else SchemaState.LEGACY)
    # What an old client has opened is sealed anew, and the other access as it was.
    assert {name: is_outdated(sealed) for name, sealed in move.envelopes().items()} == (
        {"root": False, "alice": True} if old else dict.fromkeys(("root", "alice", "bob"), False)
    )
    changed_here(move)
    move.follow(BACK[SERVER])
    # Who was made here, and who has another passphrase since, are there for the old server.
    assert "carol" in move.old_users()
    move.verify(move.old_signature("ops", "ops-release-pw"))
    assert {
        path.name: path.read_bytes() for path in site.path("server/gnupg").glob("secring.gpg")
    } == {name: data for name, data in secrets.items() if name == "secring.gpg"}
    insert = "INSERT INTO keys (name, fingerprint) VALUES (?, ?)"
    if old:
        # An old server knows no column for the type.
        move.sql(insert, "of-the-old-server", "0" * 40)
        move.sql("DELETE FROM keys WHERE name = ?", "of-the-old-server")
    shutil.rmtree(site.path("server.before"))
    move.follow(SERVER)

    move.follow(CLIENTS)
    listing = "/opt/sigul-stack/.venv/bin/sigul -c /etc/sigul/client.conf --batch list-users"
    assert move.printed[f"{listing} <admin-password"].decode().split() == move.old_users()
    move.verify((move.work / "hello.sig").read_bytes())
    assert b"BEGIN PGP PUBLIC KEY" in (move.work / "release.asc").read_bytes()
    move.follow(BACK[CLIENTS])

    move.follow(OFF)
    counted = next(text for line, text in move.printed.items() if "requests_protocol" in line)
    totals = dict(re.findall(r"requests_protocol_(\d)_total\": (\d+)", counted.decode()))
    assert (int(totals["0"]) > 0) is old
    assert int(totals["1"]) > 0
    old_clients(move, served=not old)
    move.follow(BACK[OFF])
    old_clients(move, served=True)

    # All the way back.
    move.follow(BACK[SERVER])
    move.follow(BACK[BRIDGE])
    move.sql("DELETE FROM users WHERE name = 'carol'")
    move.follow(COPY)
    assert "carol" in move.old_users()
    move.old_client("sigul --batch sign-data -o hello.sig release hello <key-passphrase")


def changed_here(move: Move) -> None:
    """A user and an access are made by a client of ours, with the server of ours."""
    sigul = "/opt/sigul-stack/.venv/bin/sigul -c /etc/sigul/client.conf --batch"
    move.run(f"{sigul} new-user carol <admin-password")
    (move.work / "grant").write_bytes(nul(PASSPHRASE, "ops-release-pw"))
    move.run(f"{sigul} grant-key-access release ops <grant")


def old_clients(move: Move, *, served: bool) -> None:
    """Until the daemons have read their files again, old clients are served as before."""
    command = "sigul --batch list-users <admin-password"

    def as_expected() -> bool:
        try:
            move.old_client(command, ends=served)
        except AssertionError:
            return False
        return True

    wait_until(as_expected, 60, "another answer to old clients")
    move.run(
        "/opt/sigul-stack/.venv/bin/sigul -c /etc/sigul/client.conf --batch list-users"
        " <admin-password"
    )
