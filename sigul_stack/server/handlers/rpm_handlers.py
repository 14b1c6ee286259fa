"""Signing RPM packages, one or many in a request."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import BinaryIO, Final

from ...database import KeyType
from ...errors import ProtocolError, RequestRefused, Status, shortened
from ...keystore.store import shown
from ...protocol.codec import Fields
from ...protocol.messages import ChainKeys
from ...signing.ima import FileSigner
from ...signing.rpm import ExpectedPackage, RPMSigner, SignedPackage
from ...signing.signers import open_signer
from ..batch import Batch, Ledger, RefusedSubrequest, Subrequest
from ..decisions import Decision, Made
from ..limits import require_rpm_allowed
from ..phases import Phase
from ..request import Answer
from ..rights import KeyGranted
from ..services import RequestContext

#: How long an RPM waits for its turn, in times of `signing-timeout`: the one before it has that for
#: its files' signatures, and again for each program that works on it.
TURN_TIMES: Final = 4


def _signer(context: RequestContext) -> RPMSigner:
    """The keys and options of a request to sign RPMs. Raises `RequestRefused`."""
    files = context.granted.further.get("file-signing-key")

    def permit(name: str | None) -> None:
        for granted in (context.granted, files):
            if isinstance(granted, KeyGranted):
                require_rpm_allowed(granted.access, name)

    return RPMSigner(
        files=_file_signer(context, files) if isinstance(files, KeyGranted) else None,
        key=context.openpgp_key(),
        permit=permit,
        v3=bool(context.request.flag("v3-signature")),
        head_only=bool(context.request.flag("head-signing")),
        time_limit=context.services.settings.signing_timeout,
        turn=partial(_turn, context),
    )


def _turn(context: RequestContext) -> AbstractContextManager[None]:
    """The turn at an RPM with a large head, which takes much memory."""
    return context.services.account.slots.turn(
        TURN_TIMES * context.services.settings.signing_timeout,
        RequestRefused(
            Status.UNKNOWN_ERROR,
            "the server works on one RPM with so large a head at a time, and others took too long;"
            " try again later",
        ),
    )


def _file_signer(context: RequestContext, granted: KeyGranted) -> FileSigner:
    if granted.key.keytype not in (KeyType.ECC, KeyType.RSA):
        raise RequestRefused(
            Status.UNSUPPORTED_KEYTYPE,
            f"files are signed with an ECC or RSA key, not a"
            f" {shortened(shown(granted.key.keytype), 60)} one",
        )
    with context.phases.measured(Phase.UNLOCK):
        return FileSigner(open_signer(context.services.keystore, granted.key, granted.passphrase))


def _expected(context: RequestContext, fields: Fields, *, authenticated: bool) -> ExpectedPackage:
    """The package that the fields of a request or subrequest describe.

    Raises `RequestRefused` where nothing but MD5 speaks for it, and this server does not take that.
    """
    alone = not authenticated and "rpm-sigmd5" in fields
    if alone and not context.services.settings.accept_sigmd5_alone:
        raise RequestRefused(
            Status.UNAUTHENTICATED_RPM,
            "its rpm-sigmd5 is MD5, which this server does not take alone (accept-sigmd5-alone);"
            " send the RPM from a file",
        )

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
    signer = _signer(context)
    request, output = context.request, context.services.scratch()
    expected = _expected(context, request.fields, authenticated=request.payload_authenticated)
    with context.phases.measured(Phase.SIGN):
        signed = signer.sign(request.payload.file, expected, output)
    context.decision.made = _made(signed)
    return Answer(payload=output)


def _sign_rpms(context: RequestContext) -> Answer:
    request = context.request
    signer = _signer(context)
    # The reply's header, which has the notes, goes before the first signature.
    context.notes.look_ahead(context.opened().key, soon=False)

    def sign(subrequest: Subrequest) -> BinaryIO:
        # Whether the right is still there is looked at when the key is used (`openpgp_key`), and
        # before the answer.
        output = context.services.scratch()
        try:
            expected = _expected(context, subrequest.fields, authenticated=subrequest.authenticated)
            with context.phases.measured(Phase.SIGN):
                signed = signer.sign(subrequest.payload, expected, output)
            subrequest.made = _made(signed)
            context.require_still()
        except BaseException:
            output.close()
            context.watch.check()  # then that is why
            raise
        return output

    try:
        batch = Batch(
            context.services.settings,
            request.version,
            request.operation,
            subrequests=ChainKeys.of_subrequests(request.secrets),
            subreplies=ChainKeys.of_subreplies(request.secrets),
            sign=sign,
            account=context.services.account,
            is_ending=lambda: context.watch.is_ending,
            ledger=_Ledger(context),
        )
    except ProtocolError as error:
        raise RequestRefused.because(error) from None
    return Answer(converse=batch.run)


def _made(signed: SignedPackage) -> Made:
    return Made(signed.header, signed.signatures, signed.nevra)


class _Ledger(Ledger):
    """The signing log, in which each RPM has a leaf of its own."""

    def __init__(self, context: RequestContext) -> None:
        self._context = context

    def done(self, subrequest: Subrequest, output: BinaryIO) -> Mapping[str, bytes]:
        decision = self._of(subrequest)
        decision.made = subrequest.made
        with self._context.logging():
            return decision.done(output, self._context.notes.signer)

    def refused(
        self,
        received: Subrequest | RefusedSubrequest,
        refused: RequestRefused,
        error: Exception,
    ) -> None:
        self._of(received).refused(refused, error)

    def _of(self, received: Subrequest | RefusedSubrequest) -> Decision:
        return self._context.decision.part(received.content, _claimed_nevra(received.fields))


def _claimed_nevra(fields: Fields) -> str:
    """The package that a subrequest says it is about, as far as it says."""

    def text(name: str) -> str:
        return fields.get(name, b"").decode("utf-8", "backslashreplace")

    parts = [text(f"rpm-{name}") for name in ("name", "version", "release")]
    arch = text("rpm-arch")
    return "-".join(part for part in parts if part) + (f".{arch}" if arch else "")


HANDLERS = {"sign-rpm": _sign_rpm, "sign-rpms": _sign_rpms}

#: The RPMs of `sign-rpms` are no part of its payload, which is empty.
NEEDS_BYTES = frozenset({"sign-rpm"})
