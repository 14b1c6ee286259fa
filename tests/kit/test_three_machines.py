"""inventories/three_host as it is: bridge, server and client on machines of their own, by SSH."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from .machines import Machine, Machines

TOP = Path(__file__).parents[2]
INVENTORY = TOP / "inventories" / "three_host"
#: Tries to reach each HOST:PORT of its arguments, and prints those that it reached.
REACHED = """
import socket, sys
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        continue
    print(place)
"""

#: Three engines, and Ansible by SSH: minutes. test_scenarios has what the gate runs of the roles.
PROVEN = ("ansible.cfg", "inventories", "playbooks", "roles", "site.yml", "tests/kit/machines.py")

pytestmark = [
    pytest.mark.kit,
    pytest.mark.root,
    pytest.mark.long(*PROVEN),
    pytest.mark.timeout(1500),
]


@dataclass
class Site:
    """The machines of the inventory, and the one that Ansible runs on."""

    machines: Machines
    control: Machine
    bridge: Machine
    server: Machine
    client: Machine
    files: Path
    #: What the names of the images that are there begin with.
    image_prefix: str

    def playbook(self, name: str, *options: str) -> str:
        """Run a playbook on the inventory; what it printed. It must succeed."""
        given = {
            # What a person would write into the inventory.
            "sigul_control": str(self.files / "control"),
            "ansible_user": "root",
            "ansible_python_interpreter": sys.executable,
            "sigul_image_prefix": self.image_prefix,
        }
        variables = self.files / "given.yml"
        variables.write_text(yaml.safe_dump(given))
        done = subprocess.run(
            self.control.command(
                str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(INVENTORY),
                "-e", f"@{variables}", "--private-key", str(self.machines.ssh_key),
                name, *options,
            ),
            cwd=TOP, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
            env={
                **os.environ,
                "ANSIBLE_HOME": str(TOP / ".cache/ansible"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=60s"
                " -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            },
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        return done.stdout

    def egress(self, *options: str) -> str:
        """Have what the server may reach as the inventory and the options say; what was printed."""
        playbook = self.files / "egress.yml"
        role = {"name": "server", "tasks_from": "egress"}
        playbook.write_text(
            yaml.safe_dump(
                [
                    {
                        "hosts": "server",
                        "gather_facts": False,
                        "tasks": [{"ansible.builtin.import_role": role}],
                    }
                ]
            )
        )
        return self.playbook(str(playbook), *options)

    def users(self) -> str:
        """What `list-users` says on the client's machine."""
        password = (self.files / "control/secrets/admin-password").read_bytes()
        done = subprocess.run(
            self.client.command(
                "docker", "exec", "-i", "sigul-example-client",
                "sigul", "--batch", "-c", "/etc/sigul/client.conf", "list-users",
            ),
            input=password + b"\0", capture_output=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def reached(self, machine: Machine, container: str, *places: str) -> list[str]:
        """Which places a container reaches."""
        return machine.docker("exec", container, "python3", "-c", REACHED, *places).stdout.split()


@pytest.fixture(scope="module")
def site(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    hosts = yaml.safe_load((INVENTORY / "hosts.yml").read_text())["all"]["children"]["sigul"]
    addresses = {
        group: next(iter(members["hosts"].values()))["ansible_host"]
        for group, members in hosts["children"].items()
    }
    files = tmp_path_factory.mktemp("machines")
    with Machines(files) as machines:
        control = machines.control()
        started = {name: machines.machine(name, address) for name, address in addresses.items()}
        site = Site(
            machines, control, started["bridge"], started["server"], started["clients"], files,
            images["bridge"].rpartition("/")[0],
        )  # fmt: skip
        site.playbook("site.yml")
        yield site


def changes(output: str) -> set[int]:
    return {int(count) for count in re.findall(r"changed=(\d+)", output)}


def test_users_are_listed_from_a_third_machine(site: Site) -> None:
    assert site.users() == "admin\n"


def test_a_second_run_changes_nothing(site: Site) -> None:
    assert changes(site.playbook("site.yml", "--check")) == {0}
    assert changes(site.playbook("site.yml")) == {0}


def test_each_machine_has_only_what_is_its_own(site: Site) -> None:
    for machine, name in (
        (site.bridge, "bridge"),
        (site.server, "server"),
        (site.client, "client"),
    ):
        there = machine.run("ls", "/srv/sigul").stdout.split()
        assert there == [*(["egress"] if name == "server" else []), name]
        assert machine.run("stat", "-c", "%U %a", "/srv/sigul").stdout == "root 700\n"
        running = machine.docker("ps", "--format", "{{.Names}}").stdout.split()
        assert running == [f"sigul-example-{name}"]


def test_only_the_bridge_publishes_ports(site: Site) -> None:
    for machine, name in ((site.server, "server"), (site.client, "client")):
        assert machine.docker("port", f"sigul-example-{name}").stdout == ""
    ports = site.bridge.docker("port", "sigul-example-bridge").stdout.splitlines()
    assert sorted(ports) == [
        f"44333/tcp -> {site.bridge.address}:44333",
        "44334/tcp -> 0.0.0.0:44334",
    ]


def test_the_server_reaches_the_bridge_and_nothing_else(site: Site) -> None:
    bridge, server = site.bridge.address, site.server.address
    others = [f"{bridge}:44334", f"{bridge}:22", f"{server}:22", f"{site.client.address}:22"]
    gateway = site.server.docker(
        "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "sigul-example-server"
    ).stdout.strip()
    places = [f"{bridge}:44333", *others, f"{gateway}:22"]
    assert site.reached(site.server, "sigul-example-server", *places) == [f"{bridge}:44333"]
    # They are there: the client's container, which nothing holds back, reaches them.
    assert site.reached(site.client, "sigul-example-client", *others) == others
    # Without systemd nothing has the rules in force first: the engine must not start the server.
    restart = ("inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", "sigul-example-server")
    assert site.server.docker(*restart).stdout == "no\n"


def rules(site: Site) -> list[str]:
    return site.server.run("iptables", "-t", "raw", "-S").stdout.splitlines()


def test_the_rules_follow_the_bridge(site: Site) -> None:
    """Of an address of before nothing is left; what is missing, and what is no longer wanted."""
    right, others = rules(site), [f"{site.client.address}:22", f"{site.bridge.address}:44334"]
    moved = ("-e", "server_bridge_address=203.0.113.30", "-e", "server_bridge_port=22")
    site.egress(*moved)
    reached = site.reached(site.server, "sigul-example-server", *others)
    assert reached == [f"{site.client.address}:22"]
    # As after a restart of the machine.
    site.server.run("iptables", "-t", "raw", "-F")
    site.egress()
    assert sorted(rules(site)) == sorted(right)
    assert site.reached(site.server, "sigul-example-server", *others) == []
    site.egress("-e", "server_restrict_egress=false")
    assert not [rule for rule in rules(site) if "SIGUL" in rule]
    assert site.reached(site.server, "sigul-example-server", *others) == others
    site.egress()
    assert sorted(rules(site)) == sorted(right)
    assert changes(site.egress()) == {0}


def test_a_site_is_taken_down(site: Site) -> None:
    site.playbook("playbooks/down.yml")
    for machine in (site.bridge, site.server, site.client):
        assert machine.docker("ps", "--all", "--quiet").stdout == ""
        assert "sigul" not in machine.docker("network", "ls").stdout
    assert not [rule for rule in rules(site) if "SIGUL" in rule]
