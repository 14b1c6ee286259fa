"""The roles as far as they go without a container engine: variables, secrets, certificates.

Playbooks run for real, on control directories of the tests' own. What needs an engine is proven by
the molecule scenarios.

Each start of Ansible costs seconds of the processor, and so does each role on each host. So several
tests read what one run did, each looks at a host of its own, and a host has only the roles that its
test is about.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sigul_stack.config import PROGRAMS

TOP = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CHECK = TOP / "scripts" / "check-role-defaults"

#: Their variables by their names.
Hosts = Mapping[str, Mapping[str, object]]


class Unsafe(str):
    """A text that Ansible is not to take for a template: in YAML it has the tag for that."""


yaml.SafeDumper.add_representer(
    Unsafe, lambda dumper, text: dumper.represent_scalar("!unsafe", text)
)
GIVEN = {"key-release-passphrase": Unsafe("given to {{ Ansible, {% not {# made by it")}


@dataclass(frozen=True)
class Run:
    """What a run said that was as talkative as it can be."""

    output: str
    errors: str

    def of(self, host: str) -> str:
        """The results of a host's tasks, in one line."""
        results = re.split(r"^(?:ok|changed|skipping|fatal|failed): \[", self.output, flags=re.M)
        own = (one for one in results if one.startswith((f"{host}]", f"{host} ->")))
        return " ".join(" ".join(own).split())

    def count(self, host: str, what: str) -> int:
        """How many of its tasks were `ok`, `changed`, `failed` or the like."""
        counts = re.search(rf"^{host} +: .*\b{what}=(\d+)", self.output, re.M)
        assert counts, self.output + self.errors
        return int(counts[1])


def ansible(
    playbook: Path, control: Path, *options: str, **variables: object
) -> subprocess.CompletedProcess[str]:
    """Run a playbook on the dev inventory, with these variables."""
    given = {"sigul_site": "test", "sigul_control": str(control), **variables}
    vars_file = control.parent / "given.yml"
    vars_file.write_text(yaml.safe_dump(given))
    return run_ansible(playbook, "-e", f"@{vars_file}", *options)


def run_ansible(
    playbook: Path, *options: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a playbook."""
    return subprocess.run(
        [BIN / "ansible-playbook", playbook, *options],
        cwd=TOP,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )


def inventory(directory: Path, groups: Mapping[str, Hosts]) -> Path:
    """An inventory of hosts and their variables by groups, and otherwise as for dev.

    What a host would be deployed to is in a directory of its name.
    """
    dev = yaml.safe_load((TOP / "inventories/dev/group_vars/all.yml").read_text())
    children: dict[str, Any] = {
        group: {"hosts": {name: dict(variables) for name, variables in hosts.items()}}
        for group, hosts in groups.items()
    }
    content = {
        "all": {
            "vars": {
                **dev,
                "ansible_connection": "local",
                "ansible_python_interpreter": "{{ ansible_playbook_python }}",
                "sigul_checkout": str(TOP),
                "sigul_control": f"{directory}/{{{{ inventory_hostname }}}}/control",
                "sigul_root": f"{directory}/{{{{ inventory_hostname }}}}/root",
            },
            "children": {
                "control": children.pop("control", {}),
                "sigul": {"children": children},
            },
        }
    }
    path = directory / "hosts.yml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


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


@pytest.mark.parametrize("component", PROGRAMS)
def test_a_new_site_has_the_strict_options(component: str) -> None:
    """What the role writes into a file is what each option declares for new sites."""
    variables = yaml.safe_load((TOP / f"roles/{component}/vars/main.yml").read_text())
    written = variables[f"_{component}_configuration"]
    program = PROGRAMS[component]()
    strict = {name: program.new_site(name) for name in sorted(program.sections())}
    assert any(strict.values())
    for section, options in strict.items():
        told = {name: written.get(section, {}).get(name) for name in options}
        as_text = {
            name: {True: "yes", False: "no"}.get(value, str(value)) for name, value in told.items()
        }
        assert as_text == options, section


def test_defaults_are_as_documented() -> None:
    result = check_defaults(TOP / "roles")
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("role", sorted(path.name for path in (TOP / "roles").iterdir()))
def test_variables_are_in_the_readme(role: str) -> None:
    specification = yaml.safe_load((TOP / "roles" / role / "meta/argument_specs.yml").read_text())
    points = specification["argument_specs"]
    options = set(points["main"]["options"]) | set(points.get("unread", {}).get("options", {}))
    readme = (TOP / "roles" / role / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)) - options <= {
        "etc",
        "nss",
        "secrets",
        "state",
    }
    assert [name for name in sorted(options) if f"\n| `{name}` | " not in readme] == []


def test_inventories_set_what_roles_have() -> None:
    known = {"sigul_checkout", "sigul_checkout_id"}
    for file in (TOP / "roles").glob("*/meta/argument_specs.yml"):
        for point in yaml.safe_load(file.read_text())["argument_specs"].values():
            known |= set(point.get("options", {}))
    for file in (TOP / "inventories").glob("*/group_vars/*.yml"):
        given = {
            name for name in yaml.safe_load(file.read_text()) if not name.startswith("ansible_")
        }
        assert given <= known, file
        if file.stem in ("bridge", "server", "clients"):
            assert {name.partition("_")[0] for name in given} <= {file.stem.removesuffix("s")}, file


def test_the_readme_says_what_make_up_takes() -> None:
    readme = " ".join((TOP / "README.md").read_text().split())
    line = re.search(r"^readonly FILES=.*$", (TOP / "scripts/preflight").read_text(), re.M)
    assert line
    mib = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", line[0])}
    total = sum(mib.values()) - mib["TEST_FILES"]
    assert f"up to {total} MiB of disk, of which {mib['VENV']} MiB are `.venv`" in readme
    assert f"{mib['IMAGES_CACHE']} MiB `.cache/images`" in readme
    units = {"m": 1, "g": 1024}
    memory = 0
    for role in ("bridge", "server", "client"):
        limit = yaml.safe_load((TOP / f"roles/{role}/defaults/main.yml").read_text())[
            f"{role}_memory"
        ]
        memory += int(limit[:-1]) * units[limit[-1]]
    assert f"at most {memory / 1024} GiB of memory" in readme


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
        ("secrets_values", {"../admin": "of another directory"}),
        ("secrets_values", ["no", "dictionary"]),
        ("secrets_values", "{{ no_such_variable }}"),
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
        ("client_bundle_format", "action"),
        ("client_bundle_passphrases", {"admin": "../pin"}),
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
#: By group, variables that hold what Ansible takes for a template, and what is said of each.
TEMPLATE_LIKE: list[tuple[str, str, object, str]] = [
    ("control", "secrets_values", {"nss": "se-cret", "admin": "x{{se-cret"}, "the value of admin"),
    ("control", "secrets_values", {"admin": "x{%se-cret"}, "the value of admin"),
    ("control", "secrets_values", {"admin": "se-cret{# all #}"}, "the value of admin"),
    ("control", "secrets_values", {"admin": "#jinja2: se-cret"}, "the value of admin"),
    ("control", "secrets_values", {"admin": "{{ se_cret }} of se-cret"}, "the value of admin"),
    ("control", "secrets_values", {"admin": "{{ 'se-cret' | nofilter }}"}, "the value of admin"),
    (
        "control",
        "secrets_values",
        {"admin": "{{ secrets_names }}"},
        "the value of admin is no text",
    ),
    ("control", "secrets_values", "{{ {'admin': 'se-cret' | nofilter} }}", "cannot be read"),
    ("bridge", "bridge_options", {"nss": {"nss-password": "se-cret{{"}}, ".nss.nss-password"),
    ("server", "server_secrets", {"pin": ["se-cret{%"]}, "server_secrets.pin[0]"),
]


def hosts_with(directory: Path, wrong: Mapping[str, Sequence[tuple[str, object]]]) -> Path:
    """An inventory with a host for each wrong variable, in one group, and otherwise as for dev.

    The host has the name of the group and a number.
    """
    common = {
        "secrets_users": ["admin"],
        "server_bridge_address": "192.0.2.1",
        # There is an engine, as far as the checks go.
        "component_engine": {},
    }
    return inventory(
        directory,
        {
            group: {
                f"{group}{number}": {**common, variable: value}
                for number, (variable, value) in enumerate(rows)
            }
            for group, rows in wrong.items()
        },
    )


def checked(hosts: Path, *options: str, **environment: str) -> str:
    """Run the first play of site.yml, which must fail on each host; what Ansible printed.

    Each comes to its own fault, where in site.yml the first fault stops all hosts.
    """
    first = yaml.safe_load((TOP / "site.yml").read_text())[0]
    assert first.pop("any_errors_fatal") is True
    playbook = hosts.with_name("checks.yml")
    playbook.write_text(yaml.safe_dump([first]))
    done = run_ansible(playbook, "-i", hosts, *options, **environment)
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
    for group, name, text, _ in TEMPLATE_LIKE:
        given.setdefault(group, []).append((name, text))
    return checked(hosts_with(tmp_path_factory.mktemp("secret"), given), "-vvv", "--diff")


@pytest.mark.parametrize(("group", "section", "option", "value"), SECRET_OPTIONS)
def test_secret_among_options_is_refused_and_not_shown(
    talkative: str, group: str, section: str, option: str, value: str
) -> None:
    of_group = [row for row in SECRET_OPTIONS if row[0] == group]
    host = f"{group}{of_group.index((group, section, option, value))}"
    said = Run(talkative, "").of(host)
    fault = f"{group.removesuffix('s')}_options: [{section}] {option.lower()} is a secret"
    assert fault in said
    assert f"{option.lower()}-file: /etc/sigul/secrets/" in said
    assert "se-cret" not in talkative


@pytest.mark.parametrize(("group", "variable", "value", "named"), TEMPLATE_LIKE)
def test_what_looks_like_a_template_is_refused_by_name_and_not_shown(
    talkative: str, group: str, variable: str, value: object, named: str
) -> None:
    before = [row for row in SECRET_OPTIONS if row[0] == group]
    of_group = [row[:3] for row in TEMPLATE_LIKE if row[0] == group]
    host = f"{group}{len(before) + of_group.index((group, variable, value))}"
    assert named in Run(talkative, "").of(host)
    assert Run(talkative, "").count(host, "failed") == 1
    assert "se-cret" not in talkative


# --- Secrets, certificates and bundles: the runs -------------------------------------------------


Play = dict[str, Any]
BUNDLE: list[Play] = [
    {
        "ansible.builtin.include_role": {"name": "client", "tasks_from": "bundle"},
        "vars": {"client_bundle_user": "alice"},
    }
]
USERS = {"pki_users": ["admin", "alice"]}


def play(directory: Path, hosts: Hosts, *plays: Play, check: bool = False) -> Run:
    """Run these plays on these hosts."""
    playbook = directory / "control.yml"
    playbook.write_text(yaml.safe_dump([{"gather_facts": False, **one} for one in plays]))
    made = inventory(directory, {"control": hosts})
    done = run_ansible(playbook, "-i", made, "-vvv", "--diff", *(["--check"] if check else []))
    return Run(done.stdout, done.stderr)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A control directory, and the run that made it: with a user's bundle, in a directory for it.

    That directory is there already, and others may read it.
    """
    directory = tmp_path_factory.mktemp("first")
    bundles = directory / "bundles"
    bundles.mkdir()
    bundles.chmod(0o755)
    host = {**USERS, "secrets_values": GIVEN, "client_bundle": str(bundles)}
    made = play(
        directory, {"made": host}, {"hosts": "made", "roles": ["secrets", "pki"], "tasks": BUNDLE}
    )
    assert made.count("made", "failed") == 0, made.output
    return directory / "made/control", made


@pytest.fixture(scope="module")
def checks(
    first: tuple[Path, Run], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, bytes], Run]:
    """A run with --check: its directory, what each control directory held, and what was said."""
    directory = tmp_path_factory.mktemp("checks")
    for host in ("same", "due", "replaced"):
        shutil.copytree(first[0], directory / host / "control", symlinks=True)
    same = {**USERS, "secrets_values": GIVEN, "client_bundle": str(first[0].parents[1] / "bundles")}
    hosts: Hosts = {
        "nothing": {"client_bundle": str(directory / "bundles")},
        "same": same,
        "due": {**USERS, "pki_renew_now": True},
        "replaced": {"secrets_values": dict.fromkeys(GIVEN, "given later")},
    }
    run = play(
        directory, hosts,
        {"hosts": "nothing:same:replaced", "roles": ["secrets"]},
        {"hosts": "nothing:same:due", "roles": ["pki"]},
        {"hosts": "nothing:same", "tasks": BUNDLE},
        check=True,
    )  # fmt: skip
    for host in hosts:
        assert run.count(host, "failed") == 0, run.output
    return directory, files(first[0]), run


@pytest.fixture(scope="module")
def second(
    first: tuple[Path, Run], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, bytes], Run]:
    """A second run: its directory, what each control directory held, and what was said."""
    directory = tmp_path_factory.mktemp("second")
    before = files(first[0])
    for host in ("same", "own", "moved", "replaced", "unbundled"):
        shutil.copytree(first[0], directory / host / "control", symlinks=True)
    # As an earlier version may have left it: the database has a password of its own. And then as
    # somebody has done what the role said.
    for host in ("own", "moved"):
        control = directory / host / "control"
        own = control / "pki/server/nss-password"
        own.unlink()
        own.write_bytes(before["secrets/server-nss-password"])
        own.chmod(0o600)
        (control / "secrets/server-nss-password").write_text("another one")
    moved = directory / "moved/control"
    (moved / "pki/server/nss-password").replace(moved / "secrets/server-nss-password")

    same = {**USERS, "secrets_values": GIVEN}
    replaced = {"secrets_values": dict.fromkeys(GIVEN, "given later")}
    hosts: Hosts = {
        "same": same,
        "own": {},
        # For another test, too: its bridge lacks a name.
        "moved": {"pki_bridge_names": ["sigul.example.org"]},
        "replaced": replaced,
        "again": {**replaced, "sigul_control": f"{directory}/replaced/control"},
        "unbundled": {**same, "client_bundle": str(directory / "bundles")},
    }
    run = play(
        directory, hosts,
        {"hosts": "same:replaced", "roles": ["secrets"]},
        {"hosts": "same:own:moved", "roles": ["pki"]},
        {"hosts": "again", "roles": ["secrets"]},
        {"hosts": "unbundled", "tasks": BUNDLE},
    )  # fmt: skip
    for host in hosts:
        assert run.count(host, "failed") == (host == "own"), run.output
    return directory, before, run


Later = tuple[Path, dict[str, bytes], Run]


# --- Secrets and certificates --------------------------------------------------------------------


# The first of these has a run on a control directory that is empty, and makes all keys: 10 s.
@pytest.mark.timeout(300)
def test_check_mode_makes_nothing(checks: Later) -> None:
    directory, _, _ = checks
    assert not (directory / "nothing").exists()


@pytest.mark.timeout(300)  # The run on hosts whose files are there: 10 s.
def test_secrets_and_certificates(first: tuple[Path, Run], checks: Later, second: Later) -> None:
    """Made once; kept by a second run and by --check; no secret in the most talkative output."""
    control, _ = first
    made = files(control)
    assert made["secrets/key-release-passphrase"].decode() == GIVEN["key-release-passphrase"]

    secrets = [text for name, text in made.items() if "password" in name or "passphrase" in name]
    assert len(secrets) >= 5
    for path in control.rglob("*"):
        public = path.is_symlink() or path.name == "ca.pem"
        assert public or path.stat().st_mode & 0o077 == 0, path

    for directory, before, run in (checks, second):
        assert run.count("same", "changed") == 0
        assert files(directory / "same/control") == before == made

    runs = (first[1], checks[2], second[2])
    said = "".join(run.output + run.errors for run in runs).encode()
    assert b"secret_files" in said
    for secret in secrets:
        assert secret not in said


@pytest.mark.timeout(300)
def test_only_what_lacks_a_name_is_renewed(second: Later) -> None:
    directory, before, _ = second
    control = directory / "moved/control"
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


@pytest.mark.timeout(300)
def test_the_only_password_of_a_database_is_not_replaced(second: Later) -> None:
    directory, before, run = second
    password = before["secrets/server-nss-password"]
    control = directory / "own/control"
    assert run.count("own", "failed") == 1
    assert f"move it to {control}/secrets/server-nss-password" in run.of("own")
    own = control / "pki/server/nss-password"
    assert not own.is_symlink() and own.read_bytes() == password

    assert run.count("moved", "failed") == 0
    own = directory / "moved/control/pki/server/nss-password"
    assert own.is_symlink() and own.read_bytes() == password


@pytest.mark.timeout(300)
def test_a_secret_that_is_replaced_is_kept(
    first: tuple[Path, Run], checks: Later, second: Later
) -> None:
    (name, value), later = *GIVEN.items(), "given later"

    def kept(directory: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in directory.glob("control/secrets/.key-*")}

    assert "WARNING" not in first[1].of("made")
    directory, before, run = checks
    assert "would get that" in run.of("replaced")
    assert files(directory / "replaced/control") == before

    directory, _, run = second
    secrets = directory / "replaced/control/secrets"
    assert (secrets / name).read_bytes() == later.encode()
    # After two runs, of which the second changed nothing, it is one.
    [(old, content)] = kept(directory / "replaced").items()
    assert content == value.encode()
    assert (secrets / old).stat().st_mode & 0o777 == 0o600
    assert f"kept as {old}" in run.of("replaced")
    assert run.count("again", "changed") == 0
    assert "WARNING" not in run.of("again")
    for said in (checks[2].output, run.output):
        assert value not in said
        assert later not in said


# --- Bundles -------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_bundles_and_what_check_mode_says(
    first: tuple[Path, Run], checks: Later, second: Later
) -> None:
    """Another user's than the client's; in a directory that keeps its mode; --check says it all."""
    name = "sigul-client-alice.tar.gz"
    bundles = first[0].parents[1] / "bundles"
    assert bundles.stat().st_mode & 0o777 == 0o755
    assert (bundles / name).stat().st_mode & 0o777 == 0o600
    with tarfile.open(bundles / name) as reading:
        configuration = reading.extractfile("client.conf")
        assert configuration is not None
        assert b"user-name: alice\n" in configuration.read()

    directory, before, run = checks
    assert run.count("same", "changed") == 0
    assert f"{directory}/bundles/{name} would be made" in run.of("nothing")
    assert not (directory / "bundles").exists()
    renewing = run.of("due")
    for component in ("bridge", "server", "clients/admin", "clients/alice"):
        assert f"The certificate of {component} would be renewed" in renewing
    assert files(directory / "due/control") == before

    directory, _, _ = second
    assert (directory / "bundles").stat().st_mode & 0o777 == 0o700
    assert (directory / "bundles" / name).is_file()


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


# --- What is read last ---------------------------------------------------------------------------


def test_the_last_error_is_the_cause(tmp_path: Path) -> None:
    """What is done whatever happens does not fail after it; no container is asked."""
    variables = {
        "component_name": "server",
        "component_image": "none",
        "component_configuration": {},
        "component_nss": "{{ sigul_control }}/pki/server",
        "component_nss_password": "{{ sigul_control }}/secrets/server-nss-password",
        "component_networks": [],
        "component_memory": "1g",
        "component_pids": 1,
        "component_stop_seconds": 1,
    }
    run = play(
        tmp_path,
        {"configure": {}, "certificates": {}},
        {
            "hosts": "control",
            "tasks": [
                {
                    "ansible.builtin.include_role": {"name": "component", "tasks_from": step},
                    "when": f"inventory_hostname == '{step}'",
                    "vars": variables,
                }
                for step in ("configure", "certificates")
            ],
        },
    )
    for host, cause in (
        ("configure", "is no file on the control machine; run site.yml with the role secrets"),
        ("certificates", "holds no NSS database; run site.yml with the role pki"),
    ):
        assert run.count(host, "failed") == 1
        assert cause in run.of(host)
