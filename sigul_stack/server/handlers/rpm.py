"""Signing RPM packages, one or many in a request."""

from __future__ import annotations

from typing import BinaryIO

from ...database import KeyType
from ...errors import ProtocolError, RequestRefused, Status
from ...protocol.codec import Fields
from ...protocol.messages import ChainKeys
from ...signing.ima import FileSigner
from ...signing.rpm import Expected, Signer
from ..batch import Batch, Subrequest
from ..request import Answer
from ..rights import authorise_further_key
from ..services import Work
from .signing import opened_key


def signer_of(work: Work) -> Signer:
    """The keys and options of a request to sign RPMs. Raises `RequestRefused`."""
    # Both rights first: what kind a key is of is told to its users only.
    file_signer = _file_signer(work)
    key, passphrase = opened_key(work)
    return Signer(
        work.services.keystore.gnupg,
        key.fingerprint,
        passphrase,
        file_signer,
        v3=bool(work.request.flag("v3-signature")),
        head_only=bool(work.request.flag("head-signing")),
    )


def _file_signer(work: Work) -> FileSigner | None:
    if "file-signing-key" not in work.request.fields:
        return None
    services = work.services
    key, passphrase = authorise_further_key(
        work.request,
        "file-signing-key",
        "file-signing-key-passphrase",
        services.database,
        services.registry,
    ).opened()
    if key.keytype == KeyType.GNUPG:
        raise RequestRefused(
            Status.UNSUPPORTED_KEYTYPE, "files are signed with an ECC or RSA key, not a gnupg one"
        )
    return FileSigner(services.keystore.pem.load(key.fingerprint, passphrase))


def expected(fields: Fields, *, authenticated: bool) -> Expected:
    """What the fields of a request or subrequest say of its RPM."""

    def text(name: str) -> str | None:
        return fields.safe_string(name) if name in fields else None

    return Expected(
        name=text("rpm-name"),
        epoch=text("rpm-epoch"),
        version=text("rpm-version"),
        release=text("rpm-release"),
        arch=text("rpm-arch"),
        sigmd5=fields.get("rpm-sigmd5"),
        authenticated=authenticated,
    )


def _sign_rpm(work: Work) -> Answer:
    signer = signer_of(work)
    request, output = work.request, work.services.scratch()
    signer.sign(
        request.payload,
        expected(request.fields, authenticated=request.payload_authenticated),
        output,
    )
    return Answer(payload=output)


def _sign_rpms(work: Work) -> Answer:
    request, operation = work.request, work.request.operation
    if operation is None:
        raise RequestRefused(Status.UNKNOWN_OP)
    signer = signer_of(work)

    def sign(subrequest: Subrequest) -> BinaryIO:
        output = work.services.scratch()
        try:
            described = expected(subrequest.fields, authenticated=subrequest.authenticated)
            signer.sign(subrequest.payload, described, output)
        except BaseException:
            output.close()
            raise
        return output

    try:
        batch = Batch(
            work.services.settings,
            operation,
            subrequests=ChainKeys.of_subrequests(request.secrets),
            subreplies=ChainKeys.of_subreplies(request.secrets),
            sign=sign,
        )
    except ProtocolError as error:
        raise RequestRefused(Status.UNKNOWN_ERROR, str(error)) from None
    return Answer(converse=batch.run)


HANDLERS = {"sign-rpm": _sign_rpm, "sign-rpms": _sign_rpms}
