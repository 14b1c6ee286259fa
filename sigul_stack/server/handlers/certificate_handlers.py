"""X.509 certificates of this server's ECC and RSA keys, and what these sign: PE images."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from ...database import Key, KeyType
from ...errors import KeystoreError, RequestRefused, Status, quoted, shortened
from ...keystore.store import shown
from ...secret import Secret
from ...signing import pe, x509
from ...signing.osslsigncode import sign_on_token
from ...signing.signers import open_signer
from ..phases import Phase
from ..request import Answer
from ..services import RequestContext
from ..spool import STEP_BYTES
from .administration_handlers import names_answer


def _subject_key(context: RequestContext) -> Key:
    """The key that gets a certificate. Raises `RequestRefused`: not found, unsupported keytype.

    That tells of it: where that takes an access to it (`require-subject-key-access`), the rights
    are checked before.
    """
    name = context.request.text("subject-key")
    if (granted := context.granted.further.get("subject-key")) is not None:
        key: Key | None = granted.key
    elif name == context.request.text("issuer-key"):
        key = context.opened().key
    else:
        with context.services.database.read() as reader:
            key = reader.key(name)
    if key is None:
        raise RequestRefused(Status.KEY_NOT_FOUND, f"there is no subject key {quoted(name, 60)}")
    if key.keytype not in context.request.operation.key_types:
        raise RequestRefused(
            Status.UNSUPPORTED_KEYTYPE,
            f"the subject key {quoted(name, 60)} is a {shortened(shown(key.keytype), 60)} key",
        )
    return key


def _named_certificate(context: RequestContext, key: Key, name: str) -> bytes:
    """The certificate `name` of `key`, PEM. Raises `RequestRefused`, with a message, if none."""
    store = context.services.keystore.pem
    names = store.certificates(key.fingerprint)
    if name not in names:
        there = ", ".join(sorted(names)) or "none; make one with sign-certificate"
        raise RequestRefused(
            Status.UNKNOWN_ERROR,
            f"key {quoted(key.name, 60)} has no certificate named {quoted(name, 60)} (it"
            f" has: {shortened(there, 60)})",
        )
    return store.certificate(key.fingerprint, name)


def _sign_certificate(context: RequestContext) -> Answer:
    issuer, passphrase = context.opened_key()
    subject = _subject_key(context)
    request, store = context.request, context.services.keystore.pem
    name = request.text("subject-certificate-name")
    if name in store.certificates(subject.fingerprint):
        # Looked at again, under a lock, when it is stored.
        raise RequestRefused(
            Status.ALREADY_EXISTS,
            f"key {quoted(subject.name, 60)} has a certificate named"
            f" {quoted(name, 60)}; choose another name",
        )
    issuer_name = request.optional_text("issuer-certificate-name")
    issued_by = None if issuer_name is None else _named_certificate(context, issuer, issuer_name)
    with context.phases.measured(Phase.UNLOCK):
        issuer_key = open_signer(context.services.keystore, issuer, passphrase)
    with context.phases.measured(Phase.SIGN):
        certificate = x509.issue(
            store.public(subject.fingerprint),
            issuer_key,
            issued_by,
            subject=request.text("subject"),
            kind=x509.CertificateType(request.text("certificate-type")),
            years=int(request.text("validity")[:-1]),
            now=datetime.datetime.now(datetime.UTC),
        )

    def log_first() -> None:
        context.require_still()
        context.log_done(certificate)

    with context.phases.measured(Phase.STORE):
        store.add_certificate(subject.fingerprint, name, certificate, log_first)
    for warning in () if issued_by is None else x509.remarks_on_issued(certificate, issued_by):
        context.notes.warn(warning)
    return Answer(payload=certificate)


@dataclass(frozen=True, slots=True)
class _PESigner:
    """A key that signs images, its certificate, and others that may be of the issuers (PEM).

    `sign` makes the signed image, with a chain of certificates (PEM).
    """

    sign: Callable[[bytes], BinaryIO]
    certificate: bytes
    further: Sequence[bytes] = ()


def _signer_in_store(context: RequestContext, key: Key, passphrase: Secret) -> _PESigner:
    certificate = _named_certificate(context, key, context.request.text("cert-name"))
    with context.phases.measured(Phase.UNLOCK):
        signer = open_signer(context.services.keystore, key, passphrase)

    def sign(chain: bytes) -> BinaryIO:
        signed = context.services.scratch()
        try:
            pe.sign_image(
                signer,
                chain,
                context.request.payload.file,
                signed,
                now=datetime.datetime.now(datetime.UTC),
                before_use=context.require_still,
            )
        except BaseException:
            signed.close()
            raise
        return signed

    return _PESigner(sign, certificate)


def _signer_on_token(context: RequestContext, key: Key, pin: Secret) -> _PESigner:
    """The key that the URI means and that has the certificate. Raises `RequestRefused`."""
    settings, label = context.services.settings, context.request.text("cert-name")
    try:
        keys = context.services.keystore.tokens.find(key.fingerprint, pin)
        found = [
            (token_key, certificate)
            for token_key in keys
            for name, certificate in token_key.certificates
            if name == label
        ]
        references = [token_key.reference() for token_key, _ in found]
    except KeystoreError as error:
        raise RequestRefused.because(error) from None
    if len(found) != 1:
        there = sorted({name for token_key in keys for name, _ in token_key.certificates})
        raise RequestRefused(
            Status.UNKNOWN_ERROR,
            f"key {quoted(key.name, 60)} has {shortened(str(len(found) or 'no'), 10)} certificates"
            f" labelled {quoted(label, 60)} on its token (labels:"
            f" {shortened(', '.join(there) or 'none', 60)})",
        )

    def sign(chain: bytes) -> BinaryIO:
        context.require_still()
        _take_room(context)
        return sign_on_token(
            references[0],
            pin,
            chain,
            context.request.payload.file,
            hidden=(
                *(settings.gnupg_home, settings.keys_storage, settings.nss.path),
                settings.signing_log_directory,
                *(() if settings.database_url is not None else (settings.database_path,)),
            ),
            directory=settings.spool_directory,
            time_limit=settings.signing_timeout,
        )

    return _PESigner(sign, found[0][1], [other for one in keys for _, other in one.certificates])


#: How an image is signed with a key of each type that can.
_PE_SIGNERS: Mapping[str, Callable[[RequestContext, Key, Secret], _PESigner]] = {
    KeyType.ECC: _signer_in_store,
    KeyType.RSA: _signer_in_store,
    KeyType.PKCS11: _signer_on_token,
}


def _sign_pe(context: RequestContext) -> Answer:
    key, passphrase = context.opened_key()
    signer = _PE_SIGNERS[key.keytype](context, key, passphrase)
    issuers = [*signer.further, *context.services.keystore.pem.all_certificates()]
    now = datetime.datetime.now(datetime.UTC)
    chain = x509.chain_of(signer.certificate, issuers, now)
    for warning in x509.remarks_on_code_signing(chain, now):
        context.notes.warn(warning)
    with context.phases.measured(Phase.SIGN):
        image = signer.sign(chain)
    context.decision.made.signed = pe.signed_digest(image).hex()
    return Answer(payload=image)


def _take_room(context: RequestContext) -> None:
    """Take room in the spool for a signed image, whose file osslsigncode makes by itself.

    It is given back with the process. Raises `RequestRefused`.
    """
    size = context.request.payload.length + pe.MAX_SIGNATURE_BYTES
    if size > pe.MAX_SIGNATURE_BYTES + STEP_BYTES:
        with context.services.scratch() as beside:
            context.services.account.take(size, beside.fileno())


def _list_certificates(context: RequestContext) -> Answer:
    fingerprint, store = context.key().fingerprint, context.services.keystore.pem
    return names_answer(
        "num-certificates",
        (
            f"{name} ({x509.described(store.certificate(fingerprint, name))})"
            for name in sorted(store.certificates(fingerprint))
        ),
    )


def _delete_certificate(context: RequestContext) -> None:
    key, name = context.key(), context.request.text("cert-name")
    _named_certificate(context, key, name)
    store = context.services.keystore.pem
    with context.phases.measured(Phase.STORE):
        store.delete_certificate(key.fingerprint, name, context.require_still)
    context.stored = True


HANDLERS = {
    "sign-certificate": _sign_certificate,
    "list-certificates": _list_certificates,
    "delete-certificate": _delete_certificate,
    "sign-pe": _sign_pe,
}

#: An image is refused for what its headers say of places in it, and copied.
NEEDS_BYTES = frozenset({"sign-pe"})
