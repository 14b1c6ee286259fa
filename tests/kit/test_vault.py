"""Secrets that Ansible vault has encrypted: used by the roles, and in clear nowhere on the disk.

What a whole site does with them is in test_runbooks.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from .secrets_search import Processes, found
from .test_roles import Play, Run, inventory, run_ansible

BIN = Path(sys.executable).parent
MEMORY = Path("/dev/shm")  # where the role pki has its passwords
#: As people write them: beside each other in a file that is encrypted as a whole, and one by one.
WHOLE = {
    "admin-password": "se-cret of the administrator",
    "server-nss-password": "se-cret of the server's database",
    "client-admin-nss-password": "se-cret of the client's database",
}
SINGLE = "se-cret with {{ braces }} of its own"
LATER = "se-cret that is another one later"
SECRETS = [text.encode() for text in (*WHOLE.values(), SINGLE, LATER)]
#: One play with keys and certificates on an empty directory, and others on it: 10 s each.
pytestmark = pytest.mark.timeout(300)
ROLES: Play = {"hosts": "made", "roles": ["secrets", "pki"]}
BUNDLE: Play = {
    "hosts": "made",
    "tasks": [
        {
            "ansible.builtin.include_role": {"name": "client", "tasks_from": "bundle"},
            "vars": {"client_bundle_user": "admin"},
        }
    ],
}


@dataclass(frozen=True)
class Vault:
    """A directory with a control machine's files, and a vault outside of it."""

    directory: Path
    keys: Path

    @property
    def control(self) -> Path:
        return self.directory / "made/control"

    def encrypted(self, text: str, *command: str) -> str:
        """What `ansible-vault` makes of a text."""
        return subprocess.run(
            [BIN / "ansible-vault", *command, "--vault-password-file", self.keys / "password"],
            input=text, stdout=subprocess.PIPE, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip

    def write(self, whole: dict[str, str], single: str | None) -> None:
        """Write the variables: the first in a file of their own, the last inline."""
        file = self.directory / "vault.yml"
        text = yaml.safe_dump({"vaulted": whole})
        file.write_text(self.encrypted(text, "encrypt", "--output", "-"))
        values = "".join(f"  {name}: '{{{{ vaulted[\"{name}\"] }}}}'\n" for name in whole)
        if single is not None:
            inline = self.encrypted(single, "encrypt_string", "--stdin-name", "x")
            values += "  key-release-passphrase: !vault |\n" + re.sub(
                r"^.*\n", "", inline.replace("          ", "    ")
            )
        (self.directory / "given.yml").write_text(f"secrets_values:\n{values}")

    def run(self, *plays: Play, fails: bool = False, **variables: object) -> Run:
        """Run the plays as talkatively as can be, and see that no process shows a secret."""
        playbook = self.directory / "control.yml"
        given = [str(self.directory / name) for name in ("vault.yml", "given.yml")]
        playbook.write_text(
            yaml.safe_dump([{"gather_facts": False, "vars_files": given, **one} for one in plays])
        )
        hosts = {"made": {"client_bundle": str(self.keys / "bundles"), **variables}}
        seen: set[bytes] = set()
        with Processes(seen):
            done = run_ansible(
                playbook, "-i", inventory(self.directory, {"control": hosts}), "-vvv", "--diff",
                ANSIBLE_VAULT_PASSWORD_FILE=str(self.keys / "password"),
            )  # fmt: skip
        run = Run(done.stdout, done.stderr)
        assert (run.count("made", "failed") == 1) == fails, run.output + run.errors
        for text in (done.stdout.encode(), done.stderr.encode(), *seen):
            assert not found(text, SECRETS)
        return run

    def in_clear(self) -> list[str]:
        """The files with a secret, of all that the control machine has of the site."""
        return [
            str(path)
            for top in (self.directory, *MEMORY.glob(f"sigul-{os.geteuid()}-*"))
            for path in top.rglob("*")
            if path.is_file() and found(path.read_bytes(), SECRETS)
        ]

    def secret(self, name: str) -> str:
        """What is in the file of a secret, which has to be encrypted."""
        text = (self.control / "secrets" / name).read_text()
        assert text.startswith("$ANSIBLE_VAULT;")
        return self.encrypted(text, "decrypt", "--output", "-")


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    """Secrets, certificates and a bundle, made from a vault."""
    made = Vault(tmp_path_factory.mktemp("vaulted"), tmp_path_factory.mktemp("keys"))
    (made.keys / "password").write_text("of the vault")
    made.write(WHOLE, SINGLE)
    made.run(ROLES, BUNDLE)
    return made


@pytest.mark.long("roles", "playbooks", "inventories")
def test_nothing_of_a_vault_is_in_clear(vault: Vault) -> None:
    """Passwords of databases, too, while what was made at random lies there as ever."""
    assert vault.in_clear() == []
    for name, value in {**WHOLE, "key-release-passphrase": SINGLE}.items():
        assert vault.secret(name) == value
    assert len((vault.control / "secrets/bridge-nss-password").read_text()) == 43
    link = vault.control / "pki/server/nss-password"
    assert link.is_symlink() and str(link.readlink()) == "../../secrets/server-nss-password"


def test_what_was_made_of_them_works(vault: Vault) -> None:
    """The database opens with the vault's password, and the bundle has that for its client."""
    [archive] = (vault.keys / "bundles").iterdir()
    with tarfile.open(archive) as bundle:
        file = bundle.extractfile("nss-password")
        assert file and file.read().decode() == WHOLE["client-admin-nss-password"]
    done = subprocess.run(
        ["certutil", "-K", "-d", f"sql:{vault.control}/pki/server", "-f", "/dev/stdin"],
        input=WHOLE["server-nss-password"], capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "sigul-server-cert" in done.stdout, done.stderr


def test_a_second_run_changes_nothing(vault: Vault) -> None:
    assert vault.run(ROLES, BUNDLE).count("made", "changed") == 0


@pytest.mark.long("roles", "playbooks", "inventories")
def test_the_ca_is_rolled_over(vault: Vault) -> None:
    steps = [
        {
            "ansible.builtin.include_role": {"name": "pki", "tasks_from": "rollover"},
            "vars": {"pki_step": step},
        }
        for step in ("begin", "issue", "finish")
    ]
    before = (vault.control / "ca/ca.pem").read_bytes()
    vault.run({"hosts": "made", "tasks": steps})
    assert (vault.control / "ca/ca.pem").read_bytes() != before
    assert vault.in_clear() == []
    assert not (vault.control / "pki/server/nss-password").readlink().is_absolute()


def test_a_run_that_fails_leaves_none_in_memory(vault: Vault) -> None:
    broken = vault.directory / "no.p12"
    broken.write_text("no PKCS#12")
    said = vault.run(ROLES, fails=True, pki_leaves={"bridge": {"pkcs12": str(broken)}})
    assert "no.p12" in said.output
    assert vault.in_clear() == []
    assert not (vault.control / "pki/server/nss-password").readlink().is_absolute()


def test_files_of_before_are_encrypted(vault: Vault) -> None:
    """As an earlier version left them: the same in clear, and others that are kept."""
    secrets = vault.control / "secrets"
    (secrets / "admin-password").write_text(WHOLE["admin-password"])
    (secrets / "key-release-passphrase").write_text(LATER)
    said = vault.run(ROLES)
    assert said.count("made", "changed") == 1
    assert vault.in_clear() == []
    assert vault.secret("admin-password") == WHOLE["admin-password"]
    [kept] = [path.name for path in secrets.glob(".*.before-*")]
    assert kept.startswith(".key-release-passphrase.") and vault.secret(kept) == LATER
    assert f"kept as {kept}" in said.of("made")
