"""Looks that health checks of several components share: certificate, handshake, status."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..config.shared import NSSSettings
from ..errors import DeadlineExceeded, ProtocolError, RemoteProtocolError, WrongNSSPassword
from ..pki.certificates import CertificateInfo
from ..protocol.status import BridgeStatus, ServerStatus, decode_status
from ..transport import nss
from ..transport.status import read_status
from ..transport.stream import Deadline
from . import probes
from .layers import Layer, Step, Unlooked, failed, ok
from .limits import Limits
from .report import Check, State

#: A daemon answers at once or not at all, in seconds.
_STATUS_SECONDS: Final = 3.0


@dataclass(slots=True)
class Own:
    """A component's own NSS database and certificate, once they have been opened."""

    settings: NSSSettings
    nickname: str
    limits: Limits
    now: datetime | None = None
    _found: tuple[nss.Identity, tuple[CertificateInfo, ...]] | None = field(
        default=None, init=False
    )

    @property
    def identity(self) -> nss.Identity:
        """Certificate and key, for a handshake."""
        return self._open()[0]

    @property
    def certificate(self) -> CertificateInfo:
        """The certificate."""
        return self._open()[1][0]

    def open(self) -> Iterator[Check]:
        """The database has to open with its password, and to have certificate and key."""
        try:
            self._open()
        except WrongNSSPassword:
            path = self.settings.path
            made = datetime.fromtimestamp((path / "key4.db").stat().st_mtime, UTC)
            yield failed(
                Layer.DATABASE,
                f"this password does not open the NSS database '{path}' (of {made:%Y-%m-%d %H:%M})",
                "give the password that it was made with (nss-password-file), or make it anew",
            )
        else:
            yield ok(Layer.DATABASE, f"'{self.nickname}' and its key are there, and can be opened")

    def look(self) -> Iterator[Check]:
        """Certificate and CA must be valid for a while."""
        own, *authorities = self._open()[1]
        yield self._dates(own, f"'{self.nickname}'", "renew it: sigul-stack pki renew", "days_left")
        for authority in authorities:
            # One in the report is enough where it is the CA that has most time left.
            check = self._dates(
                authority,
                f"the CA '{authority.common_name}'",
                "renew it: sigul-stack pki renew-ca",
                "ca_days_left",
            )
            if check.state is not State.OK:
                yield check

    def steps(self) -> tuple[Step, ...]:
        """The two looks at it. What makes a handshake needs the first alone."""
        return (
            Step(Layer.DATABASE, self.open),
            Step(Layer.CERTIFICATE, self.look, (Layer.DATABASE,)),
        )

    def _open(self) -> tuple[nss.Identity, tuple[CertificateInfo, ...]]:
        if self._found is None:
            nss.open_database(self.settings)
            identity = nss.load_identity(self.nickname)
            self._found = identity, probes.own_certificates(identity)
        return self._found

    def _dates(self, item: CertificateInfo, what: str, cure: str, value: str) -> Check:
        days = item.days_left(self.now)
        day = f"{item.not_after:%Y-%m-%d}"
        state = self.limits.of_days(days)
        if item.expired(self.now):
            state, finding = State.FAILED, f"{what} expired on {day}"
        else:
            finding = f"{what} is valid for {days} days, until {day}"
        return Check(
            Layer.CERTIFICATE,
            state,
            finding,
            "" if state is State.OK else cure,
            {value: days, "not_after": f"{item.not_after:%Y-%m-%dT%H:%M:%SZ}"},
        )


def shake_hands(
    own: Own, host: str, port: int, hostname: str, deadline: Deadline
) -> probes.Handshake:
    """A handshake that gives up when it is too slow to be healthy. Raises `SigulError`."""
    try:
        return probes.handshake(
            host,
            port,
            hostname=hostname,
            settings=own.settings,
            identity=own.identity,
            timeout=min(deadline.remaining(), own.limits.fail_handshake_seconds),
        )
    except DeadlineExceeded as error:
        raise DeadlineExceeded(
            f"{error}; see whether the bridge hangs or its machine is overloaded, and its log"
        ) from None


def told_handshake(limits: Limits, done: probes.Handshake) -> Check:
    """What a finished handshake shows."""
    seconds = done.handshake_seconds
    state = limits.of_handshake(seconds)
    return Check(
        Layer.OUTER,
        state,
        f"{done.tls_version} handshake with '{done.peer.common_name}' in {seconds:.3f} s",
        ""
        if state is State.OK
        else "see whether the machines or the network between them are overloaded",
        {
            "handshake_seconds": round(seconds, 6),
            "connect_seconds": round(done.connect_seconds, 6),
            "tls_version": done.tls_version,
        },
    )


def daemon_status(path: Path | None, deadline: Deadline) -> BridgeStatus | ServerStatus:
    """What the daemon tells at `path`. Raises `Unlooked` where there is none, or `SigulError`."""
    if path is None:
        raise Unlooked(
            "the daemon has no status socket; set status-socket in [daemon], for example"
            " /run/sigul/status.sock, and start it again"
        )
    try:
        return decode_status(
            read_status(path, round(min(deadline.remaining(), _STATUS_SECONDS), 1))
        )
    except DeadlineExceeded as error:
        raise DeadlineExceeded(
            f"{error}; the daemon hangs or its machine is overloaded: see its log, and start it"
            " again"
        ) from None


def told_status(status: BridgeStatus | ServerStatus) -> Check:
    """That the daemon lives and answers."""
    return ok(
        Layer.STATUS,
        f"version {status.version}, process {status.pid}, runs since {status.started}",
        version=status.version,
        pid=status.pid,
        started=status.started,
        **status.totals,
    )


def other_daemon(path: Path | None) -> ProtocolError:
    """The error for the status socket of the wrong kind of daemon."""
    return RemoteProtocolError(
        f"'{path}' is another daemon's status socket; give bridge and server a path each"
    )
