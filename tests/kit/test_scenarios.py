"""A site that molecule's scenarios deploy and use, one after the other, each a test of its own.

Meanwhile every argument list and environment of the machine is noted, and Ansible tells all it
does. Then no secret of the site may be where it should not be: everything that others can see is
searched for each of them, as it is, in base64 and in hex. At last all of the site is removed.

The tests build on each other and run in this order: each scenario finds a site that was used.

The gate deploys the site, lists its users and has a file signed. What takes minutes more, on a site
that is deployed for it, is `long`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

import pytest
import yaml

from sigul_stack.evidence.leaf import Leaf
from sigul_stack.evidence.log_reader import LogReader, verify_log
from tests.kit.molecule_runs import FILES, SITE, TOP, destroy, docker, left_behind, molecule
from tests.kit.secrets_search import Processes, found, found_in_stream

# Steps of minutes: a deployment of three machines with Ansible takes one.
pytestmark = [pytest.mark.kit, pytest.mark.timeout(1200)]

COMPONENTS = ("bridge", "server", "client")
#: In this order: after `rotate` old bundles are void, and `restore` begins a new database.
LONG_SCENARIOS = ("delay", "rotate", "restore")
SCENARIOS = ("sign", *LONG_SCENARIOS)
#: What the long ones prove something about.
PROVEN = (
    *(".config/molecule", "inventories", "molecule", "playbooks", "roles", "site.yml"),
    *("sigul_stack/backup", "sigul_stack/cli/backup.py"),
    *("sigul_stack/evidence", "sigul_stack/cli/audit"),
    *("sigul_stack/pki", "sigul_stack/cli/pki.py"),
    *("tests/kit/molecule_runs.py", "tests/kit/secrets_search.py"),
)


@dataclass
class Deployed:
    """A site that was made by molecule: what Ansible said, which processes there were."""

    logs: list[str] = field(default_factory=list)
    processes: set[bytes] = field(default_factory=set)

    def molecule(self, *arguments: str) -> str:
        """Run molecule, as talkative as it can be, and watch; all that it printed."""
        with Processes(self.processes):
            log = molecule(*arguments, verbosity=3)
        assert "task path:" in log, "the log is not one of -vvv"
        self.logs.append(log)
        return log

    @property
    def secrets(self) -> dict[str, bytes]:
        """All secrets that the control machine has, by the files' names."""
        control = FILES / "control"
        # Between a first and a last line that all private keys have.
        key = (control / "backup-key/signing-key").read_bytes().splitlines()[1]
        return {"backup-key/signing-key": key} | {
            str(path.relative_to(control)): path.read_bytes().strip()
            for path in [*control.glob("secrets/*"), *control.glob("ca/nss-password")]
            if path.is_file()
        }


@pytest.fixture(scope="module")
def deployed(images: dict[str, str]) -> Iterator[Deployed]:
    destroy()
    site = Deployed()
    try:
        site.molecule("converge")
        yield site
    finally:
        if left_behind():
            destroy()


def test_the_scenario_default_has_all_steps() -> None:
    """What people run with `make molecule` is what is tested here."""
    there = {path.parent.name for path in (TOP / "molecule").glob("*/molecule.yml")}
    assert there == {"default", *SCENARIOS}
    default = yaml.safe_load((TOP / "molecule/default/molecule.yml").read_text())
    assert default["scenario"]["test_sequence"] == [
        *("destroy", "syntax", "create", "converge", "idempotence", "verify"),
        *(f"verify ../{name}/verify.yml" for name in SCENARIOS),
        "destroy",
    ]


def test_all_roles_deploy_a_site(deployed: Deployed) -> None:
    names = (
        "admin-password", "server-nss-password", "user-alice-password", "ldap-bind-password",
        "key-release-passphrase", "key-release-alice-passphrase",
    )  # fmt: skip
    assert {f"secrets/{name}" for name in names} <= deployed.secrets.keys()
    assert all(len(secret) >= 16 for secret in deployed.secrets.values())


@pytest.mark.long(*PROVEN)
def test_a_second_run_changes_nothing(deployed: Deployed) -> None:
    deployed.molecule("idempotence")


def test_users_are_listed_through_both_layers(deployed: Deployed) -> None:
    deployed.molecule("verify")


@pytest.mark.parametrize(
    "scenario",
    ["sign", *(pytest.param(name, marks=pytest.mark.long(*PROVEN)) for name in LONG_SCENARIOS)],
)
def test_scenario(deployed: Deployed, scenario: str) -> None:
    log = deployed.molecule("verify", "-s", scenario)
    assert "LEFT OUT" not in log


def test_the_log_is_on_the_control_machine(deployed: Deployed) -> None:
    """The scenario `sign` has brought it there; what it has is what was signed."""
    reader = LogReader.open(FILES / "control/signing-log")
    key = reader.public_key
    assert key is not None
    assert key.name.startswith("sigul-server.example.org/signing-log/")
    assert verify_log(reader, key).size == reader.size
    leaves = [Leaf.parse(entry) for entry in reader.entries(0, reader.size)]
    signed = hashlib.sha256(b"signed by the key's administrator\n").hexdigest()
    [leaf, *_] = [item for item in leaves if item.input and item.input.sha256 == signed]
    assert (leaf.op, leaf.result, leaf.user) == ("sign-data", "ok", "admin")
    assert leaf.key is not None
    assert leaf.key.name == "release"
    # It is the log that the server goes on with, which a client has seen.
    known = docker("exec", f"sigul-{SITE}-client", "cat", "/var/lib/sigul/signing-log.json")
    assert key.name in known
    own = f"{FILES}/{SITE}-server/server/state/signing-log/checkpoint"
    assert docker("exec", f"{SITE}-server", "head", "-n1", own).strip() == key.name


# --- No secret is where it should not be ----------------------------------------------------------


def test_the_search_finds_what_is_there(deployed: Deployed) -> None:
    for secret in deployed.secrets.values():
        for text in (
            b"password: " + secret + b"\n",
            base64.b64encode(b"user:" + secret + b":more"),
            base64.b64encode(secret + b"\0"),
            base64.b64encode(b"1" + secret + b"\0"),
            b"<" + secret.hex().encode() + b">",
        ):
            assert found(text, deployed.secrets.values()) == [secret]
            # In the midst of bytes that are no text, and over two pieces.
            pieces = [b"\0\xff\n" + text[:9], text[9:] + b"\xfe\0"]
            assert found_in_stream(pieces, deployed.secrets.values())
    assert not found_in_stream([b"\0\xff\n", b"nothing"], deployed.secrets.values())
    # In a process list, too.
    secret = deployed.secrets["secrets/admin-password"].decode()
    seen: set[bytes] = set()
    with Processes(seen):
        subprocess.run(["sleep", "0.3"], check=True, env={"PLANTED": secret}, timeout=10)
    assert found(b"\n".join(seen), [secret.encode()])


def test_none_in_what_ansible_says(deployed: Deployed) -> None:
    assert deployed.logs
    for log in deployed.logs:
        assert found(log.encode(), deployed.secrets.values()) == []


def test_none_in_a_process_list(deployed: Deployed) -> None:
    seen = b"\n".join(deployed.processes)
    for program in (b"sigul_server", b"sigul_bridge", b"list-users"):
        assert program in seen, "too few processes were seen"
    assert found(seen, deployed.secrets.values()) == []


def test_none_in_containers_and_their_logs(deployed: Deployed) -> None:
    for component in COMPONENTS:
        name = f"sigul-{SITE}-{component}"
        shown = docker("inspect", name)
        assert json.loads(shown)[0]["State"]["Running"] is True
        logged = subprocess.run(
            ["docker", "logs", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=True, timeout=60,
        ).stdout  # fmt: skip
        assert component == "client" or b"ridge" in logged
        for text in (shown.encode(), logged, docker("top", name, "-ef").encode()):
            assert found(text, deployed.secrets.values()) == []


def test_none_in_files_but_those_for_secrets(deployed: Deployed) -> None:
    searched = 0
    for path in FILES.rglob("*"):
        inside = path.relative_to(FILES).parts
        if not path.is_file() or path.is_symlink() or "secrets" in inside[:3]:
            continue
        # The CA's password, and bundles for CI jobs, which are secrets themselves; one is unpacked.
        if inside == ("control", "ca", "nss-password") or inside[:2] == ("control", "bundles"):
            continue
        if inside == ("control", "backup-key", "signing-key"):
            continue
        if inside[:2] == ("work", "job"):
            continue
        searched += 1
        assert found(path.read_bytes(), deployed.secrets.values()) == [], path
    assert searched > 10


@pytest.mark.parametrize("component", COMPONENTS)
def test_none_in_the_diagnostics_bundle(deployed: Deployed, component: str) -> None:
    name = f"sigul-{SITE}-{component}"
    docker("exec", name, "sigul-stack", "diagnose", "--output", "/tmp/bundle.tar.gz")
    bundle = subprocess.run(
        ["docker", "exec", name, "cat", "/tmp/bundle.tar.gz"],
        capture_output=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(bundle), mode="r:gz") as reading:
        files = [reading.extractfile(member) for member in reading if member.isfile()]
        texts = [file.read() for file in files if file is not None]
    assert b"nss-dir" in b"".join(texts), "the bundle has no configuration"
    for text in texts:
        assert found(text, deployed.secrets.values()) == []


@pytest.mark.long(*PROVEN)
def test_none_is_anywhere_after_all_scenarios(deployed: Deployed) -> None:
    """What the gate searches after a signature, searched after delays, new CAs and a restore."""
    test_none_in_what_ansible_says(deployed)
    test_none_in_a_process_list(deployed)
    test_none_in_containers_and_their_logs(deployed)
    test_none_in_files_but_those_for_secrets(deployed)
    for component in COMPONENTS:
        test_none_in_the_diagnostics_bundle(deployed, component)
    test_secrets_are_for_their_owner_alone(deployed)


def test_secrets_are_for_their_owner_alone(deployed: Deployed) -> None:
    assert deployed.secrets
    for path in FILES.rglob("*"):
        inside = path.relative_to(FILES).parts
        if {"secrets", "signing-key"} & set(inside) and path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path


def test_none_in_image_layers(deployed: Deployed) -> None:
    images = [
        docker("inspect", "-f", "{{.Config.Image}}", f"sigul-{SITE}-{component}").strip()
        for component in COMPONENTS
    ]
    total = 0
    saving = subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE)
    assert saving.stdout is not None

    def pieces(stream: IO[bytes]) -> Iterator[bytes]:
        nonlocal total
        while piece := stream.read(1 << 20):
            total += len(piece)
            yield piece

    with saving.stdout as stream:
        assert not found_in_stream(pieces(stream), deployed.secrets.values())
    assert saving.wait(60) == 0
    assert total > 50 << 20


# --- And then it is gone --------------------------------------------------------------------------


def test_what_a_failed_run_left_is_removed(deployed: Deployed) -> None:
    # What stands at any time of a run: machines, containers, networks, and files of others.
    machines = [f"{SITE}-{component}" for component in COMPONENTS]
    docker(
        "run", "-d", "--name", f"sigul-{SITE}-server-setup", "--network", f"sigul-{SITE}-inside",
        docker("inspect", "-f", "{{.Config.Image}}", machines[0]).strip(), "sleep", "600",
    )  # fmt: skip
    unreadable = f"'{FILES}/{machines[0]}/unreadable'"
    docker(
        "exec", machines[0], "sh", "-c", f"mkdir -m 700 {unreadable} && chown 12345 {unreadable}"
    )
    there = left_behind()
    assert {*machines, f"sigul-{SITE}-server-setup", str(FILES)} < set(there)
    # Three machines, the site's three containers and that one; two networks; files.
    assert len(there) == 10
    destroy()
    assert left_behind() == []
