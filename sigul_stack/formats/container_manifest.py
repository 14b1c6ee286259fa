"""Manifests of container images, and the names that images have: as their consumers read them.

Consumers are those that verify "simple signing": podman, skopeo, CRI-O (containers/image). To them

* a manifest is JSON of at most 4 MiB. Its digest is the SHA-256 of its bytes; but of Docker's
  schema 1 with signatures in it, it is that of the bytes which those are over: the first
  `formatLength` of them and then `formatTail`, as each one's `protected` says (docker/libtrust);
* a reference is what github.com/distribution/reference parses. One without a registry stands for an
  image at docker.io.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Final

from ..errors import ProtocolError, quoted

#: The largest manifest that consumers take, in bytes.
MAX_MANIFEST: Final = 4 << 20

_IMAGES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
#: The members that decide what a manifest is; Go's JSON does not tell their upper case from lower.
_DECIDING: Final = frozenset({"schemaVersion", "mediaType", "signatures", "manifests"})

_COMPONENT: Final = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE: Final = re.compile(
    r"(?P<name>[^@]+?)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>[^@]+))?"
)
_LABEL: Final = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?")
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_DIGEST: Final = re.compile("sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")
_MAX_NAME: Final = 255
_DEFAULT_REGISTRY: Final = "docker.io"


class InvalidManifest(ProtocolError):
    """Bytes that no consumer takes for a manifest, or a name that none takes for an image's."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A manifest and a reference to be signed.

    `digested` are the bytes whose SHA-256 is the manifest's digest. `warnings` are for the person:
    why the signature will not do what signatures are mostly made for, each with a cure.
    """

    digested: bytes
    warnings: tuple[str, ...]


def read_claim(manifest: bytes, reference: str) -> Claim:
    """The claim to sign of an image's `manifest`, published as `reference`.

    Raises `InvalidManifest` where no consumer would take the signature.
    """
    warnings = check_reference(reference)
    content = _parse(manifest)
    kind, version = content.get("mediaType"), content.get("schemaVersion")
    if kind in _INDEXES or (kind is None and "manifests" in content):
        warnings += (
            "this is an index of images: who pulls one of them checks the signature of that"
            " image's own manifest; sign those, too",
        )
    elif kind not in _IMAGES and version == 1:
        if content.get("signatures") is not None:
            payload = _schema_1_payload(manifest, content["signatures"])
            return _claim(payload, reference, warnings)
    elif kind not in _IMAGES and not (kind is None and "config" in content):
        warnings += ("this is no manifest of an image that podman or skopeo knows; is it one?",)
    return _claim(manifest, reference, warnings)


def _claim(digested: bytes, reference: str, warnings: tuple[str, ...]) -> Claim:
    """The claim, with a warning where `reference` names another digest than that of `digested`."""
    algorithm, _, digest = reference.partition("@")[2].partition(":")
    if digest and hashlib.new(algorithm, digested).hexdigest() != digest:
        warnings += (
            "the reference names another digest than this manifest has: that is right for an image"
            " of an index that is pulled by the index's digest, and else a mistake",
        )
    return Claim(digested, warnings)


def check_reference(reference: str) -> tuple[str, ...]:
    """Warnings about a `reference`. Raises `InvalidManifest` where it can be no image's."""
    found = _REFERENCE.fullmatch(reference)
    name = found["name"] if found else ""
    host, slash, path = name.partition("/")
    has_registry = bool(slash) and (re.search(r"[.:]", host) or host == "localhost")
    if not has_registry:
        # What Docker makes of it.
        host, path = _DEFAULT_REGISTRY, name if slash else f"library/{name}"
    if (
        not found
        or not _REGISTRY.fullmatch(host)
        or not _PATH.fullmatch(path)
        or len(f"{host}/{path}") > _MAX_NAME
        or (found["digest"] and not _DIGEST.fullmatch(found["digest"]))
        or re.fullmatch("[0-9a-f]{64}", reference)
    ):
        raise InvalidManifest(
            f"{quoted(reference, 60)} cannot be the name of an image",
            "write it like registry.example.org/path/image:tag, the path in lower case",
        )
    warnings = []
    if not has_registry:
        warnings.append(
            f"{quoted(reference, 60)} names no registry: to podman and skopeo it is"
            f" {quoted(f'{host}/{path}', 80)}; name the registry that the image is pulled from"
        )
    if host.startswith("["):
        warnings.append(
            f"{quoted(host, 60)} is an IPv6 address, which older podman and skopeo (Debian 12's)"
            " take in no name of an image; give the registry a host name"
        )
    if not found["tag"] and not found["digest"]:
        warnings.append(
            f"{quoted(reference, 60)} has no tag: only a policy with matchRepository accepts that;"
            " name the tag as well"
        )
    return tuple(warnings)


def _parse(manifest: bytes) -> dict[str, object]:
    if len(manifest) > MAX_MANIFEST:
        raise _no_manifest(f"it has more than {MAX_MANIFEST >> 20} MiB")
    try:
        content = json.loads(manifest.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise _no_manifest("it is not JSON") from None
    if not isinstance(content, dict):
        raise _no_manifest("it is JSON of another kind")
    deciding = {name.casefold() for name in _DECIDING}
    if any(name.casefold() in deciding and name not in _DECIDING for name in content):
        raise _no_manifest("it has a member in wrong case")
    version, kind = content.get("schemaVersion"), content.get("mediaType")
    if not isinstance(kind, str | None):
        raise _no_manifest("its mediaType is no text")
    # A bool is an int, too.
    if (type(version) is not int or version not in (1, 2)) and (version is not None or not kind):
        raise _no_manifest("its schemaVersion is not 1 or 2")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _schema_1_payload(manifest: bytes, signatures: object) -> bytes:
    """The bytes that the `signatures` in a manifest of schema 1 are over."""
    try:
        if not isinstance(signatures, list) or not signatures:
            raise ValueError
        payloads = set()
        for signature in signatures:
            protected = json.loads(_unbased(signature["protected"]))
            length, tail = protected["formatLength"], _unbased(protected["formatTail"])
            if type(length) is not int or not 0 < length <= len(manifest):
                raise ValueError
            payloads.add(manifest[:length] + tail)
        (payload,) = payloads
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _no_manifest("its signatures of schema 1 are damaged") from None
    return payload


def _unbased(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError from None


def _no_manifest(why: str) -> InvalidManifest:
    return InvalidManifest(
        f"this is no manifest of a container image: {why}",
        "skopeo inspect --raw docker://IMAGE prints one",
    )
