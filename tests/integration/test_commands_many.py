"""`sign-data --output-dir` and `verify`: many files with one unlock, and verdicts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.site import Site, free_port

from .commands_support import (
    ADMIN,
    AUTHENTICATION,
    Gpg,
    done,
    failure,
    fingerprint_of,
    leftovers,
    misused,
    person,
    refused,
)

pytestmark = pytest.mark.once("our own batches; test_openpgp_signing has each signature")

#: The most that the server here takes in one payload.
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with admin's gnupg keys `k` and `other`, and an ECC key `ecc`."""
    site = Site.copy(template, tmp_path_factory.mktemp("many") / "site")
    site.extra = {
        "server": {"server": f"max-file-payload-size: {LIMIT}\n"},
        # Under load libnss_wrapper, which has the site's names, fails threads that ask at once.
        "client": {"client": "bridge-address: 127.0.0.1\n"},
    }
    site.configure()
    with site.running():
        for key in ("k", "other"):
            done(site, "new-key", key, secrets=[ADMIN, f"{key}-pw"])
        done(site, "new-key", "--key-type", "ECC", "ecc", secrets=[ADMIN, "ecc-pw"])
        yield site
        assert leftovers(site) == []


@pytest.fixture(scope="module")
def public(running: Site) -> bytes:
    """The public key `k`."""
    return done(running, "get-public-key", "k", secrets=["k-pw"])


@pytest.fixture(scope="module")
def gpg(public: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    """A person who has the public key."""
    with person(tmp_path_factory.mktemp("person") / "gnupg", public) as someone:
        yield someone


def files(directory: Path, count: int) -> list[Path]:
    found = [directory / f"file-{number}" for number in range(count)]
    for number, file in enumerate(found):
        file.write_bytes(os.urandom(1000 * number))
    return found


# ---------------------------------------------------------------------------------- many files


@pytest.mark.parametrize(("options", "ending"), [([], ".sig"), (["-a"], ".asc")])
def test_many_files_are_signed_with_one_passphrase(
    running: Site, gpg: Gpg, tmp_path: Path, options: list[str], ending: str
) -> None:
    named, out = files(tmp_path, 9), tmp_path / "deep" / "out"
    words = ["sign-data", "--output-dir", str(out), *options, "k", *map(str, named)]
    assert done(running, *words, secrets=["k-pw"]) == b""
    assert sorted(path.name for path in out.iterdir()) == [file.name + ending for file in named]
    for file in named:
        signature = out / (file.name + ending)
        assert signature.read_bytes().startswith(b"-----BEGIN PGP SIG") == (ending == ".asc")
        gpg.signer(signature, file)


def test_a_file_that_fails_costs_that_file(running: Site, gpg: Gpg, tmp_path: Path) -> None:
    named, out = files(tmp_path, 4), tmp_path / "out"
    large = tmp_path / "large"
    large.write_bytes(bytes(LIMIT + 1))
    (out / "file-1.sig").mkdir(parents=True)
    words = ["sign-data", "--output-dir", str(out), "k", str(large), *map(str, named)]
    result = running.sigul(*words, secrets=["k-pw"], code=1)
    assert result.stdout == b"Signed 3 of 5 files; 2 failed\n"
    lines = sorted(result.stderr.decode().splitlines())
    assert len(lines) == 2, lines
    assert lines[0].startswith(f"Error signing {named[1]}: '{out}/file-1.sig' cannot be written")
    assert lines[1].startswith(f"Error signing {large}: ")
    for file in (named[0], *named[2:]):
        gpg.signer(out / f"{file.name}.sig", file)
    assert not (out / "large.sig").exists()


def test_a_wrong_passphrase_is_said_once_and_not_tried_for_every_file(
    running: Site, tmp_path: Path
) -> None:
    named, out = files(tmp_path, 30), tmp_path / "out"
    bridge = running.processes[0]
    before = bridge.text.count("Request 'sign-data'")
    words = ["sign-data", "--output-dir", str(out), "k", *map(str, named)]
    refused(running, AUTHENTICATION, *words, secrets=["wrong"])
    assert bridge.text.count("Request 'sign-data'") - before < 20
    words[3] = "ecc"
    refused(running, "Unsupported keytype for operation", *words, secrets=["ecc-pw"])
    assert list(out.iterdir()) == []


def test_what_would_be_overwritten_is_found_before_anything_is_signed(
    running: Site, tmp_path: Path
) -> None:
    one, two = tmp_path / "a" / "same", tmp_path / "b" / "same"
    for file in (one, two):
        file.parent.mkdir()
        file.write_bytes(b"content")
    out = tmp_path / "out"
    line = failure(running, "sign-data", "--output-dir", str(out), "k", str(one), str(two))
    assert "would be the same file" in line
    assert list(out.iterdir()) == []
    # An input that has the name of another one's signature.
    signed = tmp_path / "a" / "same.sig"
    signed.write_bytes(b"to be signed")
    words = ["sign-data", "--output-dir", str(one.parent), "k", str(one), str(signed)]
    assert "which is to be signed" in failure(running, *words)
    assert signed.read_bytes() == b"to be signed"
    # What cannot be read, and what is none.
    words = ["sign-data", "--output-dir", str(out), "k", str(one), str(tmp_path / "none")]
    assert "cannot be read" in failure(running, *words)
    os.mkfifo(tmp_path / "fifo")
    holder = os.open(tmp_path / "fifo", os.O_RDWR)
    words[-1] = str(tmp_path / "fifo")
    assert "is no plain file" in failure(running, *words)
    os.close(holder)
    assert list(out.iterdir()) == []
    # One file named twice is one file.
    words = ["sign-data", "--output-dir", str(out), "k", str(one), str(one)]
    assert done(running, *words, secrets=["k-pw"]) == b""
    assert [path.name for path in out.iterdir()] == ["same.sig"]


def test_a_bridge_that_is_not_there_is_said_for_each_file(running: Site, tmp_path: Path) -> None:
    named, out = files(tmp_path, 3), tmp_path / "out"
    port, running.client_port = running.client_port, free_port()
    try:
        config = running.client_configuration("admin", "nowhere")
    finally:
        running.client_port = port
    words = ["sign-data", "--output-dir", str(out), "k", *map(str, named)]
    result = running.sigul(*words, secrets=["k-pw"], config=config, code=1)
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 3
    assert all(re.match("Error signing .*/file-[0-2]: ", line) for line in lines), lines


# ------------------------------------------------------------------------------------- verify


def sign(site: Site, file: Path, *options: str, key: str = "k") -> Path:
    out = file.with_name(file.name + ".sig")
    done(site, "sign-data", *options, "-o", str(out), key, str(file), secrets=[f"{key}-pw"])
    return out


def test_good_signatures(running: Site, public: bytes, gpg: Gpg, tmp_path: Path) -> None:
    file = tmp_path / "-file with\tblanks"
    file.write_bytes(os.urandom(100_000))
    verdict = f"Good signature by key 'k' \\({fingerprint_of(gpg, public)}\\), made 20.* UTC\n"
    for options in ([], ["-a"]):
        signature = sign(running, file, *options)
        said = done(running, "verify", "k", str(file), str(signature), secrets=["k-pw"])
        assert re.fullmatch(verdict, said.decode())
    # An administrator's password gives the right to public keys.
    words = ["verify", "--password", "k", str(file), str(signature)]
    assert re.fullmatch(verdict, done(running, *words, secrets=[ADMIN]).decode())
    # A name that looks like an option, in the directory that the command runs in.
    words = ["verify", "--", "k", file.name, signature.name]
    assert re.fullmatch(verdict, done(running, *words, secrets=["k-pw"], cwd=tmp_path).decode())
    text, signed = tmp_path / "text", tmp_path / "signed"
    text.write_text("- a line\nFrom here\n\n")
    done(running, "sign-text", "-o", str(signed), "k", str(text), secrets=["k-pw"])
    said = done(running, "verify", "k", str(signed), secrets=["k-pw"])
    assert re.fullmatch(verdict, said.decode())


def test_bad_signatures(running: Site, tmp_path: Path) -> None:
    file, other = files(tmp_path, 3)[1:]
    signature = sign(running, file)

    def verdict(*words: Path | str) -> str:
        return failure(running, "verify", "k", *map(str, words), secrets=["k-pw"])

    assert verdict(other, signature).startswith("the signature is not of this file")
    theirs = sign(running, other, key="other")
    assert verdict(other, theirs) == "the signature is another key's"
    junk = tmp_path / "junk"
    for content in (b"", b"junk", signature.read_bytes()[:-5]):
        junk.write_bytes(content)
        assert verdict(file, junk) == "there is no signature that gpg can read"
    assert "no clear-signed text; name its SIGNATURE" in verdict(file)
    # Ours beside another's is good, whatever the other is worth.
    both = tmp_path / "both"
    both.write_bytes(sign(running, file, key="other").read_bytes())
    with both.open("ab") as stream:
        stream.write(sign(running, file).read_bytes())
    done(running, "verify", "k", str(file), str(both), secrets=["k-pw"])


def test_clear_signed_text_that_is_not_all_signed(running: Site, tmp_path: Path) -> None:
    text, signed = tmp_path / "text", tmp_path / "signed"
    text.write_text("a line\n")
    done(running, "sign-text", "-o", str(signed), "k", str(text), secrets=["k-pw"])
    whole = signed.read_bytes()
    words = ["verify", "k", str(signed)]
    for content in (b"before\n" + whole, whole + b"behind\n", whole + whole):
        signed.write_bytes(content)
        assert "holds more than one" in failure(running, *words, secrets=["k-pw"])
    signed.write_bytes(whole.replace(b"a line", b"another"))
    line = failure(running, *words, secrets=["k-pw"])
    assert line.startswith("the signature is not of this file")


def test_rights_and_files_come_first(running: Site, tmp_path: Path) -> None:
    (file,) = files(tmp_path, 1)
    words = ["verify", "k", str(file), str(file)]
    refused(running, AUTHENTICATION, *words, secrets=["wrong"])
    words = ["verify", "k", str(file), str(tmp_path / "none")]
    assert "cannot be read: No such file" in failure(running, *words)
    words = ["verify", "ecc", str(file), str(file)]
    line = failure(running, *words, secrets=["ecc-pw"])
    assert line.startswith("only signatures of gnupg keys can be verified")
    assert "required: FILE" in misused(running, "verify", "k")
