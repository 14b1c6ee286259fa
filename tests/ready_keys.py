"""Keys for the tests' own process, without the time that making and exporting them takes.

Tests make some hundred certificates, and the key of a CA takes a third of a second. Here each RSA
key is another pair of prime numbers that were made before (tests/data/rsa-primes).

To take a key out of an NSS database costs a second of computing: pk12util protects what it writes
with 3 times 600,000 rounds. Here that is done once for each key; from then on certutil has to say
that a database has this key, and that the password opens it.

What other processes do they do by themselves, and so does a test with the fixture `made_keys`.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from sigul_stack.errors import SigulError
from sigul_stack.pki import NSSDatabase
from sigul_stack.pki.certificate_info import key_id
from sigul_stack.pki.nss_store import PrivateKey
from tests.held_data import held

_EXPONENT: Final = 65537
_make = rsa.generate_private_key
_export = NSSDatabase.export_key
#: Keys that NSS databases have given, by their id.
_exported: dict[str, PrivateKey] = {}


@functools.cache
def _pairs(bits: int) -> Iterator[tuple[int, ...]]:
    lines = held("rsa-primes", str(bits // 2)).read_text().split()
    return itertools.combinations([int(line, 16) for line in lines], 2)


def ready_key(public_exponent: int, key_size: int, backend: Any = None) -> rsa.RSAPrivateKey:
    """In place of `rsa.generate_private_key`: a key that this process has not had before."""
    if public_exponent != _EXPONENT or key_size not in (2048, 3072):
        return _make(public_exponent, key_size, backend)
    pair = next(_pairs(key_size), None)
    if pair is None:
        return _make(public_exponent, key_size, backend)
    p, q = pair
    d = pow(_EXPONENT, -1, (p - 1) * (q - 1))
    return rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q),
        rsa.RSAPublicNumbers(_EXPONENT, p * q),
    ).private_key(unsafe_skip_rsa_key_validation=True)  # fmt: skip


def exported_key(database: NSSDatabase, nickname: str) -> PrivateKey:
    """In place of `NSSDatabase.export_key`: the same key as before, if the database has it."""
    try:
        named = [item for item in database.certificates() if item.nickname == nickname]
    except SigulError:
        named = []
    # Without the password NSS does not tell which keys there are.
    if len(named) != 1 or not named[0].has_private_key or database.password is None:
        return _export(database, nickname)
    which = key_id(named[0].certificate)
    if which not in _exported:
        _exported[which] = _export(database, nickname)
    return _exported[which]


@pytest.fixture(scope="session", autouse=True)
def _ready_keys() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rsa, "generate_private_key", ready_key)
        patch.setattr(NSSDatabase, "export_key", exported_key)
        yield


@pytest.fixture
def made_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are made and exported as they are outside of tests."""
    monkeypatch.setattr(rsa, "generate_private_key", _make)
    monkeypatch.setattr(NSSDatabase, "export_key", _export)
