"""Storage for what a request sends and what is made of it: memory for small payloads, else files.

None of it has a name or outlives its process, however that ends. A payload is hashed on the way;
one that nobody needs the bytes of is hashed and not stored. What cannot be stored does not end the
request: the rest is taken and forgotten, so that the client can be told.

Files are accounted for (`Account`) as they grow, in steps of `STEP_BYTES`, the first of which is
free: a length that is only announced counts nothing, and small results are never refused. Limits,
from the narrowest to the widest:

* a request that has not proven its rights holds at most what is left for others, of the free space
  above the floor, and of half of `max-spool-size`, which is all that such requests get together;
* the requests of one name in a client's certificate, once that is known: `max-spool-size-per-user`;
* all requests: `max-spool-size`;
* and whoever asks, `spool-min-free` bytes of the file system stay free.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import RequestRefused, Status, shortened
from ..evidence.leaf import Content
from ..logevents import tell
from .log_events import ServerLog
from .slots import Slots

log = logging.getLogger(__name__)

#: What is taken of the spool at once, in bytes; the floor is looked at as often.
STEP_BYTES: Final = 1 << 20
#: The floor where none is configured: so many bytes, or this part of a smaller file system.
USUAL_MIN_FREE: Final = 256 << 20
MIN_FREE_PART: Final = 16


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """The limits on what lies in the spool, in bytes, by the options' names; None where not set."""

    max_spool_size: int | None = None
    max_spool_size_per_user: int | None = None
    spool_min_free: int | None = None


class Account:
    """Accounts for what the request of this process has in the spool. Safe to use from threads.

    `refused` is called whenever something is refused.
    """

    def __init__(
        self,
        limits: SpoolLimits | None = None,
        slots: Slots | None = None,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        self.slots = slots or Slots(1)
        self._limits = limits or SpoolLimits()
        self._refused = refused
        self._lock = threading.Lock()

    def take(self, count: int, descriptor: int) -> None:
        """Take `count` bytes more for the file behind `descriptor`. Raises `RequestRefused`."""
        with self._lock:
            # First written, then added up with the others': of two at once, one sees the other.
            self.slots.add(count)
            fault = self._fault(count, descriptor)
            if fault is None:
                return
            self.slots.add(-count)
        tell(log, ServerLog.SPOOL_REFUSED, bytes=self.slots.mine, why=str(fault))
        self._refused()
        raise fault

    def give_back(self, count: int) -> None:
        """Give back `count` bytes."""
        with self._lock:
            self.slots.add(-count)

    def identify(self, name: str) -> RequestRefused | None:
        """Tell whose request it is: the name in the client's certificate.

        Returns the refusal where that name has more in the spool than it may.
        """
        self.slots.set_name(name)
        fault = self._over_user_limit() if self.slots.mine else None
        if fault is not None:
            tell(log, ServerLog.SPOOL_SHARE_EXCEEDED, user=name, why=str(fault))
            self._refused()
        return fault

    def _fault(self, count: int, descriptor: int) -> RequestRefused | None:
        """The refusal of the last `count` bytes; None where the spool can have them."""
        slots, most = self.slots, self._limits.max_spool_size
        file_system = os.fstatvfs(descriptor)
        free = file_system.f_bavail * file_system.f_frsize - count
        usual = min(USUAL_MIN_FREE, file_system.f_blocks * file_system.f_frsize // MIN_FREE_PART)
        limit = self._limits.spool_min_free or usual
        if free < limit:
            return RequestRefused(
                Status.UNKNOWN_ERROR,
                f"the server's spool is full: {limit} bytes of its file system stay free"
                " (spool-min-free); try again later",
                busy=True,
            )
        if most is not None and slots.spooled > most:
            return RequestRefused(
                Status.UNKNOWN_ERROR,
                "the server's spool is full: all requests together are over its max-spool-size;"
                " try again later",
                busy=True,
            )
        if (fault := self._over_user_limit()) is not None or slots.is_proven:
            return fault
        # A request that may be anybody's leaves as much as it has.
        for setting, left in (
            ("spool-min-free", free - limit),
            ("max-spool-size", None if most is None else most // 2 - slots.spooled_unproven),
        ):
            if left is not None and slots.mine > left:
                return RequestRefused(
                    Status.UNKNOWN_ERROR,
                    "before its rights are proven, a request may have no more of the server's spool"
                    f" than it leaves for others ({setting}); try again later",
                    busy=True,
                )
        return None

    def _over_user_limit(self) -> RequestRefused | None:
        limit = self._limits.max_spool_size_per_user
        if limit is None or self.slots.spooled_by_name <= limit:
            return None
        return RequestRefused(
            Status.UNKNOWN_ERROR,
            "the requests of your certificate's name are together over the server's"
            f" max-spool-size-per-user of {limit} bytes; try again when others are done",
        )


class SpoolFile(io.FileIO):
    """An empty file without a name in the spool, for which `account` is asked as it grows."""

    def __init__(self, directory: Path | None, account: Account) -> None:
        with scratch_file(directory) as made:
            super().__init__(os.dup(made.fileno()), "r+b")
        self._account = account
        self._taken = 0

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Write at the present position. Raises `RequestRefused` where there is no room for it."""
        self._take(self.tell() + len(data))
        return super().write(data)

    def grown(self) -> None:
        """Take what somebody else has written; a program does. Raises `RequestRefused`."""
        self._take(os.fstat(self.fileno()).st_size)

    def empty(self) -> None:
        """Forget the content."""
        self.seek(0)
        self.truncate()
        self._give_back()

    def close(self) -> None:
        """Close the file, which is gone then."""
        if not self.closed:
            super().close()
            self._give_back()

    def _take(self, size: int) -> None:
        over = size - STEP_BYTES - self._taken
        if over > 0:
            step = -(-over // STEP_BYTES) * STEP_BYTES
            self._account.take(step, self.fileno())
            self._taken += step

    def _give_back(self) -> None:
        self._account.give_back(self._taken)
        self._taken = 0


class Spool:
    """A payload being received, of `length` bytes; only hashed where it is not to be `kept`.

    `hashes` are made besides SHA-512 and SHA-256.
    """

    def __init__(
        self,
        length: int,
        *,
        in_memory_limit: int,
        directory: Path | None,
        account: Account | None = None,
        kept: bool = True,
        hashes: Iterable[str] = (),
    ) -> None:
        #: What all of it hashes to so far, by `hashlib`'s names.
        self.states = {name: hashlib.new(name) for name in ("sha512", "sha256", *hashes)}
        self._updates = [state.update for state in self.states.values()]
        self._count = 0
        #: Why nothing more is stored, to tell the client; None while all is well.
        self.failure: RequestRefused | None = None
        self._file: BinaryIO | None = None
        if not kept:
            return
        try:
            if length <= in_memory_limit:
                self._file = scratch_memory()
            else:
                self._file = SpoolFile(directory, account or Account())
        except OSError as error:
            self._file = scratch_memory()
            self._fail(error)

    @property
    def is_kept(self) -> bool:
        """Whether the payload is stored."""
        return self._file is not None

    @property
    def file(self) -> BinaryIO:
        """The stored payload; for who has it `kept`."""
        if self._file is None:
            raise LookupError("this payload is not kept")
        return self._file

    def close(self) -> None:
        """Let go of what is stored."""
        if self._file is not None:
            self._file.close()

    def write(self, piece: bytes | memoryview) -> None:
        """Add a piece of the payload."""
        for update in self._updates:
            update(piece)
        self._count += len(piece)
        if self._file is None or self.failure is not None:
            return
        try:
            write_all(self._file, piece)
        except OSError as error:
            self._fail(error)
        except RequestRefused as refused:
            self.forget(refused)

    def _fail(self, error: OSError) -> None:
        tell(log, ServerLog.SPOOL_FAILED, why=error.strerror)
        self.forget(
            RequestRefused(
                Status.UNKNOWN_ERROR,
                f"the server cannot store the payload: {shortened(str(error.strerror), 120)}",
            )
        )

    def forget(self, failure: RequestRefused) -> None:
        """Store nothing more, and let go of what is stored, for that reason."""
        self.failure = failure
        if isinstance(self._file, SpoolFile):
            self._file.empty()
        elif self._file is not None:
            self._file.seek(0)
            self._file.truncate()

    @property
    def content(self) -> Content:
        """The payload's SHA-256 and size for the signing log, whether or not it was stored."""
        return Content(self.states["sha256"].hexdigest(), self._count)

    def finish(self) -> bytes:
        """Make the file ready to be read from its start; return the payload's SHA-512."""
        if self._file is not None and self.failure is None:
            self._file.seek(0)
        return self.states["sha512"].digest()


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of `data`: an unbuffered file may take less at once, as before a disk is full."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def scratch_memory() -> BinaryIO:
    """An empty file in memory, which a program can be given as its input or output."""
    return os.fdopen(os.memfd_create("sigul-payload", os.MFD_CLOEXEC), "w+b", buffering=0)


def scratch_file(directory: Path | None) -> BinaryIO:
    """An empty file without a name in `directory` (None: the system's for temporary files)."""
    return tempfile.TemporaryFile("w+b", buffering=0, dir=directory)
