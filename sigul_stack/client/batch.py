"""Many RPMs in one request: subrequests go out in one thread while subreplies come in in another.

Memory and open files do not grow with the number of packages: a package is opened when its turn
comes, and its signed form appears at its place as soon as its subreply is complete and
authentic. Messages are numbered as they are really sent, in each direction by itself.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import PeerClosed, RemoteProtocolError, RequestRefused, SigulError, Status
from ..formats.rpm_head import MAX_SIGNATURE_HEADER, Head
from ..protocol.chunks import MAX_WRITTEN_CHUNK
from ..protocol.codec import Fields, encode_value, pack_u32, pack_u64, read_u64, unpack_u32
from ..protocol.messages import (
    DIGEST_BYTES,
    ChainKeys,
    SubHeader,
    check_digest,
    encode_sub_header,
    new_hmac,
    read_sub_header,
)
from ..protocol.operations import check_subrequest
from ..transport.chunked import ChunkedStream
from .output import open_output, open_successor
from .rpm import Package, RPMOptions, check_not_empty, read_package_head, splice

Done = Callable[[Package, SigulError | None], None]


@dataclass(frozen=True, slots=True)
class _Sent:
    """A file that was sent: its state when it was read, and with head signing its head."""

    state: os.stat_result
    head: Head | None


class Exchange:
    """The subrequests and subreplies of one request. For `done` see `Client.sign_rpms`."""

    def __init__(
        self,
        packages: Sequence[Package],
        *,
        options: RPMOptions,
        subrequests: ChainKeys,
        subreplies: ChainKeys,
        done: Done,
    ) -> None:
        self._packages = packages
        self._options = options
        self._head_signing = options.head_signing
        self._subrequests = subrequests
        self._subreplies = subreplies
        self._done = done
        self._lock = threading.Lock()
        self._open = set(range(len(packages)))
        #: What has been sent of files, and not answered yet.
        self._files: dict[int, _Sent] = {}
        self._failure: SigulError | None = None
        self._sent = threading.Event()

    def run(self, chunked: ChunkedStream) -> None:
        """Send all, receive all. Every package has been told of afterwards. Never raises."""
        context = contextvars.copy_context()
        sender = threading.Thread(
            target=context.run, args=(self._send_all, chunked), name="send-rpms", daemon=True
        )
        sender.start()
        try:
            self._receive_all(chunked)
            if not self._sent.is_set():
                raise PeerClosed("the server ended its replies before it had all requests")
        except SigulError as error:
            self._fail(chunked, error)
        sender.join()
        reason = "" if self._failure is None else f": {self._failure}"
        for index in sorted(self._open):
            self._tell(index, PeerClosed(f"No reply from server received{reason}"))

    def _fail(self, chunked: ChunkedStream, error: SigulError) -> None:
        """End the connection; what failed first is the reason."""
        with self._lock:
            self._failure = self._failure or error
        chunked.stream.abort()

    def _tell(self, index: int, error: SigulError | None) -> None:
        with self._lock:
            if index in self._open:
                self._open.remove(index)
                self._done(self._packages[index], error)

    # ---------------------------------------------------------------------------------- sending

    def _send_all(self, chunked: ChunkedStream) -> None:
        sent = 0
        try:
            for index, package in enumerate(self._packages):
                if package.remote is not None:
                    sent += self._send_name(chunked, index, sent)
                    continue
                try:
                    file = package.source.open("rb")
                except OSError as error:
                    self._tell(index, _unreadable(package, error))
                    continue
                with file:
                    sent += self._send(chunked, index, sent, file)
            self._sent.set()
            chunked.end()
        except SigulError as error:
            self._fail(chunked, error)

    def _send_name(self, chunked: ChunkedStream, index: int, number: int) -> bool:
        """Send the name of a package that the bridge fetches; for the rest see `_send`."""
        try:
            header = self._header(index, number, None)
        except SigulError as error:
            self._tell(index, error)
            return False
        # No payload, and a code of nothing.
        code = new_hmac(self._subrequests.numbered(number).payload).digest()
        chunked.write(header + pack_u64(0))
        chunked.write(code)
        return True

    def _send(self, chunked: ChunkedStream, index: int, number: int, file: BinaryIO) -> bool:
        """Send one package as message `number`; False where it cannot be sent at all."""
        head = None
        try:
            state = os.fstat(file.fileno())
            if self._head_signing:
                head = read_package_head(file)
                total = head.length
            else:
                check_not_empty(file)
                total = state.st_size
            header = self._header(index, number, head)
        except OSError as error:
            self._tell(index, _unreadable(self._packages[index], error))
            return False
        except SigulError as error:
            self._tell(index, error)
            return False
        with self._lock:
            self._files[index] = _Sent(state, head)
        chunked.write(header + pack_u64(total))
        file.seek(0)
        code = new_hmac(self._subrequests.numbered(number).payload)
        whole = True
        while total:
            piece = b""
            with suppress(OSError):
                piece = file.read(min(total, MAX_WRITTEN_CHUNK))
            if not piece:
                # The file became shorter or cannot be read on: the others shall not suffer. What
                # stands for the rest has no valid code, so the server does not take it.
                whole = False
                piece = bytes(min(total, MAX_WRITTEN_CHUNK))
            code.update(piece)
            chunked.write(piece)
            total -= len(piece)
        chunked.write(code.digest() if whole else bytes(DIGEST_BYTES))
        return True

    def _header(self, index: int, number: int, head: Head | None) -> bytes:
        """A package's fields and their code. Raises `ProtocolError` where a field cannot be."""
        fields = self._options.fields_of(head, self._packages[index].remote)
        encoded = {"id": pack_u32(index)}
        encoded |= {name: encode_value(value) for name, value in fields.items()}
        # What is in order here costs nobody else's package anything on the way.
        check_subrequest(Fields(encoded))
        return encode_sub_header(encoded, self._subrequests.numbered(number))

    # -------------------------------------------------------------------------------- receiving

    def _receive_all(self, chunked: ChunkedStream) -> None:
        number = 0
        while (header := chunked.parse_unless_ended(read_sub_header())) is not None:
            keys = self._subreplies.numbered(number)
            refusal = header.refusal
            if refusal is None:
                header.verify(keys)
            index = self._index(header)
            body = _Body(chunked, keys.payload)
            status = header.fields.integer("status")
            if refusal is not None:
                # In the place of what the server said, which had this number.
                body.forget()
                self._tell(index, refusal)
            elif status == Status.OK and not self._options.returned:
                body.forget()
                with self._lock:
                    self._files.pop(index, None)
                self._tell(index, None)
            elif status == Status.OK:
                self._keep(index, body)
            else:
                body.drain()
                message = header.fields.get("message")
                text = message.decode("utf-8", "backslashreplace") if message else None
                self._tell(index, RequestRefused(status, text))
            number += 1

    def _index(self, header: SubHeader) -> int:
        index = unpack_u32(header.fields.blob("id"))
        if index >= len(self._packages):
            raise RemoteProtocolError("the server answered for an RPM that it was not sent")
        return index

    def _keep(self, index: int, body: _Body) -> None:
        """Put a signed package in its place, once it is authentic."""
        package = self._packages[index]
        target = package.target
        with self._lock:
            sent = self._files.pop(index, None)
            head = None if sent is None else sent.head
            expected = index in self._open and (sent is None) == (package.remote is not None)
            if not expected or (head is None) == self._head_signing or target is None:
                raise RemoteProtocolError("the server answered twice for one RPM, or too early")
        try:
            opened = (
                open_output(target, binary=True)
                if sent is None
                else open_successor(package.source, target, read=sent.state)
            )
            with opened as output:
                if head is None:
                    body.copy(output.write)
                else:
                    if body.left > 2 * MAX_SIGNATURE_HEADER:
                        raise RemoteProtocolError("the server sent more than a signature header")
                    signature = bytearray()
                    body.copy(signature.extend)
                    with package.source.open("rb") as source:
                        splice(source, head, bytes(signature), output)
        except (SigulError, OSError) as error:
            if not body.finished:
                # Either the stream is broken, which shows here, or only the output was.
                body.drain()
            if not body.verified:
                raise
            told = error if isinstance(error, SigulError) else _unreadable(package, error)
            self._tell(index, told)
        else:
            self._tell(index, None)


class _Body:
    """A subreply's payload on its way in."""

    def __init__(self, chunked: ChunkedStream, key: bytes) -> None:
        self._chunked = chunked
        self._code = new_hmac(key)
        self.left = chunked.parse(read_u64())
        #: Whether all of it, code included, has been read; and whether the code was right.
        self.finished = self.verified = False

    def copy(self, write: Callable[[bytes], object]) -> None:
        """Give all of it to `write`, and check its code. Raises `ProtocolError`, `PeerClosed`."""
        while self.left:
            piece = self._chunked.read(self.left)
            if not piece:
                raise PeerClosed("the reply ended in the middle of an RPM")
            self.left -= len(piece)
            self._code.update(piece)
            write(piece)
        code = self._chunked.read_exactly(DIGEST_BYTES)
        self.finished = True
        check_digest(self._code.digest(), code, "a signed RPM")
        self.verified = True

    def forget(self) -> None:
        """Read past a body that the bridge has emptied, and whose code is of no use."""
        if self.left:
            raise RemoteProtocolError("a payload came where none was to come back")
        self._chunked.read_exactly(DIGEST_BYTES)
        self.finished = True

    def drain(self) -> None:
        """Take what is left and forget it; raises as `copy`."""
        self.copy(len)


def _unreadable(package: Package, error: OSError) -> SigulError:
    return SigulError(f"'{package.source}' cannot be read: {error.strerror}")
