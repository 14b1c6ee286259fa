"""Chains of certificates: who issued, by the signature, and whom nobody can push aside."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sigul_stack.errors import KeystoreError, RequestRefused
from sigul_stack.signing.signers.pem import PemSigner
from sigul_stack.signing.x509 import CertificateType, chain_of, described, issue

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
CA = CertificateType.CA
ROOT, BETWEEN, LEAF, EVIL = (ec.generate_private_key(ec.SECP256R1()) for _ in range(4))


def certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: ec.EllipticCurvePrivateKey,
    issued_by: bytes | None,
    *,
    kind: CertificateType = CA,
    day: int = 0,
    years: int = 1,
) -> bytes:
    """A certificate that is valid from that day after `NOW` on."""
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return issue(
        public, PemSigner(issuer), issued_by, subject=f"CN={subject}", kind=kind, years=years,
        now=NOW + datetime.timedelta(days=day),
    )  # fmt: skip


ROOT_CA = certificate("Root", ROOT, ROOT, None)
BETWEEN_CA = certificate("Between", BETWEEN, ROOT, ROOT_CA)
LEAF_OWN = certificate("Leaf", LEAF, BETWEEN, BETWEEN_CA, kind=CertificateType.CODE_SIGNING, day=2)
EVIL_CA = certificate("Evil", EVIL, EVIL, None)


def chain(leaf: bytes, *others: bytes, day: int = 10) -> list[bytes]:
    """The certificates of a chain."""
    found = chain_of(leaf, others, NOW + datetime.timedelta(days=day))
    end = b"-----END CERTIFICATE-----\n"
    return [part + end for part in found.split(end) if part]


def test_issuers_up_to_the_root_without_it() -> None:
    assert chain(LEAF_OWN, ROOT_CA, LEAF_OWN, EVIL_CA, BETWEEN_CA) == [LEAF_OWN, BETWEEN_CA]
    assert chain(LEAF_OWN) == [LEAF_OWN]
    assert chain(ROOT_CA, ROOT_CA) == [ROOT_CA]


def test_an_issuer_that_is_not_valid_issues_nothing() -> None:
    with pytest.raises(RequestRefused, match="the issuer certificate expired on 2031-01-01"):
        certificate("Leaf", LEAF, BETWEEN, BETWEEN_CA, day=400)
    with pytest.raises(RequestRefused, match="not valid before 2030-01-01 00:00:00 UTC, and this"):
        certificate("Leaf", LEAF, BETWEEN, BETWEEN_CA, day=-1)


@pytest.mark.parametrize("first", [True, False])
def test_an_equal_name_for_the_same_key_takes_no_place(first: bool) -> None:
    # What is added to the issuer's key by somebody who may only write certificates there.
    pushed = certificate("Between", BETWEEN, EVIL, EVIL_CA, day=1)
    others = [pushed, BETWEEN_CA] if first else [BETWEEN_CA, pushed]
    assert chain(LEAF_OWN, *others, ROOT_CA, EVIL_CA) == [LEAF_OWN, BETWEEN_CA]
    # A root is as good as ever, too.
    pushed = certificate("Root", ROOT, EVIL, EVIL_CA, day=1)
    assert chain(LEAF_OWN, pushed, BETWEEN_CA, ROOT_CA, EVIL_CA) == [LEAF_OWN, BETWEEN_CA]


def test_of_two_of_one_second_the_first_that_is_given_has_its_place() -> None:
    pushed = [certificate("Between", BETWEEN, EVIL, EVIL_CA) for _ in range(4)]
    assert chain(LEAF_OWN, BETWEEN_CA, *pushed, ROOT_CA, EVIL_CA) == [LEAF_OWN, BETWEEN_CA]


def test_an_equal_name_of_another_key_is_no_issuer() -> None:
    assert chain(LEAF_OWN, certificate("Between", EVIL, EVIL, EVIL_CA)) == [LEAF_OWN]


def test_only_a_ca_is_an_issuer() -> None:
    server = certificate("Between", BETWEEN, ROOT, ROOT_CA, kind=CertificateType.SSL_SERVER)
    assert chain(LEAF_OWN, server) == [LEAF_OWN]
    assert chain(LEAF_OWN, server, BETWEEN_CA) == [LEAF_OWN, BETWEEN_CA]


def test_one_that_has_expired_gives_way_to_its_renewal() -> None:
    renewed = certificate("Between", BETWEEN, ROOT, ROOT_CA, day=300, years=3)
    assert chain(LEAF_OWN, renewed, BETWEEN_CA, day=301) == [LEAF_OWN, BETWEEN_CA]
    assert chain(LEAF_OWN, renewed, BETWEEN_CA, day=400) == [LEAF_OWN, renewed]


def test_circles_and_long_chains_end() -> None:
    # Each of two keys has a certificate by the other.
    one = certificate("A", ROOT, BETWEEN, certificate("B", BETWEEN, BETWEEN, None))
    two = certificate("B", BETWEEN, ROOT, one)
    assert chain(one, two, one) == [one, two]
    links = [certificate("0", ROOT, ROOT, None)]
    for number in range(1, 12):
        links.append(certificate(str(number), ROOT, ROOT, links[-1]))
    assert len(chain(links[-1], *links)) == 9


def test_a_damaged_certificate_is_its_own_keys_matter() -> None:
    assert chain(LEAF_OWN, b"damaged", BETWEEN_CA) == [LEAF_OWN, BETWEEN_CA]
    with pytest.raises(KeystoreError, match="damaged"):
        chain(b"damaged", BETWEEN_CA)


def test_what_a_list_says_of_one() -> None:
    assert described(BETWEEN_CA) == "CA, subject CN=Between, issuer CN=Root, until 2031-01-01"
    assert described(LEAF_OWN) == "subject CN=Leaf, issuer CN=Between, until 2031-01-03"
    assert x509.load_pem_x509_certificate(LEAF_OWN).issuer.rfc4514_string() == "CN=Between"
