"""Keys in a GnuPG home, which its agent works with: the secret never comes here.

The agent is asked for each signature anew, with the passphrase (`keystore.gnupg.agent`).
"""

from __future__ import annotations

import functools
import threading
import time

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ...errors import KeystoreError
from ...formats.keygrip import SigningKey
from ...formats.openpgp_certificate import CannotSign, Certificate, Part, read_certificate
from ...formats.openpgp_hashes import NUMBERS
from ...formats.openpgp_packets import MalformedPacket
from ...formats.s_expression import MalformedExpression, numbers_in
from ...keystore.gnupg import GnuPG
from ...keystore.gnupg.agent import AgentFailure, SecretKeyDamaged
from ...keystore.gnupg.causes import agent_failure, cannot_use
from ...keystore.gnupg.output import CORRUPTED_PROTECTION_TEXT
from ...keystore.gnupg.public_key import NoPublicKey, has_secret, public_key
from ...keystore.store import KeyStore
from ...secret import Secret


class AgentSigner:
    """Signs with the secret of `part`, a key or subkey of `certificate`.

    `passphrase` opens it. Its keygrip is what the agent knows it by.
    """

    def __init__(self, home: GnuPG, certificate: bytes, part: Part, passphrase: Secret) -> None:
        assert part.public_key is not None  # noqa: S101 - else it does not sign
        self._home = home
        self._passphrase = passphrase
        self.certificate = certificate
        self.public_key: SigningKey = part.public_key
        self.algorithm = part.algorithm
        self.fingerprint = part.fingerprint
        self.keygrip = part.keygrip.hex().upper()

    def sign_digest(self, digest: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
        """See `Signer.sign_digest`. Raises `WrongPassphrase` besides."""
        # The agent has OpenPGP's numbers of hashes.
        number = NUMBERS[algorithm.name]
        try:
            with self._home.agent() as agent:
                answer = agent.sign(self.keygrip, self._passphrase, digest, number)
            return self._plain(numbers_in(answer))
        except SecretKeyDamaged:
            raise agent_failure(AgentFailure(CORRUPTED_PROTECTION_TEXT), "signing") from None
        except AgentFailure as error:
            raise agent_failure(error, "signing") from None
        except (MalformedExpression, KeyError, OverflowError) as error:
            raise KeystoreError(
                f"signing failed: gpg-agent's answer is no signature ({error})",
                "look for its messages",
            ) from None

    def _plain(self, numbers: dict[str, int]) -> bytes:
        """A signature of the agent's in the form of `Signer`. Raises KeyError, OverflowError."""
        match self.public_key:
            case rsa.RSAPublicKey() as key:
                return numbers["s"].to_bytes((key.key_size + 7) // 8, "big")
            case dsa.DSAPublicKey() | ec.EllipticCurvePublicKey():
                return encode_dss_signature(numbers["r"], numbers["s"])
            case ed25519.Ed25519PublicKey():
                return b"".join(numbers[name].to_bytes(32, "big") for name in "rs")


#: One thread at a time asks a certificate, which notes in itself what it has found.
_JUDGING = threading.Lock()


@functools.lru_cache(maxsize=8)
def _certificate(packets: bytes) -> Certificate:
    """The key in `packets`: of a batch each signature has the same, whose proofs are kept."""
    return read_certificate(packets)


def open_in_home(home: GnuPG, fingerprint: str, passphrase: Secret) -> AgentSigner:
    """The part of the key `fingerprint` of a GnuPG home that signs now.

    Raises `KeystoreError`, with the reason where none does.
    """
    try:
        packets = public_key(home, fingerprint)
        certificate = _certificate(packets)
        with _JUDGING:
            part = certificate.signing_part(
                time.time(), lambda part: has_secret(home, part.keygrip)
            )
        return AgentSigner(home, packets, part, passphrase)
    except (CannotSign, MalformedPacket, NoPublicKey):
        raise cannot_use(home, fingerprint, "signing") from None
    except OSError as error:
        raise KeystoreError(
            f"signing failed: the GnuPG home cannot be read ({error.strerror})",
            "see that it belongs to the server's user",
        ) from None


def open_gnupg(store: KeyStore, fingerprint: str, passphrase: Secret) -> AgentSigner:
    """A key of the store's GnuPG home, as `open_in_home`."""
    return open_in_home(store.gnupg, fingerprint, passphrase)
