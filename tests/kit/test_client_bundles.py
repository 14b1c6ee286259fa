"""The role `client`: bundles as GitHub actions take them."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from sigul_stack import bundle
from sigul_stack.secret import Secret

from .test_roles import play

PASSWORD = "se-cret of the database"
NAME = "key-release-alice-passphrase"
#: What a database's files hold, as far as a bundle goes.
DATABASE = {"cert9.db": b"certificates", "key4.db": b"se-cret keys", "pkcs11.txt": b"modules"}

MAKE: dict[str, Any] = {
    "ansible.builtin.include_role": {"name": "client", "tasks_from": "bundle"},
    "vars": {"client_bundle_user": "alice"},
}


def again(name: str, content: str) -> list[dict[str, Any]]:
    """Tasks that write a file of the control directory, and make the bundle again."""
    file = {"dest": f"{{{{ sigul_control }}}}/{name}", "content": content, "mode": "0600"}
    return [{"ansible.builtin.copy": file, "changed_when": False, "no_log": True}, MAKE]


# Ansible runs twice: 10 s each.
@pytest.mark.timeout(300)
def test_a_bundle_for_an_action(tmp_path: Path) -> None:
    control, bundles = tmp_path / "made/control", tmp_path / "bundles"
    directory = control / "pki/clients/alice"
    directory.mkdir(parents=True)
    for name, content in DATABASE.items():
        (directory / name).write_bytes(content)
    (control / "secrets").mkdir(mode=0o700)
    (control / "secrets/client-alice-nss-password").write_text(PASSWORD)
    host = {
        "client_bundle": str(bundles), "client_bundle_format": "action",
        "client_bundle_users": ["alice"], "client_bundle_passphrases": {"alice": NAME},
        "client_bridge_address": "192.0.2.7", "pki_users": ["alice"],
    }  # fmt: skip

    def run(*tasks: dict[str, Any], check: bool = False) -> int:
        done = play(tmp_path, {"made": host}, {"hosts": "made", "tasks": [*tasks]}, check=check)
        assert done.count("made", "failed") == 0, done.output + done.errors
        for text in (done.output, done.errors):
            assert "se-cret" not in text
        return done.count("made", "changed")

    # Secrets and the bundle are made; then the bundle alone, once.
    assert run(MAKE) > 1
    assert run(*again("pki/clients/alice/cert9.db", "new certificates"), MAKE) == 1
    file = bundles / "sigul-client-alice.asc"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in bundles.iterdir()] == [file.name]
    passphrase = Secret((control / "secrets" / NAME).read_bytes())
    assert len(passphrase.reveal()) > 20
    found = bundle.unpack(file.read_bytes(), passphrase)
    assert found.nss_directory == ".sigul"
    assert found.members == {
        ".sigul": None,
        **{f".sigul/{name}": content for name, content in DATABASE.items()},
        ".sigul/cert9.db": b"new certificates",
        ".sigul/client.conf": found.configuration,
    }
    lines = (found.configuration or b"").decode().splitlines()
    assert f"nss-password = {PASSWORD}" in lines
    assert {"user-name = alice", "nss-dir = ~/.sigul", "bridge-address = 192.0.2.7"} <= set(lines)
    assert not any("nss-password-file" in line for line in lines)
