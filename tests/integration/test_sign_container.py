"""`sign-container`: signatures that skopeo takes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.site import Site

from .commands_support import Gpg, done, failure, person, refused
from .signing_support import program, public_key, site_with_keys

REFERENCE = "registry.example.org/lab/image:1.0"


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site with the gnupg key `k` and the RSA key `rsa`."""
    directory = tmp_path_factory.mktemp("containers")
    with site_with_keys(template, directory, k="gnupg", rsa="RSA") as site:
        yield site


@pytest.fixture(scope="module")
def gpg(running: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    """A person's GnuPG home, which has the public key `k`."""
    with person(tmp_path_factory.mktemp("gpg") / "person", public_key(running, "k")) as home:
        yield home


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A manifest of the Docker v2 schema 2."""
    blob = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 2}
    blob["digest"] = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
    path = tmp_path / "manifest.json"
    path.write_text(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "config": blob,
                "layers": [],
            },
            indent=3,
        )
    )
    return path


def test_skopeo_takes_it(running: Site, gpg: Gpg, manifest: Path, tmp_path: Path) -> None:
    signature = tmp_path / "signature"
    before = int(time.time())
    done(
        running, "sign-container", "k", str(manifest), REFERENCE, "-o", str(signature),
        secrets=["k-pw"],
    )  # fmt: skip
    # skopeo of Debian 12 wants the fingerprint of the part that signed: the subkey, as for all
    # kinds of signatures here (and in Sigul 1.2).
    parts = [line[9] for line in gpg.listed("k") if line[0] == "fpr"]
    fingerprint = parts[-1]
    assert len(parts) == 2

    def verify(manifest: Path, reference: str, *, code: int = 0) -> bytes:
        return program(
            "skopeo", "standalone-verify", manifest, reference, fingerprint, signature, code=code,
            environment={"GNUPGHOME": str(gpg.home)},
        ).stdout  # fmt: skip

    digest = program("skopeo", "manifest-digest", manifest).stdout.decode().strip()
    assert digest in verify(manifest, REFERENCE).decode()
    verify(manifest, "registry.example.org/lab/other:1.0", code=1)
    changed = tmp_path / "changed"
    changed.write_bytes(manifest.read_bytes() + b"\n")
    verify(changed, REFERENCE, code=1)
    claim = json.loads(gpg("--decrypt", str(signature)))
    timestamp = claim["optional"].pop("timestamp")
    assert before <= timestamp <= time.time()
    assert claim["optional"].pop("creator").startswith("sigul-stack ")
    assert claim == {
        "critical": {
            "type": "atomic container signature",
            "image": {"docker-manifest-digest": digest},
            "identity": {"docker-reference": REFERENCE},
        },
        "optional": {},
    }
    # Without -o the same kind of thing goes to standard output.
    signature.write_bytes(
        done(running, "sign-container", "k", str(manifest), REFERENCE, secrets=["k-pw"])
    )
    verify(manifest, REFERENCE)


def test_a_large_manifest_and_an_odd_reference(running: Site, gpg: Gpg, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * (3 << 20))
    reference = 'a"b\\c'
    signed = done(running, "sign-container", "k", str(path), reference, secrets=["k-pw"])
    claim = json.loads(gpg("--decrypt", data=signed))["critical"]
    assert claim["identity"] == {"docker-reference": reference}
    wanted = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert claim["image"] == {"docker-manifest-digest": wanted}


def test_refused(running: Site, manifest: Path) -> None:
    arguments = (str(manifest), REFERENCE)
    refused(
        running, "Unsupported keytype for operation", "sign-container", "rsa", *arguments,
        secrets=["rsa-pw"],
    )  # fmt: skip
    refused(running, "Authentication failed", "sign-container", "k", *arguments, secrets=["rsa-pw"])
    line = failure(running, "sign-container", "k", "/nowhere", REFERENCE, secrets=["k-pw"])
    assert line.startswith("'/nowhere' cannot be read")
