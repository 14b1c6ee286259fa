"""Both layers of TLS and the rights of a user, by requests that a server answers.

The inner session is proven with a request that must be refused: `list-users` with a random
password. It occupies one worker for a moment and leaves one line in the server's log.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ..client import Client
from ..config.client import ClientSettings
from ..errors import (
    DeadlineExceeded,
    PeerClosed,
    RequestRefused,
    SigulError,
    Status,
    TransportError,
)
from ..secret import Secret
from .checks_network import explain_tls
from .checks_nss import NSSLook
from .layers import Layer, Step, failed, ok, warning
from .report import Check

_RANDOM_CHARACTERS: Final = 32

ReadSecret = Callable[[str], Secret]


@dataclass
class RequestLook:
    """The layers behind the bridge. `seconds` is the limit of each request.

    `read` gives the password (or the passphrase of `key`); None: rights are not looked at.
    """

    settings: ClientSettings
    nss_look: NSSLook
    seconds: float
    read: ReadSecret | None = None
    key: str | None = None

    def steps(self) -> tuple[Step, ...]:
        """The layers, in order."""
        inner = Step(Layer.INNER, self.inner, (Layer.OUTER,))
        if self.read is None:
            return (inner,)
        return (inner, Step(Layer.RIGHTS, self.rights, (Layer.INNER,)))

    def _client(self) -> Client:
        settings = dataclasses.replace(
            self.settings,
            nss=self.nss_look.settings,
            connect_timeout=self.seconds,
            handshake_timeout=self.seconds,
            reply_timeout=self.seconds,
        )
        return Client(settings)

    def inner(self) -> Iterator[Check]:
        """A server is attached, is who it should be, and refuses a password that is none."""
        begin = time.monotonic()
        try:
            self._client().list_users(Secret.random(_RANDOM_CHARACTERS))
        except RequestRefused as refused:
            if refused.status != Status.AUTHENTICATION_FAILED:
                yield failed(
                    Layer.INNER,
                    f"{self.settings.server_hostname} answered, but not as a server should:"
                    f" {refused}",
                    "its log says why",
                )
                return
            yield ok(
                Layer.INNER,
                f"{self.settings.server_hostname} answers through both layers",
                request_seconds=round(time.monotonic() - begin, 4),
            )
        except SigulError as error:
            yield self._explain(error)

    def _explain(self, error: SigulError) -> Check:
        name, text = self.settings.server_hostname, str(error)
        if isinstance(error, PeerClosed):
            return failed(
                Layer.INNER,
                "the bridge ended the connection before a server answered",
                "its log says why: no signing server was attached in time (look at it with doctor"
                " server), or the certificate of this client is one that server-cn names",
            )
        if isinstance(error, DeadlineExceeded):
            return failed(
                Layer.INNER,
                f"no signing server took a request within {self.seconds:g} s: none is attached to"
                " the bridge, or all are busy",
                "look at the server with doctor server: does it run, and does it reach this"
                " bridge? Raise its workers if all are busy",
            )
        if isinstance(error, TransportError) and "SSL_ERROR_BAD_CERT_DOMAIN" in text:
            return failed(
                Layer.INNER,
                f"the server's certificate does not name {name}, which server-hostname says it is"
                " (SSL_ERROR_BAD_CERT_DOMAIN)",
                "correct server-hostname in [client] to a name in the server's certificate, or"
                f" renew that with --san {name}",
            )
        return explain_tls(Layer.INNER, error, name, self.seconds)

    def rights(self) -> Iterator[Check]:
        """The server accepts this user with that password or passphrase."""
        assert self.read is not None  # noqa: S101 - else this is no step
        what = f"Passphrase of key '{self.key}'" if self.key else "Administrator's password"
        secret = self.read(what)
        user = self.settings.user_name
        if secret.reveal().endswith((b"\n", b"\r")):
            yield warning(
                Layer.RIGHTS,
                "the password that was given ends with a line end, which counts as part of it",
                r"end it with NUL alone: printf 'PASSWORD\0' | sigul-stack doctor --batch",
            )
        try:
            if self.key is None:
                self._client().list_users(secret)
            else:
                self._client().get_public_key(self.key, passphrase=secret)
        except RequestRefused as refused:
            yield self._refused(refused, user)
            return
        right = f"the passphrase of key '{self.key}'" if self.key else "an administrator's password"
        yield ok(Layer.RIGHTS, f"user '{user}' has {right}")

    def _refused(self, refused: RequestRefused, user: str) -> Check:
        if refused.status != Status.AUTHENTICATION_FAILED:
            return failed(Layer.RIGHTS, f"the server refuses: {refused}", "its log says why")
        log = "the server's log has the reason, in a line with `Authentication failed:`"
        leaf = self.nss_look.leaf
        if leaf is not None and leaf.common_name != user:
            return failed(
                Layer.RIGHTS,
                f"the server refuses user '{user}'; the certificate is for '{leaf.common_name}',"
                " and the two must be the same",
                f"set user-name (or -u) to {leaf.common_name}, or have a certificate"
                f" issued for {user}; on the server, lenient-username-check or proxy-usernames"
                f" allow it; {log}",
            )
        if self.key is not None:
            return failed(
                Layer.RIGHTS,
                f"the server refuses user '{user}' key '{self.key}': the passphrase is wrong, or"
                " user, key or access do not exist (all are answered alike)",
                f"ask an administrator to look (sigul list-key-users {self.key}); {log}",
            )
        return failed(
            Layer.RIGHTS,
            f"the server refuses user '{user}': the password is wrong, or there is no such user, or"
            " it is no administrator (all are answered alike)",
            f"{log}; set a new password with sigul modify-user --change-password, or"
            " sigul_server_add_admin on the server",
        )


def look_at_user(settings: ClientSettings, look: NSSLook) -> Iterator[Check]:
    """Compare the user's name with the one in the certificate."""
    leaf = look.leaf
    if leaf is not None and leaf.common_name != settings.user_name:
        yield warning(
            Layer.CERTIFICATE,
            f"'{leaf.nickname}' is for the user '{leaf.common_name}', and user-name is"
            f" '{settings.user_name}': the server refuses that",
            f"set user-name (or -u) to {leaf.common_name}, unless the server has"
            " lenient-username-check or names it in proxy-usernames",
        )
    if settings.server_hostname == settings.bridge_hostname:
        yield warning(
            Layer.CERTIFICATE,
            "server-hostname and bridge-hostname are the same: the bridge could play the server and"
            " be told passphrases",
            "give the server a name of its own; it need not resolve",
        )
