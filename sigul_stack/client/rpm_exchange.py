"""Many RPMs in one request: subrequests go out in one thread while subreplies come in in another.

Memory and open files do not grow with the number of packages: a package is opened when its turn
comes, and its signed form appears at its place as soon as its subreply is complete and
authentic. Messages are numbered as they are really sent, in each direction by itself.
"""

from __future__ import annotations

import contextvars
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from ..errors import LogComplaint, PeerClosed, RemoteProtocolError, SigulError, Status
from ..formats.rpm_head import MAX_SIGNATURE_HEADER, Head
from ..protocol.authentication import UNAUTHENTICATED_MAC, new_hmac
from ..protocol.chunks import MAX_WRITTEN_CHUNK
from ..protocol.codec import Fields, pack_u32, unpack_u32
from ..protocol.messages import (
    ChainKeys,
    encode_sub_header,
    read_sub_header,
)
from ..protocol.operations import check_subrequest
from ..protocol.versions import Version
from ..transport.chunked import ChunkedStream
from ..transport.payload import AuthenticatedPayload
from .core import checking_our_own, refusal
from .log_check import LogCheck, nothing_sent, shows_log
from .output_file import open_output, open_successor
from .rpm_packages import Package, RPMOptions, check_not_empty, read_package_head, sent_of, splice
from .source import written_state

if TYPE_CHECKING:
    from ..formats.signed_note import LogProof

Done = Callable[[Package, SigulError | None], None]
Proved = Callable[[Package, "LogProof"], None]


@dataclass(frozen=True, slots=True)
class _SentFile:
    """A file that was sent: its state when it was read, and with head signing its head."""

    state: os.stat_result
    head: Head | None
    #: SHA-256 of what was sent, in hexadecimal; None as long as not all of it is.
    digest: str | None = None


class RPMExchange:
    """The subrequests and subreplies of one request.

    For `done` and `proved` see `Client.sign_rpms`.
    """

    def __init__(
        self,
        packages: Sequence[Package],
        *,
        version: Version,
        options: RPMOptions,
        subrequests: ChainKeys,
        subreplies: ChainKeys,
        done: Done,
        proved: Proved = lambda _package, _proof: None,
    ) -> None:
        self._packages = packages
        self._version = version
        self._options = options
        self._subrequests = subrequests
        self._subreplies = subreplies
        self._done = done
        self._proved = proved
        self._lock = threading.Lock()
        self._open = set(range(len(packages)))
        #: Files that have been sent, and not answered yet, by index.
        self._files: dict[int, _SentFile] = {}
        #: Packages of which something has been sent.
        self._begun: set[int] = set()
        self._failure: SigulError | None = None
        #: Whether the server's log is to tell the SHA-256 of what is sent.
        self._hashes = False
        self._sent = threading.Event()

    def run(self, chunked: ChunkedStream, check: LogCheck) -> None:
        """Send all, receive all. Every package has been told of afterwards.

        `check` looks at each subreply's evidence of the server's log. Raises its `LogComplaint`
        alone, at the end.
        """
        self._hashes = check.observation.shown
        sender = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._send_all, chunked),
            name="send-rpms",
            daemon=True,
        )
        sender.start()
        try:
            self._receive_all(chunked, check)
            if not self._sent.is_set():
                raise PeerClosed("the server ended its replies before it had all requests")
        except SigulError as error:
            self._fail(chunked, error)
        sender.join()
        failure = self._failure
        reason = "" if failure is None else str(failure)
        for index in sorted(self._open):
            if isinstance(failure, LogComplaint):
                self._tell(index, failure)
                continue
            lost = PeerClosed("No reply from server received", reason)
            lost.may_have_happened = index in self._begun
            self._tell(index, lost)
        if isinstance(failure, LogComplaint):
            raise failure

    def _fail(self, chunked: ChunkedStream, error: SigulError) -> None:
        """End the connection; what failed first is the reason."""
        with self._lock:
            self._failure = self._failure or error
        chunked.stream.abort()

    def _tell(
        self, index: int, error: SigulError | OSError | None, proof: LogProof | None = None
    ) -> None:
        """Tell what became of a package: None, the reason, or why its file cannot be read.

        Where it is signed, `proof` is that of the server's log.
        """
        package = self._packages[index]
        if isinstance(error, OSError):
            error = SigulError(f"'{package.source}' cannot be read: {error.strerror}")
        with self._lock:
            if index in self._open:
                self._open.remove(index)
                if proof is not None:
                    self._proved(package, proof)
                self._done(package, error)

    # ---------------------------------------------------------------------------------- sending

    def _send_all(self, chunked: ChunkedStream) -> None:
        number = 0
        try:
            for index, package in enumerate(self._packages):
                with ExitStack() as opened:
                    file: BinaryIO | None = None
                    try:
                        if package.remote is None:
                            file = opened.enter_context(package.source.open("rb"))
                        header, total = self._begin(index, number, file)
                        length = self._version.encode_length(total)
                    except (OSError, SigulError) as error:
                        self._tell(index, error)
                        continue
                    self._begun.add(index)
                    chunked.write(header + length)
                    self._send_payload(chunked, index, number, file, total)
                    number += 1
            self._sent.set()
            chunked.end()
        except SigulError as error:
            self._fail(chunked, error)

    def _begin(self, index: int, number: int, file: BinaryIO | None) -> tuple[bytes, int]:
        """The header of a package as message `number`, and how many bytes of `file` are sent.

        Of a package that the bridge fetches, `file` None, nothing is. Raises `SigulError` or
        OSError where it cannot be sent at all.
        """
        if file is None:
            self._options.check_remote()
            return self._header(index, number, None), 0
        state = os.fstat(file.fileno())
        if self._options.head_signing:
            head = read_package_head(file)
            total = sent_of(head, state.st_size)
        else:
            check_not_empty(file)
            head, total = None, state.st_size
        header = self._header(index, number, head)
        with self._lock:
            self._files[index] = _SentFile(state, head)
        file.seek(0)
        return header, total

    def _send_payload(
        self, chunked: ChunkedStream, index: int, number: int, file: BinaryIO | None, total: int
    ) -> None:
        mac = new_hmac(self._subrequests.numbered(number).payload)
        digest = hashlib.sha256() if self._hashes else None
        whole = True
        while total:
            piece = b""
            with suppress(OSError):
                piece = file.read(min(total, MAX_WRITTEN_CHUNK)) if file else b""
            if not piece:
                # The file became shorter or cannot be read on: the others shall not suffer. What
                # stands for the rest has no valid MAC, so the server does not take it.
                whole = False
                piece = bytes(min(total, MAX_WRITTEN_CHUNK))
            mac.update(piece)
            if digest is not None:
                digest.update(piece)
            if total == len(piece) and digest is not None:
                # Before the last piece is sent, for the answer may come at once.
                self._note_digest(index, digest.hexdigest())
            chunked.write(piece)
            total -= len(piece)
        if whole and file is not None and self._has_changed(index, file):
            whole = False
            self._tell(index, _changed(self._packages[index]))
        chunked.write(mac.digest() if whole else UNAUTHENTICATED_MAC)

    def _note_digest(self, index: int, digest: str) -> None:
        with self._lock:
            if index in self._files:
                self._files[index] = replace(self._files[index], digest=digest)

    def _has_changed(self, index: int, file: BinaryIO) -> bool:
        """Whether somebody wrote to a package's file since it was opened to be sent."""
        with self._lock:
            sent = self._files[index].state
        return written_state(os.fstat(file.fileno())) != written_state(sent)

    def _header(self, index: int, number: int, head: Head | None) -> bytes:
        """A package's fields and their code. Raises `ProtocolError` where a field cannot be."""
        fields = self._options.fields_of(head, self._packages[index].remote)
        encoded = {"id": pack_u32(index)}
        encoded |= {name: self._version.encode_value(value) for name, value in fields.items()}
        # What is in order here costs nobody else's package anything on the way.
        with checking_our_own():
            check_subrequest(Fields(encoded))
        return encode_sub_header(encoded, self._subrequests.numbered(number))

    # -------------------------------------------------------------------------------- receiving

    def _receive_all(self, chunked: ChunkedStream, check: LogCheck) -> None:
        number = 0
        while (header := chunked.parse_unless_ended(read_sub_header())) is not None:
            keys = self._subreplies.numbered(number)
            refused = header.refusal
            if refused is None:
                header.verify(keys)
            index = unpack_u32(header.fields.blob("id"))
            if index >= len(self._packages):
                raise RemoteProtocolError("the server answered for an RPM that it was not sent")
            body = AuthenticatedPayload(chunked, keys.payload, "the subreply", self._version)
            status = header.fields.integer("status")
            if refused is not None:
                # In the place of what the server said, which had this number.
                body.skip_dropped()
                self._tell(index, refused)
            elif status == Status.OK and not self._options.returned:
                body.skip_dropped()
                with self._lock:
                    file = self._files.pop(index, None)
                self._tell(index, None, self._check(check, header.fields, file, None))
            elif status == Status.OK:
                self._keep(index, header.fields, body, check)
            else:
                body.copy(_ignore)
                self._tell(index, refusal(status, header.fields))
            number += 1

    @staticmethod
    def _check(
        check: LogCheck, fields: Fields, file: _SentFile | None, received: str | None
    ) -> LogProof | None:
        """The proof that the log has one RPM's signature. Raises `LogComplaint`."""
        sent = nothing_sent if file is None else lambda: file.digest
        return check.reply(fields, sent, received)

    def _keep(
        self, index: int, fields: Fields, body: AuthenticatedPayload, check: LogCheck
    ) -> None:
        """Put a signed package in its place, once it is authentic."""
        package = self._packages[index]
        target = package.target
        with self._lock:
            sent = self._files.pop(index, None)
            head = None if sent is None else sent.head
            expected = index in self._open and (sent is None) == (package.remote is not None)
            if not expected or (head is None) == self._options.head_signing or target is None:
                raise RemoteProtocolError("the server answered twice for one RPM, or too early")
        digest = hashlib.sha256() if shows_log(fields) else None

        def received() -> str | None:
            return None if digest is None else digest.hexdigest()

        def taking(write: Callable[[bytes], object]) -> Callable[[bytes], object]:
            def take(piece: bytes) -> None:
                if digest is not None:
                    digest.update(piece)
                write(piece)

            return take

        try:
            opened = (
                open_output(target, binary=True)
                if sent is None
                else open_successor(package.source, target, read=sent.state)
            )
            with opened as output:
                if head is None:
                    body.copy(taking(output.write))
                    proof = self._check(check, fields, sent, received())
                else:
                    if body.length > 2 * MAX_SIGNATURE_HEADER:
                        raise RemoteProtocolError("the server sent more than a signature header")
                    signature = bytearray()
                    body.copy(taking(signature.extend))
                    proof = self._check(check, fields, sent, received())
                    try:
                        source = package.source.open("rb")
                    except OSError as error:
                        raise SigulError(
                            f"'{package.source}' cannot be read: {error.strerror}"
                        ) from error
                    with source:
                        splice(source, head, bytes(signature), output)
        except LogComplaint:
            raise
        except (SigulError, OSError) as error:
            if not body.finished:
                # Either the stream is broken, which shows here, or only the output was.
                body.copy(_ignore)
            if not body.verified:
                raise
            self._tell(index, error)
        else:
            self._tell(index, None, proof)


def _changed(package: Package) -> SigulError:
    return SigulError(
        f"'{package.source}' was changed while it was being read",
        "it is not signed: try again once nobody writes to it",
    )


def _ignore(_piece: bytes) -> None:
    """Take a piece of a payload that is of no use."""
