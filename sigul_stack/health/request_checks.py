"""Checks by requests that a server answers behind its bridge: inner session, a user's rights."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ..checks import Check, failed, ok, warning
from ..client import Client
from ..config.client import ClientSettings
from ..errors import (
    BridgeRefused,
    DeadlineExceeded,
    PeerClosed,
    RequestRefused,
    SigulError,
    Status,
)
from ..secret import Secret
from .connection_checks import failed_handshake
from .key_checks import rpm_checks
from .note_checks import clock_checks, key_checks
from .nss_checks import NSSChecks
from .steps import DOCTOR, HEALTH, CheckContext, Layer, Mode, Step


@dataclass(frozen=True, slots=True)
class RequestChecks:
    """Checks of both layers of TLS and of the rights of a user, by requests.

    `doctor` proves the inner session with a request that must be refused: `list-users` with a
    no password. It occupies one worker for a moment and leaves one line in the server's log.
    """

    context: CheckContext[ClientSettings]
    own: NSSChecks

    @property
    def _key(self) -> str | None:
        return self.context.options.key

    def steps(self) -> tuple[Step, ...]:
        """The layers, in order; those of rights where a secret is to be had."""
        inner = Step(Layer.INNER, self.inner, (Layer.OUTER,), DOCTOR)
        read_secret = self.context.options.read_secret
        if read_secret is None:
            return (inner,)
        rights, both = partial(self.rights, read_secret), partial(self.both, read_secret)
        return (
            inner,
            Step(Layer.RIGHTS, rights, (Layer.INNER,), DOCTOR),
            Step(Layer.INNER, both, (Layer.OUTER,), HEALTH),
        )

    def inner(self) -> Iterator[Check]:
        """Check that a server is there, is who it should be, and refuses who gives no password.

        None, because a wrong one would count as a guess at this user's.
        """
        begin = time.monotonic()
        try:
            self._client().call("list-users")
        except RequestRefused as refused:
            if refused.status == Status.AUTHENTICATION_FAILED:
                yield self._answered(begin)
            else:
                yield failed(
                    Layer.INNER,
                    f"{self.context.settings.server_hostname} answered, but not as a server should:"
                    f" {refused}",
                    "its log says why",
                )
        except SigulError as error:
            yield self._unanswered(error)

    def rights(self, read_secret: Callable[[str], Secret]) -> Iterator[Check]:
        """Check that the server accepts this user with their password or passphrase."""
        secret = self._read(read_secret)
        if secret.reveal().endswith((b"\n", b"\r")):
            yield warning(
                Layer.RIGHTS,
                "the password that was given ends with a line end, which counts as part of it",
                r"end it with NUL alone: printf 'PASSWORD\0' | sigul-stack doctor --batch",
            )
        yield from self._granted(secret)

    def both(self, read_secret: Callable[[str], Secret]) -> Iterator[Check]:
        """Check the inner session and the rights with one request."""
        secret = self._read(read_secret)
        begin = time.monotonic()
        try:
            rights = list(self._granted(secret))
        except SigulError as error:
            yield self._unanswered(error)
        else:
            yield self._answered(begin)
            yield from rights

    def _read(self, read_secret: Callable[[str], Secret]) -> Secret:
        key = self._key
        return read_secret(f"Passphrase of key '{key}'" if key else "Administrator's password")

    def _client(self) -> Client:
        seconds = self.context.seconds()
        return Client(
            dataclasses.replace(
                self.context.settings,
                nss=self.own.settings,
                connect_timeout=seconds,
                handshake_timeout=seconds,
                reply_timeout=seconds,
            ),
            retry_seconds=0,
        )

    def _answered(self, begin: float) -> Check:
        seconds = time.monotonic() - begin
        return ok(
            Layer.INNER,
            f"the server '{self.context.settings.server_hostname}' answered through both layers in"
            f" {seconds:.3f} s",
            request_seconds=round(seconds, 6),
        )

    def _unanswered(self, error: SigulError) -> Check:
        name = self.context.settings.server_hostname
        seconds = self.context.limits.timeout_seconds
        if isinstance(error, PeerClosed):
            return failed(
                Layer.INNER,
                "the bridge ended the connection before a server answered",
                "its log says why: no signing server was attached in time (look at it with doctor"
                " server), or the certificate of this client is one that server-cn names",
            )
        if isinstance(error, BridgeRefused):
            return failed(
                Layer.INNER,
                str(error),
                "look at the server with doctor server, where the bridge waited for one in vain;"
                " its limits are those of bridge.conf",
            )
        if isinstance(error, DeadlineExceeded):
            return failed(
                Layer.INNER,
                f"no signing server took a request within {seconds:g} s: none is attached to the"
                " bridge, or all are busy",
                "look at the server with doctor server: does it run, and does it reach this"
                " bridge? Raise its workers if all are busy",
            )
        if error.symbol == "SSL_ERROR_BAD_CERT_DOMAIN":
            return failed(
                Layer.INNER,
                f"the server's certificate does not name {name}, which server-hostname says it is"
                f" ({error.symbol})",
                "correct server-hostname in [client] to a name in the server's certificate, or"
                f" renew that with --san {name}",
            )
        return failed_handshake(Layer.INNER, error, name, seconds)

    def _granted(self, secret: Secret) -> Iterator[Check]:
        """The checks of a request's rights. Raises `SigulError` where no server answers."""
        user, client = self.context.settings.user_name, self._client()
        began = time.time()
        try:
            if self._key is None:
                reply = client.call("list-users", {}, {"password": secret})
                count = len(reply.names("num-users"))
                right = f"an administrator's password (list-users: {count} users)"
            else:
                reply = client.call("get-public-key", {"key": self._key}, {"passphrase": secret})
                right = (
                    f"the passphrase of key '{self._key}' (get-public-key {self._key}:"
                    f" {len(reply.payload)} bytes)"
                )
        except RequestRefused as refused:
            yield self._refused(refused, user)
            return
        yield ok(Layer.RIGHTS, f"user '{user}' has {right}")
        if self._key is not None:
            yield from key_checks(self._key, reply.fields)
            if self.context.mode is Mode.DOCTOR:
                yield from rpm_checks(Layer.RIGHTS, self._key, reply.payload)
        yield from clock_checks(client, reply.fields, began)

    def _refused(self, refused: RequestRefused, user: str) -> Check:
        if refused.status != Status.AUTHENTICATION_FAILED:
            return failed(Layer.RIGHTS, f"the server refuses: {refused}", "its log says why")
        log = "the server's log has the reason, in a line with `Authentication failed:`"
        all_alike = f"(all are answered alike: {refused})"
        owner = self.own.leaf.common_name
        if owner != user:
            return failed(
                Layer.RIGHTS,
                f"the server refuses user '{user}'; the certificate is for '{owner}', and the two"
                " must be the same",
                f"set user-name (or -u) to {owner}, or have a certificate issued for {user}; on"
                f" the server, lenient-username-check or proxy-usernames allow it; {log}",
            )
        if self._key is not None:
            return failed(
                Layer.RIGHTS,
                f"the server refuses user '{user}' key '{self._key}': the passphrase is wrong, or"
                f" user, key or access do not exist {all_alike}",
                f"'{user}' has to be a user of the key '{self._key}', and the passphrase be"
                f" theirs: ask an administrator to look (sigul list-key-users {self._key}); {log}",
            )
        return failed(
            Layer.RIGHTS,
            f"the server refuses user '{user}': the password is wrong, or there is no such user,"
            f" or it is no administrator {all_alike}",
            f"'{user}' has to be an administrator, and the password be theirs; {log}; set a new"
            " password with sigul modify-user --change-password, or sigul_server_add_admin on the"
            " server",
        )
