"""What docs/runbooks.md has people do, done: on one whole site in a copy of the checkout.

The inventory is dev, with a second administrator and a vault that gives some of the secrets. The
tests go on with what those before have left. What needs no site is in test_playbooks.py.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sigul_stack.evidence.log_reader import LogReader
from tests.copies import TOP, copy_checkout, run_in, without

from .molecule_runs import docker
from .secrets_search import found
from .test_vault import MEMORY

BIN = Path(sys.executable).parent
#: Seconds for a playbook on a busy machine; alone it takes a tenth of that.
SECONDS = 600
#: What the site's vault gives: of an administrator and of two databases, in each form of use.
VAULT = {
    "admin-password": "se-cret of the administrator",
    "bridge-nss-password": "se-cret of the bridge's database",
    "client-admin-nss-password": "se-cret of the client's database",
}
#: The first test has the site made, and each of the others one or more playbooks: 10 to 40 s each,
#: and three times that on a busy machine.
pytestmark = [
    pytest.mark.kit,
    pytest.mark.timeout(1500),
    pytest.mark.long(
        *("playbooks", "site.yml", "roles", "inventories/dev", "ansible.cfg", "scripts/site"),
        *("docs/runbooks.md", "sigul_stack/cli/pki.py", "sigul_stack/pki", "images/builder"),
        *("sigul_stack/evidence", "sigul_stack/cli/audit"),
        *("sigul_stack/cli/canary.py", "sigul_stack/health/canary.py"),
    ),
]


@dataclass
class Site:
    """A checkout's site."""

    path: Path
    images: str
    variables: dict[str, object] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "SIGUL_IMAGE_PREFIX": self.images,
            "ANSIBLE_VAULT_PASSWORD_FILE": str(self.path.parent / "vault-password"),
        }

    def make_vault(self) -> None:
        """Encrypt what the vault gives, beside the checkout."""
        Path(self.environment["ANSIBLE_VAULT_PASSWORD_FILE"]).write_text("of the vault")
        subprocess.run(
            [BIN / "ansible-vault", "encrypt", "--output", self.path.parent / "vault.yml", "-"],
            input=json.dumps({"secrets_values": VAULT}), text=True, timeout=60, check=True,
            env={**os.environ, **self.environment},
        )  # fmt: skip

    def playbook(
        self, *words: str, prefix: tuple[str, ...] = (), fails: bool = False, **environment: str
    ) -> str:
        """Run a playbook on the site; what it printed."""
        done = subprocess.run(
            [*prefix, BIN / "ansible-playbook", "-e", f"@{self.path.parent / 'vault.yml'}",
             "-e", json.dumps(self.variables), *words],
            cwd=self.path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", **self.environment, **environment},
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stdout[-8000:]
        assert not found(done.stdout.encode(), map(str.encode, VAULT.values()))
        return done.stdout

    def refused(self, *words: str) -> str:
        """Run a playbook that fails, and changes nothing before; what it said, in one line."""
        said = self.playbook(*words, fails=True)
        assert not re.search(r"^\S+ +: .*\bchanged=[1-9]", said, re.M), said
        return " ".join(said.split())

    def script(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run_in(self.path, *words, **self.environment)

    def container(self, component: str) -> str:
        return f"sigul-{self.script('scripts/site', 'name').stdout.strip()}-{component}"

    def identities(self) -> list[str]:
        """The IDs of the containers: others, once they have been replaced."""
        names = [self.container(name) for name in ("bridge", "server", "client")]
        return docker("inspect", "--format", "{{.Id}}", *names).split()

    @property
    def control(self) -> Path:
        return self.path / ".site/dev/control"

    def secret(self, name: str) -> bytes:
        return (self.control / "secrets" / name).read_bytes()


@pytest.fixture(scope="module")
def site(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site, made where there is no network: its images are there."""
    site = Site(
        copy_checkout(tmp_path_factory.mktemp("runbooks") / "checkout"),
        images["bridge"].rpartition("/")[0],
        {"images_build": False},
    )
    site.make_vault()
    # What `make` has there.
    (site.path / ".venv").symlink_to(BIN.parent)
    try:
        site.playbook("site.yml", prefix=without("--net"))
        yield site
    finally:
        done = site.script("scripts/site", "purge")
        assert done.returncode == 0, done.stderr


def users(site: Site, directory: Path, user: str) -> subprocess.CompletedProcess[bytes]:
    """`list-users` with the bundle of a user who is not on the site's machines."""
    return subprocess.run(
        [BIN / "sigul", "--batch", "-c", "client.conf", "list-users"],
        cwd=directory,
        input=site.secret(f"user-{user}-password") + b"\0",
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def unpack(directory: Path) -> None:
    """Unpack the other administrator's bundle, as its README says."""
    archive = directory / "bundles/sigul-client-alice.tar.gz"
    subprocess.run(["tar", "-xzf", archive, "-C", directory], check=True, timeout=60)


@pytest.fixture(scope="module")
def alice(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of another administrator, who was added by the short run."""
    directory = tmp_path_factory.mktemp("alice")
    site.variables |= {
        "pki_users": ["admin", "alice"],
        "accounts_users": [{"name": "alice", "admin": True}],
        "client_bundle": str(directory / "bundles"),
        "client_bundle_users": ["alice"],
        "client_bridge_address": "127.0.0.1",
    }
    before = site.identities()
    said = site.playbook("playbooks/accounts.yml")
    assert site.identities() == before
    assert not re.search(r"TASK \[((images|bridge|server) :|component : (Put|Run|Start))", said)
    unpack(directory)
    return directory


def test_a_site_is_made_without_a_network(site: Site) -> None:
    done = site.script("scripts/site", "users")
    assert done.stdout == "admin\n", done.stderr


def test_secrets_of_a_vault_are_in_clear_on_the_hosts_alone(site: Site) -> None:
    """Of all that the run has left on this machine, in what the containers read."""
    secrets = [text.encode() for text in VAULT.values()]
    tops = (site.path / ".site", *MEMORY.glob("sigul-*"))
    held = {
        str(path.relative_to(site.path))
        for top in tops
        for path in top.rglob("*")
        if path.is_file() and not path.is_symlink() and found(path.read_bytes(), secrets)
    }
    root = ".site/dev/root"
    assert held == {f"{root}/{name}/secrets/nss-password" for name in ("bridge", "client")}


def test_what_goes_where_is_there(site: Site) -> None:
    """The listing of docs/deploy.md."""
    page = (TOP / "docs/deploy.md").read_text().partition("## What goes where")[2]
    listing = page.split("```")[1]
    control = set(re.findall(r"^   ([\w-]+)/", listing, re.M))
    later = {"backups", "canary", "revoked", "signing-log"}
    there = {path.name for path in site.control.iterdir()}
    assert control - later <= there <= control
    root = site.path / ".site/dev/root"
    for component, directories in (("server", {"etc", "nss", "secrets", "state"}),
                                   ("client", {"etc", "nss", "secrets", "state"})):  # fmt: skip
        assert {path.name for path in (root / component).iterdir() if path.is_dir()} == directories
        assert f"sigul_root/{component}/" in listing


def test_users_are_added_alone(site: Site, alice: Path) -> None:
    done = users(site, alice, "alice")
    assert done.stdout.split() == [b"admin", b"alice"], done.stderr


def test_a_tag_runs_a_part(site: Site) -> None:
    said = site.playbook("site.yml", "--tags", "accounts")
    assert "TASK [accounts : Have users, keys and accesses]" in said
    assert not re.search(r"TASK \[component : (Put|Run)|TASK \[(pki|images) : (Have|Make)", said)
    said = site.playbook("site.yml", "--tags", "bridge")
    assert re.search(r"TASK \[component : Run the container of bridge", said)
    assert "Run the container of server" not in said
    assert "changed=0" in said


def test_a_passphrase_is_rotated(site: Site) -> None:
    """Also where a run was cut off after the key had the next one, and before its file had."""
    name = "key-release-passphrase"
    secrets = site.control / "secrets"
    old = site.secret(name)
    said = site.playbook("playbooks/passphrase.yml", "-e", "passphrase_key=release", "-vvv")
    new = site.secret(name)
    assert new != old and old.decode() not in said and new.decode() not in said
    [kept] = secrets.glob(f".{name}.before-*")
    assert kept.read_bytes() == old
    (site.path / "file").write_text("what is signed")
    assert site.script("scripts/site", "sign", "file").returncode == 0

    (secrets / name).rename(secrets / f"{name}.next")
    kept.rename(secrets / name)
    site.playbook("playbooks/passphrase.yml", "-e", "passphrase_key=release")
    assert site.secret(name) == new
    assert site.script("scripts/site", "sign", "file").returncode == 0

    # One that a vault gives, which gives the next one, too.
    given = {name: new.decode(), f"{name}.next": "se-cret that is the next"}
    words = ("-e", "passphrase_key=release", "-e", json.dumps({"secrets_values": given}))
    said = site.playbook("playbooks/passphrase.yml", *words, "-vvv")
    assert given[f"{name}.next"] not in said
    assert site.secret(name).startswith(b"$ANSIBLE_VAULT;")
    assert not (secrets / f"{name}.next").exists()
    done = site.script("scripts/site", "sign", "file")
    assert done.returncode == 0, done.stderr


def test_a_passphrase_is_not_rotated(site: Site) -> None:
    """That of a key that there is not, of none, and one that a vault would give back."""
    before = {path.name: path.read_bytes() for path in (site.control / "secrets").iterdir()}
    for words, said in (
        ((), "say which key, as -e passphrase_key=KEY"),
        (("-e", "passphrase_key=../ca"), "say which key, as -e passphrase_key=KEY"),
        (("-e", "passphrase_key=none"), "key-none-passphrase is no file here; name its file"),
        (
            ("-e", "passphrase_key=release", "-e", "passphrase_secret=admin-password"),
            "admin-password is given by secrets_values; give the next one there as",
        ),
    ):
        told = site.refused("playbooks/passphrase.yml", *words)
        assert said in told, told[-3000:]
    # The file is there, and the key is not: the server's own words.
    other = site.control / "secrets/key-other-passphrase"
    other.write_text("of no key at all")
    said = site.playbook("playbooks/passphrase.yml", "-e", "passphrase_key=other", fails=True)
    assert "the passphrase of other was not changed: " in " ".join(said.split())
    for path in (other, other.with_name(f"{other.name}.next")):
        path.unlink()
    assert before == {path.name: path.read_bytes() for path in (site.control / "secrets").iterdir()}


def test_what_cannot_be_revoked(site: Site, tmp_path: Path) -> None:
    """Nobody, two, a user there is not, what is no certificate, and those of the site itself."""
    no_certificate = tmp_path / "no.pem"
    no_certificate.write_text("no certificate")
    for words, said in (
        ((), "say whose certificate, as -e revoke_user=NAME"),
        (("-e", "revoke_user=admin", "-e", f"revoke_certificate={no_certificate}"), "say whose"),
        (("-e", "revoke_user=nobody"), "pki/clients/nobody holds no certificate; name"),
        (("-e", "revoke_user=../bridge"), "which is no name of a user"),
        (("-e", "revoke_certificate=none.pem"), "names 'none.pem', which is no file here"),
        (("-e", f"revoke_certificate={no_certificate}"), "no.pem holds 0 certificates in PEM"),
        (
            ("-e", f"revoke_certificate={site.control}/ca/ca.pem"),
            "ca.pem is the certificate of the CA, the bridge or the server",
        ),
    ):
        told = site.refused("playbooks/revoke.yml", *words)
        assert said in told, told[-3000:]


def test_a_client_is_revoked(site: Site, alice: Path, tmp_path: Path) -> None:
    assert users(site, alice, "alice").returncode == 0
    site.playbook("playbooks/revoke.yml", "-e", "revoke_user=alice")
    done = users(site, alice, "alice")
    assert done.returncode != 0 and done.stdout == b""
    assert "admin" in site.script("scripts/site", "users").stdout
    [aside] = (site.control / "revoked").iterdir()
    assert (aside / "cert9.db").is_file() and (aside / "nss-password").is_file()
    # The file that the vault gives is encrypted.
    (tmp_path / "bridge").write_text(VAULT["bridge-nss-password"])
    (tmp_path / "server").write_bytes(site.secret("server-nss-password"))
    for component in ("bridge", "server"):
        checked = subprocess.run(
            [BIN / "sigul-stack", "pki", "check", site.control / "pki" / component,
             "--role", component, "--password-file", tmp_path / component],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stdout
        assert "distrusted: revoked-alice-" in checked.stdout
    # Another certificate, for the same user, and that revoked, too: it has the same names.
    for _ in range(2):
        site.playbook("playbooks/accounts.yml")
        unpack(alice)
        assert users(site, alice, "alice").returncode == 0
        if len(list((site.control / "revoked").iterdir())) == 1:
            site.playbook("playbooks/revoke.yml", "-e", "revoke_user=alice")
            assert users(site, alice, "alice").returncode != 0


def test_another_version_and_back(site: Site) -> None:
    """The other is the same programs in an image of another ID."""
    tag = f"test-{os.getpid()}"
    names = {name: f"{site.images}/{name}:{tag}" for name in ("bridge", "server", "client")}
    started = site.container("bridge")
    docker("commit", "--change", "LABEL org.sigul-stack.test=other", started, names["bridge"])
    try:
        for name in ("server", "client"):
            docker("tag", f"{site.images}/{name}:latest", names[name])
        assert "say which version" in site.refused("playbooks/version.yml")
        missing = site.refused("playbooks/version.yml", "-e", "version=never-made")
        assert "bridge:never-made" in missing
        site.playbook("playbooks/version.yml", "-e", f"version={tag}")
        wanted = docker("image", "inspect", "--format", "{{.Id}}", names["bridge"])
        assert docker("inspect", "--format", "{{.Image}}", started) == wanted
        site.playbook("playbooks/version.yml", "-e", "version=latest")
        assert docker("inspect", "--format", "{{.Image}}", started) != wanted
    finally:
        docker("image", "rm", *names.values())
    assert "admin" in site.script("scripts/site", "users").stdout


def test_a_host_that_is_down_is_left_out(site: Site, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.write_text(
        "[clients]\ndown ansible_connection=ssh ansible_host=127.0.0.1 ansible_port=1\n"
        "[sigul:children]\nclients\n"
    )
    both = ("-i", "inventories/dev", "-i", str(more), "playbooks/health.yml")
    assert "unreachable=1" in site.playbook(*both, fails=True)
    assert "unreachable=0" in site.playbook(*both, "--limit", "!down")


def test_timers_run_what_renews_and_backs_up(site: Site, tmp_path: Path) -> None:
    """Systemd takes the units; what they start is run as it stands there."""
    recipient = tmp_path / "keeper.asc"
    recipient.write_text("a public key")
    units = tmp_path / "units"
    units.mkdir()
    site.playbook(
        "playbooks/timers.yml", "-e", f"timers_directory={units}", "-e", "timers_enabled=false",
        "-e", f"backup_recipient={recipient}", "-e", "sigul_canary=canary",
    )  # fmt: skip
    for name in ("renew", "log", "backup", "canary"):
        assert len(list(units.glob(f"sigul-*-{name}.*"))) == 2
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units.iterdir()],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    [service] = units.glob("*-renew.service")
    [start] = re.findall("^ExecStart=(.*)$", service.read_text(), re.M)
    set_there = dict(re.findall('^Environment="(\\w+)=(.*)"$', service.read_text(), re.M))
    assert set_there == site.environment
    vault = ["-e", f"@{site.path.parent / 'vault.yml'}"]
    ran = subprocess.run(
        [*shlex.split(start), *vault], cwd=site.path, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
        env={"PATH": os.environ["PATH"], **set_there},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    [backup] = re.findall(
        "^ExecStart=(.*)$", next(units.glob("*-backup.service")).read_text(), re.M
    )
    given = f'--extra-vars={{"backup_recipient": "{recipient}"}}'
    assert shlex.split(backup)[-2:] == [given, "playbooks/backup.yml"]
    [push] = re.findall("^ExecStart=(.*)$", next(units.glob("*-log.service")).read_text(), re.M)
    assert shlex.split(push)[-1] == "playbooks/push-log.yml"
    assert "playbooks/canary.yml" in next(units.glob("*-canary.service")).read_text()


def test_a_canary_is_made_and_tried(site: Site) -> None:
    """Its key, user and files are made; it is good, and it is not where the server is down."""
    given = ("-e", json.dumps({"sigul_canary": "canary", "client_canary_age": 900}))
    said = site.playbook("playbooks/canary.yml", *given, fails=True)
    assert "there is no user and key canary" in " ".join(said.split())
    site.playbook("playbooks/accounts.yml", *given)
    assert "SIGUL CANARY OK" in site.playbook("playbooks/canary.yml", *given)
    root = site.path / ".site/dev/root"
    metrics = root / "metrics/canary.prom"
    assert "sigul_canary_success 1.0" in metrics.read_text()
    assert metrics.stat().st_mode & 0o777 == 0o644
    again = site.playbook("playbooks/canary.yml", *given)
    assert not re.search(r"changed=[1-9]", again), again
    passphrase = site.secret("key-canary-canary-passphrase")
    assert not found(again.encode(), [passphrase])
    assert (root / "canary/secrets/passphrase").read_bytes() == passphrase
    # Its user has that key, and no other; it has no password.
    for key, access in (("canary", "defined"), ("release", "No access defined")):
        told = subprocess.run(
            ["docker", "exec", "-i", site.container("client"), "sigul", "--batch",
             "-c", "/etc/sigul/client.conf", "key-user-info", "canary", key],
            input=f"{VAULT['admin-password']}\0", capture_output=True, text=True, timeout=60,
            check=True,
        )  # fmt: skip
        assert access in told.stdout
    assert "a test signature was good" in site.playbook("playbooks/health.yml", *given)

    docker("stop", site.container("server"))
    try:
        said = site.playbook(
            "playbooks/canary.yml", *given, "-e", "client_canary_seconds=10", fails=True
        )
        assert "SIGUL CANARY CRITICAL - sign: " in said
        assert "sigul_canary_success 0.0" in metrics.read_text()
    finally:
        docker("start", site.container("server"))
    said = site.playbook("playbooks/health.yml", *given, fails=True)
    assert "canary: the test signature of" in " ".join(said.split())
    site.playbook("playbooks/canary.yml", *given)


def listed(site: Site) -> subprocess.CompletedProcess[str]:
    """`list-users`, which the client holds against what it has seen of the log."""
    return site.script("scripts/site", "users")


def witness(site: Site, component: str, *command: str) -> subprocess.CompletedProcess[bytes]:
    """`sigul-stack witness` in the container of the bridge or client."""
    action, *rest = command
    return subprocess.run(
        ["docker", "exec", site.container(component), "sigul-stack", "witness", action,
         "-c", f"/etc/sigul/{component}.conf", *rest],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip


def shown(site: Site, component: str) -> str:
    """What a component knows of logs, and complains of."""
    return witness(site, component, "show").stdout.decode()


def accept(site: Site, component: str, origin: str) -> None:
    """Accept the log of this name."""
    done = witness(site, component, "accept", origin)
    assert done.returncode == 0, done.stderr


def eventually(condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come within {seconds:g} s"
        time.sleep(1)


def stopped(site: Site, *commands: str) -> None:
    """Run commands on the server's log, in its directory, while the server is stopped."""
    name = site.container("server")
    docker("stop", name)
    try:
        subprocess.run(
            ["sh", "-c", " && ".join(commands)],
            cwd=site.path / ".site/dev/root/server/state", check=True, timeout=60,
        )  # fmt: skip
    finally:
        docker("start", name)


def test_a_witness_complains_and_the_log_is_restored(site: Site) -> None:
    """The log of yesterday is put back: seen at once, and mended from the control machine."""
    assert listed(site).returncode == 0
    copy = site.control / "signing-log"
    verify = (BIN / "sigul-stack", "audit", "verify", "--log", copy, "--key", copy / "key.pub")
    site.playbook("playbooks/push-log.yml")
    subprocess.run(verify, check=True, timeout=60)
    stopped(site, "cp -a signing-log signing-log.yesterday")
    assert listed(site).returncode == 0
    site.playbook("playbooks/push-log.yml")
    now = LogReader.open(copy).size
    stopped(site, "mv signing-log signing-log.today", "mv signing-log.yesterday signing-log")
    # The control machine does not take it, and says so.
    said = " ".join(site.playbook("playbooks/push-log.yml", fails=True).split())
    assert "it has lost some" in said or "has shrunk" in said
    assert LogReader.open(copy).size == now
    site.playbook("playbooks/restore-log.yml")
    # Nobody has seen more than the copy had, and nobody complains.
    done = listed(site)
    assert done.returncode == 0, done.stderr
    site.playbook("playbooks/push-log.yml")
    subprocess.run(verify, check=True, timeout=60)

    # A new origin is complained of until somebody accepts it.
    site.playbook("playbooks/restore-log.yml", "-e", "signing_log_new_origin=true")
    done = listed(site)
    assert done.returncode != 0
    assert "signing log" in done.stderr
    origin = (site.path / ".site/dev/root/server/state/signing-log/checkpoint").read_text()
    accept(site, "client", origin.partition("\n")[0])
    done = listed(site)
    assert done.returncode == 0, done.stderr
    # The bridge looks every five minutes, and after its start.
    docker("restart", site.container("bridge"))
    eventually(lambda: listed(site).returncode == 0, "a list of users behind a new bridge")
    eventually(lambda: "COMPLAINT" in shown(site, "bridge"), "the bridge's complaint")
    accept(site, "bridge", origin.partition("\n")[0])
    assert "COMPLAINT" not in shown(site, "bridge")
    assert listed(site).returncode == 0
    # The old copy is kept, and the new log gets another one.
    said = " ".join(site.playbook("playbooks/push-log.yml", fails=True).split())
    assert "this is another log" in said
    copy.rename(copy.with_name("signing-log.before"))
    site.playbook("playbooks/push-log.yml")
    subprocess.run(verify, check=True, timeout=60)


def test_security_updates_take_packages_anew(site: Site) -> None:
    """From a mirror where nobody is, so it is said that nothing was reached."""
    site.variables["images_build"] = True
    said = site.playbook(
        "playbooks/update.yml", "--tags", "images", fails=True,
        DEBIAN_MIRROR="http://127.0.0.1:9/debian",
    )  # fmt: skip
    # Through a proxy it is not known that it is the network.
    causes = ("mmdebstrap found no network", "is the Debian mirror reached?")
    assert any(cause in " ".join(said.split()) for cause in causes), said[-6000:]
