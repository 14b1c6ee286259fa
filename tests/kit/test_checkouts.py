"""Two checkouts side by side on one engine, and playbook runs that are cut off.

Each checkout is a copy whose site is a bridge with certificates: the inventory, the roles and the
scripts are the real ones. What a bridge has loaded is what it shows in a handshake.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import yaml

from tests.copies import copy_checkout, run_in
from tests.site import wait_until

BIN = Path(sys.executable).parent
#: Seconds for a playbook on a busy machine; alone it takes a tenth of that.
PLAYBOOK_SECONDS = 600.0
#: Seconds for a bridge to start, or to take what it was told to read.
RELOAD_SECONDS = 60.0

#: What tests of two deployments, which take minutes, prove something about.
PROVEN = ("inventories", "roles", "scripts/preflight", "scripts/site", "tests/copies.py")

CONTROL = {"hosts": "localhost", "gather_facts": False, "roles": ["secrets", "pki"]}
BRIDGE = {"hosts": "localhost", "gather_facts": False, "roles": ["bridge"]}


def docker(*arguments: str) -> str:
    """Run docker, which must succeed; what it printed."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Checkout:
    """A copy of the checkout, with the images of this one."""

    path: Path
    images: str

    def script(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script there."""
        environment.setdefault("SIGUL_IMAGE_PREFIX", self.images)
        return run_in(self.path, *command, **environment)

    @property
    def container(self) -> str:
        return f"sigul-{self.script('scripts/site', 'name').stdout.strip()}-bridge"

    @property
    def port(self) -> int:
        """The bridge's port for clients."""
        return int(self.script("scripts/site", "ports").stdout.split()[2])

    @property
    def control(self) -> Path:
        return self.path / ".site/dev/control"

    @property
    def root(self) -> Path:
        return self.path / ".site/dev/root/bridge"

    @contextlib.contextmanager
    def playbook(self, *plays: dict[str, Any], **variables: object) -> Iterator[Popen[str]]:
        """A playbook of these plays on the checkout's inventory, which runs; killed at the end."""
        file = self.path / "given.yml"
        file.write_text(yaml.safe_dump(list(plays)))
        with Popen(
            [BIN / "ansible-playbook", file, "-e", json.dumps(variables)],
            cwd=self.path,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1", "SIGUL_IMAGE_PREFIX": self.images},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as run:
            try:
                yield run
            finally:
                if run.poll() is None:
                    os.killpg(run.pid, signal.SIGKILL)

    def run(self, *plays: dict[str, Any], **variables: object) -> str:
        """Run a playbook, which must succeed; what it printed."""
        with self.playbook(*plays, **variables) as run:
            output = run.communicate(timeout=PLAYBOOK_SECONDS)[0]
        assert run.returncode == 0, output
        return output

    def fail(self, *plays: dict[str, Any], **variables: object) -> str:
        """Run a playbook, which must fail; what it printed, in one line."""
        with self.playbook(*plays, **variables) as run:
            output = run.communicate(timeout=PLAYBOOK_SECONDS)[0]
        assert run.returncode not in (0, None), output
        return " ".join(output.split())

    def inspect(self) -> dict[str, Any]:
        """What the engine tells of the bridge's container."""
        [found] = json.loads(docker("inspect", self.container))
        assert isinstance(found, dict)
        return found

    def said(self) -> list[str]:
        """What the bridge's container has said until now."""
        done = subprocess.run(
            ["docker", "logs", "--timestamps", self.container],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True, timeout=60,
        )  # fmt: skip
        return done.stdout.splitlines()

    def deploy(self, *plays: dict[str, Any], **variables: object) -> str:
        """Run a playbook, and wait for the bridge; what was printed."""
        output = self.run(*plays, **variables)
        wait_until(self.answers, RELOAD_SECONDS, "an answer of the bridge")
        return output

    def deploy_cut_off(self, changed: Path, **variables: object) -> None:
        """Run the role bridge, and kill all of it as soon as `changed` is another file."""
        before = changed.stat().st_ino
        with self.playbook(BRIDGE, **variables):
            wait_until(
                lambda: changed.stat().st_ino != before,
                PLAYBOOK_SECONDS,
                f"a change of {changed}",
            )

    def answers(self) -> bool:
        """Whether the bridge shakes hands."""
        try:
            return self.certificate() is not None
        except OSError:
            return False

    def certificate(self) -> bytes | None:
        """The certificate that the bridge has loaded: what it shows."""
        return self._shake_hands(ssl.TLSVersion.TLSv1_3)

    def takes_tls12(self) -> bool:
        """Whether the configuration that the bridge has loaded allows for TLS 1.2."""
        try:
            self._shake_hands(ssl.TLSVersion.TLSv1_2)
        except ssl.SSLError as error:
            # It is the lack of a certificate that a bridge refuses after that.
            return "PROTOCOL_VERSION" not in str(error)
        return True

    def _shake_hands(self, version: ssl.TLSVersion) -> bytes | None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("127.0.0.1", self.port), 10) as plain,
            context.wrap_socket(plain) as channel,
        ):
            return channel.getpeercert(binary_form=True)


def renew(checkout: Checkout) -> None:
    """Have a new certificate for the bridge on the control machine."""
    done = run_in(
        checkout.path, BIN / "sigul-stack", "pki", "renew", "--ca", checkout.control / "ca",
        checkout.control / "pki/bridge", "--nickname", "sigul-bridge-cert",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def two(
    images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Checkout, Checkout]]:
    """Two checkouts, deployed at the same time; what is on the control machine was made before.

    It is made once, for it is the longer part: the other one has a copy, and another certificate.
    """
    prefix = images["bridge"].rpartition("/")[0]
    checkouts = [
        Checkout(copy_checkout(tmp_path_factory.mktemp(name) / "checkout"), prefix)
        for name in ("one", "other")
    ]
    one, other = checkouts
    for checkout in checkouts:
        # Also where a machine has a journal, which would have the logs.
        with (checkout.path / "inventories/dev/group_vars/all.yml").open("a") as variables:
            variables.write("component_log_driver: json-file\n")
    try:
        one.run(CONTROL)
        shutil.copytree(one.control, other.control, symlinks=True)
        renew(other)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda checkout: checkout.deploy(BRIDGE), checkouts))
        yield one, other
    finally:
        for checkout in checkouts:
            done = checkout.script("scripts/site", "purge")
            assert done.returncode == 0, done.stderr


# --- Names and ports -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dev", "ci"])
def test_inventory_and_scripts_have_the_same_names(kind: str, tmp_path: Path) -> None:
    """Needs no engine."""
    checkout = Checkout(copy_checkout(tmp_path / "checkout"), "")
    asked = ["sigul_site", "sigul_image_prefix", "sigul_root"]
    if kind == "dev":
        asked += ["bridge_client_address", "bridge_server_port", "bridge_client_port"]
    text = " ".join(f"{{{{ {name} }}}}" for name in asked)
    done = run_in(
        checkout.path, BIN / "ansible", "-i", f"inventories/{kind}", "localhost",
        "-m", "ansible.builtin.debug", "-a", json.dumps({"msg": text}),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    name, prefix = (
        run_in(checkout.path, "scripts/site", what, SITE=kind).stdout.strip()
        for what in ("name", "images")
    )
    expected = f"{name} {prefix} {checkout.path}/.site/{kind}/root"
    if kind == "dev":
        expected += f" {run_in(checkout.path, 'scripts/site', 'ports').stdout.strip()}"
    # Long lines are wrapped.
    assert f"msg: {expected} ".split() == done.stdout.partition("=>")[2].split()


@pytest.mark.kit
@pytest.mark.long(*PROVEN)
# The first one has the deployments: some 30 s, and minutes on a busy machine.
@pytest.mark.timeout(700)
def test_two_checkouts_run_side_by_side(two: tuple[Checkout, Checkout]) -> None:
    names = [checkout.container for checkout in two]
    assert len(set(names)) == 2
    assert len({checkout.port for checkout in two}) == 2
    assert len({checkout.certificate() for checkout in two}) == 2
    for checkout in two:
        published = docker("port", checkout.container).splitlines()
        assert f"44334/tcp -> 127.0.0.1:{checkout.port}" in published
        assert [line for line in published if "-> 127.0.0.1:" not in line] == []
        preflight = checkout.script("scripts/preflight", "up")
        assert [x for x in preflight.stderr.splitlines() if x.startswith("preflight: port ")] == []
        assert "name" not in preflight.stderr


@pytest.mark.kit
@pytest.mark.long(*PROVEN)
@pytest.mark.timeout(700)
def test_logs_fail_where_a_component_has_none(two: tuple[Checkout, Checkout]) -> None:
    """The bridge is there, the server is not."""
    done = two[1].script("scripts/site", "logs")
    assert done.returncode != 0
    assert "bridge  " in done.stdout
    assert "No such container" in done.stdout


# --- Runs that are cut off -----------------------------------------------------------------------


@pytest.mark.kit
@pytest.mark.long(*PROVEN)
# Three runs of the role, and the deployment where this is the first test of the module.
@pytest.mark.timeout(1200)
def test_after_a_run_that_was_cut_off_the_next_one_has_the_change_loaded(
    two: tuple[Checkout, Checkout],
) -> None:
    checkout = two[1]
    certificate = checkout.certificate()
    assert certificate and checkout.takes_tls12()
    renew(checkout)
    newer_tls = {"bridge_options": {"nss": {"nss-min-tls": "tls1.3"}}}
    # The certificates are put in place before the configuration.
    checkout.deploy_cut_off(checkout.root / "etc/bridge.conf", **newer_tls)
    # What is there is new, and what is loaded is old.
    assert checkout.certificate() == certificate and checkout.takes_tls12()
    checkout.deploy(BRIDGE, **newer_tls)
    wait_until(
        lambda: checkout.certificate() != certificate and not checkout.takes_tls12(),
        RELOAD_SECONDS,
        "the change in a handshake",
    )
    again = checkout.deploy(BRIDGE, **newer_tls)
    assert "changed=0" in again


# --- What a container has said --------------------------------------------------------------------


@pytest.mark.kit
@pytest.mark.long(*PROVEN)
# Two runs of the role.
@pytest.mark.timeout(1200)
def test_what_a_bridge_has_said_outlives_its_container(two: tuple[Checkout, Checkout]) -> None:
    checkout = two[1]
    kept = checkout.root.parent / "logs"
    before = checkout.inspect()
    rotated = {"max-size": "10m", "max-file": "5"}
    assert before["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": rotated}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.bind(("127.0.0.1", 0))
        collector.settimeout(RELOAD_SECONDS)
        elsewhere = {
            "component_log_driver": "syslog",
            "component_log_options": {
                "syslog-address": f"udp://127.0.0.1:{collector.getsockname()[1]}"
            },
        }
        # What cannot be kept is not thrown away, and the bridge goes on.
        (kept / ".bridge.new").mkdir(parents=True)
        said = checkout.fail(BRIDGE, **elsewhere)
        assert "cannot be kept, so that is not replaced" in said
        wait_until(checkout.answers, RELOAD_SECONDS, "an answer of the bridge")
        assert checkout.inspect()["Id"] == before["Id"]
        (kept / ".bridge.new").rmdir()
        last = checkout.said()
        checkout.deploy(BRIDGE, **elsewhere)
        assert checkout.inspect()["Id"] != before["Id"]
        assert checkout.container.encode() in collector.recv(65536)
    [file] = kept.glob(f"bridge-*-{before['Id'][:12]}")
    assert file.stat().st_mode & 0o077 == 0
    lines = file.read_text().splitlines()
    assert last and lines[: len(last)] == last
    shown = checkout.script("scripts/site", "logs").stdout
    assert f"bridge  {lines[-1]}" in shown


# --- What is refused and taken down ---------------------------------------------------------------


@pytest.mark.kit
@pytest.mark.long(*PROVEN)
# Three playbooks, which end at their first look.
@pytest.mark.timeout(700)
def test_no_playbook_of_another_checkout_touches_a_site(two: tuple[Checkout, Checkout]) -> None:
    """One that has its name, whatever `make` does: here all that the inventory says is the same."""
    one, other = two
    site = one.container.removeprefix("sigul-").removesuffix("-bridge")
    before = one.inspect()
    for name in ("site", "playbooks/certificates", "playbooks/down"):
        said = other.fail({"import_playbook": f"{name}.yml"}, sigul_site=site)
        assert f"{one.container} has its files in {one.root.parent}" in said
        assert f"this site's are in {other.root.parent}" in said
    for command in ("status", "logs", "down", "purge"):
        done = other.script("scripts/site", command, SITE=site)
        assert done.returncode == 1
        assert f"the site '{site}' is another checkout's" in done.stderr
    after = one.inspect()
    assert after["Id"] == before["Id"]
    assert after["State"]["StartedAt"] == before["State"]["StartedAt"]
    assert one.answers()


@pytest.mark.kit
@pytest.mark.long(*PROVEN)
@pytest.mark.timeout(700)
def test_only_what_somebody_else_has_is_refused(two: tuple[Checkout, Checkout]) -> None:
    one, other = two
    taken = one.script("scripts/preflight", "up", SIGUL_PORT=str(other.port - 1))
    assert f"port {other.port} of 127.0.0.1 is taken by the container {other.container}:" in (
        taken.stderr
    )
    site = one.container.removesuffix("-bridge")
    # Of somebody else, with a name of ours; and with our files, as an earlier version called it.
    files = f"type=bind,source={one.root}/etc,target=/etc/sigul,readonly"
    image = f"{one.images}/base:latest"
    foreign, former = f"{site}-server", f"sigul-former-{os.getpid()}"
    # As first process, sleep alone would not end on SIGTERM, and be waited for.
    sleep = ("tini", "--", "sleep", "600")
    docker("run", "--detach", "--name", foreign, image, *sleep)
    try:
        docker("run", "--detach", "--name", former, "--mount", files, image, *sleep)
        said = one.script("scripts/preflight", "up").stderr
        assert f"the name {foreign} is taken by a container that uses no files" in said
        assert f"the container {former}, of an earlier name of this site, uses its files" in said
        assert one.script("scripts/site", "down").returncode == 0
        there = docker("ps", "--all", "--format", "{{.Names}}").splitlines()
        assert foreign in there and other.container in there
        assert former not in there and one.container not in there
        networks = docker("network", "ls", "--format", "{{.Name}}").splitlines()
        assert [name for name in networks if name.startswith(f"{site}-")] == []
    finally:
        subprocess.run(["docker", "rm", "--force", foreign, former], capture_output=True)
    assert one.root.is_dir()
