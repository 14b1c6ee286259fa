"""`sign-container`: signatures that skopeo takes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.site import Site
from tests.unit.test_container_manifest import IMPOSSIBLE, POSSIBLE, schema_1

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


def verify(gpg: Gpg, manifest: Path, reference: str, signature: Path, *, code: int = 0) -> bytes:
    """What `skopeo standalone-verify` says of a signature by `k`."""
    # skopeo of Debian 12 wants the fingerprint of the part that signed: the subkey, as for all
    # kinds of signatures here (and in Sigul 1.2).
    parts = [line[9] for line in gpg.listed("k") if line[0] == "fpr"]
    assert len(parts) == 2
    return program(
        "skopeo", "standalone-verify", manifest, reference, parts[-1], signature, code=code,
        environment={"GNUPGHOME": str(gpg.home)},
    ).stdout  # fmt: skip


def test_skopeo_takes_it(running: Site, gpg: Gpg, manifest: Path, tmp_path: Path) -> None:
    signature = tmp_path / "signature"
    before = int(time.time())
    done(
        running, "sign-container", "k", str(manifest), REFERENCE, "-o", str(signature),
        secrets=["k-pw"],
    )  # fmt: skip
    digest = program("skopeo", "manifest-digest", manifest).stdout.decode().strip()
    assert digest in verify(gpg, manifest, REFERENCE, signature).decode()
    verify(gpg, manifest, "registry.example.org/lab/other:1.0", signature, code=1)
    changed = tmp_path / "changed"
    changed.write_bytes(manifest.read_bytes() + b"\n")
    verify(gpg, changed, REFERENCE, signature, code=1)
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
    verify(gpg, manifest, REFERENCE, signature)


def test_a_large_manifest(running: Site, gpg: Gpg, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b'{"schemaVersion": 2, "config": {}, "x": "%b"}' % (b"x" * (3 << 20)))
    signed = done(running, "sign-container", "k", str(path), REFERENCE, secrets=["k-pw"])
    claim = json.loads(gpg("--decrypt", data=signed))["critical"]
    wanted = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert claim["image"] == {"docker-manifest-digest": wanted}


#: By its name: a manifest that is signed, and what is warned of.
MANIFESTS = {
    "schema 1 with signatures": (schema_1(), ""),
    "schema 1": (b'{"schemaVersion": 1, "name": "app", "fsLayers": []}', ""),
    "an index": (b'{"schemaVersion": 2, "manifests": []}', "this is an index of images"),
    "another kind": (b'{"schemaVersion": 2, "mediaType": "x/y"}', "podman or skopeo knows"),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_the_digest_is_skopeos(running: Site, gpg: Gpg, tmp_path: Path, kind: str) -> None:
    content, warning = MANIFESTS[kind]
    manifest, signature = tmp_path / "manifest", tmp_path / "signature"
    manifest.write_bytes(content)
    result = running.sigul(
        "sign-container", "k", str(manifest), REFERENCE, "-o", str(signature), secrets=["k-pw"]
    )
    lines = result.stderr.decode().splitlines()
    assert len(lines) == bool(warning)
    assert all(line.startswith("WARNING: ") and warning in line for line in lines), lines
    verify(gpg, manifest, REFERENCE, signature)
    digest = program("skopeo", "manifest-digest", manifest).stdout.decode().strip()
    claim = json.loads(gpg("--decrypt", str(signature)))["critical"]
    assert claim["image"] == {"docker-manifest-digest": digest}


def test_a_bare_name_is_signed_with_a_warning(
    running: Site, gpg: Gpg, manifest: Path, tmp_path: Path
) -> None:
    signature = tmp_path / "signature"
    result = running.sigul(
        "sign-container", "k", str(manifest), "1.0", "-o", str(signature), secrets=["k-pw"]
    )
    first, second = result.stderr.decode().splitlines()
    assert "'1.0' names no registry: to podman and skopeo it is 'docker.io/library/1.0'" in first
    assert "'1.0' has no tag" in second
    verify(gpg, manifest, "1.0", signature)


def test_skopeo_takes_the_same_references(gpg: Gpg, manifest: Path, tmp_path: Path) -> None:
    """Of each kind a few: it takes two runs of skopeo for each, which are slow."""
    signature, environment = tmp_path / "signature", {"GNUPGHOME": str(gpg.home)}
    own = gpg.make_key("refs", "")
    for reference in POSSIBLE[::5] + IMPOSSIBLE[1::4]:
        program(
            "skopeo", "standalone-sign", "-o", signature, "--", manifest, reference, own,
            environment=environment,
        )  # fmt: skip
        program(
            "skopeo", "standalone-verify", "--", manifest, reference, own, signature,
            code=reference not in POSSIBLE, environment=environment,
        )  # fmt: skip


def test_what_no_consumer_takes_is_refused(
    running: Site, gpg: Gpg, manifest: Path, tmp_path: Path
) -> None:
    """By the client, which has not asked for a secret where the name is at fault.

    The server refuses it, too: tests/integration/test_openpgp_signing.py.
    """
    # An impossible reference, which skopeo signs and does not verify.
    result = running.sigul("sign-container", "k", str(manifest), "a b", stdin=b"", code=1)
    assert b"Error: 'a b' cannot be the name of an image; write it like" in result.stderr
    signature = tmp_path / "signature"
    environment = {"GNUPGHOME": str(gpg.home)}
    own = gpg.make_key("own", "")
    program(
        "skopeo", "standalone-sign", manifest, "a b", own, "-o", signature, environment=environment
    )
    program(
        "skopeo", "standalone-verify", manifest, "a b", own, signature, code=1,
        environment=environment,
    )  # fmt: skip
    text = tmp_path / "text"
    text.write_text("hello\n")
    line = failure(running, "sign-container", "k", str(text), REFERENCE, secrets=["k-pw"])
    assert line.startswith("this is no manifest of a container image: it is not JSON; skopeo")


def test_refused(running: Site, manifest: Path) -> None:
    arguments = (str(manifest), REFERENCE)
    refused(
        running, "Unsupported keytype for operation", "sign-container", "rsa", *arguments,
        secrets=["rsa-pw"],
    )  # fmt: skip
    refused(running, "Authentication failed", "sign-container", "k", *arguments, secrets=["rsa-pw"])
    line = failure(running, "sign-container", "k", "/nowhere", REFERENCE, secrets=["k-pw"])
    assert line.startswith("'/nowhere' cannot be read")
