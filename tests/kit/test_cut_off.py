"""Runs that are cut off: what is left to do is seen by the next one, and nothing is done twice."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from sigul_stack.pki import NSSDatabase
from sigul_stack.pki.derivation import read_derivation
from sigul_stack.pki.tuning import BACKUP_NAME
from tests.copies import TOP
from tests.kit.test_roles import BIN, inventory, run_ansible

#: What a run that is cut off, and the one after it, prove something about.
PROVEN = ("ansible.cfg", "playbooks", "roles", "sigul_stack/pki")
#: What playbooks/rotate.yml does on the control machine, without what comes between.
STEPS = [
    {
        "ansible.builtin.include_role": {"name": "pki", "tasks_from": "rollover"},
        "vars": {"pki_step": step},
    }
    for step in ("begin", "issue", "finish")
]


class Control:
    """A control machine's directory, and playbooks on it; no host of the site is there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.control = directory / "control/control"
        self.undelivered = self.control / "pki/rollover-undelivered"
        self.hosts = inventory(directory, {"control": {"control": {}}})
        pki = self.control / "pki"
        pki.mkdir(parents=True)
        self.pki("init-ca", "--dir", self.control / "ca")
        for role, path in (("bridge", "bridge"), ("server", "server"), ("client", "clients/admin")):
            self.pki(
                *("issue", "--ca", self.control / "ca", "--into", pki / path),
                *("--role", role),
                *("--name", "admin" if role == "client" else f"{role}.example.org"),
            )

    def pki(self, *arguments: str | Path) -> str:
        return subprocess.run(
            [BIN / "sigul-stack", "pki", *arguments],
            check=True, capture_output=True, text=True, timeout=60,
        ).stdout  # fmt: skip

    def state(self) -> tuple[str, str]:
        """The phase of a rollover, and the CA that stays."""
        said = self.pki("rollover", "status", "--ca", self.control / "ca", "--json")
        found = json.loads(said)
        return found["phase"], found["authority"]

    def rotate(self, *options: str) -> str:
        done = run_ansible(TOP / "playbooks/rotate.yml", "-i", self.hosts, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return " ".join(done.stdout.split())

    def play(self, *tasks: dict[str, Any]) -> None:
        """Have tasks done on the control machine, and nothing else."""
        playbook = self.directory / "play.yml"
        play = {"hosts": "control", "gather_facts": False, "tasks": list(tasks)}
        playbook.write_text(yaml.safe_dump([play]))
        done = run_ansible(playbook, "-i", self.hosts)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Control:
    return Control(tmp_path_factory.mktemp("control"))


# Ansible is started twice, and steps of the rollover are taken in three databases.
@pytest.mark.long(*PROVEN)
@pytest.mark.timeout(300)
def test_a_rollover_that_was_cut_off_before_its_last_step_goes_on(control: Control) -> None:
    control.play(*STEPS[:2])
    issuing = control.state()
    assert issuing[0] == "issuing"
    # The last step was begun: the note is there, and the old CA, too.
    control.undelivered.write_text("")
    control.rotate("-e", "rotate=ca")
    assert control.state() == ("none", issuing[1])
    assert not control.undelivered.exists()


# As above.
@pytest.mark.long(*PROVEN)
@pytest.mark.timeout(300)
def test_a_rollover_that_was_cut_off_after_its_last_step_is_not_followed_by_another(
    control: Control,
) -> None:
    before = control.state()
    # Cut off when the control machine had done its part, and before all hosts had the result.
    control.play(*STEPS)
    made = control.state()
    assert made[0] == before[0] == "none" and made[1] != before[1]
    said = control.rotate("-e", "rotate=ca", "--limit", "control")
    assert "no other one is begun" in said
    assert control.state() == made
    # A run on some of the hosts does not tell that all have it.
    assert control.undelivered.exists()


# Ansible is started twice, and looks at three databases each time.
@pytest.mark.long(*PROVEN)
@pytest.mark.timeout(300)
def test_databases_are_tuned_and_get_keys_of_another_type(control: Control) -> None:
    """Also of a site that an earlier version made, or certutil: with the rounds that NSS writes."""
    pki = control.control / "pki"
    nss = {path: NSSDatabase(pki / path) for path in ("bridge", "server", "clients/admin")}
    passwords = control.control / "secrets"
    passwords.mkdir(exist_ok=True)
    for path, database in nss.items():
        # The role keeps them elsewhere, and a link here.
        own = pki / path / "nss-password"
        if not own.is_symlink():
            own.rename(passwords / f"{path.replace('clients/', 'client-')}-nss-password")
        environment = {**os.environ}
        environment.pop("NSS_MAX_MP_PBE_ITERATION_COUNT", None)
        password = passwords / f"{path.replace('clients/', 'client-')}-nss-password"
        subprocess.run(
            ["certutil", "-W", "-d", f"sql:{pki / path}", "-f", password, "-@", password],
            check=True, capture_output=True, timeout=60, env=environment,
        )  # fmt: skip
        assert read_derivation(database.directory).is_slow
    names = {"sigul_bridge_name": "bridge.example.org", "sigul_server_name": "server.example.org"}
    given = ("-e", json.dumps({**names, "sigul_admin": "admin"}))
    done = run_ansible(
        *(TOP / "playbooks/tune.yml", "-i", control.hosts, "--limit", "control"), *given
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for database in nss.values():
        assert read_derivation(database.directory).most_rounds == 1
        assert (database.directory / BACKUP_NAME).exists()

    options = json.dumps({"pki_new_keys": True, "pki_key_type": "p256"})
    control.rotate("--limit", "control", "-e", options, *given)
    for database in nss.values():
        (leaf,) = [item for item in database.certificates() if not item.is_authority]
        assert isinstance(leaf.certificate.public_key(), ec.EllipticCurvePublicKey)
        assert read_derivation(database.directory).most_rounds == 1


def test_a_lost_connection_ends_a_run(tmp_path: Path) -> None:
    """By ssh itself, for which Ansible's own limits do not stand."""
    given, ssh = tmp_path / "given", tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{given}\nexit 255\n')
    ssh.chmod(0o755)
    done = subprocess.run(
        [BIN / "ansible", "-i", "host.example.org,", "all", "-m", "raw", "-a", "id"],
        cwd=TOP, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "ANSIBLE_SSH_EXECUTABLE": str(ssh), "ANSIBLE_NOCOLOR": "1"},
    )  # fmt: skip
    assert "UNREACHABLE" in done.stdout, done.stdout + done.stderr
    options = given.read_text().splitlines()
    assert {"ServerAliveInterval=15", "ServerAliveCountMax=4", "ControlMaster=auto"} <= {*options}
