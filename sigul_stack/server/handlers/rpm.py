"""Signing RPM packages, one or many in a request."""

from __future__ import annotations

from typing import BinaryIO

from ...database import KeyType
from ...errors import ProtocolError, RequestRefused, Status
from ...protocol.codec import Fields
from ...protocol.messages import ChainKeys
from ...signing.ima import FileSigner
from ...signing.rpm import Expected, RPMSigner
from ...signing.signer import PemSigner
from ..batch import Batch, Subrequest
from ..request import Answer
from ..rights import Granted, authorise_further_key, require_still
from ..services import Work
from .signing import openpgp_key


def _signer(work: Work, files: Granted | None) -> RPMSigner:
    """The keys and options of a request to sign RPMs; `files` is what `_file_rights` gave.

    Raises `RequestRefused`.
    """
    return RPMSigner(
        files=None if files is None else _file_signer(work, files),
        key=openpgp_key(work),
        v3=bool(work.request.flag("v3-signature")),
        head_only=bool(work.request.flag("head-signing")),
    )


def _file_rights(work: Work) -> Granted | None:
    """The rights on the key that signs files; None where the request names none.

    To be asked for before what kind a key is of is told, which is for its users only. Raises
    `RequestRefused`.
    """
    if "file-signing-key" not in work.request.fields:
        return None
    return authorise_further_key(
        work.request,
        "file-signing-key",
        "file-signing-key-passphrase",
        work.services.database,
        work.services.registry,
    )


def _file_signer(work: Work, granted: Granted) -> FileSigner:
    key, passphrase = granted.opened()
    if key.keytype == KeyType.GNUPG:
        raise RequestRefused(
            Status.UNSUPPORTED_KEYTYPE, "files are signed with an ECC or RSA key, not a gnupg one"
        )
    return FileSigner(PemSigner(work.services.keystore.pem.load(key.fingerprint, passphrase)))


def _expected(fields: Fields, *, authenticated: bool) -> Expected:
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
    signer = _signer(work, _file_rights(work))
    request, output = work.request, work.services.scratch()
    signer.sign(
        request.payload,
        _expected(request.fields, authenticated=request.payload_authenticated),
        output,
    )
    return Answer(payload=output)


def _sign_rpms(work: Work) -> Answer:
    request = work.request
    files = _file_rights(work)
    signer = _signer(work, files)

    def sign(subrequest: Subrequest) -> BinaryIO:
        for granted in (work.granted, files):
            if granted is not None:
                require_still(granted, work.services.database)
        output = work.services.scratch()
        try:
            described = _expected(subrequest.fields, authenticated=subrequest.authenticated)
            signer.sign(subrequest.payload, described, output)
        except BaseException:
            output.close()
            raise
        return output

    try:
        batch = Batch(
            work.services.settings,
            request.operation,
            subrequests=ChainKeys.of_subrequests(request.secrets),
            subreplies=ChainKeys.of_subreplies(request.secrets),
            sign=sign,
        )
    except ProtocolError as error:
        raise RequestRefused.because(error) from None
    return Answer(converse=batch.run)


HANDLERS = {"sign-rpm": _sign_rpm, "sign-rpms": _sign_rpms}
