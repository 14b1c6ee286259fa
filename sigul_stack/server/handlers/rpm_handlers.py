"""Signing RPM packages, one or many in a request."""

from __future__ import annotations

from typing import BinaryIO

from ...database import KeyType
from ...errors import ProtocolError, RequestRefused, Status
from ...protocol.codec import Fields
from ...protocol.messages import ChainKeys
from ...signing.ima import FileSigner
from ...signing.rpm import ExpectedPackage, RPMSigner
from ...signing.signer import PemSigner
from ..batch import Batch, Subrequest
from ..request import Answer
from ..rights import KeyGranted, authorise_further_key, require_still
from ..services import RequestContext


def _signer(context: RequestContext, files: KeyGranted | None) -> RPMSigner:
    """The keys and options of a request to sign RPMs; `files` is what `_file_rights` gave.

    Raises `RequestRefused`.
    """
    return RPMSigner(
        files=None if files is None else _file_signer(context, files),
        key=context.openpgp_key(),
        v3=bool(context.request.flag("v3-signature")),
        head_only=bool(context.request.flag("head-signing")),
    )


def _file_rights(context: RequestContext) -> KeyGranted | None:
    """The rights on the key that signs files; None where the request names none.

    To be asked for before what kind a key is of is told, which is for its users only. Raises
    `RequestRefused`.
    """
    if "file-signing-key" not in context.request.fields:
        return None
    granted = authorise_further_key(
        context.request,
        "file-signing-key",
        "file-signing-key-passphrase",
        context.services.database,
        context.services.registry,
    )
    context.watch.add(granted)
    return granted


def _file_signer(context: RequestContext, granted: KeyGranted) -> FileSigner:
    if granted.key.keytype == KeyType.GNUPG:
        raise RequestRefused(
            Status.UNSUPPORTED_KEYTYPE, "files are signed with an ECC or RSA key, not a gnupg one"
        )
    store = context.services.keystore.pem
    return FileSigner(PemSigner(store.load(granted.key.fingerprint, granted.passphrase)))


def _expected(fields: Fields, *, authenticated: bool) -> ExpectedPackage:
    """The package that the fields of a request or subrequest describe."""

    def text(name: str) -> str | None:
        return fields.safe_string(name) if name in fields else None

    return ExpectedPackage(
        name=text("rpm-name"),
        epoch=text("rpm-epoch"),
        version=text("rpm-version"),
        release=text("rpm-release"),
        arch=text("rpm-arch"),
        sigmd5=fields.get("rpm-sigmd5"),
        authenticated=authenticated,
    )


def _sign_rpm(context: RequestContext) -> Answer:
    signer = _signer(context, _file_rights(context))
    request, output = context.request, context.services.scratch()
    signer.sign(
        request.payload,
        _expected(request.fields, authenticated=request.payload_authenticated),
        output,
    )
    return Answer(payload=output)


def _sign_rpms(context: RequestContext) -> Answer:
    request = context.request
    files = _file_rights(context)
    signer = _signer(context, files)

    def sign(subrequest: Subrequest) -> BinaryIO:
        for granted in (context.granted, files):
            if isinstance(granted, KeyGranted):
                require_still(granted, context.services.database)
        output = context.services.scratch()
        try:
            signer.sign(
                subrequest.payload,
                _expected(subrequest.fields, authenticated=subrequest.authenticated),
                output,
            )
        except BaseException:
            output.close()
            context.watch.check()  # then that is why
            raise
        return output

    try:
        batch = Batch(
            context.services.settings,
            request.operation,
            subrequests=ChainKeys.of_subrequests(request.secrets),
            subreplies=ChainKeys.of_subreplies(request.secrets),
            sign=sign,
        )
    except ProtocolError as error:
        raise RequestRefused.because(error) from None
    return Answer(converse=batch.run)


HANDLERS = {"sign-rpm": _sign_rpm, "sign-rpms": _sign_rpms}
