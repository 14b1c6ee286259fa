"""The Ansible module of the role accounts, on a running site: what is described is brought about.

The site's processes run here; a `docker` of the test's own starts the client where the module would
enter its container, and notes what it was given, so that the test sees what others could see.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.commands_support import rows
from tests.site import Site, module

TOP = Path(__file__).parents[2]
ANSIBLE = Path(sys.executable).with_name("ansible-playbook")
SECRETS = {
    "admin-password": "admin-pw",
    "user-alice-password": "alice-secret-word",
    "key-release-passphrase": "release-secret-phrase",
    "key-release-alice-passphrase": "alice-secret-phrase",
}
#: What those that take half a minute prove something about.
PROVEN = ("roles/accounts", "roles/secrets", "sigul_stack/cli/commands")
ALICE = {"name": "alice", "password": "user-alice-password"}
RELEASE = {
    "name": "release",
    "type": "ECC",
    "admin": "admin",
    "passphrase": "key-release-passphrase",
    "users": [{"name": "alice", "passphrase": "key-release-alice-passphrase"}],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site, and the program `docker` in its directory `bin`."""
    made = Site.make(tmp_path_factory.mktemp("accounts") / "site")
    docker = made.path("bin/docker")
    docker.parent.mkdir()
    command = " ".join(module("sigul"))
    docker.write_text(
        f"""#!/bin/sh
echo "$@" >> '{made.path("docker.log")}'
tr '\\0' '\\n' < /proc/$$/environ >> '{made.path("docker.log")}'
# exec -i CONTAINER timeout SECONDS sigul --batch -c FILE COMMAND...
shift 9
exec {command} --batch -c '{made.path("client.conf")}' "$@"
"""
    )
    docker.chmod(0o755)
    with made.running():
        yield made


def arguments(
    users: list[dict[str, Any]], keys: list[dict[str, Any]], delete_keys: bool = False
) -> dict[str, Any]:
    """What the module is told."""
    return {
        "container": "sigul-test-client",
        "user": "admin",
        "password": "admin-password",
        "secrets": SECRETS,
        "users": users,
        "keys": keys,
        "delete_keys": delete_keys,
    }


def run(
    site: Site,
    tmp_path: Path,
    users: list[dict[str, Any]],
    keys: list[dict[str, Any]],
    delete_keys: bool = False,
) -> dict[str, Any]:
    """Run the module as Ansible does, without its second or two around it; the module's result."""
    given = tmp_path / "arguments.json"
    given.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments(users, keys, delete_keys)}))
    done = subprocess.run(
        [sys.executable, TOP / "roles/accounts/library/sigul_accounts.py", given],
        capture_output=True,
        check=False,
        timeout=110,
        cwd=tmp_path,
        env={**site.environment, "PATH": f"{site.path('bin')}:{os.environ['PATH']}"},
    )
    result: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == result.get("failed", False), done.stderr.decode()
    return result


def run_in_ansible(
    site: Site,
    tmp_path: Path,
    users: list[dict[str, Any]],
    keys: list[dict[str, Any]],
    *options: str,
) -> tuple[dict[str, Any], str]:
    """Run a playbook of the module; the module's result, and all that Ansible printed."""
    task = {"sigul_accounts": arguments(users, keys)}
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps(play))
    done = subprocess.run(
        [
            str(ANSIBLE), "-i", "localhost,", "-c", "local", "-vvv", "--diff",
            "-e", f"ansible_python_interpreter={sys.executable}", *options, str(playbook),
        ],
        capture_output=True,
        check=False,
        timeout=110,
        cwd=tmp_path,
        env={
            **site.environment,
            "PATH": f"{site.path('bin')}:{os.environ['PATH']}",
            "ANSIBLE_LIBRARY": str(TOP / "roles/accounts/library"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "ANSIBLE_LOCAL_TEMP": str(tmp_path / "ansible/tmp"),
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_NOCOLOR": "true",
        },
    )  # fmt: skip
    said = done.stdout.decode() + done.stderr.decode()
    begin = said.find("=> {")
    assert begin >= 0, said
    result, _ = json.JSONDecoder().raw_decode(said[begin + 3 :])
    return result, said


def state(site: Site) -> list[list[tuple[object, ...]]]:
    return [
        rows(site, "SELECT name, admin FROM users ORDER BY name"),
        rows(site, "SELECT name, keytype FROM keys ORDER BY name"),
        rows(
            site,
            "SELECT keys.name, users.name, key_admin FROM key_accesses"
            " JOIN keys ON keys.id = key_id JOIN users ON users.id = user_id ORDER BY 1, 2",
        ),
    ]


# Some thirty commands of the client, a second each on a busy machine, and Ansible twice.
@pytest.mark.long(*PROVEN)
@pytest.mark.timeout(300)
def test_accounts_are_brought_about_once(site: Site, tmp_path: Path) -> None:
    before = state(site)
    result, said = run_in_ansible(site, tmp_path, [ALICE], [RELEASE], "--check")
    expected = [
        "user alice was made", "key release was made", "user alice has access to key release",
    ]  # fmt: skip
    assert result["changes"] == expected
    assert state(site) == before

    result, more = run_in_ansible(site, tmp_path, [ALICE], [RELEASE])
    assert result["changed"] is True
    assert result["changes"] == expected
    assert state(site) == [
        [("admin", 1), ("alice", 0)],
        [("release", "ECC")],
        [("release", "admin", 1), ("release", "alice", 0)],
    ]
    made = state(site)
    again = run(site, tmp_path, [ALICE], [RELEASE])
    assert (again["changed"], again["changes"]) == (False, [])

    # The passphrases are those that were given ...
    site.sigul("get-public-key", "release", secrets=[SECRETS["key-release-passphrase"]])
    # ... and nobody else saw one.
    seen = said + more + site.path("docker.log").read_text()
    assert "sigul --batch -c /etc/sigul/client.conf" in seen
    for secret in SECRETS.values():
        assert secret not in seen

    key = {**RELEASE, "users": [{**RELEASE["users"][0], "key_admin": True}]}  # type: ignore[dict-item]
    result = run(site, tmp_path, [{**ALICE, "admin": True}], [key])
    assert result["changes"] == [
        "user alice is now an administrator", "user alice now administers key release",
    ]  # fmt: skip
    result = run(site, tmp_path, [{**ALICE, "admin": False}], [RELEASE])
    assert result["changes"] == [
        "user alice is no longer an administrator", "user alice no longer administers key release",
    ]  # fmt: skip
    assert state(site) == made

    # A key is deleted on two words only.
    gone = {**RELEASE, "state": "absent", "users": []}
    result = run(site, tmp_path, [], [gone])
    assert "accounts_delete_keys is not set" in result["msg"]
    assert state(site) == made
    result = run(site, tmp_path, [{**ALICE, "state": "absent"}], [])
    assert result["changes"] == [
        "user alice has no access to key release any more", "user alice was deleted",
    ]  # fmt: skip
    result = run(site, tmp_path, [], [gone], delete_keys=True)
    assert result["changes"] == ["key release was deleted"]
    assert state(site) == before


def test_what_cannot_be_is_said(site: Site, tmp_path: Path) -> None:
    before = state(site)
    result = run(site, tmp_path, [{"name": "bob", "admin": True}], [])
    assert "user bob is to be an administrator: give it a password" in result["msg"]
    site.run("mv", str(site.path("client.conf")), str(site.path("away")))
    try:
        result = run(site, tmp_path, [ALICE], [])
    finally:
        site.path("away").rename(site.path("client.conf"))
    assert "sigul list-users: " in result["msg"]
    assert state(site) == before


@pytest.mark.long(*PROVEN)
@pytest.mark.timeout(120)
def test_check_mode_with_secrets_that_are_not_made_yet(site: Site, tmp_path: Path) -> None:
    """The role on a running site, to which a user and a key are added."""
    before = state(site)
    # The role asks the engine whose containers there are, and whether the client's is one of them:
    # it is, and none is somebody else's.
    library = tmp_path / "collections/ansible_collections/community/docker/plugins/modules"
    library.mkdir(parents=True)
    (library / "docker_container_info.py").write_text(
        "from ansible.module_utils.basic import AnsibleModule\n"
        "module = AnsibleModule({'name': {}}, supports_check_mode=True)\n"
        "module.exit_json(exists=True)\n"
    )
    (library / "docker_host_info.py").write_text(
        "from ansible.module_utils.basic import AnsibleModule\n"
        "given = ('containers', 'containers_all', 'containers_filters', 'networks',\n"
        "         'networks_filters', 'verbose_output')\n"
        "AnsibleModule({name: {'type': 'raw'} for name in given}, supports_check_mode=True)"
        ".exit_json(containers=[], networks=[], host_info={})\n"
    )
    control = tmp_path / "control"
    (control / "secrets").mkdir(parents=True)
    (control / "secrets/admin-password").write_text(SECRETS["admin-password"])
    playbook = tmp_path / "role.yml"
    playbook.write_text("- hosts: localhost\n  gather_facts: false\n  roles: [accounts]\n")
    given = {
        "sigul_site": "test",
        "sigul_control": str(control),
        "sigul_root": str(tmp_path / "root"),
        "sigul_admin": "admin",
        "accounts_users": [{"name": "alice"}],
        "accounts_keys": [{"name": "release", "type": "ECC", "users": [{"name": "alice"}]}],
    }
    done = subprocess.run(
        [
            str(ANSIBLE), "-i", "localhost,", "-c", "local", "--check", "--diff",
            "-e", f"ansible_python_interpreter={sys.executable}",
            "-e", json.dumps(given), str(playbook),
        ],
        capture_output=True,
        check=False,
        timeout=110,
        text=True,
        cwd=tmp_path,
        env={
            **site.environment,
            "PATH": f"{site.path('bin')}:{os.environ['PATH']}",
            "ANSIBLE_ROLES_PATH": str(TOP / "roles"),
            "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"),
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "ANSIBLE_LOCAL_TEMP": str(tmp_path / "ansible/tmp"),
            "ANSIBLE_NOCOLOR": "true",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for change in ("user alice was made", "key release was made", "alice has access to"):
        assert change in done.stdout
    assert state(site) == before
    assert [path.name for path in control.rglob("*") if path.is_file()] == ["admin-password"]
