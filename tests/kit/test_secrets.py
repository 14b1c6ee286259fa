"""No secret of a site is where it should not be, while the site is made, and afterwards.

The scenario `default` is run while every argument list and environment of the machine is noted, and
Ansible tells all it does. Then everything that others can see is searched for each secret of the
site: as it is, in base64 and in hex.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.kit.molecule_runs import FILES, PREFIX, destroy, docker, left_behind, molecule

SCENARIO = "default"
SITE = f"{PREFIX}-{SCENARIO}"
COMPONENTS = ("bridge", "server", "client")
#: How often the machine's processes are looked at, in seconds.
LOOK_SECONDS = 0.05


def forms(secret: bytes) -> Iterator[bytes]:
    """The secret as it is, in hex, and in base64 wherever it begins."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for before in range(3):
        text = base64.b64encode(bytes(before) + secret)
        # The characters at both ends depend on what stands beside it.
        yield text[(0, 2, 3)[before] : -4 or None]


def found(text: bytes, secrets: Iterable[bytes]) -> list[bytes]:
    """Those of the secrets that are in the text, in whatever form."""
    return [secret for secret in secrets if any(form in text for form in forms(secret))]


@dataclass
class Processes:
    """All argument lists and environments of the machine while it runs."""

    seen: set[bytes] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Processes:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    with suppress(OSError):
                        self.seen.add((process / name).read_bytes())


@dataclass(frozen=True)
class Deployed:
    """A site that was made by the scenario: what Ansible said, which processes there were."""

    log: str
    processes: frozenset[bytes]
    secrets: dict[str, bytes]


@pytest.fixture(scope="module")
def deployed(images: dict[str, str]) -> Iterator[Deployed]:
    destroy(SCENARIO)
    try:
        with Processes() as processes:
            log = molecule("test", "-s", SCENARIO, "--destroy", "never", verbosity=3)
        control = FILES / SCENARIO / "control"
        secrets = {
            str(path.relative_to(control)): path.read_bytes().strip()
            for path in [*control.glob("secrets/*"), *control.glob("ca/nss-password")]
            if path.is_file()
        }
        yield Deployed(log, frozenset(processes.seen), secrets)
    finally:
        destroy(SCENARIO)
        assert left_behind(SCENARIO) == []


@pytest.mark.timeout(1800)
def test_default_scenario(deployed: Deployed) -> None:
    # All roles, a second run that changes nothing, `list-users` through both layers: in `deployed`.
    assert "idempotence" in deployed.log
    names = (
        "admin-password", "server-nss-password", "user-alice-password", "ldap-bind-password",
        "key-release-passphrase", "key-release-alice-passphrase",
    )  # fmt: skip
    assert {f"secrets/{name}" for name in names} <= deployed.secrets.keys()
    assert all(len(secret) >= 16 for secret in deployed.secrets.values())


def test_the_search_finds_what_is_there(deployed: Deployed) -> None:
    for secret in deployed.secrets.values():
        for text in (
            b"password: " + secret + b"\n",
            base64.b64encode(b"user:" + secret + b":more"),
            base64.b64encode(secret + b"\0"),
            base64.b64encode(b"1" + secret + b"\0"),
            b"<" + secret.hex().encode() + b">",
        ):
            assert found(text, deployed.secrets.values()) == [secret]
    # In a process list, too.
    secret = deployed.secrets["secrets/admin-password"].decode()
    with Processes() as processes:
        subprocess.run(["sleep", "0.3"], check=True, env={"PLANTED": secret}, timeout=10)
    assert found(b"\n".join(processes.seen), [secret.encode()])


def test_none_in_what_ansible_says(deployed: Deployed) -> None:
    assert "task path:" in deployed.log, "the log is not one of -vvv"
    assert found(deployed.log.encode(), deployed.secrets.values()) == []


def test_none_in_a_process_list(deployed: Deployed) -> None:
    seen = b"\n".join(deployed.processes)
    for program in (b"sigul_server", b"sigul_bridge", b"list-users"):
        assert program in seen, "too few processes were seen"
    assert found(seen, deployed.secrets.values()) == []


def test_none_in_containers_and_their_logs(deployed: Deployed) -> None:
    for component in COMPONENTS:
        name = f"sigul-{SITE}-{component}"
        shown = docker("inspect", name)
        assert json.loads(shown)[0]["State"]["Running"] is True
        logged = subprocess.run(
            ["docker", "logs", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=True, timeout=60,
        ).stdout  # fmt: skip
        assert component == "client" or b"ridge" in logged
        for text in (shown.encode(), logged, docker("top", name, "-ef").encode()):
            assert found(text, deployed.secrets.values()) == []


def test_none_in_files_but_those_for_secrets(deployed: Deployed) -> None:
    searched = 0
    for path in (FILES / SCENARIO).rglob("*"):
        inside = path.relative_to(FILES / SCENARIO).parts
        if not path.is_file() or path.is_symlink() or "secrets" in inside[:3]:
            continue
        # The CA's password, and bundles for CI jobs, which are secrets themselves.
        if inside == ("control", "ca", "nss-password") or inside[:2] == ("control", "bundles"):
            continue
        searched += 1
        assert found(path.read_bytes(), deployed.secrets.values()) == [], path
    assert searched > 10


@pytest.mark.timeout(300)
@pytest.mark.parametrize("component", COMPONENTS)
def test_none_in_the_diagnostics_bundle(deployed: Deployed, component: str) -> None:
    name = f"sigul-{SITE}-{component}"
    docker("exec", name, "sigul-stack", "diagnose", "--output", "/tmp/bundle.tar.gz")
    bundle = subprocess.run(
        ["docker", "exec", name, "cat", "/tmp/bundle.tar.gz"],
        capture_output=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(bundle), mode="r:gz") as reading:
        files = [reading.extractfile(member) for member in reading if member.isfile()]
        texts = [file.read() for file in files if file is not None]
    assert b"nss-dir" in b"".join(texts), "the bundle has no configuration"
    for text in texts:
        assert found(text, deployed.secrets.values()) == []


def test_secrets_are_for_their_owner_alone(deployed: Deployed) -> None:
    assert deployed.secrets
    for path in (FILES / SCENARIO).rglob("*"):
        inside = path.relative_to(FILES / SCENARIO).parts
        if "secrets" in inside and path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.timeout(300)
def test_none_in_image_layers(deployed: Deployed) -> None:
    images = [
        docker("inspect", "-f", "{{.Config.Image}}", f"sigul-{SITE}-{component}").strip()
        for component in COMPONENTS
    ]
    sought = [form for secret in deployed.secrets.values() for form in forms(secret)]
    longest = max(map(len, sought))
    before, total = b"", 0
    saving = subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE)
    assert saving.stdout is not None
    with saving.stdout as stream:
        while piece := stream.read(8 << 20):
            total += len(piece)
            text = before + piece
            assert [form for form in sought if form in text] == []
            before = piece[-longest:]
    assert saving.wait(60) == 0
    assert total > 50 << 20
