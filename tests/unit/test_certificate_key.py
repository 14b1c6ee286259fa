"""The key in a certificate, by which a server is told from a bridge that plays it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sigul_stack.errors import RemoteProtocolError, SigulError
from sigul_stack.transport.certificate_key import check_own_key, public_key
from sigul_stack.transport.stream import Peer
from tests.held_data import held
from tests.other_ca import Key, OtherCA, ec_key, rsa_key


def peer(certificate: x509.Certificate) -> Peer:
    return Peer("localhost", "", "192.0.2.1:1", certificate.public_bytes(Encoding.DER))


def test_it_is_found_in_certificates_of_all_kinds(tmp_path: Path) -> None:
    other = OtherCA.make(tmp_path)
    keys: list[Key] = [rsa_key(), ec_key()]
    made = [
        # A subject that is short, and one whose length takes two bytes; many names.
        *(other.leaf("x", common=name, key=key)[0] for name in ("a", "b" * 64) for key in keys),
        other.leaf("x", common="c", names=[f"n{number}" for number in range(200)])[0],
        other.root,
        # Without extensions, and so of version 1.
        *x509.load_pem_x509_certificates(held("legacy-site", "ca.pem").read_bytes()),
    ]
    for certificate in made:
        expected = certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        assert public_key(certificate.public_bytes(Encoding.DER)) == expected


def test_a_certificate_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    der = OtherCA.make(tmp_path).root.public_bytes(Encoding.DER)
    for length in range(len(der)):
        with pytest.raises(RemoteProtocolError, match="not in DER"):
            public_key(der[:length])
    for der in (b"", b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\xff" + bytes(200)):
        with pytest.raises(RemoteProtocolError):
            public_key(der)


def test_one_key_in_two_certificates_is_one(tmp_path: Path) -> None:
    other = OtherCA.make(tmp_path)
    bridge, key = other.leaf("bridge", common="localhost")
    renewed, _ = other.leaf("bridge", common="localhost", key=key, days=(-1, 30))
    server, _ = other.leaf("server", common="localhost")
    for same in (bridge, renewed):
        with pytest.raises(SigulError, match="No secret was told"):
            check_own_key(peer(same), peer(bridge))
    check_own_key(peer(server), peer(bridge))
