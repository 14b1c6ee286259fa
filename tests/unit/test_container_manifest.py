"""Manifests and names of container images: what is taken, warned of and refused.

tests/integration/test_sign_container.py compares with skopeo.
"""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigul_stack.formats.container_manifest import (
    MAX_MANIFEST,
    InvalidManifest,
    check_reference,
    read_claim,
)

REFERENCE = "registry.example.org/lab/image:1.0"
DIGEST = f"sha256:{'0' * 64}"

#: References that skopeo takes.
POSSIBLE = [
    REFERENCE, "registry.example.org/lab/image", "app:1", "latest", "1.0", "REG.example.org/lab:1",
    "reg:5000/a:1", "localhost/a:1", f"x@{DIGEST}", f"reg.example.org/a:1@{DIGEST}",
    f"reg.example.org/a:{'t' * 128}", f"reg.example.org/{'a' * 239}:1", "a.b/a_b-c__d.e:1",
    "docker.io/app:1", "reg:99999999/a:1", "a/b:c", "a.b/c@sha512:" + "0" * 128, "a.b:5",
    "a---b/c:1",
]  # fmt: skip
#: Those that it does not.
IMPOSSIBLE = [
    "", ":1.0", 'a"b\\c', "Upper/case:1", "a.b/Lab/image:1", "a b", "docker://reg/a:1",
    f"a.b/a:{'t' * 129}", f"reg.example.org/{'a' * 240}:1", "0" * 64, "a.b/a//b:1", "a.b/a___b:1",
    "a.b/a:1\n", "http://reg/a", "a.b/a@sha256:00", "réf/a:1", "a.b/a:1 ", "a.b/a:", "a.b/a@",
    f"a.b/a@md5:{'0' * 32}", f"a.b/a@sha256:{'A' * 64}", "a.b/", "/a", "-a.b/c:1", "a..b/c:1",
    "a.b/c:.x", "a.b/c:x:y", f"a.b/c@{DIGEST}@{DIGEST}", "a.b/\u212a:1", "a.b/c:\u0663",
]  # fmt: skip


def schema_1(**protected: object) -> bytes:
    """A manifest of schema 1 with a signature in it, as docker/libtrust writes them."""
    from base64 import urlsafe_b64encode

    unsigned = json.dumps({"schemaVersion": 1, "name": "app", "tag": "1", "fsLayers": []}, indent=3)
    tail = urlsafe_b64encode(b"\n}").decode().rstrip("=")
    said = {"formatLength": len(unsigned) - 2, "formatTail": tail, **protected}
    one = {"header": {"alg": "ES256"}, "signature": "AAAA"}
    one["protected"] = urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")
    return f'{unsigned[:-2]},\n   "signatures": [{json.dumps(one)}]\n}}'.encode()


@pytest.mark.parametrize("reference", POSSIBLE)
def test_possible_references(reference: str) -> None:
    check_reference(reference)


@pytest.mark.parametrize("reference", IMPOSSIBLE)
def test_impossible_references(reference: str) -> None:
    with pytest.raises(InvalidManifest, match="cannot be the name of an image") as caught:
        check_reference(reference)
    assert caught.value.cure.startswith("write it like registry.example.org/")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (REFERENCE, []),
        (f"a.b/c@{DIGEST}", []),
        ("localhost/a:1", []),
        ("app:1", ["names no registry: to podman and skopeo it is 'docker.io/library/app'"]),
        ("lab/app:1", ["it is 'docker.io/lab/app'"]),
        ("a.b/c", ["has no tag"]),
        ("1.0", ["it is 'docker.io/library/1.0'", "has no tag"]),
        ("[::1]:5000/a:1", ["'[::1]:5000' is an IPv6 address, which older podman and skopeo"]),
    ],
)
def test_warnings_of_references(reference: str, words: list[str]) -> None:
    warnings = check_reference(reference)
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


def test_a_reference_with_the_digest_of_another_manifest() -> None:
    data = b'{"schemaVersion": 2, "config": {}}'
    for name in ("sha256", "sha384", "sha512"):
        right = hashlib.new(name, data).hexdigest()
        assert read_claim(data, f"a.b/c@{name}:{right}").warnings == ()
        (warning,) = read_claim(data, f"a.b/c:1@{name}:{right[::-1]}").warnings
        assert warning.startswith("the reference names another digest than this manifest has")


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        ({"schemaVersion": 2, "config": {}, "layers": []}, ""),
        (
            {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"},
            "",
        ),
        ({"schemaVersion": 1, "name": "app", "fsLayers": []}, ""),
        ({"schemaVersion": 2, "manifests": []}, "an index of images"),
        (
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
            },
            "an index of images",
        ),
        ({"mediaType": "application/vnd.oci.artifact.manifest.v1+json"}, "podman or skopeo knows"),
        ({"schemaVersion": 2}, "podman or skopeo knows"),
    ],
)
def test_kinds_of_manifests(content: dict[str, object], warning: str) -> None:
    data = json.dumps(content).encode()
    claim = read_claim(data, REFERENCE)
    assert claim.digested == data
    assert [warning in each for each in claim.warnings] == [True] * bool(warning)


def test_schema_1_is_what_its_signatures_are_over() -> None:
    unsigned = json.dumps({"schemaVersion": 1, "name": "app", "tag": "1", "fsLayers": []}, indent=3)
    assert read_claim(schema_1(), REFERENCE).digested == unsigned.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"hello\n", b"[]", b"{}", b'"text"', b"\xef\xbb\xbf{}", b"\xff", b"[" * 100_000,
        b'{"schemaVersion": 3}', b'{"schemaVersion": true}', b'{"schemaVersion": "2"}',
        b'{"schemaVersion": 2.0}', b'{"schemaVersion": NaN}', b'{"SchemaVersion": 2}',
        '{"\u017fchemaVersion": 1, "schemaVersion": 2}'.encode(),
        b'{"mediaType": 5}', b'{"schemaVersion": 2, "mediaType": {}}',
        b'{"schemaVersion": 1, "signatures": []}', b'{"schemaVersion": 1, "signatures": {}}',
        b'{"schemaVersion": 1, "signatures": [{"protected": "!"}]}',
        b'{"schemaVersion": 1, "signatures": [5]}', b'{"schemaVersion": 1, "signatures": ["a"]}',
        schema_1(formatLength=10**9), schema_1(formatLength="1"), schema_1(formatTail=None),
        b'{"schemaVersion": 2, "config": {}}'.ljust(MAX_MANIFEST + 1),
    ],
)  # fmt: skip
def test_no_manifests(data: bytes) -> None:
    with pytest.raises(InvalidManifest, match="this is no manifest of a container image: it"):
        read_claim(data, REFERENCE)


@settings(max_examples=50)
@given(st.binary(max_size=200), st.text("aB1.:/@-_é ", max_size=30))
def test_whatever_comes_is_read_or_refused(manifest: bytes, reference: str) -> None:
    for data in (manifest, schema_1()[: len(manifest)] + manifest):
        try:
            read_claim(data, reference)
        except InvalidManifest as error:
            assert len(str(error).encode()) < 255
