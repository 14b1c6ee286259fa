"""The signing log of a running site: a leaf for each decision, before its answer; or no answer."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sigul_stack.evidence.log_reader import LogReader, verify_log
from sigul_stack.protocol.operations import OPERATIONS
from sigul_stack.transport.status_socket import read_status
from tests.pe_images import Machine, make_image
from tests.site import PROGRAM_SECONDS, Process, Site, module, nul, popen, wait_until
from tests.unit.test_ostree_commit import make_commit

from .commands_support import ADMIN, Gpg, done, failure, leftovers, person, rows
from .rpm_support import build
from .test_failures_in_flight import private_mount

pytestmark = pytest.mark.once("our own log; other tests have each kind of signature")

#: All secrets that the tests here use.
SECRETS = ("k-pw", "e-pw", "b-pw", "new-pw", "import-pw", "alice-pw", "wrong-pw", ADMIN)
PLAINTEXT = b"a secret message"
COMMIT = make_commit()


def entries(directory: Path, start: int = 1) -> list[dict[str, Any]]:
    """The leaves of a log from `start` on, the first of which is the log's own; all is verified."""
    reader = LogReader.open(directory)
    key = reader.public_key
    assert key is not None
    verify_log(reader, key)
    return [json.loads(entry) for entry in reader.entries(start, reader.size)]


def log_of(site: Site) -> Path:
    """The directory of a site's log."""
    return site.path("server/signing-log")


def digest(data: bytes) -> dict[str, Any]:
    """What a leaf has of content."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with admin's keys `k` (gnupg) and `e` (ECC), and the user `alice`."""
    site = Site.copy(template, tmp_path_factory.mktemp("log") / "site")
    site.extra = {"server": {"server": "signing-log-name: of-tests\n"}}
    site.configure()
    with site.running():
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        done(site, "new-key", "e", "--key-type", "ECC", secrets=[ADMIN, "e-pw"])
        done(site, "new-user", "alice", secrets=[ADMIN])
        yield site
        assert leftovers(site) == []


@pytest.fixture(scope="module")
def gpg(running: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    """A person's own GnuPG home, which has the public key `k`."""
    public = done(running, "get-public-key", "k", secrets=["k-pw"])
    with person(tmp_path_factory.mktemp("gpg") / "person", public) as home:
        yield home


# ------------------------------------------------------------------------------- every operation


@dataclass(frozen=True)
class Case:
    """A command that succeeds, what comes before it, and what its leaf has besides."""

    words: Sequence[str]
    secrets: Sequence[str] = (ADMIN,)
    before: Sequence[tuple[Sequence[str], Sequence[str]]] = ()
    objects: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    signs: bool = False
    has_input: bool = False
    has_output: bool = True


def case(words: str, *secrets: str, before: str = "", **more: Any) -> Case:
    """A case from words between blanks; `before` are lines `COMMAND / SECRETS`."""
    first = [line.partition(" / ") for line in before.splitlines()]
    prepared = [(command.split(), told.split()) for command, _, told in first]
    return Case(words.split(), secrets or (ADMIN,), prepared, **more)


_CERTIFICATE = (
    "sign-certificate e e --subject-certificate-name {name} --validity 1y --certificate-type"
    " codesigning -s CN=cn"
)
_ISSUE = _CERTIFICATE.format
ON_K = {"objects": {"key": "k"}, "key": "k"}
CASES = {
    "list-users": case("list-users"),
    "new-user": case("new-user u1", objects={"name": "u1"}, has_output=False),
    "delete-user": case(
        "delete-user u2", before=f"new-user u2 / {ADMIN}", objects={"name": "u2"}, has_output=False
    ),
    "user-info": case("user-info alice", objects={"name": "alice"}, has_output=False),
    "modify-user": case(
        "modify-user u3 --new-name u4",
        before=f"new-user u3 / {ADMIN}",
        objects={"name": "u3", "new-name": "u4"},
        has_output=False,
    ),
    "key-user-info": case(
        "key-user-info admin k", objects={"name": "admin", "key": "k"}, has_output=False
    ),
    "modify-key-user": case(
        "modify-key-user admin k", objects={"name": "admin", "key": "k"}, has_output=False
    ),
    "list-keys": case("list-keys"),
    "new-key": case("new-key n1 --key-type ECC", ADMIN, "b-pw", objects={"key": "n1"}, key="n1"),
    "import-key": case(
        "import-key i1 {directory}/key.pem --key-type ECC",
        *(ADMIN, "import-pw", "b-pw"),
        objects={"key": "i1"},
        key="i1",
        has_input=True,
        has_output=False,
    ),
    "delete-key": case(
        "delete-key d1",
        before=f"new-key d1 --key-type ECC / {ADMIN} b-pw",
        objects={"key": "d1"},
        key="d1",
        has_output=False,
    ),
    "modify-key": case(
        "modify-key m1 --new-name m2",
        before=f"new-key m1 --key-type ECC / {ADMIN} b-pw",
        objects={"key": "m1", "new-name": "m2"},
        key="m1",
        has_output=False,
    ),
    "list-binding-methods": case("list-server-binding-methods", has_output=False),
    "list-key-users": case("list-key-users k", "k-pw", **ON_K),
    "grant-key-access": case(
        "grant-key-access k alice",
        *("k-pw", "alice-pw"),
        objects={"key": "k", "name": "alice"},
        key="k",
        has_output=False,
    ),
    "revoke-key-access": case(
        "revoke-key-access e alice",
        "e-pw",
        before="grant-key-access e alice / e-pw alice-pw",
        objects={"key": "e", "name": "alice"},
        key="e",
        has_output=False,
    ),
    "change-passphrase": case(
        "change-passphrase c1",
        *("b-pw", "new-pw"),
        before=f"new-key c1 --key-type ECC / {ADMIN} b-pw",
        objects={"key": "c1"},
        key="c1",
        has_output=False,
    ),
    "get-public-key": case("get-public-key k", "k-pw", **ON_K),
    "change-key-expiration": case(
        "change-key-expiration k --expire-date 2040-01-01", "k-pw", **ON_K, has_output=False
    ),
    "list-certificates": case(
        "list-certificates e",
        "e-pw",
        before=f"{_ISSUE(name='listed')} / e-pw",
        objects={"key": "e"},
        key="e",
    ),
    "delete-certificate": case(
        "delete-certificate e gone",
        "e-pw",
        before=f"{_ISSUE(name='gone')} / e-pw",
        objects={"key": "e", "cert-name": "gone"},
        key="e",
        has_output=False,
    ),
    "sign-text": case("sign-text k {directory}/text", "k-pw", **ON_K, signs=True),
    "sign-data": case("sign-data -a k {directory}/text", "k-pw", **ON_K, signs=True),
    "decrypt": case(
        "decrypt k {directory}/message", "k-pw", **ON_K, has_input=True, has_output=False
    ),
    "sign-git-tag": case("sign-git-tag k v1", "k-pw", **ON_K, signs=True),
    "sign-container": case(
        "sign-container k {directory}/manifest registry.example/x:1", "k-pw", **ON_K, signs=True
    ),
    "sign-ostree": case(
        f"sign-ostree k {hashlib.sha256(COMMIT).hexdigest()} {{directory}}/commit",
        "k-pw",
        **ON_K,
        signs=True,
    ),
    "sign-certificate": case(
        _ISSUE(name="made"),
        "e-pw",
        objects={"issuer-key": "e", "subject-key": "e", "subject-certificate-name": "made"},
        key="e",
    ),
    "sign-pe": case(
        "sign-pe e forpe {directory}/image -o {directory}/signed",
        "e-pw",
        before=f"{_ISSUE(name='forpe')} / e-pw",
        objects={"key": "e", "cert-name": "forpe"},
        key="e",
        signs=True,
    ),
    "sign-rpm": case(
        "sign-rpm k {directory}/rpm -o {directory}/out.rpm", "k-pw", **ON_K, signs=True
    ),
    "sign-rpms": case(
        "sign-rpms k {directory}/rpm -o {directory}", "k-pw", **ON_K, has_output=False
    ),
}


def test_there_is_a_case_for_each_operation() -> None:
    assert CASES.keys() == OPERATIONS.keys()


@pytest.fixture(scope="module")
def files(running: Site, gpg: Gpg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a file for each operation that takes one."""
    directory = tmp_path_factory.mktemp("files")
    (directory / "text").write_bytes(b"a text\n")
    (directory / "commit").write_bytes(COMMIT)
    (directory / "manifest").write_text(
        json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"})
    )
    (directory / "message").write_bytes(gpg("--encrypt", "--recipient", "k", data=PLAINTEXT))
    (directory / "image").write_bytes(make_image(Machine.X86_64))
    (directory / "key.pem").write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"import-pw"),
        )
    )
    build(directory, "sample").rename(directory / "rpm")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-C", str(directory)]
    for words in (
        ["init", "-q"],
        ["commit", "-q", "--allow-empty", "-m", "m"],
        ["tag", "-a", "-m", "t", "v1"],
    ):
        subprocess.run([*git, *words], check=True, timeout=PROGRAM_SECONDS, capture_output=True)
    return directory


@pytest.mark.parametrize("op", OPERATIONS)
def test_each_operation_leaves_its_leaf(running: Site, files: Path, op: str) -> None:
    found = CASES[op]
    for words, secrets in found.before:
        done(running, *words, secrets=secrets)
    before = LogReader.open(log_of(running)).size
    words = [word.format(directory=files) for word in found.words]
    output = running.sigul(*words, secrets=found.secrets, cwd=files).stdout
    leaf, *others = entries(log_of(running), before)
    assert (leaf["op"], leaf["user"], leaf["result"]) == (op, "admin", "ok")
    assert leaf["client"]["name"] == "admin"
    assert len(leaf["client"]["certificate"]) == 64
    assert leaf.get("objects", {}) == found.objects
    assert ("input" in leaf) == (found.signs or found.has_input)
    assert ("output" in leaf) == found.has_output
    assert "reason" not in leaf
    if found.key:
        assert leaf["key"]["name"] == found.key
    if found.key == "k":
        (row,) = rows(running, "SELECT fingerprint FROM keys WHERE name = 'k'")
        assert leaf["key"]["fingerprint"] == row[0]
    if found.signs and found.key == "k":
        assert len(leaf["key"]["signer"]) == 40
    if op in ("sign-text", "sign-data", "get-public-key"):
        assert leaf["output"] == digest(output)
    if op in ("sign-text", "sign-data"):
        assert leaf["input"] == digest((files / "text").read_bytes())
    if op == "sign-pe":
        assert leaf["output"] == digest((files / "signed").read_bytes())
        assert len(leaf["signed"]) == 64
    if op == "sign-rpm":
        assert_rpm(leaf, files / "rpm", files / "out.rpm")
    if op == "sign-rpms":
        (rpm,) = others
        assert_rpm(rpm, files / "rpm", files / "rpm")
        assert rpm["request"] == leaf["request"]
    else:
        assert others == []


def assert_rpm(leaf: Mapping[str, Any], package: Path, signed: Path) -> None:
    """A leaf is that of a signed package, as rpm tells what it is."""
    tags = "%{NEVRA} %{SHA256HEADER}"
    told = subprocess.run(
        ["rpm", "-qp", "--nosignature", "--qf", tags, str(signed)],
        capture_output=True, check=True, timeout=PROGRAM_SECONDS, text=True,
    )  # fmt: skip
    assert [leaf["file"], leaf["signed"]] == told.stdout.split()
    assert len(leaf["signatures"]) == 1
    assert len(leaf["key"]["signer"]) == 40
    if package != signed:
        assert leaf["input"] == digest(package.read_bytes())
    assert leaf["output"] == digest(signed.read_bytes())


def test_the_log_has_its_name_and_is_private(running: Site) -> None:
    reader = LogReader.open(log_of(running))
    assert reader.head.origin.startswith("of-tests/signing-log/")
    assert log_of(running).stat().st_mode & 0o777 == 0o700
    assert (log_of(running) / "key").stat().st_mode & 0o777 == 0o600


# -------------------------------------------------------------------------------------- refusals


def last(site: Site, before: int) -> dict[str, Any]:
    """The one leaf that was added."""
    (leaf,) = entries(log_of(site), before)
    return leaf


@pytest.mark.parametrize(
    ("words", "secrets", "status", "reason"),
    [
        (("list-users",), ("wrong-pw",), 3, "wrong password for user 'admin'"),
        (("sign-data", "-a", "k", "/etc/hostname"), ("wrong-pw",), 3, "did not open key 'k'"),
        (("sign-data", "-a", "nokey", "/etc/hostname"), ("wrong-pw",), 3, "does not exist"),
        (("sign-data", "-a", "e", "/etc/hostname"), ("e-pw",), 16, "Unsupported keytype"),
        (("decrypt", "k", "/etc/hostname"), ("k-pw",), 15, "Decryption failed"),
        (("new-user", "alice"), (ADMIN,), 4, "already exists"),
        (("delete-key", "nokey"), (ADMIN,), 8, "not found"),
    ],
)
def test_a_refusal_has_a_leaf_with_the_reason(
    running: Site, words: Sequence[str], secrets: Sequence[str], status: int, reason: str
) -> None:
    before = LogReader.open(log_of(running)).size
    failure(running, *words, secrets=secrets)
    leaf = last(running, before)
    assert (leaf["op"], leaf["result"], leaf["status"]) == (words[0], "refused", status)
    assert reason in leaf["reason"]
    assert "output" not in leaf


def test_an_rpm_that_fails_has_its_leaf(running: Site, files: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.rpm"
    bad.write_bytes(b"no package")
    before = LogReader.open(log_of(running)).size
    running.sigul(
        "sign-rpms", "k", str(bad), str(files / "rpm"), "-o", str(tmp_path),
        secrets=["k-pw"], code=1,
    )  # fmt: skip
    request, *parts = entries(log_of(running), before)
    assert request["result"] == "ok"
    assert {part["result"] for part in parts} == {"ok", "refused"}
    (failed,) = (part for part in parts if part["result"] == "refused")
    assert failed["status"] == 11
    assert failed["input"] == digest(b"no package")
    assert failed["key"]["name"] == "k"


def test_no_leaf_has_a_secret(running: Site) -> None:
    """Nor a digest of what was decrypted. All tests above have run before."""
    reader = LogReader.open(log_of(running))
    forbidden = [*SECRETS, PLAINTEXT.decode()]
    forbidden += [
        getattr(hashlib, name)(text.encode()).hexdigest()
        for text in list(forbidden)
        for name in ("md5", "sha1", "sha256", "sha512")
    ]
    for entry in reader.entries(0, reader.size):
        text = entry.decode()
        for secret in forbidden:
            assert secret not in text


# ------------------------------------------------------------------------ when it cannot be written


@pytest.fixture
def own(site: Site) -> Site:
    """A site of the test's own."""
    site.extra = {"server": {"server": "workers: 2\n"}}
    site.configure()
    return site


def writer_of(server: Process) -> int:
    """The process that writes the log: it has the log's directory open, and no worker does."""

    def holds_it(pid: str) -> bool:
        with contextlib.suppress(OSError):
            return any(
                os.path.realpath(link).endswith("signing-log/tail")
                for link in Path(f"/proc/{pid}/fd").iterdir()
            )
        return False

    pid = server.popen.pid
    found: list[str] = []

    def there() -> bool:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found[:] = [child for child in children if holds_it(child)]
        return len(found) == 1

    wait_until(there, 20, "the log's writer")
    return int(found[0])


def test_a_full_disk_refuses_signatures_and_loses_none(own: Site, tmp_path: Path) -> None:
    directory = log_of(own)
    directory.mkdir(mode=0o700)
    socket = own.path("run/server.sock")
    own.extra.setdefault("server", {})["daemon"] = f"status-socket: {socket}\n"
    own.configure()
    own.start_bridge()
    server = own.start_server(
        prefix=private_mount(
            'mount -t tmpfs -o size=512k,mode=700 none "$1"; shift', str(directory)
        )
    )
    inside = Path(f"/proc/{server.popen.pid}/root{directory}")
    done(own, "new-key", "k", secrets=[ADMIN, "k-pw"])
    done(own, "new-key", "e", "--key-type", "ECC", secrets=[ADMIN, "e-pw"])
    data, signature = tmp_path / "data", tmp_path / "data.sig"
    data.write_bytes(b"data")
    words = ["sign-data", "k", str(data), "-o", str(signature)]
    done(own, *words, secrets=["k-pw"])
    signature.unlink()
    filler = inside / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    for command, secrets in ((words, ["k-pw"]), (["list-keys"], [ADMIN])):
        line = failure(own, *command, secrets=secrets)
        assert "the server cannot write its signing log" in line
        assert "No space left on device" in line
        assert "nothing left the server" in line
        assert str(directory) not in line
    assert not signature.exists()
    # A certificate could be had later from the store: it is not there either.
    line = failure(own, *_ISSUE(name="made").split(), secrets=["e-pw"])
    assert "No space left on device; nothing left the server" in line
    assert list(own.path("server/keys").glob("*.cert.*")) == []
    # Of a batch the request itself is refused, before any RPM.
    rpm = build(tmp_path, "sample")
    before = rpm.read_bytes()
    own.sigul("sign-rpms", "k", str(rpm), "-o", str(tmp_path), secrets=["k-pw"], code=1)
    assert rpm.read_bytes() == before
    # What was changed is told to have been; the refusal of others stays what it is.
    line = failure(own, "new-user", "zoe", secrets=[ADMIN])
    assert "it was done, but is not in the signing log" in line
    assert "Authentication failed" in failure(own, "list-users", secrets=["wrong-pw"])
    server.wait_for("A refusal is not in the signing log")
    # What failed because of it is counted: not a refusal.
    counted = b'"signing_log_failures_total": 5'
    wait_until(lambda: counted in read_status(socket, 5), 10, "five failures")
    filler.unlink()
    done(own, *words, secrets=["k-pw"])
    assert signature.exists()
    assert done(own, "list-users", secrets=[ADMIN]) == b"admin\nzoe\n"
    found = [(leaf["op"], leaf["result"]) for leaf in entries(inside)]
    assert found.count(("sign-data", "ok")) in (2, 3)
    assert found[-2:] == [("sign-data", "ok"), ("list-users", "ok")]


def test_a_writer_that_is_killed_is_replaced(own: Site) -> None:
    with own.running() as (_bridge, server):
        done(own, "list-users", secrets=[ADMIN])
        for _ in range(3):
            os.kill(writer_of(server), signal.SIGKILL)
            # Whether a new one is there already or not: this waits for it.
            done(own, "list-users", secrets=[ADMIN])
        assert "The signing log's process has ended (signal 9)" in server.text
        assert server.stop() == 0
    assert [leaf["op"] for leaf in entries(log_of(own))] == ["list-users"] * 4


def test_killed_in_the_middle_of_work_it_costs_what_was_under_way(own: Site) -> None:
    """Every answer that came is in the log; where none came, nothing is lost to anybody else."""
    with own.running() as (_bridge, server):
        done(own, "list-users", secrets=[ADMIN])
        results: list[int] = []

        def ask() -> None:
            for _ in range(8):
                results.append(own.sigul("list-users", secrets=[ADMIN], code=None).returncode)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(4):
            os.kill(writer_of(server), signal.SIGKILL)
            time.sleep(0.2)
        for thread in threads:
            thread.join(PROGRAM_SECONDS)
        done(own, "list-users", secrets=[ADMIN])
    assert len(results) == 16
    lost = sum(code != 0 for code in results)
    assert lost <= 4
    assert len([leaf for leaf in entries(log_of(own)) if leaf["result"] == "ok"]) >= 18 - lost


def test_a_damaged_log_keeps_the_server_from_starting(own: Site) -> None:
    with own.running():
        done(own, "list-users", secrets=[ADMIN])
    tail = log_of(own) / "tail"
    data = tail.read_bytes()
    tail.write_bytes(data[:-20])
    server = own.start("server")
    assert server.popen.wait(PROGRAM_SECONDS) == 1
    assert "signing log" in server.text
    assert "leaves were lost" in server.text
    assert "audit complete" in server.text
    own.processes.remove(server)
    tail.write_bytes(data)
    with own.running():
        done(own, "list-users", secrets=[ADMIN])


def test_requests_under_way_are_written_down_at_the_end(own: Site, tmp_path: Path) -> None:
    """The writer outlives the workers that are busy when the server is told to end."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(48 * 1024**2)
    with own.running() as (_bridge, server):
        done(own, "new-key", "k", secrets=[ADMIN, "k-pw"])
        begun = "[DOUBLE_TLS] Starting TLS handshake"
        # A client on a busy machine may have come twice.
        before = server.text.count(begun)
        words = [*module("sigul"), "--batch", "-c", str(own.path("client.conf"))]
        with popen(
            [*words, "sign-data", "-a", "k", str(large)],
            env=own.environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as client:  # fmt: skip
            assert client.stdin is not None
            client.stdin.write(nul("k-pw"))
            client.stdin.close()
            client.stdin = None
            server.wait_for(begun, before + 1)
            assert server.stop() == 0
            out, _ = client.communicate(timeout=PROGRAM_SECONDS)
        assert client.returncode == 0
        assert b"BEGIN PGP SIGNATURE" in out
        assert "is killed" not in server.text
    leaf = entries(log_of(own))[-1]
    assert (leaf["op"], leaf["output"]) == ("sign-data", digest(out))


def test_a_server_starts_beside_the_last_moments_of_one_that_was_killed(own: Site) -> None:
    with own.running() as (_bridge, server):
        writer = writer_of(server)
        os.kill(writer, signal.SIGSTOP)
        server.popen.kill()
        server.popen.wait(PROGRAM_SECONDS)
        own.processes.remove(server)
        threading.Timer(0.7, os.kill, (writer, signal.SIGCONT)).start()
        own.start_server()
        done(own, "list-users", secrets=[ADMIN])


def test_a_reload_keeps_the_writer(own: Site) -> None:
    with own.running() as (_bridge, server):
        before = writer_of(server)
        server.popen.send_signal(signal.SIGHUP)
        server.wait_for("The configuration is taken")
        done(own, "list-users", secrets=[ADMIN])
        assert writer_of(server) == before
