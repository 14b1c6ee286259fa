"""The roles as far as they go without a container engine: variables, secrets, certificates.

Playbooks run for real, on a control directory of the test's own. What needs an engine is proven by
the molecule scenarios.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

TOP = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CHECK = TOP / "scripts" / "check-role-defaults"

CONTROL_ROLES = """\
- hosts: control
  gather_facts: false
  roles: [secrets, pki]
"""
GIVEN = {"key-release-passphrase": "given to Ansible, not made by it"}


def ansible(
    playbook: Path, control: Path, *options: str, **variables: object
) -> subprocess.CompletedProcess[str]:
    """Run a playbook on the dev inventory, with these variables."""
    given = {"sigul_site": "test", "sigul_control": str(control), **variables}
    vars_file = control.parent / "given.yml"
    vars_file.write_text(yaml.safe_dump(given))
    return subprocess.run(
        [BIN / "ansible-playbook", playbook, "-e", f"@{vars_file}", *options],
        cwd=TOP,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def playbook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A playbook of the roles that need no engine."""
    path = tmp_path_factory.mktemp("playbook") / "control.yml"
    path.write_text(CONTROL_ROLES)
    return path


@pytest.fixture(scope="module")
def first_run(
    playbook: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A control directory, and the most talkative output of the run that made it."""
    control = tmp_path_factory.mktemp("made") / "control"
    done = ansible(playbook, control, "-vvv", "--diff", secrets_values=GIVEN)
    assert done.returncode == 0, done.stdout + done.stderr
    return control, done


@pytest.fixture
def control(first_run: tuple[Path, object], tmp_path: Path) -> Path:
    """A control directory of the test's own, as a first run makes it."""
    copied = tmp_path / "control"
    shutil.copytree(first_run[0], copied, symlinks=True)
    return copied


def files(directory: Path) -> dict[str, bytes]:
    """All files below a directory, with what they hold."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def check_defaults(roles: Path) -> subprocess.CompletedProcess[str]:
    """Run scripts/check-role-defaults on a directory of roles."""
    return subprocess.run(
        [sys.executable, CHECK, roles], capture_output=True, text=True, timeout=60
    )


# --- Documented variables ------------------------------------------------------------------------


def test_defaults_are_as_documented() -> None:
    result = check_defaults(TOP / "roles")
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("role", sorted(path.name for path in (TOP / "roles").iterdir()))
def test_variables_are_in_the_readme(role: str) -> None:
    specification = yaml.safe_load((TOP / "roles" / role / "meta/argument_specs.yml").read_text())
    options = set(specification["argument_specs"]["main"]["options"])
    readme = (TOP / "roles" / role / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)) - options <= {
        "etc",
        "nss",
        "secrets",
        "state",
    }
    assert [name for name in sorted(options) if f"\n| `{name}` | " not in readme] == []


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("defaults/main.yml", "bridge_pids: 1024", "bridge_pids: 512", "bridge_pids: documented"),
        ("defaults/main.yml", "bridge_pids: 1024", "", "bridge_pids is not in defaults"),
        ("defaults/main.yml", "---", "---\nbridge_more: 1", "bridge_more has a default, but"),
        ("defaults/main.yml", "---", "---\nsigul_site: x", "sigul_site is required, but"),
    ],
)
def test_disagreement_is_named(
    tmp_path: Path, file: str, old: str, new: str, complaint: str
) -> None:
    role = tmp_path / "bridge"
    shutil.copytree(TOP / "roles" / "bridge", role)
    text = (role / file).read_text()
    assert old in text
    (role / file).write_text(text.replace(old, new, 1))
    result = check_defaults(tmp_path)
    assert result.returncode == 1
    assert complaint in result.stdout


#: By group, the one wrong variable of each of its hosts; the first client makes the accounts.
WRONG: dict[str, list[tuple[str, object]]] = {
    "control": [
        ("pki_renew_days", 0),
        ("pki_users", ["../admin"]),
        ("pki_users", ["admin", "alice"]),
        ("secrets_values", {"admin-password": ""}),
        ("sigul_image_prefix", "a:b"),
        ("sigul_bridge_name", "not a name!"),
        ("sigul_server_name", "not a name!"),
        ("pki_authority_pkcs12", "/missing"),
        ("pki_authority_pkcs12_password_file", "/missing"),
        ("pki_leaves", {"bridge": {"pkcs12": "/etc/hostname", "password_file": "/missing"}}),
        ("pki_leaves", {"bridge": {"pkcs12": "/etc/hostname", "ca": ["/missing"]}}),
        ("pki_leaves", {"bridge": {"pkcs12": "/etc/hostname", "ca": "/etc/hostname"}}),
    ],
    "bridge": [
        ("bridge_client_port", "many"),
        ("bridge_options", "none"),
        ("sigul_site", "Not a name"),
        ("bridge_options", {"bridges": {}}),
        ("bridge_options", {"bridge": {"max-cleints": 4}}),
        ("bridge_options", {"bridge": {"max-clients": "many"}}),
        ("bridge_client_address", "bridge.example.org"),
        ("bridge_server_address", "192.0.2"),
        ("bridge_memory", "half"),
        ("bridge_secrets", {"nss-password": "bridge-nss-password"}),
    ],
    "server": [
        ("server_options", {"server": ["workers"]}),
        ("server_bridge_address", "192.0.2.1/32"),
        ("server_memory", "2 GB"),
        ("server_secrets", {"database-url": "/missing"}),
    ],
    "clients": [
        ("accounts_user", "alice"),
        ("client_options", {"client": {"workers": 4}}),
        ("client_bridge_address", "bridge.example.org"),
        ("client_memory", "0"),
        ("client_secrets", {"../pin": "pin"}),
    ],
}
#: The role pki looks at these of all clients: one of them wrong stops every host.
WRONG_FOR_ALL: list[tuple[str, object]] = [
    ("client_user", "alice"),
    ("client_bundle_users", ["alice"]),
]
#: By group, options that are secrets.
SECRET_OPTIONS = [
    ("bridge", "nss", "nss-password", "se-cret"),
    ("bridge", "groups", "LDAP-bind-password", "se-cret"),
    ("clients", "binding", "pkcs11_pin", "se-cret"),
    ("server", "database", "database-url", "postgresql://sigul:se-cret@db/sigul"),
]


def hosts_with(directory: Path, wrong: Mapping[str, Sequence[tuple[str, object]]]) -> Path:
    """An inventory with a host for each wrong variable, in one group, and otherwise as for dev.

    The host has the name of the group and a number. What it would be deployed to is in a directory
    of that name.
    """
    dev = yaml.safe_load((TOP / "inventories/dev/group_vars/all.yml").read_text())
    groups: dict[str, Any] = {
        group: {
            "hosts": {
                f"{group}{number}": {variable: value}
                for number, (variable, value) in enumerate(rows)
            }
        }
        for group, rows in wrong.items()
    }
    inventory = {
        "all": {
            "vars": {
                **dev,
                "ansible_connection": "local",
                "ansible_python_interpreter": "{{ ansible_playbook_python }}",
                "sigul_checkout": str(TOP),
                "sigul_control": f"{directory}/{{{{ inventory_hostname }}}}/control",
                "sigul_root": f"{directory}/{{{{ inventory_hostname }}}}/root",
                "secrets_users": ["admin"],
                "server_bridge_address": "192.0.2.1",
                # There is an engine, as far as the checks go.
                "component_engine": {},
            },
            "children": {"control": groups.pop("control", {}), "sigul": {"children": groups}},
        }
    }
    path = directory / "hosts.yml"
    path.write_text(yaml.safe_dump(inventory, sort_keys=False))
    return path


def checked(inventory: Path, *options: str, **environment: str) -> str:
    """Run the first play of site.yml, which must fail on each host; what Ansible printed.

    Each comes to its own fault, where in site.yml the first fault stops all hosts.
    """
    first = yaml.safe_load((TOP / "site.yml").read_text())[0]
    assert first.pop("any_errors_fatal") is True
    playbook = inventory.with_name("checks.yml")
    playbook.write_text(yaml.safe_dump([first]))
    done = subprocess.run(
        [BIN / "ansible-playbook", "-i", inventory, playbook, *options],
        cwd=TOP,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode != 0
    return done.stdout


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One run on a host for each row of `WRONG`: its directory, and Ansible's report."""
    directory = tmp_path_factory.mktemp("wrong")
    said = checked(hosts_with(directory, WRONG), ANSIBLE_STDOUT_CALLBACK="ansible.posix.json")
    return directory, json.loads(said[said.index("{") :])


@pytest.mark.timeout(300)  # The first has the run on all hosts.
@pytest.mark.parametrize(
    ("group", "variable", "value"),
    [(group, *row) for group, rows in WRONG.items() for row in rows],
)
def test_wrong_variable_stops_before_anything_is_touched(
    wrong: tuple[Path, dict[str, Any]], group: str, variable: str, value: object
) -> None:
    directory, report = wrong
    host = f"{group}{WRONG[group].index((variable, value))}"
    results = [task["hosts"].get(host, {}) for play in report["plays"] for task in play["tasks"]]
    [failure] = [result for result in results if result.get("failed")]
    assert variable in json.dumps(failure)
    assert report["stats"][host]["failures"] == 1
    assert report["stats"][host]["changed"] == 0
    assert not (directory / host).exists()


@pytest.mark.parametrize(("variable", "value"), WRONG_FOR_ALL)
def test_one_wrong_variable_stops_all_hosts(tmp_path: Path, variable: str, value: object) -> None:
    control, root = tmp_path / "control", tmp_path / "root"
    given = {"sigul_root": str(root), "secrets_users": ["admin"], variable: value}
    result = ansible(TOP / "site.yml", control, **given)
    assert result.returncode != 0
    assert variable in result.stdout + result.stderr
    assert "changed=0" in result.stdout
    assert not control.exists()
    assert not root.exists()


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The most talkative output of a run on a host for each row of `SECRET_OPTIONS`."""
    given: dict[str, list[tuple[str, object]]] = {}
    for group, section, option, value in SECRET_OPTIONS:
        options = f"{group.removesuffix('s')}_options"
        given.setdefault(group, []).append((options, {section: {option: value}}))
    return checked(hosts_with(tmp_path_factory.mktemp("secret"), given), "-vvv", "--diff")


@pytest.mark.parametrize(("group", "section", "option", "value"), SECRET_OPTIONS)
def test_secret_among_options_is_refused_and_not_shown(
    talkative: str, group: str, section: str, option: str, value: str
) -> None:
    of_group = [row for row in SECRET_OPTIONS if row[0] == group]
    host = f"{group}{of_group.index((group, section, option, value))}"
    # Of each failure the first word is its host.
    failed = re.split(r"(?:fatal|failed): \[", talkative)[1:]
    said = " ".join("".join(one for one in failed if one.startswith(f"{host}]")).split())
    fault = f"{group.removesuffix('s')}_options: [{section}] {option.lower()} is a secret"
    assert fault in said
    assert f"{option.lower()}-file: /etc/sigul/secrets/" in said
    assert "se-cret" not in talkative


# --- Secrets and certificates --------------------------------------------------------------------


def test_check_mode_makes_nothing(tmp_path: Path, playbook: Path) -> None:
    control = tmp_path / "control"
    result = ansible(playbook, control, "--check", "--diff")
    assert result.returncode == 0, result.stdout + result.stderr
    assert not control.exists()


@pytest.mark.timeout(300)  # Three runs of Ansible.
def test_secrets_and_certificates(
    playbook: Path, first_run: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    """Made once; kept by a second run and by --check; no secret in the most talkative output."""
    control, first = first_run
    made = files(control)
    assert made["secrets/key-release-passphrase"].decode() == GIVEN["key-release-passphrase"]

    secrets = [text for name, text in made.items() if "password" in name or "passphrase" in name]
    assert len(secrets) >= 5
    for path in control.rglob("*"):
        public = path.is_symlink() or path.name == "ca.pem"
        assert public or path.stat().st_mode & 0o077 == 0, path

    talk = ("-vvv", "--diff")
    second = ansible(playbook, control, *talk, secrets_values=GIVEN)
    checked = ansible(playbook, control, *talk, "--check", secrets_values=GIVEN)
    for result in (second, checked):
        assert result.returncode == 0, result.stdout + result.stderr
        assert "changed=0" in result.stdout
    assert files(control) == made

    said = "".join(run.stdout + run.stderr for run in (first, second, checked)).encode()
    assert b"secret_files" in said
    for secret in secrets:
        assert secret not in said


@pytest.mark.timeout(240)
def test_only_what_lacks_a_name_is_renewed(playbook: Path, control: Path) -> None:
    before = files(control)
    result = ansible(playbook, control, pki_bridge_names=["sigul.example.org"])
    assert result.returncode == 0, result.stdout + result.stderr
    changed = {name for name, content in files(control).items() if before.get(name) != content}
    assert changed <= {"pki/bridge/cert9.db", "pki/bridge/key4.db"}
    assert "pki/bridge/cert9.db" in changed
    listed = subprocess.run(
        [BIN / "sigul-stack", "pki", "list", control / "pki" / "bridge"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "sigul.example.org" in listed.stdout


@pytest.mark.timeout(240)
def test_the_only_password_of_a_database_is_not_replaced(playbook: Path, control: Path) -> None:
    """As an earlier version may have left it: the database has a password of its own."""
    own = control / "pki/server/nss-password"
    password = own.read_bytes()
    own.unlink()
    own.write_bytes(password)
    (control / "secrets/server-nss-password").write_text("another one")
    result = ansible(playbook, control)
    assert result.returncode != 0
    assert f"move it to {control}/secrets/server-nss-password" in " ".join(result.stdout.split())
    assert own.read_bytes() == password

    own.replace(control / "secrets/server-nss-password")
    result = ansible(playbook, control)
    assert result.returncode == 0, result.stdout + result.stderr
    assert own.is_symlink()


def test_a_secret_that_is_replaced_is_kept(tmp_path: Path) -> None:
    playbook = tmp_path / "secrets.yml"
    playbook.write_text("- hosts: control\n  gather_facts: false\n  roles: [secrets]\n")
    control = tmp_path / "control"
    secret = control / "secrets" / "key-release-passphrase"

    def kept() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in secret.parent.glob(".key-*")}

    def run(value: str, *options: str) -> str:
        result = ansible(playbook, control, *options, secrets_values={secret.name: value})
        assert result.returncode == 0, result.stdout + result.stderr
        return " ".join(result.stdout.split())

    assert "WARNING" not in run("the first")
    assert "would get that" in run("the second", "--check")
    assert (secret.read_bytes(), kept()) == (b"the first", {})
    said = run("the second", "-vvv", "--diff")
    assert secret.read_bytes() == b"the second"
    (name,) = kept()
    assert kept()[name] == b"the first"
    assert (secret.parent / name).stat().st_mode & 0o777 == 0o600
    assert f"kept as {name}" in said
    assert "the first" not in said
    assert "the second" not in said
    again = run("the second")
    assert "changed=0" in again
    assert "WARNING" not in again
    assert len(kept()) == 1


# --- Bundles -------------------------------------------------------------------------------------


BUNDLE = """\
- hosts: control
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: client
        tasks_from: bundle
      vars: {client_bundle_user: alice}
"""


@pytest.mark.timeout(300)
def test_bundles_and_what_check_mode_says(tmp_path: Path, playbook: Path, control: Path) -> None:
    """Another user's than the client's; in a directory that keeps its mode; --check says it all."""
    bundle = tmp_path / "bundle.yml"
    bundle.write_text(BUNDLE)
    bundles = tmp_path / "bundles"
    bundles.mkdir()
    bundles.chmod(0o755)
    archive = bundles / "sigul-client-alice.tar.gz"

    def run(playbook: Path, *options: str, **variables: object) -> str:
        given = {"client_bundle": str(bundles), "pki_users": ["admin", "alice"], **variables}
        result = ansible(playbook, control, *options, **given)
        assert result.returncode == 0, result.stdout + result.stderr
        return " ".join(result.stdout.split())

    assert f"{archive} would be made" in run(bundle, "--check")
    run(playbook)
    run(bundle)
    assert bundles.stat().st_mode & 0o777 == 0o755
    assert archive.stat().st_mode & 0o777 == 0o600
    with tarfile.open(archive) as reading:
        configuration = reading.extractfile("client.conf")
        assert configuration is not None
        assert b"user-name: alice\n" in configuration.read()
    assert "changed=0" in run(bundle, "--check")
    run(bundle, client_bundle=str(tmp_path / "new"))
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700

    before = files(control)
    renewing = run(playbook, "--check", pki_renew_now=True)
    for component in ("bridge", "server", "clients/admin", "clients/alice"):
        assert f"The certificate of {component} would be renewed" in renewing
    assert files(control) == before


# --- Options and secrets of components -----------------------------------------------------------


def test_right_options_and_secrets_pass(tmp_path: Path) -> None:
    """The checks alone, and then what --check says of the secrets' files."""
    playbook = tmp_path / "component.yml"
    playbook.write_text("""\
- hosts: control
  gather_facts: false
  # There is an engine, as far as the checks go.
  vars: {component_engine: {}}
  tasks:
    - ansible.builtin.include_role: {name: bridge, tasks_from: preflight}
    - ansible.builtin.include_role: {name: server, tasks_from: preflight}
    - ansible.builtin.include_role: {name: client, tasks_from: preflight}
    - ansible.builtin.include_role: {name: component, tasks_from: configure}
      vars:
        component_name: server
        component_image: none
        component_configuration: "{{ server_options }}"
        component_nss: "{{ sigul_control }}/pki/server"
        component_nss_password: "{{ sigul_control }}/secrets/server-nss-password"
        component_networks: []
        component_memory: 1g
        component_pids: 1
        component_stop_seconds: 1
        component_secrets: "{{ server_secrets }}"
""")
    control = tmp_path / "control"
    (control / "secrets").mkdir(parents=True)
    (control / "secrets/url").write_text("postgresql://sigul:se-cret@db/sigul")
    result = ansible(
        playbook,
        control,
        "--check",
        "--diff",
        "-vv",
        sigul_root=str(tmp_path / "root"),
        bridge_options={
            "bridge": {"max-clients": 64, "required-fas-group": None},
            "groups": {"ldap-bind-password-file": "/etc/sigul/secrets/ldap"},
        },
        bridge_secrets={"ldap": "not-made-yet"},
        bridge_client_address="2001:db8::1",
        bridge_server_address="",
        server_options={
            "database": {"database-url-file": "/etc/sigul/secrets/database-url"},
            "server": {"lenient-username-check": True, "proxy-usernames": ["a", "b"]},
        },
        server_secrets={"database-url": "url", "pin": str(control / "secrets/url")},
        server_memory="2048m",
        client_options={"binding": {"pkcs11_pin-file": "/etc/sigul/secrets/pin"}},
        client_bridge_address="192.0.2.1",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "se-cret" not in result.stdout
    put = result.stdout.partition("TASK [component : Put files in place for server]")[2]
    put = put.partition("TASK")[0]
    assert "changed: [localhost]" in put
    # "not-made-yet" is no file, and this is the server's alone.
    assert re.findall(r"secrets/[\w-]+(?=\n)", put.partition("paths:")[2]) == [
        "secrets/database-url",
        "secrets/pin",
    ]
    assert not (tmp_path / "root").exists()
