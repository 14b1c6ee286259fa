"""What the scripts around `make up` say at once, and what they say when the engine is silent.

The real scripts run in copies of the checkout. No container engine is needed: DOCKER_HOST names a
socket where nobody is. The rest is in tests/kit/test_checkouts.py.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from pathlib import Path

import pytest

from images.builder.commands import BuildError, run
from tests.copies import TOP, copy_checkout, run_in, without


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout in which nothing has been made yet."""
    return copy_checkout(tmp_path / "checkout")


@pytest.fixture
def nobody(tmp_path: Path) -> str:
    """A DOCKER_HOST that does not answer."""
    return f"unix://{tmp_path}/none.sock"


#: The environment of tests that ask for nothing that is fetched: pip is not asked where it fetches,
#: which is most of what scripts/preflight takes.
NOT_FETCHED = {"PIP_NO_INDEX": "1"}


def told(stderr: str, what: str) -> list[str]:
    """What scripts/preflight says of ports, of the disk, of the network."""
    return [line for line in stderr.splitlines() if line.startswith(f"preflight: {what} ")]


def made(checkout: Path) -> list[str]:
    """What is there that a checkout has not by itself."""
    return [name for name in (".venv", ".cache", ".site", ".demo") if (checkout / name).exists()]


# --- Ports ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1"])  # noqa: S104
@pytest.mark.parametrize("before", [0, 1])
def test_a_taken_port_stops_make_up_at_once(
    checkout: Path, nobody: str, taken: str, before: int
) -> None:
    """The first port is for servers, the next for clients."""
    family = socket.AF_INET6 if ":" in taken else socket.AF_INET
    with socket.create_server((taken, 0), family=family, dualstack_ipv6=":" in taken) as listener:
        port = listener.getsockname()[1]
        done = run_in(
            checkout, "scripts/up",
            SIGUL_PORT=str(port - before), DOCKER_HOST=nobody, **NOT_FETCHED,
        )  # fmt: skip
    assert done.returncode == 1
    [line] = told(done.stderr, "port")
    assert line.startswith(f"preflight: port {port} of 127.0.0.1 is taken by ")
    assert f"(process {os.getpid()}): end that, or have two others: SIGUL_PORT=" in line
    assert "programs and packages" not in done.stdout
    assert made(checkout) == []


def test_a_port_of_another_address_is_not_taken(checkout: Path, nobody: str) -> None:
    with socket.create_server(("127.0.0.2", 0)) as listener:
        port = str(listener.getsockname()[1])
        here = run_in(
            checkout, "scripts/preflight", "up",
            SIGUL_PORT=port, DOCKER_HOST=nobody, **NOT_FETCHED,
        )  # fmt: skip
        there = run_in(
            checkout, "scripts/preflight", "up",
            SIGUL_PORT=str(int(port) - 1), SIGUL_ADDRESS="127.0.0.2", DOCKER_HOST=nobody,
            **NOT_FETCHED,
        )  # fmt: skip
    assert told(here.stderr, "port") == []
    [line] = told(there.stderr, "port")
    assert f"port {port} of 127.0.0.2 is taken" in line


def test_a_taken_port_stops_make_demo(checkout: Path) -> None:
    """A demo site that was made before has the ports that it was made with."""
    (checkout / ".demo").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (checkout / ".demo/bridge.conf").write_text(
            f"[bridge]\nclient-listen-port: {port}\nserver-listen-port: 1\n"
        )
        done = run_in(checkout, "scripts/preflight", "demo", **NOT_FETCHED)
    assert done.returncode == 1
    [line] = told(done.stderr, "port")
    assert f"port {port} of 127.0.0.1 is taken by " in line
    assert f"(process {os.getpid()})" in line
    assert "make demo-stop, and remove .demo" in line


# --- The disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["up", "demo", "test"])
def test_a_small_disk_is_told(tmp_path: Path, nobody: str, target: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        'mount -t tmpfs -o size=16m tmpfs "$1" && cp -r "$2" "$1/checkout"'
        ' && cd "$1/checkout" && exec scripts/preflight "$3"'
    )
    source = copy_checkout(tmp_path / "source")
    done = run_in(
        tmp_path, "sh", "-c", script, "sh", disk, source, target,
        prefix=without("--mount"), DOCKER_HOST=nobody, **NOT_FETCHED,
    )  # fmt: skip
    assert done.returncode == 1
    [line] = [line for line in told(done.stderr, "the disk") if f"of {disk}/checkout " in line]
    assert "MiB are free, and " in line and " needed: make room there" in line


# --- The network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["up", "demo", "test"])
def test_no_network_is_told_where_something_has_to_be_fetched(
    checkout: Path, nobody: str, target: str
) -> None:
    done = run_in(
        checkout, "scripts/preflight", target, prefix=without("--net"), DOCKER_HOST=nobody
    )
    assert done.returncode == 1
    [line] = told(done.stderr, "no network")
    assert "Python postgresql" in line
    assert "connect this machine, or set http_proxy" in line
    assert made(checkout) == []


def test_no_network_is_asked_for_where_nothing_has_to_be_fetched(nobody: str) -> None:
    """This checkout has what its tests need, and so what the demo site needs."""
    done = run_in(TOP, "scripts/preflight", "demo", prefix=without("--net"), DOCKER_HOST=nobody)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def furnished(checkout: Path) -> Path:
    """A copy whose virtual environment is this checkout's: all is there, and nothing says so."""
    (checkout / ".venv").mkdir()
    for one in (TOP / ".venv").iterdir():
        if not one.name.startswith(".bootstrap"):
            (checkout / ".venv" / one.name).symlink_to(one)
    told_so = run_in(
        checkout, "bash", "-c", 'source scripts/bootstrap && venv_identity "$(nss_source)"'
    )
    # The Python that it was made with has had an update since.
    old = re.sub(r"(Python 3\.\d+)\.\d+", r"\1.0", told_so.stdout)
    assert old != told_so.stdout
    (checkout / ".venv/.bootstrap").write_text(old)
    return checkout


def test_what_is_installed_is_not_fetched_again(furnished: Path) -> None:
    """Whatever has changed in the files that it was made from, but the versions."""
    lacking = ("scripts/bootstrap", "--missing", "test")
    assert run_in(furnished, *lacking).stdout == ""
    constraints = furnished / "requirements/constraints.txt"
    text = constraints.read_text()
    constraints.write_text(f"# a comment\n{text}")
    assert run_in(furnished, *lacking).stdout == ""
    constraints.write_text(re.sub(r"(?m)^sqlalchemy==", "sqlalchemy==99.", text))
    assert "Python postgresql" in run_in(furnished, *lacking).stdout


# Makes a virtual environment with Debian's pip in it: about ten seconds.
def test_no_network_is_one_line_whoever_finds_out(checkout: Path) -> None:
    """Not every target has looked before: pip tries five times, and talks of each."""
    done = run_in(
        checkout, "scripts/bootstrap", "lint", prefix=without("--net"),
        PIP_CACHE_DIR=str(checkout / "empty"), PIP_RETRIES="1",
    )  # fmt: skip
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert all(line.startswith("bootstrap: ") for line in lines) and len(lines) < 6
    assert "updating pip: no network is there" in lines[-1]
    assert (checkout / ".cache/bootstrap/last.log").is_file()


def test_no_network_is_one_line_of_what_makes_images() -> None:
    """A program that says what pip says, with its own exit code."""
    said = "WARNING: Retrying after connection broken by NewConnectionError('...')\n" * 30
    with pytest.raises(BuildError) as caught:
        run(["sh", "-c", 'printf %s "$1" >&2; exit 1', "sh", said], hint="see")
    assert str(caught.value).startswith("sh found no network, and something has to be fetched")
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(BuildError, match="Retrying"):
        run(["sh", "-c", 'printf %s "$1" >&2; exit 1', "sh", f"{said}DO NOT MATCH THE HASHES"])


def test_a_mirror_that_takes_no_connections_is_no_network(checkout: Path, nobody: str) -> None:
    """There is a way out of the machine, but what is to be fetched cannot be had on it."""
    script = (
        "ip link add sigul0 type veth peer name sigul1 && ip addr add 10.99.0.1/24 dev sigul0"
        " && ip link set lo up && ip link set sigul1 up && ip link set sigul0 up"
        " && exec scripts/preflight demo"
    )
    # Nobody listens in a network namespace of the test's own.
    proxy = "http://user:secret@127.0.0.1:3128"
    done = run_in(
        checkout, "sh", "-c", script,
        prefix=without("--net"), DOCKER_HOST=nobody, https_proxy=proxy, PIP_NO_INDEX="",
    )  # fmt: skip
    assert done.returncode == 1
    [line] = told(done.stderr, "no network")
    assert "(127.0.0.1:3128: no connection)" in line
    assert "secret" not in done.stderr


# --- An engine that does not answer --------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["users", "public-key", "sign README.md", "status", "logs", "down", "purge"]
)
def test_what_needs_the_engine_fails_where_it_does_not_answer(
    checkout: Path, nobody: str, command: str
) -> None:
    secrets = checkout / ".site/dev/control/secrets"
    secrets.mkdir(parents=True)
    (secrets / "admin-password").write_text("secret")
    done = run_in(checkout, "scripts/site", *command.split(), DOCKER_HOST=nobody)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "container engine" in line
    assert (secrets / "admin-password").exists()


def test_clean_keeps_keys_that_containers_may_use(checkout: Path, nobody: str) -> None:
    key = checkout / ".site/dev/root/server/state/keys/key"
    key.parent.mkdir(parents=True)
    key.write_text("key")
    done = run_in(checkout, "scripts/site", "clean", DOCKER_HOST=nobody)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "no container engine answers" in line and "FORCE=yes" in line
    assert key.exists()
    forced = run_in(checkout, "scripts/site", "clean", DOCKER_HOST=nobody, FORCE="yes")
    assert forced.returncode == 0


def test_clean_needs_no_engine_where_nothing_was_made(checkout: Path, nobody: str) -> None:
    done = run_in(checkout, "scripts/site", "clean", DOCKER_HOST=nobody)
    assert (done.returncode, done.stderr) == (0, "")


# --- Names ---------------------------------------------------------------------------------------


def test_names_follow_from_where_the_checkout_really_is(checkout: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(checkout)
    names = {run_in(place, "scripts/site", "name").stdout for place in (checkout, link)}
    assert len(names) == 1
    before = names.pop()
    moved = checkout.rename(tmp_path / "moved")
    assert run_in(moved, "scripts/site", "name").stdout != before


def test_what_it_is_told_goes_before_what_follows(checkout: Path) -> None:
    told_so = {"SIGUL_PORT": "25000", "SIGUL_ADDRESS": "192.0.2.1", "SIGUL_IMAGE_PREFIX": "mine"}
    assert run_in(checkout, "scripts/site", "ports", **told_so).stdout == "192.0.2.1 25000 25001\n"
    assert run_in(checkout, "scripts/site", "images", **told_so).stdout == "mine\n"
    assert run_in(checkout, "scripts/site", "ports").stdout.startswith("127.0.0.1 2")


def test_molecule_s_site_is_the_checkout_s_own(checkout: Path, tmp_path: Path) -> None:
    """What `make molecule` tells molecule, as molecule takes it."""
    program = checkout / ".venv/bin/molecule"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$SIGUL_MOLECULE_PREFIX $*"\n')
    program.chmod(0o755)
    for script in ("bootstrap", "engine"):
        (checkout / "scripts" / script).write_text("#!/bin/sh\n")
    other = shutil.copytree(checkout, tmp_path / "other", symlinks=True)
    # What the make that runs these tests hands on.
    outer = {"MAKEFLAGS": "", "MAKELEVEL": "0", "ARGS": ""}
    said = [
        run_in(place, "make", "molecule", "ARGS=-s sign", **outer).stdout
        for place in (checkout, other)
    ]
    assert all(re.fullmatch(r"molecule-[0-9a-f]{4} test -s sign\n", one) for one in said)
    assert len(set(said)) == 2
    given = run_in(checkout, "make", "molecule", SIGUL_MOLECULE_PREFIX="mine", **outer)
    assert given.stdout == "mine test\n"


# --- A script's status is that of what it did ----------------------------------------------------

#: An engine that answers, has nothing of ours, and fails at whatever else it is asked.
HALF_AN_ENGINE = """\
#!/bin/sh
case "$1 $2" in
    "version "* | "info "* | "network ls" | "inspect "*) ;;
    "ps --all") [ ! -e "$0.silent" ] || exit 1 ;;
    *) echo "Error response from daemon: $1 has failed" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def failing(tmp_path: Path) -> Path:
    """A `docker` of that kind; with a file `docker.silent` beside it, it tells nothing at all."""
    program = tmp_path / "bin/docker"
    program.parent.mkdir()
    program.write_text(HALF_AN_ENGINE)
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("command", ["logs", "logs --follow", "status"])
def test_what_the_engine_fails_at_is_in_the_status(
    checkout: Path, failing: Path, command: str
) -> None:
    """Each of three components fails; nothing else is wrong."""
    path = f"{failing.parent}:{os.environ['PATH']}"
    done = run_in(checkout, "scripts/site", *command.split(), PATH=path)
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count("has failed") == 3


def test_an_engine_that_tells_nothing_is_not_one_that_has_nothing(
    checkout: Path, failing: Path
) -> None:
    path = f"{failing.parent}:{os.environ['PATH']}"
    looks = ("scripts/preflight", "up")
    before = run_in(checkout, *looks, PATH=path, **NOT_FETCHED)
    failing.with_name("docker.silent").touch()
    after = run_in(checkout, *looks, PATH=path, **NOT_FETCHED)
    assert (before.returncode, after.returncode) == (0, 1), before.stderr
    for command in ("down", "logs", "purge"):
        assert run_in(checkout, "scripts/site", command, PATH=path).returncode == 1


@pytest.fixture
def checked(checkout: Path) -> Path:
    """A copy under git, with this checkout's programs, whose tests are all well."""
    (checkout / ".venv").symlink_to(TOP / ".venv")
    (checkout / "scripts/test").write_text("#!/bin/sh\n")
    (checkout / ".gitignore").write_text(".venv\n")
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    for words in (("init", "-q"), ("add", "--all"), (*identity, "commit", "-q", "-m", "all")):
        done = run_in(checkout, "git", *words)
        assert done.returncode == 0, done.stderr
    return checkout


def test_make_check_tells_what_failed(checked: Path) -> None:
    clean = run_in(checked, "scripts/check")
    assert (clean.returncode, clean.stdout.count("clean, 0 files")) == (0, 1), clean.stderr
    # What has changed since then cannot be said.
    unknown = run_in(checked, "scripts/check", "no-such-revision")
    assert unknown.returncode != 0 and "no-such-revision" in unknown.stderr
    assert "clean" not in unknown.stdout
    (checked / "new.yml").write_text("key:   [ value\n")
    wrong = run_in(checked, "scripts/check")
    assert wrong.returncode == 1
    assert "check: failed: .venv/bin/yamllint" in wrong.stdout


@pytest.mark.parametrize(
    ("ended", "asked", "status"),
    [(0, [], 0), (1, [], 1), (5, [], 0), (5, ["-k", "nothing"], 5), (1, ["-k", "nothing"], 1)],
)
def test_the_tests_end_as_pytest_does(
    checkout: Path, ended: int, asked: list[str], status: int
) -> None:
    """5: there was no test. That is well where all were left out, not where some were asked for."""
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\nexit {ended}\n")
    python.chmod(0o755)
    done = run_in(checkout, "scripts/test", "--lane", "here", *asked)
    assert done.returncode == status
