"""The rules that keep a server's container to its bridge, and what sees that they stay.

systemd runs as the first process of a container that has this machine's programs; the role works on
it as on a machine, and a unit that stands for the engine notes whether the rules were there first.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.site import wait_until

TOP = Path(__file__).parents[2]
#: Seconds for systemd to start, and for its timer, on a busy machine.
SECONDS = 120.0
UNIT, KEEP = "sigul-example-egress.service", "sigul-example-egress-keep"
SCRIPT = "/srv/sigul/egress/server"
#: Stands for the engine: it notes whether the rules are in force when it starts.
ENGINE = f"""\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'if {SCRIPT} check; then echo yes; else echo no; fi >/srv/in-force-at-start'
"""
#: Stands for what loads the machine's own rules: it flushes all others, as nftables.service does.
FILTER = """\
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/iptables -t raw -F
ExecReload=/usr/sbin/iptables -t raw -F
"""
#: What of this machine the container needs to run this machine's programs.
OF_HERE = ("/usr", "/etc/alternatives", "/etc/passwd", "/etc/group", "/etc/ld.so.cache")

pytestmark = [pytest.mark.kit, pytest.mark.root, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Machine:
    """A container in which systemd runs, or a shell that does nothing."""

    name: str
    files: Path

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", "exec", self.name, *command],
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def write(self, path: str, content: str) -> None:
        subprocess.run(
            ["docker", "exec", "-i", self.name, "sh", "-c", 'cat >"$1"', "sh", path],
            input=content, text=True, check=True, timeout=SECONDS,
        )  # fmt: skip

    def role(self, *parts: str, **variables: object) -> subprocess.CompletedProcess[str]:
        """Run parts of the role server there."""
        play: dict[str, Any] = {
            "hosts": "all",
            "gather_facts": False,
            "tasks": [
                {
                    "ansible.builtin.include_role": {"name": "server", "tasks_from": part},
                    "vars": {"_server_keep_seconds": 2},
                }
                for part in parts
            ],
            "vars": {
                "sigul_site": "example",
                "sigul_root": "/srv/sigul",
                "server_bridge_address": "192.0.2.10",
                "server_with_bridge": False,
                "server_systemd": {"stat": {"exists": True}},
                "ansible_connection": "community.docker.docker",
                "ansible_python_interpreter": "/usr/bin/python3",
                **variables,
            },
        }
        playbook = self.files / "play.yml"
        playbook.write_text(yaml.safe_dump([play]))
        return subprocess.run(
            [Path(sys.executable).parent / "ansible-playbook", "-i", f"{self.name},", playbook],
            cwd=TOP, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
            env={**os.environ, "ANSIBLE_HOME": str(TOP / ".cache/ansible"), "ANSIBLE_NOCOLOR": "1"},
            check=False,
        )  # fmt: skip

    def confined(self) -> bool:
        return self.run(SCRIPT, "check", check=False).returncode == 0


@contextlib.contextmanager
def machine(image: str, files: Path, *options: str, command: str) -> Iterator[Machine]:
    name = f"sigul-test-{uuid.uuid4().hex[:12]}"
    volumes = [f"--volume={path}:{path}:ro" for path in OF_HERE]
    try:
        subprocess.run(
            [
                *("docker", "run", "--detach", "--name", name, "--user", "root"),
                *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"),
                *("--security-opt", "seccomp=unconfined", "--network", "none", *volumes),
                *("--tmpfs", "/run", "--tmpfs", "/tmp", "--tmpfs", "/srv:exec", *options),
                *("--entrypoint", "/bin/sh", image, "-c", command),
            ],
            check=True, capture_output=True, timeout=SECONDS,
        )  # fmt: skip
        yield Machine(name, files)
    finally:
        subprocess.run(
            ["docker", "rm", "--force", "--volumes", name], capture_output=True, timeout=SECONDS
        )


@pytest.fixture(scope="module")
def systemd(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    options = ("--env", "container=docker", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:ro")
    # With an ID of the machine it is no first start, at which all units that are there are enabled.
    command = (
        "mount --make-rshared / && tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id"
        " && exec /lib/systemd/systemd --unit=basic.target"
    )
    with machine(
        images["base"], tmp_path_factory.mktemp("systemd"), *options,
        "--stop-signal", "SIGRTMIN+3", command=command,
    ) as started:  # fmt: skip

        def runs() -> bool:
            done = started.run("systemctl", "is-system-running", check=False)
            assert "is not running" not in done.stderr, (
                "systemd has ended at once, as it does where root has no inotify object left:"
                " compare fs.inotify.max_user_instances with what gpg-agents and others have"
            )
            return done.stdout.strip() in ("running", "degraded")

        wait_until(runs, SECONDS, "a system that runs")
        started.write("/etc/systemd/system/docker.service", ENGINE)
        started.write("/etc/systemd/system/nftables.service", FILTER)
        done = started.role("restrict", "confined")
        assert done.returncode == 0, done.stdout + done.stderr
        yield started


@pytest.fixture(scope="module")
def script(systemd: Machine) -> str:
    """The script that puts the rules in force, as the role has written it."""
    return systemd.run("cat", SCRIPT).stdout


# The role is run on a new machine: some 15 s, and minutes on a busy one.
def test_the_rules_are_in_force_before_the_engine_starts(systemd: Machine) -> None:
    assert systemd.confined()
    # As after a start of the machine: nothing is in force, and the engine is started.
    systemd.run("systemctl", "stop", f"{KEEP}.timer", UNIT)
    systemd.run(SCRIPT, "remove")
    assert not systemd.confined()
    systemd.run("systemctl", "start", "docker.service")
    assert systemd.run("cat", "/srv/in-force-at-start").stdout == "yes\n"
    systemd.run("systemctl", "start", f"{KEEP}.timer")


def test_without_the_rules_there_is_no_engine(systemd: Machine) -> None:
    systemd.run("systemctl", "stop", f"{KEEP}.timer", UNIT)
    assert systemd.run("systemctl", "is-active", "docker", check=False).stdout == "inactive\n"
    systemd.run("mv", SCRIPT, f"{SCRIPT}.away")
    done = systemd.run("systemctl", "start", "docker.service", check=False)
    systemd.run("mv", f"{SCRIPT}.away", SCRIPT)
    systemd.run("systemctl", "reset-failed")
    systemd.run("systemctl", "start", "docker.service", f"{KEEP}.timer")
    assert done.returncode != 0


def test_rules_that_are_flushed_are_missed_and_come_back(systemd: Machine) -> None:
    systemd.run("systemctl", "stop", f"{KEEP}.timer")
    systemd.run("iptables", "-t", "raw", "-F")
    done = systemd.role("confined")
    assert done.returncode != 0
    # Ansible wraps lines.
    assert "are not in force" in " ".join(done.stdout.split())
    systemd.run("systemctl", "start", f"{KEEP}.timer")
    wait_until(systemd.confined, SECONDS, "the rules")
    log = systemd.run("journalctl", "--unit", f"{KEEP}.service").stdout
    assert "were gone, and are in force again" in log


@pytest.mark.parametrize("action", ["restart", "reload"])
def test_the_unit_follows_what_loads_the_packet_filter(systemd: Machine, action: str) -> None:
    """At once, not by the timer; and the engine is not started again."""
    systemd.run("systemctl", "stop", f"{KEEP}.timer")
    systemd.run("systemctl", "start", "nftables.service", "docker.service")
    engine = ("systemctl", "show", "-p", "ActiveEnterTimestampMonotonic", "docker.service")
    before = systemd.run(*engine).stdout
    systemd.run("systemctl", action, "nftables.service")
    wait_until(systemd.confined, SECONDS, "the rules")
    assert systemd.run(*engine).stdout == before
    systemd.run("systemctl", "start", f"{KEEP}.timer")


def test_another_site_s_unit_is_left_alone(systemd: Machine) -> None:
    done = systemd.role("restrict", sigul_root="/srv/other")
    assert done.returncode != 0
    assert "another site" in " ".join(done.stdout.split())
    assert f"ExecStart={SCRIPT}\n" in systemd.run("cat", f"/etc/systemd/system/{UNIT}").stdout


# The script is read before.
def test_what_was_put_there_is_removed(systemd: Machine, script: str) -> None:
    done = systemd.role("unrestrict")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGUL" not in systemd.run("iptables", "-t", "raw", "-S").stdout
    assert systemd.run("find", "/etc/systemd/system", "-name", "sigul-*").stdout == ""


# --- Without iptables -----------------------------------------------------------------------------


@contextlib.contextmanager
def lacking(images: dict[str, str], files: Path, *programs: str) -> Iterator[Machine]:
    """A machine without systemd and without these programs, each of which is replaced."""
    options = [f"--volume=/dev/null:/usr/sbin/{name}" for name in programs]
    with machine(images["base"], files, *options, command="exec sleep 600") as plain:
        yield plain


IPTABLES = ("xtables-nft-multi", "xtables-legacy-multi")


def test_without_iptables_nft_does_it(script: str, images: dict[str, str], tmp_path: Path) -> None:
    """By the script that the role has written, whatever that finds where it runs."""
    with lacking(images, tmp_path, *IPTABLES) as plain:
        plain.run("mkdir", "-p", str(Path(SCRIPT).parent))
        plain.write(SCRIPT, script)
        plain.run("chmod", "700", SCRIPT)
        assert not plain.confined()
        plain.run(SCRIPT)
        assert plain.confined()
        rules = plain.run("nft", "list", "ruleset").stdout
        assert "ip daddr 192.0.2.10 tcp dport 44333 accept" in rules and " drop\n" in rules
        plain.run(SCRIPT)
        assert plain.run("nft", "list", "ruleset").stdout == rules
        plain.run("nft", "flush", "ruleset")
        assert not plain.confined()
        assert "were gone" in plain.run(SCRIPT, "keep").stderr
        assert plain.confined()
        plain.run(SCRIPT, "remove")
        assert plain.run("nft", "list", "ruleset").stdout == ""


def test_without_both_one_line_says_so(images: dict[str, str], tmp_path: Path) -> None:
    with lacking(images, tmp_path, *IPTABLES, "nft") as plain:
        done = plain.role("restrict", server_systemd={"stat": {"exists": False}})
    assert done.returncode != 0
    assert "neither iptables nor nft" in " ".join(done.stdout.split())
