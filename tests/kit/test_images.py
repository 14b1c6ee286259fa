"""The images: what is in them, what is not, and that they run as they are to be run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from images.builder import components
from tests.kit.conftest import CHECKOUT, Container

pytestmark = [pytest.mark.kit, pytest.mark.timeout(1800)]

COMPONENTS = sorted(components.COMPONENTS)

TOOLS = {
    "bridge": ("certutil", "pk12util", "sigul_bridge"),
    "server": (
        *("gpg", "gpg-agent", "gpgconf", "rpmkeys", "osslsigncode", "openssl", "keyctl"),
        *("tpm2_createpolicy", "tpm2_unseal", "certutil", "sigul_server", "sigul_server_create_db"),
    ),
    "client": ("git", "openssl", "keyctl", "tpm2_unseal", "certutil", "sigul"),
}
UNWANTED = (
    "cc",
    "gcc",
    "ld",
    "make",
    "pip",
    "pip3",
    "perl",
    "apt",
    "apt-get",
    "su",
    "sudo",
    "bash",
)

SETUID = """
import os, stat
for top, names, files in os.walk("/"):
    names[:] = [n for n in names if os.path.join(top, n) not in ("/proc", "/sys", "/dev")]
    for name in files:
        mode = os.lstat(os.path.join(top, name)).st_mode
        if stat.S_ISREG(mode) and mode & 0o6000:
            print(os.path.join(top, name))
"""

KOJI = "koji, gssapi, requests_gssapi"
MODULES = {"bridge": f"{KOJI}, ldap, bravado, fasjson_client", "client": KOJI}

PROGRAMS = "id -u && sigul --version && sigul_bridge --version && sigul-stack --version"
#: What is asked in each component's container, by a name that tests know it by.
QUESTIONS: dict[str, list[str]] = {
    "user": ["id", "-un"],
    "programs": ["sh", "-ec", PROGRAMS],
    "nss database": [
        *("sh", "-ec"),
        "mkdir /tmp/nss; printf secret-password >/tmp/p; certutil -N -d sql:/tmp/nss -f /tmp/p;"
        " exec python -c \"import nss.nss, nss.ssl; nss.nss.nss_init('sql:/tmp/nss')\"",
    ],
    "nss libraries": [
        *("python", "-c"),
        "import nss.ssl\n"
        "for line in open('/proc/self/maps'):\n"
        "    if '/libnss3' in line or '/libssl3' in line: print(line.split()[-1])",
    ],
    "unwanted": ["sh", "-ec", 'for tool; do ! command -v "$tool" || true; done', "sh", *UNWANTED],
    "certificates": [
        *("sh", "-c"),
        "ls -A /etc/ssl/certs /usr/local/share/ca-certificates 2>/dev/null; env",
    ],
    "git": ["sh", "-c", "ls /usr/lib/git-core /usr/bin | sort -u | grep '^git'"],
    "listed": ["cat", f"/{components.SBOM}"],
    "Debian packages": [
        *("dpkg-query", "-W", "-f", "${db:Status-Abbrev}|${Package}|${Version}\n"),
    ],
    "Python packages": [
        *("python", "-c"),
        "import importlib.metadata as m\n"
        "for d in m.distributions(): print(d.metadata['Name'], d.version)",
    ],
}
ASK = """
import json, subprocess, sys
answers = {}
for name, command in json.loads(sys.argv[1]).items():
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    answers[name] = [done.returncode, done.stdout, done.stderr]
print(json.dumps(answers))
"""


class Answer(NamedTuple):
    """What became of a command in a container."""

    status: int
    output: str
    errors: str


Answers = dict[str, dict[str, Answer]]


@pytest.fixture(scope="module")
def answers(images: dict[str, str]) -> Answers:
    """The answers by component and question, each component's from one container.

    It runs as the user that the image names, without the network, on a read-only root.
    """
    found = {}
    for component in COMPONENTS:
        questions = {
            **QUESTIONS,
            "tools": [
                *("sh", "-ec", 'for tool; do command -v "$tool" >/dev/null || echo "$tool"; done'),
                *("sh", *TOOLS[component]),
            ],
        }
        if component in MODULES:
            script = f"import {MODULES[component]}; from sigul_stack import kojihub"
            questions["modules"] = ["python", "-c", f"{script}; kojihub._library()"]
        said = printed(
            *("docker", "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp"),
            *(images[component], "python3", "-c", ASK, json.dumps(questions)),
        )
        found[component] = {name: Answer(*answer) for name, answer in json.loads(said).items()}
    return found


def labels(image: str) -> dict[str, str]:
    said = subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=True)
    [found] = json.loads(said.stdout)
    return dict(found["Config"]["Labels"])


def the_programs_ran(answer: Answer, uid: str) -> None:
    assert answer.status == 0, answer.errors
    first, *versions = answer.output.splitlines()
    assert first == uid
    assert len(versions) == 3


@pytest.mark.parametrize("component", COMPONENTS)
def test_programs_run_as_the_images_user(answers: Answers, component: str) -> None:
    the_programs_ran(answers[component]["programs"], "1000")


@pytest.mark.parametrize("component", COMPONENTS)
def test_programs_run_as_any_user(container: Container, component: str) -> None:
    done = container(component, "sh", "-ec", PROGRAMS, options=("--user", "48213:48213"))
    the_programs_ran(Answer(done.returncode, done.stdout, done.stderr), "48213")


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_user_is_not_root_unless_told(answers: Answers, component: str) -> None:
    assert answers[component]["user"][:2] == (0, "sigul\n")


@pytest.mark.parametrize("component", COMPONENTS)
def test_nss_works(answers: Answers, component: str) -> None:
    """Databases are made and opened; the binding loads the system's NSS, as softoken does."""
    made = answers[component]["nss database"]
    assert made.status == 0, made.errors
    loaded = answers[component]["nss libraries"]
    names = set(loaded.output.split())
    assert names and all(name.startswith("/usr/lib/") for name in names), loaded


@pytest.mark.parametrize("component", COMPONENTS)
def test_has_what_its_operations_start(answers: Answers, component: str) -> None:
    assert answers[component]["tools"] == (0, "", "")


@pytest.mark.parametrize("component", COMPONENTS)
def test_has_nothing_beyond(answers: Answers, component: str) -> None:
    assert answers[component]["unwanted"] == (0, "", "")


def test_only_the_server_has_what_a_database_needs(answers: Answers) -> None:
    needed = {"SQLAlchemy", "alembic", "libpass"}
    for component in COMPONENTS:
        names = {
            line.split()[0]
            for line in answers[component]["Python packages"].output.split("\n")
            if line
        }
        listed = {
            item["name"] for item in json.loads(answers[component]["listed"].output)["components"]
        }
        assert bool(needed & names) == bool(needed & listed) == (component == "server"), component


def test_the_clients_git_serves_nobody(answers: Answers) -> None:
    status, output, _ = answers["client"]["git"]
    assert status == 0
    programs = set(output.split())
    assert "git" in programs
    # Its caches of credentials and of changes have daemons, too, for their own user alone.
    serves = re.compile("git-(daemon|http-|upload-|receive-|shell|imap-|remote-)")
    assert not {name for name in programs if serves.match(name)}


@pytest.mark.parametrize("component", COMPONENTS)
def test_labels_tell_where_it_is_from(images: dict[str, str], component: str) -> None:
    """The last commit that changed what images are made from."""
    git = ("git", "-c", f"safe.directory={CHECKOUT}", "-C", str(CHECKOUT))
    paths = ("images", "sigul_stack", "pyproject.toml", "requirements", "scripts/use-system-nss")
    revision = printed(*git, "log", "-1", "--format=%H", "--", *paths).strip()
    found = labels(images[component])
    assert found["org.opencontainers.image.revision"].removesuffix("-dirty") == revision
    remote = subprocess.run(
        [*git, "config", "--get", "remote.origin.url"], capture_output=True, text=True
    )
    assert ("org.opencontainers.image.source" in found) == (remote.returncode == 0)


@pytest.mark.parametrize("component", COMPONENTS)
def test_no_file_gives_rights(container: Container, component: str) -> None:
    done = container(component, "python3", "-c", SETUID, options=("--user", "0:0"))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("component", COMPONENTS)
def test_has_no_certificates_of_the_machine_that_built_it(answers: Answers, component: str) -> None:
    """Nothing that the build may have used to reach a mirror or registry stays."""
    found = answers[component]["certificates"].output
    names = [line for line in found.splitlines() if "=" not in line and ":" not in line]
    assert not [name for name in names if name], found
    assert "PATH=" in found
    assert "PIP_" not in found and "SSL_CERT" not in found
    assert "proxy" not in found.lower()


@pytest.mark.parametrize("component", sorted(MODULES))
def test_koji_and_group_sources_are_there(answers: Answers, component: str) -> None:
    answer = answers[component]["modules"]
    assert (answer.status, answer.errors) == (0, "")


def test_a_whole_site_works_in_the_server_image(container: Container) -> None:
    """Certificates are made, both TLS layers are set up, and a file is signed and verified."""
    done = container("server", "sigul-stack", "demo", "--directory", "/tmp/demo")
    assert done.returncode == 0, done.stdout + done.stderr


def test_gpg_of_the_server_signs(container: Container) -> None:
    script = (
        "umask 077; mkdir /tmp/g; cd /tmp; export GNUPGHOME=/tmp/g;"
        " gpg -q --batch --passphrase '' --quick-gen-key someone ed25519 sign never;"
        " echo text | gpg -q --batch --sign | gpg -q --verify"
    )
    done = container("server", "sh", "-ec", script)
    assert done.returncode == 0, done.stderr


def test_term_ends_a_container(images: dict[str, str]) -> None:
    name = f"sigul-test-term-{os.getpid()}"
    subprocess.run(["docker", "run", "--detach", "--name", name, images["client"]], check=True)
    try:
        # Before that there is no process yet that a signal could reach.
        limit = time.monotonic() + 60
        top = ["docker", "top", name]
        # A heading, tini, and what it has started.
        while len(subprocess.run(top, capture_output=True).stdout.splitlines()) < 3:
            assert time.monotonic() < limit
            time.sleep(0.2)
        began = time.monotonic()
        subprocess.run(["docker", "stop", "-t", "60", name], check=True, timeout=100)
        state = subprocess.run(
            ["docker", "inspect", "--format", "{{.State.ExitCode}}", name],
            capture_output=True,
            text=True,
            check=True,
        )
        # 143: the signal's own; 137 would be the engine's last resort.
        assert state.stdout.strip() == "143"
        assert time.monotonic() - began < 50
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=True)


@pytest.mark.parametrize("component", COMPONENTS)
def test_package_list_is_what_is_installed(answers: Answers, component: str) -> None:
    listed = json.loads(answers[component]["listed"].output)
    assert listed["bomFormat"] == "CycloneDX"
    debian = {
        (one["name"], one["version"])
        for one in listed["components"]
        if one["purl"].startswith("pkg:deb/")
    }
    said = answers[component]["Debian packages"].output.splitlines()
    rows = [line.split("|") for line in said]
    assert debian == {(name, version) for status, name, version in rows if status.strip() == "ii"}
    python = {
        (one["name"], one["version"])
        for one in listed["components"]
        if one["purl"].startswith("pkg:pypi/")
    }
    said = answers[component]["Python packages"].output.splitlines()
    assert python == {tuple(line.split()) for line in said}
    assert ("sigul-stack" in {name for name, _ in python}) and ("pip" not in dict(python))


@pytest.mark.parametrize("component", COMPONENTS)
def test_labels_say_what_it_is(images: dict[str, str], component: str) -> None:
    found = labels(images[component])
    for name in ("title", "description", "licenses", "version", "created"):
        assert found[f"org.opencontainers.image.{name}"]


def test_second_build_does_nothing(images: dict[str, str]) -> None:
    done = subprocess.run(
        [CHECKOUT / "images/build", "--json"], capture_output=True, text=True, check=True
    )
    assert [one["built"] for one in json.loads(done.stdout)] == [False] * 4


@pytest.mark.long("images", "requirements", "scripts/debian-sources", "scripts/use-system-nss")
# Both images are made from nothing, compiled modules and wheels too: some minutes each time.
@pytest.mark.timeout(1800)
def test_layers_are_the_same_when_made_again(images: dict[str, str], tmp_path: Path) -> None:
    """Debian's packages fetched and installed again, programs compiled again: the same bytes.

    Other projects' wheels that the registry has are not fetched again, where they are there.
    """
    first = Contents.of(images["base"].partition("/")[0], CHECKOUT / ".cache/images")
    again = made_again(tmp_path / "again")
    if first.packages != again.packages:
        # The mirror has newer packages than the images: twice today's.
        first, again = again, made_again(tmp_path / "once-more")
    assert first.layers == again.layers, first.differences(again)


OTHER = f"sigul-test-{os.getpid()}"


@dataclass
class Contents:
    """What is in the images of a base and a bridge."""

    packages: list[str]
    #: Digests of the layers' contents, from the lowest.
    layers: list[list[str]]
    #: Where the archives lie that they were made from, if they were made in this checkout.
    archives: list[Path]

    @classmethod
    def of(cls, prefix: str, cache: Path) -> Contents:
        names = [f"{prefix}/{component}:latest" for component in ("base", "bridge")]
        show = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "cat"]
        return cls(
            [printed(*show, name, f"/{components.SBOM}") for name in names],
            [
                json.loads(
                    printed(
                        *("docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", name)
                    )
                )
                for name in names
            ],
            sorted((cache / "layers").glob(f"{prefix}-b*/*.tar")),
        )

    def differences(self, other: Contents) -> list[str]:
        """Names of the files that are not the same, as far as the archives are still there."""
        return [
            f"{mine.parent.name}/{mine.name}: {name}"
            for mine, theirs in zip(self.archives, other.archives, strict=False)
            for name in sorted({name for name, _ in files_in(mine) ^ files_in(theirs)})
        ]


def files_in(archive: Path) -> set[tuple[str, tuple[object, ...]]]:
    """Of each file in an archive its name, and whatever can make it another."""
    found = set()
    with tarfile.open(archive) as tar:
        for entry in tar:
            content = tar.extractfile(entry) if entry.isreg() else None
            digest = hashlib.sha256(content.read() if content else b"").digest()
            head = (entry.type, entry.mode, entry.uid, entry.gid, entry.mtime, entry.linkname)
            found.add((entry.name, (*head, digest)))
    return found


def printed(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def made_again(cache: Path) -> Contents:
    """What is in a base and a bridge made in `cache`; they are removed again."""
    wheels = CHECKOUT / ".cache/images/wheels"
    if wheels.exists():
        shutil.copytree(
            wheels, cache / "wheels", ignore=shutil.ignore_patterns("own", "compiled-*")
        )
    command = [CHECKOUT / "images/build", "--prefix", OTHER, "--cache", cache]
    left = ["docker", "image", "ls", "--quiet", f"{OTHER}/*"]
    try:
        subprocess.run([*command, "bridge"], check=True, capture_output=True, timeout=800)
        made = Contents.of(OTHER, cache)
        kept = cache / "layers" / f"{OTHER}-bridge" / "sbom.json"
        assert kept.read_text() == made.packages[1]
    finally:
        subprocess.run([*command, "--remove"], check=True, timeout=120)
    assert not printed(*left)
    return made


def test_no_engine_is_said_in_one_line(tmp_path: Path) -> None:
    """Where nothing answers, `images/build` says what would help."""
    done = subprocess.run(
        [sys.executable, CHECKOUT / "images/build"],
        capture_output=True,
        text=True,
        env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/none.sock"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "scripts/engine" in done.stderr
