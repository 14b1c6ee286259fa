"""Our images under the Linux Foundation's kits: its Helm chart, and its signing action.

The parts of both are played here: bootstrap, init containers, probes and steps, with the users,
mounts and flags that they run with. A site is brought up once with the components' images, and in
the long lane with those for charts, whose tools the chart's own scripts and probes start.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sigul_stack import bundle
from sigul_stack.secret import Secret

from ..checkout import TOP
from . import lf_action
from .lf_action import UID, step
from .lf_site import ADMIN, ADMIN_PASSWORD, FQDN, KEY, NSS_PASSWORD, PASSPHRASE, SECONDS, Chart
from .molecule_runs import docker

# Bringing a site up, certificates and key included, takes half a minute.
pytestmark = [pytest.mark.kit, pytest.mark.timeout(900)]


@dataclass
class Signing:
    """A site that runs, and the directory of an action that signs with it."""

    chart: Chart
    directory: Path
    image: str

    def step(self, *arguments: str, **how: object) -> subprocess.CompletedProcess[str]:
        work = str(self.work)
        given = {"mounts": [f"{work}:{work}"], "workdir": work, **how}
        return step(self.image, self.chart.name, self.directory, *arguments, **given)  # type: ignore[arg-type]

    @property
    def work(self) -> Path:
        return self.directory / "work"

    def make_work(self) -> Path:
        """An empty workspace of the runner's user."""
        subprocess.run(["rm", "-rf", self.work], check=True)
        self.work.mkdir()
        own(self.work)
        return self.work


def own(*paths: Path) -> None:
    """Give files to the runner's user."""
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, UID, UID)


def brought_up(chart: Chart) -> None:
    chart.install()
    wait(chart, "bridge", ["test", "-e", "/run/sigul_bridge.heartbeat"])
    given = f"{ADMIN_PASSWORD}\0{PASSPHRASE}\0".encode()
    chart.toolbox("new-key", "--key-admin", ADMIN, KEY, given=given)


def wait(chart: Chart, role: str, command: list[str], good: bool = True) -> None:
    """Wait until a probe succeeds."""
    end = time.monotonic() + SECONDS
    while (chart.probe(role, *command).returncode == 0) != good:
        assert time.monotonic() < end, chart.log(role)
        time.sleep(0.5)


@pytest.fixture(scope="module")
def signing(images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signing]:
    """A site of the components' images, and an action's credentials from a bundle."""
    top = tmp_path_factory.mktemp("lf")
    chart = Chart(top, images, "/bin/sh")
    try:
        brought_up(chart)
        directory = top / "action"
        directory.mkdir()
        configuration = (
            (top / "workspace/client.conf")
            .read_text()
            .replace("nss-dir: /etc/pki/sigul/client", "nss-dir = /sigul-creds/pki/.sigul")
        )
        files = {
            f".sigul/{name}": (top / "client-pki" / name).read_bytes()
            for name in ("cert9.db", "key4.db", "pkcs11.txt")
        }
        text = bundle.pack(files, Secret(PASSPHRASE))
        bundle.unpack(text, Secret(f"{PASSPHRASE}\nmore")).write_to(top / "opened")
        lf_action.credentials(directory, top / "opened/.sigul", configuration)
        yield Signing(chart, directory, images["client"])
    finally:
        chart.remove()


# ------------------------------------------------------------------------------------- the chart


def test_the_daemons_are_as_probes_look_for_them(signing: Signing) -> None:
    chart = signing.chart
    for role in ("bridge", "server"):
        first = chart.probe(role, "/bin/sh", "-c", "tr '\\0' ' ' </proc/1/cmdline").stdout
        assert f"/usr/share/sigul/{role}.py -c /etc/sigul/{role}.conf -vv" in first.replace(
            "--internal-pid-dir=/run ", ""
        )
    # Both ports, in whichever table.
    table = chart.probe("bridge", "cat", "/proc/net/tcp", "/proc/net/tcp6").stdout
    for port in (44334, 44333):
        assert re.search(rf":{port:04X} [0-9A-F]+:0000 0A", table), table
    # The server keeps connections.
    table = chart.probe("server", "cat", "/proc/net/tcp").stdout
    assert re.search(rf":{44333:04X} 01", table), table
    beat = chart.probe("bridge", "stat", "-c", "%Y", "/run/sigul_bridge.heartbeat").stdout
    now = chart.probe("bridge", "date", "+%s").stdout
    assert 0 <= int(now) - int(beat) <= 30


def test_a_wrong_option_is_warned_of_with_the_right_name(signing: Signing) -> None:
    for role in ("bridge", "server"):
        text = signing.chart.log(role)
        assert "max-rpms-payload-size is unknown and ignored" in text
        assert "did you mean max-rpms-payloads-size?" in text


def test_the_database_has_the_administrator(signing: Signing) -> None:
    query = (
        "import sqlite3; c = sqlite3.connect('/var/lib/sigul/server/server.sqlite');"
        "print(c.execute('SELECT name, admin FROM users').fetchall())"
    )
    done = signing.chart.probe("server", "python3", "-c", query)
    assert done.stdout == f"[('{ADMIN}', 1)]\n", done.stderr


def test_nothing_is_written_as_another_user(signing: Signing) -> None:
    if os.geteuid() == 0:
        top = signing.chart.directory
        owners = {path.stat().st_uid for path in (top / "server-data").rglob("*")}
        assert owners == {1000}
        assert (top / "server-data/gnupg").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("role", ["bridge", "server"])
def test_the_other_components_role_is_refused(images: dict[str, str], role: str) -> None:
    other = {"bridge": "server", "server": "bridge"}[role]
    done = subprocess.run(
        ["docker", "run", "--rm", "--env", f"SIGUL_ROLE={other}",
         "--entrypoint", "/usr/local/bin/entrypoint.sh", images[role]],
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"SIGUL_ROLE is '{other}'" in done.stderr


# ------------------------------------------------------------------------------------ the action


def test_a_dry_run(signing: Signing) -> None:
    work = signing.make_work()
    done = signing.step("dry", mounts=[f"{work}:{work}:ro"])
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert f"endpoint {FQDN}:44334" in lines
    assert f"subject CN=sigul-client.{FQDN}" in lines
    assert f"user {ADMIN} nss /sigul-creds/pki/.sigul" in done.stdout
    assert "addresses True" in lines
    assert re.search(r"^until .*20\d\d", done.stdout, re.M)
    for secret in (NSS_PASSWORD, PASSPHRASE):
        assert secret not in done.stdout + done.stderr
    assert not list(signing.directory.rglob("__pycache__"))


def test_another_bridge_than_expected_ends_it(signing: Signing) -> None:
    signing.make_work()
    done = signing.step("data", "/none", expected="sigul.example.org:44333")
    assert done.returncode == 1
    assert "the bridge is sigul.example.org:44334, not" in done.stderr


def test_files_are_signed(signing: Signing, tmp_path: Path) -> None:
    work = signing.make_work()
    files = [work / "a file", work / "-odd"]
    for file in files:
        file.write_text(file.name)
    own(*files)
    done = signing.step("data", *map(str, files))
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.name for path in work.iterdir()}
    assert made == {"a file", "a file.asc", "-odd", "-odd.asc"}
    public = signing.chart.toolbox("get-public-key", KEY, given=f"{PASSPHRASE}\0".encode())
    for file in files:
        verify(tmp_path, public, Path(f"{file}.asc"), file)


def verify(home: Path, public: str, signature: Path, file: Path) -> None:
    home.chmod(0o700)
    gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--no-autostart"]
    subprocess.run([*gpg, "--import"], input=public.encode(), check=True, timeout=60)
    subprocess.run([*gpg, "--verify", signature, file], check=True, timeout=60, capture_output=True)


def test_a_tag_is_signed(signing: Signing) -> None:
    """Judged by the ref: its object is the old one, and one signature behind it."""
    work = signing.make_work()
    repository, objects = work / "repository", work / "objects"

    def git(*arguments: str, given: str = "") -> str:
        return subprocess.run(
            ["git", "-c", "safe.directory=*", "-c", "user.name=n", "-c", "user.email=n@example.org",
             "-C", repository, *arguments],
            input=given, capture_output=True, text=True, check=True, timeout=60,
            env={**os.environ, "GIT_OBJECT_DIRECTORY": str(objects)},
        ).stdout  # fmt: skip

    repository.mkdir()
    objects.mkdir()
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "first")
    git("tag", "--annotate", "v1", "--message", "release")
    old = git("cat-file", "tag", "v1")
    own(*work.rglob("*"))
    done = signing.step(
        "tag", "v1",
        mounts=[f"{repository}:/sigul-repo", f"{objects}:{objects}"], workdir="/sigul-repo",
        variables=(
            f"GIT_OBJECT_DIRECTORY={objects}", "GIT_CONFIG_NOSYSTEM=1",
            "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_COUNT=1",
            "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=/sigul-repo",
        ),
    )  # fmt: skip
    assert "exit 0" in done.stdout, done.stdout + done.stderr
    new = git("cat-file", "tag", "v1")
    assert new.startswith(old) and old.endswith("\n")
    assert re.fullmatch(
        r"-----BEGIN PGP SIGNATURE-----\n(?:[A-Za-z]+: .*\n)*\n(?:[A-Za-z0-9+/=]+\n)+"
        r"-----END PGP SIGNATURE-----\n?",
        new[len(old) :],
    )


def test_an_attempt_that_is_ended_leaves_nothing(signing: Signing) -> None:
    work = signing.make_work()
    done = signing.step("late", f"{work}/file")
    assert "exit -15" in done.stdout, done.stdout + done.stderr
    assert "left []" in done.stdout
    assert list(work.iterdir()) == []


def test_without_the_configuration_of_a_home(signing: Signing) -> None:
    """No password there: it is asked for by what the action has put there, which refuses."""
    text = (signing.directory / "client.conf").read_text()
    try:
        (signing.directory / "client.conf").write_text(
            text.replace(f"nss-password: {NSS_PASSWORD}\n", "")
        )
        signing.make_work()
        done = signing.step("dry")
        assert done.returncode == 1
        assert "RuntimeError: no password in the configuration" in done.stderr
    finally:
        (signing.directory / "client.conf").write_text(text)


# --------------------------------------------------------------------- what ends, and comes again


def test_zz_daemons_end_on_sigterm(signing: Signing) -> None:
    """The last test here: the containers end in time, and the heartbeat with the bridge."""
    name = signing.chart.name
    docker("stop", "--timeout", "60", f"{name}-server", f"{name}-bridge")
    for role in ("server", "bridge"):
        code = docker("inspect", "--format", "{{.State.ExitCode}}", f"{name}-{role}")
        assert code.strip() == "0", signing.chart.log(role)
    assert not (signing.chart.directory / "bridge-run/sigul_bridge.heartbeat").exists()


# ------------------------------------------------------------------------- the images for charts

SS = "ss -tln | grep -q ':{} '"
FRESH = "test $(($(date +%s) - $(stat -c %Y /run/sigul_bridge.heartbeat))) -le 30"
PROBES = {
    "bridge": [
        f"{SS.format(44334)} && {SS.format(44333)} && test -f /run/sigul_bridge.heartbeat",
        f"{SS.format(44334)} && {FRESH}",
        r"pgrep -f '/usr/share/sigul/[b]ridge\.py'",
    ],
    "server": [
        r"pgrep -f '/usr/share/sigul/serve[r]\.py'",
        "ss -Htn state established | grep -q ':44333'",
        'test "$PWD" = /var/lib/sigul/server',
        "test $(sqlite3 server.sqlite 'SELECT count(*) FROM users WHERE admin = 1') = 1",
    ],
}
TOOLS = (
    "bash stat date seq head base64 tr cut chmod sed grep getent certutil pk12util python3 sleep"
)


@pytest.mark.long("images", "scripts/debian-sources", "sigul_stack/bridge/heartbeat.py")
# Makes the images first: Debian's packages are fetched once more.
@pytest.mark.timeout(1800)
def test_images_for_charts(images: dict[str, str], tmp_path: Path) -> None:
    """The chart's scripts run in bash, its probes by their own commands."""
    roles = ("bridge", "server", "client")
    subprocess.run(
        [TOP / "images/build", *(f"{role}-chart" for role in roles)], check=True, timeout=1200
    )
    prefix = images["base"].partition("/")[0]
    chart = Chart(tmp_path, {role: f"{prefix}/{role}-chart:latest" for role in roles}, "/bin/bash")
    for role in roles:
        script = f"set -e; for tool in {TOOLS}; do command -v $tool; done; python3 -c 'import ssl'"
        assert chart.script(role, f"{script}; id -un", {}, ()).splitlines()[-1] == "sigul"
    try:
        brought_up(chart)
        for role, probes in PROBES.items():
            for command in probes:
                wait(chart, role, ["/bin/bash", "-c", command])
        assert chart.probe("server", "/bin/bash", "-c", f"getent hosts {FQDN}").returncode == 0
        given = f"{ADMIN_PASSWORD}\0".encode()
        assert chart.toolbox("list-users", given=given) == f"{ADMIN}\n"
        others = chart.probe("server", "/bin/bash", "-c", "pgrep -a .").stdout.splitlines()
        assert not [line for line in others if "gpg" in line and "server.py" in line]
        docker("stop", "--timeout", "60", f"{chart.name}-server", f"{chart.name}-bridge")
        for role in ("server", "bridge"):
            code = docker("inspect", "--format", "{{.State.ExitCode}}", f"{chart.name}-{role}")
            assert code.strip() == "0", chart.log(role)
    finally:
        chart.remove()
