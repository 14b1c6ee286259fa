"""What docs/runbooks.md has people do, done: on one whole site in a copy of the checkout.

The inventory is dev, with a second administrator. The tests go on with what those before have left.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.copies import TOP, copy_checkout, run_in, without

from .molecule_runs import docker

BIN = Path(sys.executable).parent
#: Seconds for a playbook on a busy machine; alone it takes a tenth of that.
SECONDS = 600
#: The first test has the site made, and each of the others one or more playbooks: 10 to 40 s each.
pytestmark = [pytest.mark.kit, pytest.mark.timeout(1500)]


@dataclass
class Site:
    """A checkout's site."""

    path: Path
    images: str
    variables: dict[str, object] = field(default_factory=dict)

    def playbook(
        self, *words: str, prefix: tuple[str, ...] = (), fails: bool = False, **environment: str
    ) -> str:
        """Run a playbook on the site; what it printed."""
        done = subprocess.run(
            [*prefix, BIN / "ansible-playbook", "-e", json.dumps(self.variables), *words],
            cwd=self.path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=SECONDS, check=False,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "SIGUL_IMAGE_PREFIX": self.images,
                 **environment},
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stdout[-8000:]
        return done.stdout

    def script(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run_in(self.path, *words, SIGUL_IMAGE_PREFIX=self.images)

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
    try:
        site.playbook("site.yml", prefix=without("--net"))
        yield site
    finally:
        done = site.script("scripts/site", "purge")
        assert done.returncode == 0, done.stderr


def users(site: Site, directory: Path, user: str) -> subprocess.CompletedProcess[bytes]:
    """`list-users` with the bundle of a user who is not on the site's machines."""
    return subprocess.run(
        [BIN / "sigul", "--batch", "-c", directory / "client.conf", "list-users"],
        input=site.secret(f"user-{user}-password") + b"\0",
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip


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
    assert not re.search(r"TASK \[(images|bridge|server|component) :", said)
    with tarfile.open(directory / "bundles/sigul-client-alice.tar.gz") as bundle:
        bundle.extractall(directory, filter="data")
    return directory


def test_a_site_is_made_without_a_network(site: Site) -> None:
    assert "admin" in site.script("scripts/site", "users").stdout


def test_what_goes_where_is_there(site: Site) -> None:
    """The listing of docs/deploy.md."""
    page = (TOP / "docs/deploy.md").read_text().partition("## What goes where")[2]
    listing = page.split("```")[1]
    control = set(re.findall(r"^   ([\w-]+)/", listing, re.M))
    later = {"backups", "revoked"}
    there = {path.name for path in site.control.iterdir()}
    assert control - later <= there <= control
    root = site.path / ".site/dev/root"
    for component, directories in (("server", {"etc", "nss", "secrets", "state"}),
                                   ("client", {"etc", "nss", "secrets"})):  # fmt: skip
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
    assert "TASK [component : Run the container of bridge]" in said
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


def test_a_client_is_revoked(site: Site, alice: Path) -> None:
    assert users(site, alice, "alice").returncode == 0
    site.playbook("playbooks/revoke.yml", "-e", "revoke_user=alice")
    done = users(site, alice, "alice")
    assert done.returncode != 0 and done.stdout == b""
    assert "admin" in site.script("scripts/site", "users").stdout
    [aside] = (site.control / "revoked").iterdir()
    assert (aside / "cert9.db").is_file() and (aside / "nss-password").is_file()
    for component in ("bridge", "server"):
        checked = subprocess.run(
            [BIN / "sigul-stack", "pki", "check", site.control / "pki" / component,
             "--role", component],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stdout
        assert "distrusted: revoked-alice-" in checked.stdout
    # Another certificate, for the same user.
    site.playbook("playbooks/accounts.yml")
    with tarfile.open(alice / "bundles/sigul-client-alice.tar.gz") as bundle:
        bundle.extractall(alice, filter="data")
    assert users(site, alice, "alice").returncode == 0


def test_another_version_and_back(site: Site) -> None:
    """The other is the same programs in an image of another ID."""
    tag = f"test-{os.getpid()}"
    names = {name: f"{site.images}/{name}:{tag}" for name in ("bridge", "server", "client")}
    started = site.container("bridge")
    docker("commit", "--change", "LABEL org.sigul-stack.test=other", started, names["bridge"])
    try:
        for name in ("server", "client"):
            docker("tag", f"{site.images}/{name}:latest", names[name])
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
        "-e", f"backup_recipient={recipient}",
    )  # fmt: skip
    assert (
        len(list(units.glob("sigul-*-renew.*"))) == len(list(units.glob("sigul-*-backup.*"))) == 2
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units.iterdir()],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    [service] = units.glob("*-renew.service")
    [start] = re.findall("^ExecStart=(.*)$", service.read_text(), re.M)
    ran = run_in(site.path, "sh", "-c", start, SIGUL_IMAGE_PREFIX=site.images)
    assert ran.returncode == 0, ran.stdout
    [backup] = re.findall(
        "^ExecStart=(.*)$", next(units.glob("*-backup.service")).read_text(), re.M
    )
    assert f'-e "backup_recipient={recipient}" playbooks/backup.yml' in backup


def test_security_updates_take_packages_anew(site: Site) -> None:
    """From a mirror where nobody is, so it is said that nothing was reached."""
    site.variables["images_build"] = True
    said = site.playbook(
        "playbooks/update.yml", "--tags", "images", fails=True,
        DEBIAN_MIRROR="http://127.0.0.1:9/debian",
    )  # fmt: skip
    assert "mmdebstrap found no network" in " ".join(said.split())
