"""`sign-rpm`: what is signed passes `rpm -Kv`, what is wrong is refused, one by one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sigul_stack.cli.outcome import MAY_HAVE_HAPPENED
from sigul_stack.errors import Status
from sigul_stack.formats.rpm_head import Head, read_head
from sigul_stack.protocol.codec import run_parser
from tests.held_data import held
from tests.site import PROGRAM_SECONDS, Site, module, popen, wait_until

from .commands_support import (
    ADMIN,
    AUTHENTICATION,
    MAYBE,
    Dialogue,
    done,
    failure,
    leftovers,
    misused,
    person,
    refused,
)
from .rpm_support import Rpm, build, run

KEYS = {"rsa": "RSA", "ed": "EdDSA"}
CORRUPT = "The RPM file is corrupt"
#: Too early for any client to have done something, on any machine.
FIRST_KILL_SECONDS = 0.03


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with the gnupg keys `rsa` and `ed`, the ECC key `ima` and the RSA key `imarsa`."""
    site = Site.copy(template, tmp_path_factory.mktemp("rpm") / "site")
    with site.running():
        done(site, "new-key", "rsa", secrets=[ADMIN, "rsa-pw"])
        with person(site.path("person")) as gpg:
            made = gpg.make_key("ed", "file-pw", algorithm="ed25519")
            site.path("ed.key").write_bytes(gpg.secret_key(made, "file-pw"))
        done(
            site, "import-key", "ed", str(site.path("ed.key")),
            secrets=[ADMIN, "file-pw", "ed-pw"],
        )  # fmt: skip
        for key, kind in (("ima", "ECC"), ("imarsa", "RSA")):
            done(site, "new-key", "--key-type", kind, key, secrets=[ADMIN, f"{key}-pw"])
        yield site
        assert leftovers(site) == []


@pytest.fixture(scope="module")
def rpm(running: Site, tmp_path_factory: pytest.TempPathFactory) -> Rpm:
    """An rpm database that has the public keys."""
    keys = [done(running, "get-public-key", key, secrets=[f"{key}-pw"]) for key in KEYS]
    return Rpm(tmp_path_factory.mktemp("rpmdb"), *keys)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A binary and a source package."""
    directory = tmp_path_factory.mktemp("packages")
    return {
        "binary": build(directory, epoch=7),
        "source": build(directory, "sourced", source=True),
    }


def head_of(package: Path) -> Head:
    """The head of a package."""
    with package.open("rb") as file:
        return run_parser(read_head(), file.read)


def sigmd5(package: Path) -> bytes:
    """The MD5 that a package's signature header holds."""
    found = head_of(package).signature.blob(1004)
    assert found is not None
    return found


def sign(site: Site, key: str, package: Path, out: Path, *options: str) -> Path:
    """Sign a package with `sigul sign-rpm`."""
    secrets = [f"{key}-pw"]
    if "--file-signing-key" in options:
        secrets.append(options[options.index("--file-signing-key") + 1] + "-pw")
    words = ["sign-rpm", "-o", str(out), *options, key, str(package)]
    assert done(site, *words, secrets=secrets) == b""
    return out


# ------------------------------------------------------------------------------------- signing


@pytest.mark.parametrize("head", [[], ["--head-signing"]], ids=["whole", "head"])
@pytest.mark.parametrize("kind", ["binary", "source"])
@pytest.mark.parametrize("key", KEYS)
def test_a_signed_package_passes_rpm(
    running: Site,
    rpm: Rpm,
    packages: dict[str, Path],
    tmp_path: Path,
    key: str,
    kind: str,
    head: list[str],
) -> None:
    package = packages[kind]
    out = sign(running, key, package, tmp_path / package.name, *head)
    (signature,) = rpm.signatures(out)
    assert signature.startswith(f"Header V4 {KEYS[key]}/SHA512 Signature")
    # Nothing but the signature header is another, and rpmbuild's reserve keeps its length.
    old, new = head_of(package), head_of(out)
    assert (new.lead, new.main.raw) == (old.lead, old.main.raw)
    assert len(new.signature.raw) == len(old.signature.raw)
    assert out.read_bytes()[new.length :] == package.read_bytes()[old.length :]
    if kind == "binary":
        rpm.installs(out)


def test_a_signed_package_is_signed_anew(
    running: Site, rpm: Rpm, packages: dict[str, Path], tmp_path: Path
) -> None:
    first = sign(running, "rsa", packages["binary"], tmp_path / "first", "--v3-signature")
    second = sign(running, "ed", first, tmp_path / "second")
    (signature,) = rpm.signatures(second)
    assert "EdDSA" in signature


@pytest.mark.parametrize("key", KEYS)
def test_v3_signature(
    running: Site, rpm: Rpm, packages: dict[str, Path], tmp_path: Path, key: str
) -> None:
    out = sign(running, key, packages["binary"], tmp_path / "out", "--v3-signature")
    header, both = rpm.signatures(out)
    assert header.startswith(f"Header V4 {KEYS[key]}/SHA512 Signature")
    assert both.startswith(f"V4 {KEYS[key]}/SHA512 Signature")
    # The second one covers the payload: with another, it is bad. MD5 would tell as well.
    data = bytearray(out.read_bytes())
    data[-1] ^= 1
    (tmp_path / "other").write_bytes(data)
    said = rpm("rpm", "-Kv", tmp_path / "other", code=1).stdout.decode()
    assert f"    V4 {KEYS[key]}/SHA512 Signature" in said
    assert "Signature, key ID" in said.split("    V4 ")[1]
    assert "BAD" in said.split("    V4 ")[1].splitlines()[0]


@pytest.mark.once("our own writing of files")
@pytest.mark.parametrize(
    "options", [[], ["--head-signing"], ["-o", "link.rpm", "--head-signing"], ["-o", "hard.rpm"]]
)
def test_the_package_is_replaced_without_o_or_where_that_names_it(
    running: Site, rpm: Rpm, packages: dict[str, Path], tmp_path: Path, options: list[str]
) -> None:
    package, hard = tmp_path / "package.rpm", tmp_path / "hard.rpm"
    shutil.copy(packages["binary"], package)
    package.chmod(0o604)
    (tmp_path / "link.rpm").symlink_to("package.rpm")
    if "hard.rpm" in options:
        hard.hardlink_to(package)
    names, unsigned = sorted(tmp_path.iterdir()), package.read_bytes()
    words = ["sign-rpm", *options, "rsa", "package.rpm"]
    # Whatever goes wrong, the package is as it was.
    refused(running, AUTHENTICATION, *words, secrets=["wrong"], cwd=tmp_path)
    failure(running, *words, stdin=b"", cwd=tmp_path)
    assert (package.read_bytes(), sorted(tmp_path.iterdir())) == (unsigned, names)
    assert done(running, *words, secrets=["rsa-pw"], cwd=tmp_path) == b""
    for name in names:
        assert len(rpm.signatures(name)) == 1
        assert stat.S_IMODE(name.stat().st_mode) == 0o604
    assert sorted(tmp_path.iterdir()) == names
    assert (tmp_path / "link.rpm").is_symlink()
    old, new = head_of(packages["binary"]), head_of(package)
    assert new.main.raw == old.main.raw
    assert package.read_bytes()[new.length :] == unsigned[old.length :]


@pytest.mark.once("our own writing of files")
def test_a_client_that_is_killed_leaves_the_package_as_it_was_or_signed(
    running: Site, rpm: Rpm, packages: dict[str, Path], tmp_path: Path
) -> None:
    """About 12 clients, each killed a little later, until one has time enough.

    tests/unit/test_client_output.py kills at every point of the end.
    """
    place = tmp_path / "place"
    place.mkdir()
    package = place / "p.rpm"
    old = packages["binary"].read_bytes()
    killed, code = 0, None
    for step in range(30):
        package.write_bytes(old)
        package.chmod(0o640)
        command = [
            *module("sigul"), "--batch", "-c", str(running.path("client.conf")), "sign-rpm", "rsa",
            str(package),
        ]  # fmt: skip
        with popen(command, env=running.environment, stdin=subprocess.PIPE) as client:
            client.stdin.write(b"rsa-pw\0")
            client.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(FIRST_KILL_SECONDS * 1.3**step)
            code = client.poll()
            client.kill()
        assert list(place.iterdir()) == [package]
        assert stat.S_IMODE(package.stat().st_mode) == 0o640
        if package.read_bytes() != old:
            assert rpm.signatures(package), "half an RPM"
        if code is not None:
            break
        killed += 1
    assert (code, killed > 3) == (0, True)
    assert package.read_bytes() != old
    wait_until(lambda: not leftovers(running), PROGRAM_SECONDS, "the end of the requests")


def test_a_signed_package_on_standard_output(
    running: Site, rpm: Rpm, packages: dict[str, Path], tmp_path: Path
) -> None:
    package, out = packages["binary"], tmp_path / "out"
    unsigned = package.read_bytes()
    words = ["sign-rpm", "-o", "/dev/stdout", "rsa", str(package)]
    out.write_bytes(done(running, *words, secrets=["rsa-pw"]))
    assert len(rpm.signatures(out)) == 1
    assert package.read_bytes() == unsigned


def test_the_package_of_the_recorded_exchange(running: Site, rpm: Rpm, tmp_path: Path) -> None:
    found = json.loads((held("exchanges") / "sign-rpm.json").read_text("ascii"))
    sent = bytes.fromhex(found["outer_sent"])
    (tmp_path / "in").write_bytes(sent[sent.index(b"\xed\xab\xee\xdb") :])
    theirs = bytes.fromhex(found["reply_read"])
    (tmp_path / "theirs").write_bytes(theirs[theirs.index(b"\xed\xab\xee\xdb") : -64])
    ours = sign(running, "rsa", tmp_path / "in", tmp_path / "ours")
    assert len(rpm.signatures(ours)) == 1
    new, reference = head_of(ours), head_of(tmp_path / "theirs")
    assert new.signature.entries.keys() == reference.signature.entries.keys()
    assert len(new.signature.raw) == len(reference.signature.raw)


# ------------------------------------------------------------------------------ file signatures


def certificate(directory: Path, public: bytes) -> Path:
    """A certificate for a public key, in DER, which is the form that evmctl reads."""
    (directory / "public.pem").write_bytes(public)
    issuer = directory / "issuer.key"
    run("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-out", issuer)  # fmt: skip
    made = directory / "public.der"
    run("openssl", "x509", "-new", "-force_pubkey", directory / "public.pem", "-key", issuer,
        "-subj", "/CN=files", "-outform", "DER", "-out", made)  # fmt: skip
    return made


@pytest.mark.parametrize("head", [[], ["--head-signing"]], ids=["whole", "head"])
@pytest.mark.parametrize("key", ["ima", "imarsa"])
def test_file_signatures_pass_evmctl(
    running: Site, rpm: Rpm, packages: dict[str, Path], tmp_path: Path, key: str, head: list[str]
) -> None:
    out = sign(
        running, "rsa", packages["binary"], tmp_path / "out", "--file-signing-key", key, *head
    )
    assert len(rpm.signatures(out)) == 1
    rpm.installs(out)
    public = certificate(tmp_path, done(running, "get-public-key", key, secrets=[f"{key}-pw"]))
    tree = tmp_path / "tree"
    tree.mkdir()
    (tmp_path / "archive").write_bytes(run("rpm2cpio", out).stdout)
    run("cpio", "-idm", "--quiet", "-F", tmp_path / "archive", cwd=tree)
    listed = rpm.query(out, "[%{FILENAMES} %{FILEMODES:perms} %{FILESIGNATURES}\n]")
    checked = 0
    for line in listed.splitlines():
        name, mode, *signature = line.split(" ")
        assert bool(signature and signature[0]) == mode.startswith("-"), line
        if mode.startswith("-"):
            file = tree / name.removeprefix("/")
            file.with_name(file.name + ".sig").write_bytes(bytes.fromhex(signature[0]))
            verify = ["evmctl", "ima_verify", "--sigfile", "--key", public]
            run(*verify, file)
            file.write_bytes(file.read_bytes() + b"!")
            run(*verify, file, code=1)
            checked += 1
    assert checked == 3


@pytest.mark.once("our own reading and rights; rpm is in the others")
def test_a_file_signing_key_must_be_the_users_and_no_gnupg_key(
    running: Site, packages: dict[str, Path]
) -> None:
    package = str(packages["binary"])
    command = ["sign-rpm", "rsa", package, "--file-signing-key"]
    refused(running, AUTHENTICATION, *command, "ima", secrets=["rsa-pw", "wrong"])
    refused(running, AUTHENTICATION, *command, "none", secrets=["rsa-pw", "ima-pw"])
    refused(running, AUTHENTICATION, *command, "ima", secrets=["wrong", "ima-pw"])
    text = failure(running, *command, "ed", secrets=["rsa-pw", "ed-pw"])
    assert text.startswith("Unsupported keytype for operation: ")
    text = failure(running, "sign-rpm", "ima", package, secrets=["ima-pw"])
    assert text == "Unsupported keytype for operation"


def test_files_named_by_weak_digests_are_not_signed(
    running: Site, rpm: Rpm, tmp_path: Path
) -> None:
    package = build(tmp_path, "weak", macros=[("_binary_filedigest_algorithm", "2")])
    command = ["sign-rpm", "rsa", str(package), "-o", str(tmp_path / "out")]
    text = failure(running, *command, "--file-signing-key", "ima", secrets=["rsa-pw", "ima-pw"])
    assert "SHA-1" in text
    assert not (tmp_path / "out").exists()
    assert len(rpm.signatures(sign(running, "rsa", package, tmp_path / "out"))) == 1


# ------------------------------------------------------------------------------------- refusals


def changed(package: Path, at: int) -> bytes:
    data = bytearray(package.read_bytes())
    data[at] ^= 1
    return bytes(data)


BAD: dict[str, Callable[[Path], bytes]] = {
    "text": lambda _: b"garbage\n",
    "lead alone": lambda package: package.read_bytes()[:96],
    "cut in the signature header": lambda package: package.read_bytes()[:200],
    "cut in the main header": lambda package: package.read_bytes()[: head_of(package).length - 9],
    "without payload": lambda package: package.read_bytes()[: head_of(package).length],
    "cut in the payload": lambda package: package.read_bytes()[:-1],
    "something behind it": lambda package: package.read_bytes() + b"\0",
    "changed payload": lambda package: changed(package, -20),
    "changed header": lambda package: changed(package, head_of(package).length - 40),
    "changed digest": lambda package: changed(package, package.read_bytes().index(
        hashlib.sha256(head_of(package).main.raw).hexdigest().encode())),
    "huge header": lambda package: package.read_bytes()[:104] + b"\xff" * 8 + bytes(1000),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_package_is_refused(
    running: Site, packages: dict[str, Path], tmp_path: Path, what: str
) -> None:
    bad = tmp_path / "bad.rpm"
    bad.write_bytes(BAD[what](packages["binary"]))
    out = tmp_path / "out"
    text = failure(running, "sign-rpm", "rsa", str(bad), "-o", str(out), secrets=["rsa-pw"])
    assert text.startswith(f"{CORRUPT}: "), text
    assert not out.exists()


def test_a_zero_length_package_is_refused_before_anything_is_asked_for(
    site: Site, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.rpm"
    empty.touch()
    text = f"Cannot sign zero-length RPM file {empty}"
    refused(site, text, "sign-rpm", "rsa", str(empty))  # this site does not run
    words = ["sign-rpms", "-o", str(tmp_path / "out"), "rsa", str(empty)]
    said = site.sigul(*words, code=1).stderr.decode()
    assert said == f"ERROR: Error signing {empty}: Error: {text}\n"


def test_a_hard_link_that_keeps_the_unsigned_package_is_told(
    running: Site, rpm: Rpm, packages: dict[str, Path], tmp_path: Path
) -> None:
    package, link = tmp_path / "package.rpm", tmp_path / "link.rpm"
    shutil.copy(packages["binary"], package)
    link.hardlink_to(package)
    result = running.sigul("sign-rpm", "rsa", str(package), secrets=["rsa-pw"])
    assert result.stderr.decode() == (
        f"WARNING: '{package}' had 1 more names (hard links): what they name is as it was; copy it"
        " there\n"
    )
    assert len(rpm.signatures(package)) == 1
    assert link.read_bytes() == packages["binary"].read_bytes()


def test_both_passphrases_are_asked_for_by_the_prompt_that_scripts_know(
    running: Site, rpm: Rpm, packages: dict[str, Path], tmp_path: Path
) -> None:
    package = tmp_path / "package.rpm"
    shutil.copy(packages["binary"], package)
    words = ["sign-rpm", "--file-signing-key", "ima", "rsa", str(package)]
    dialogue = Dialogue.of_sigul(running, *words)
    dialogue.answer("Key passphrase", "rsa-pw")
    dialogue.answer("Of the file signing key:\r\nKey passphrase", "ima-pw")
    dialogue.end()
    assert len(rpm.signatures(package)) == 1


def test_an_output_of_what_does_not_come_back_is_told(running: Site) -> None:
    words = ["sign-rpm", "--store-in-koji", "--koji-only", "-o", "x", "rsa", "none-1-1.noarch"]
    first = running.sigul(*words, secrets=["rsa-pw"], code=1).stderr.decode().splitlines()[0]
    assert first == "WARNING: -o/--output has no effect: with --koji-only nothing comes back"


#: Sends `sign-rpm` with any fields: NSS is opened in a process of its own.
SENDER = """
import json, sys
from pathlib import Path
from sigul_stack.client import Client, core
from sigul_stack.config import load_client
from sigul_stack.errors import BridgeRefused, PeerClosed, RequestRefused
from sigul_stack.secret import Secret
config, package, fields = sys.argv[1:]
fields = json.loads(fields)
fields.update((k, bytes.fromhex(v[4:])) for k, v in list(fields.items()) if v.startswith("hex:"))
fields.update((k, True) for k, v in list(fields.items()) if v == "true")
passphrase = fields.pop("passphrase", "rsa-pw")
if fields.pop("without-hash", False):
    encode = core.messages.encode_inner_fields
    core.messages.encode_inner_fields = lambda header, _hash, *more: encode(header, None, *more)
client = Client(load_client(Path(config)).settings)
try:
    reply = client.call("sign-rpm", {"key": "rsa", **fields}, {"passphrase": Secret(passphrase)},
                        payload=Path(package).read_bytes())
except RequestRefused as refused:
    print(refused.status, refused.message)
except BridgeRefused as refused:
    print(refused)
except PeerClosed:
    print("cut off")
else:
    print(0, len(reply.payload))
"""


def send(site: Site, package: Path, **fields: str) -> bytes:
    """What the server says to `sign-rpm` with these fields."""
    named = json.dumps({name.replace("_", "-"): value for name, value in fields.items()})
    config = str(site.path("client.conf"))
    return site.run(sys.executable, "-c", SENDER, config, str(package), named).stdout


@pytest.mark.once("our own reading and rights; rpm is in the others")
def test_fields_are_compared_with_the_package(running: Site, packages: dict[str, Path]) -> None:
    binary, source = packages["binary"], packages["source"]
    named = {
        "rpm_name": "sample", "rpm_epoch": "7", "rpm_version": "1.2", "rpm_release": "3",
        "rpm_arch": "noarch", "rpm_sigmd5": "hex:" + sigmd5(binary).hex(),
    }  # fmt: skip
    assert send(running, binary, **named).startswith(b"0 ")
    for field in named:
        wrong = "hex:" + "00" * 16 if field == "rpm_sigmd5" else "other"
        said = send(running, binary, **{field: wrong})
        assert said.startswith(b"%d the RPM's " % Status.CORRUPT_RPM), (field, said)
    assert send(running, source, rpm_name="sourced", rpm_epoch="", rpm_arch="src").startswith(b"0 ")
    assert send(running, source, rpm_arch="noarch").startswith(b"11 ")
    assert send(running, binary, rpm_arch="src").startswith(b"11 ")
    assert send(running, source, rpm_epoch="0").startswith(b"0 ")


def test_an_rpm_that_nothing_speaks_for_is_refused_once_rights_are_checked(
    running: Site, packages: dict[str, Path], tmp_path: Path
) -> None:
    package = packages["binary"]
    digest = "hex:" + sigmd5(package).hex()
    assert send(running, package, without_hash="true", rpm_sigmd5=digest).startswith(b"0 ")
    assert send(running, package, without_hash="true") == b"12 None\n"
    assert send(running, package, without_hash="true", passphrase="wrong") == b"3 None\n"
    (tmp_path / "no.rpm").write_bytes(b"not looked at")
    assert send(running, tmp_path / "no.rpm", without_hash="true") == b"12 None\n"


def test_the_ways_in_which_peers_of_1_2_do_head_signing(
    running: Site, packages: dict[str, Path], tmp_path: Path
) -> None:
    """A client sends all of the RPM; of one of Koji's, a bridge the head and what is close by."""
    package = packages["binary"]
    assert send(running, package, head_signing="true").startswith(b"0 ")
    head = tmp_path / "head"
    head.write_bytes(package.read_bytes()[: head_of(package).length + 16])
    digest = "hex:" + sigmd5(package).hex()
    koji = {"head_signing": "true", "without_hash": "true"}
    assert send(running, head, **koji, rpm_sigmd5=digest).startswith(b"0 ")
    assert send(running, head, **koji, rpm_sigmd5="hex:" + "00" * 16).startswith(b"11 ")
    assert send(running, head, **koji) == b"12 None\n"


@pytest.mark.once("our own reading and rights; rpm is in the others")
def test_where_koji_is_not_set_up(
    running: Site, packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, out = str(packages["binary"]), str(tmp_path / "out")
    secrets = ["rsa-pw"]
    line = failure(running, "sign-rpm", "rsa", "sample-1.2-3.noarch", secrets=secrets)
    assert line == "Koji: its configuration: no configuration for profile name: koji"
    line = failure(running, "sign-rpm", "-k", "i", "rsa", package, secrets=secrets)
    assert line.startswith("the bridge says: there is no Koji instance 'i' here; ")
    words = ["sign-rpm", "--store-in-koji", "-o", out, "rsa", package]
    line = failure(running, *words, secrets=secrets, code=MAY_HAVE_HAPPENED)
    assert line == (
        "the bridge says: Koji: its configuration: no configuration for profile name: koji"
        f"; {MAYBE}"
    )
    words = ["sign-rpms", "--store-in-koji", "-o", out, "rsa", package]
    line = running.sigul(*words, secrets=secrets, code=1).stderr.decode()
    assert line.startswith(
        f"ERROR: Error signing {package}: the bridge says: Koji: its configuration: "
    )
    assert list(Path(out).iterdir()) == []
    # Without the library, only what needs it fails.
    missing = tmp_path / "missing"
    missing.mkdir()
    (missing / "koji.py").write_text("raise ModuleNotFoundError('no koji', name='koji')\n")
    monkeypatch.setitem(running.variables, "PYTHONPATH", str(missing))
    line = failure(running, "sign-rpm", "rsa", "sample-1.2-3.noarch", secrets=secrets)
    assert line == "the Python module koji is not installed; install sigul-stack[koji]"
    sign(running, "rsa", packages["binary"], tmp_path / "signed")


def test_command_lines_that_do_not_fit(running: Site, packages: dict[str, Path]) -> None:
    package = str(packages["binary"])
    assert "--koji-only needs" in misused(running, "sign-rpm", "--koji-only", "rsa", package)
    assert "--file-signing-key" in misused(
        running, "sign-rpm", "--file-signing-key-passphrase-file", "f", "rsa", package
    )
    assert "-o/--output DIR" in misused(running, "sign-rpms", "rsa", package)


@pytest.mark.once("our own reading and rights; rpm is in the others")
def test_a_bridge_does_not_pass_over_what_it_cannot_do(
    running: Site, packages: dict[str, Path], tmp_path: Path
) -> None:
    said = send(running, packages["binary"], import_signature="true")
    assert said.startswith(b"the bridge says: Koji: its configuration: ")
    # An RPM that the bridge is to fetch: of what name is not said, or not all of it.
    empty = tmp_path / "empty"
    empty.touch()
    said = send(running, empty, rpm_name="sample")
    assert said.startswith(b"the bridge says: the client does not name the RPM")
    assert send(running, empty).startswith(b"11 no RPM came")


def test_v3_and_head_signing_do_not_go_together(running: Site, packages: dict[str, Path]) -> None:
    text = failure(
        running, "sign-rpm", "--head-signing", "--v3-signature", "rsa", str(packages["binary"]),
        secrets=["rsa-pw"],
    )  # fmt: skip
    assert "without head-signing" in text


@pytest.mark.once("our own reading and rights; rpm is in the others")
def test_a_missing_rpm_is_said_with_its_package(
    site: Site, packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operation alone fails, for what rpm has to look at; the server serves on."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("gpg", "gpgconf", "gpg-agent", "gpg-connect-agent"):
        found = shutil.which(name)
        if found:
            (tools / name).symlink_to(found)
    site.start_bridge()
    monkeypatch.setenv("PATH", str(tools))
    site.start_server()
    monkeypatch.undo()
    done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
    plain = packages["binary"]
    out = tmp_path / "signed.rpm"
    done(site, "sign-rpm", "-o", str(out), "k", str(plain), secrets=["k-pw"])
    # Signed already, so that it is rpm's to look at.
    text = failure(site, "sign-rpm", "k", str(out), secrets=["k-pw"])
    assert text == "Unknown error: rpmkeys is not installed; install the package rpm"
    assert b"k (gnupg)" in done(site, "list-keys", secrets=[ADMIN])
