"""The bridge's part in Koji for one request: it fetches RPMs and stores signatures.

An RPM is downloaded to a file without a name, and looked at before a server gets it: that it is the
one of the hub's record, and no larger than it may be. A signature is stored before the client hears
of it, so that a client that is told of success can rely on it. Whatever fails costs the one RPM.

Fetching and storing go on in two threads at once, each with a session of its own; only the second
one logs in.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import BinaryIO, Final, cast

from ..config.shared import BridgeKojiSettings
from ..errors import RemoteProtocolError, SigulError
from ..formats.rpm_head import CorruptRPM, Head, Header, padded, parse_signature
from ..kojihub import NEVRA, NEVRA_PARTS, Hub, HubAccess, KojiError
from ..logevents import tell
from ..protocol.codec import Fields
from ..system.memory import mapped
from .budget import Download
from .head_room import HEAD_ROOM
from .log_events import BridgeLog

log = logging.getLogger(__name__)

#: The tag of the MD5 over header and payload in an RPM's signature header.
_MD5: Final = 1004


class FetchedRPM(contextlib.AbstractContextManager["FetchedRPM"]):
    """An RPM from Koji, of `length` bytes, in a `file` at its start; its place ends with it."""

    def __init__(self, file: BinaryIO, length: int, place: Download) -> None:
        self.file = file
        self.length = length
        self._place = place

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Have the file gone, and its room free; again is nothing."""
        self.file.close()
        self._place.close()


class KojiSession:
    """Fetches and stores for one request. `user` is whom the bridge knows the client as.

    `get_place` waits for a place for one RPM more. Raises `ConfigurationError` where the request's
    instance is none of the bridge's.
    """

    def __init__(
        self,
        settings: BridgeKojiSettings,
        request: Fields,
        user: str,
        get_place: Callable[[], Download],
    ) -> None:
        instance = request.safe_string("koji-instance") if "koji-instance" in request else None
        self._settings = settings
        self._access = HubAccess(settings.config_of(instance), instance, settings.koji_timeout)
        self._proxied = user if settings.proxy_auth else None
        self._request = request
        self.head_signing = _flag(request, "head-signing")
        #: The client wants its signatures stored.
        self.stores = _flag(request, "import-signature")
        #: Of the thread that fetches, and of the one that stores.
        self._reader: Hub | None = None
        self._writer: Hub | None = None
        self._names: dict[bytes, Fields] = {}
        #: What heads say of themselves, by the subrequests' `id`; None: the request's.
        self._heads: dict[bytes | None, NEVRA] = {}
        self._failures: dict[bytes, str] = {}
        self._get_place = get_place
        #: The RPM that was fetched last: the one before it has been sent by then.
        self._fetched: FetchedRPM | None = None

    def close(self) -> None:
        """End the sessions, once no thread uses them, and what was fetched and not sent."""
        if self._fetched is not None:
            self._fetched.close()
        for hub in (self._reader, self._writer):
            if hub is not None:
                hub.close()

    # ----------------------------------------------------------------------------------- fetching

    def fetch(self, fields: Fields, limit: int) -> FetchedRPM:
        """Fetch the RPM that `fields` name, at most `limit` bytes.

        It is for the server whole, with head signing too: that checks it by its MD5 then, and need
        not believe what the bridge cuts off (docs/decisions/0038).

        Once it has its place it takes `download-timeout` at most, for in a batch the server waits
        meanwhile. Raises `KojiError`, `ProtocolError`, `TransportError`.
        """
        nevra = _named(fields)
        place = self._get_place()
        try:
            if self._reader is None:
                self._reader = Hub(self._access)
            with self._reader.within(self._settings.download_timeout, f"fetching {nevra}"):
                self._fetched = self._fetch(
                    self._reader, nevra, fields.get("rpm-sigmd5"), limit, place
                )
        except BaseException:
            place.close()
            raise
        return self._fetched

    def _fetch(
        self, hub: Hub, nevra: NEVRA, wanted: bytes | None, limit: int, place: Download
    ) -> FetchedRPM:
        rpm = hub.rpm(nevra)
        if wanted is not None and wanted != rpm.sigmd5:
            raise KojiError(f"Koji's {nevra} is another RPM: it does not have that rpm-sigmd5")
        address = hub.address(rpm)
        directory = self._settings.download_directory
        file = cast(BinaryIO, tempfile.TemporaryFile(dir=directory))  # noqa: SIM115 - the caller's
        try:
            length = hub.download(address, file, limit=limit, promise=place.promise)
            place.has_come(length)
            if _signature_of(file).blob(_MD5) != rpm.sigmd5:
                raise KojiError(f"{address} is not the RPM that Koji has a record of")
            file.seek(0)
        except BaseException:
            file.close()
            raise
        tell(log, BridgeLog.KOJI_RPM_FETCHED, rpm=str(nevra), bytes=length)
        return FetchedRPM(file, length, place)

    def fetch_for(self, fields: Fields, limit: int) -> FetchedRPM | None:
        """`fetch` for a subrequest; None where that fails, and then `reason` says why."""
        try:
            return self.fetch(fields, limit)
        except (SigulError, OSError) as error:
            self.refuse(fields["id"], error)
            return None

    def refuse(self, number: bytes, error: Exception) -> None:
        """Have the bridge answer the subrequest with this `id`, which gets no RPM, by `error`."""
        self._failures[number] = _reason(error, number)

    def note(self, fields: Fields) -> None:
        """Remember a subrequest's RPM where its answer will not name it."""
        if self.stores and self.head_signing:
            self._names[fields["id"]] = fields

    def lacks_name(self, subrequest: Fields | None = None) -> bool:
        """Whether nobody but the RPM's head says which one to store the signature for.

        Clients of 1.2 do not name RPMs that they send.
        """
        fields = self._request if subrequest is None else subrequest
        return self.stores and self.head_signing and "rpm-name" not in fields

    def note_head(self, head: Head, number: bytes | None) -> None:
        """Remember which RPM a head is of, which a client has sent without its name."""
        with contextlib.suppress(KojiError, CorruptRPM):
            self._heads[number] = _nevra_of(head)

    def forget(self, number: bytes) -> None:
        """Forget the subrequest with this `id`, which has been answered."""
        self._names.pop(number, None)
        self._heads.pop(number, None)
        self._failures.pop(number, None)

    def reason(self, number: bytes) -> str | None:
        """The reason why the subrequest with this `id` failed here; None where it did not."""
        return self._failures.get(number)

    # ------------------------------------------------------------------------------------ storing

    def head_room(self) -> AbstractContextManager[Callable[[int], None]]:
        """The room for an RPM's head, as `HeadRoom.holding`; one waits as long as for the hub."""
        return HEAD_ROOM.holding(self._settings.koji_timeout)

    def store(self, signature: Header, head: Head | None, number: bytes | None) -> str | None:
        """Store a signature header. None where it is stored, else the reason why it is not.

        It is of the RPM that `head` is of; where None, of the one that the request names, or its
        subrequest with this `id`.
        """
        try:
            self._store(signature, self._nevra(head, number))
        except (SigulError, OSError) as error:
            return _reason(error, number)
        return None

    def _nevra(self, head: Head | None, number: bytes | None) -> NEVRA:
        if head is not None:
            return _nevra_of(head)
        if number in self._heads:
            return self._heads[number]
        names = self._request if number is None else self._names.get(number)
        if names is None:
            raise RemoteProtocolError("the server answered for an RPM that it was not sent")
        return _named(names)

    def _store(self, signature: Header, nevra: NEVRA) -> None:
        if self._writer is None:
            self._writer = Hub(self._access)
            self._writer.log_in(self._proxied)
        rpm = self._writer.rpm(nevra)
        if signature.blob(_MD5) != rpm.sigmd5:
            raise KojiError(f"Koji's {nevra} is another RPM than the one that was signed")
        # Koji keeps it as it lies in the file.
        if self._writer.add_signature(rpm, padded(signature.raw)):
            tell(log, BridgeLog.KOJI_SIGNATURE_STORED, rpm=str(nevra))
        else:
            tell(log, BridgeLog.KOJI_SIGNATURE_KEPT, rpm=str(nevra))


def _reason(error: Exception, number: bytes | None) -> str:
    """Log what went wrong; returns it in words."""
    why = str(error)
    if number is None:
        tell(log, BridgeLog.KOJI_FAILED, why=why)
    else:
        tell(log, BridgeLog.KOJI_FAILED_FOR_RPM, number=number.hex(), why=why)
    return why


def _flag(fields: Fields, name: str) -> bool:
    return name in fields and fields.boolean(name)


def _named(fields: Fields) -> NEVRA:
    """The RPM that a request or subrequest names."""
    if any(f"rpm-{part}" not in fields for part in NEVRA_PARTS):
        raise KojiError("the client does not name the RPM", "use one that does")
    nevra = NEVRA(
        epoch=fields.safe_string("rpm-epoch") if "rpm-epoch" in fields else None,
        **{part: fields.safe_string(f"rpm-{part}") for part in NEVRA_PARTS},
    )
    if not nevra.is_harmless:
        raise KojiError("the RPM's name, version, release or arch has a character that it may not")
    return nevra


def _nevra_of(head: Head) -> NEVRA:
    """The RPM that a head is of (tags of rpm's main header)."""
    main = head.main
    name, version, release, arch = (main.string(tag) for tag in (1000, 1001, 1002, 1022))
    if name is None or version is None or release is None or arch is None:
        raise KojiError("the signed RPM does not say which one it is")
    epoch, source = str(main.integer(1003) or ""), 1044 not in main
    return NEVRA(name, epoch, version, release, "src" if source else arch)


def _signature_of(file: BinaryIO) -> Header:
    """The signature header of an RPM that came from Koji, which is mapped for that and not read."""
    file.flush()
    if not os.fstat(file.fileno()).st_size:
        raise KojiError("what Koji gave is no whole RPM")
    try:
        return parse_signature(mapped(file.fileno()))
    except CorruptRPM as error:
        raise KojiError(f"what Koji gave is no whole RPM: {error}") from None
