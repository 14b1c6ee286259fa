"""Membership in groups: the bridge's own check, before a server hears of a request.

Three sources, of which the configuration chooses one: FASJSON, a static file, LDAP. The libraries
that two of them need (the extras `fasjson` and `ldap`) are imported when they are first used.

Invariant: only a clear yes lets a request through. A source that cannot be asked is no yes. Answers
are kept for a short time, failures never. Nobody waits for anybody else's question.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from ..config.bridge import GroupSettings
from ..config.reading import read_small
from ..errors import ConfigurationError, SigulError, quoted
from ..logevents import tell
from .log_events import BridgeLog

log = logging.getLogger(__name__)

#: Allowed user and group names, whatever source is asked about them: nothing that has a meaning in
#: addresses, filters or distinguished names.
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,254}")
#: Most answers that are kept.
_MAX_KEPT: Final = 4096
#: Largest groups file, in bytes, and most pages of groups that FASJSON is asked for.
_MAX_FILE: Final = 1 << 20
_MAX_PAGES: Final = 50


class NotInGroup(SigulError):
    """A user may not send this request."""


class SourceFailed(SigulError):
    """The source of groups cannot be asked, or does not answer."""


class GroupSource(Protocol):
    """A service or file that knows groups."""

    def has(self, user: str, group: str) -> bool:
        """Tell whether `user` is in `group`. Raises `SourceFailed`."""


class Groups:
    """A cache of a source's answers, each kept for `cache-time`."""

    def __init__(
        self,
        settings: GroupSettings,
        source: GroupSource | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep = settings.cache_time
        self._source = source or source_of(settings)
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], tuple[float, bool]] = {}

    def check(self, user: str, group: str) -> None:
        """Raise `NotInGroup` unless `user` is in `group`; `SourceFailed`."""
        if not self._has(user, group):
            raise NotInGroup(
                f"user {quoted(user)} is not in the group {quoted(group)}, which this request needs"
            )

    def _has(self, user: str, group: str) -> bool:
        if not _NAME.fullmatch(user):
            return False
        with self._lock:
            until, known = self._kept.get((user, group), (0.0, False))
        if until > self._clock():
            return known
        found = self._source.has(user, group)
        with self._lock:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[user, group] = (self._clock() + self._keep, found)
        return found


def source_of(settings: GroupSettings) -> GroupSource:
    """Make the source that the configuration chooses. Raises `ConfigurationError`."""
    match settings.source:
        case "file":
            return GroupFile(_given(settings.file, "file"))
        case "fasjson":
            return FASJSON(
                _given(settings.fasjson_url, "fasjson-url"), settings.principal, settings.timeout
            )
        case "ldap":
            _given(settings.ldap_uri, "ldap-uri")
            _given(settings.ldap_base, "ldap-base")
            return LDAP(settings)
    raise ConfigurationError(
        "a group is required of users, but nothing says where groups are known",
        "set source in section [groups] of bridge.conf to file, fasjson or ldap",
    )


def _given(value: Any, name: str) -> Any:
    if value is None:
        raise ConfigurationError(
            f"[groups] {name} is not set in bridge.conf", "the source needs it"
        )
    return value


class GroupFile:
    """A text file: on each line a group, a colon and its users between blanks; `#` comments."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def has(self, user: str, group: str) -> bool:
        """See `GroupSource`. The file is read each time, so that a change counts at once."""
        try:
            text = read_small(self._path, _MAX_FILE).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SourceFailed(
                f"the groups file {quoted(str(self._path))} cannot be read: {error}"
            ) from None
        if len(text) > _MAX_FILE:
            raise SourceFailed(
                f"the groups file {quoted(str(self._path))} has more than {_MAX_FILE} bytes"
            )
        found = False
        for number, line in enumerate(text.splitlines(), 1):
            line = line.partition("#")[0].strip()
            name, colon, users = line.partition(":")
            if line and not colon:
                raise SourceFailed(f"{self._path}, line {number} is not `GROUP: USER …`")
            found = found or (name.strip() == group and user in users.split())
        return found


class FASJSON:
    """Fedora's account system, asked over HTTP with Kerberos (the library `fasjson-client`)."""

    def __init__(self, url: str, principal: str | None, timeout: float) -> None:
        self._url = url
        self._principal = principal
        self._timeout = timeout

    def has(self, user: str, group: str) -> bool:
        """See `GroupSource`."""
        from . import fasjson

        try:
            return group in fasjson.groups_of(
                user, self._url, self._principal, self._timeout, _MAX_PAGES
            )
        except SigulError:
            raise
        except Exception as error:
            # Whatever a library makes of what a server says.
            tell(log, BridgeLog.FASJSON_FAILED, exc_info=True)
            raise SourceFailed(f"FASJSON at {self._url}: {_short(error)}") from error


class LDAP:
    """A directory, asked by the library `python-ldap`."""

    def __init__(self, settings: GroupSettings) -> None:
        self._settings = settings

    def has(self, user: str, group: str) -> bool:
        """See `GroupSource`."""
        try:
            import ldap
            import ldap.filter
        except ModuleNotFoundError as error:
            raise SourceFailed(
                f"the Python module {error.name} is not installed", "install sigul-stack[ldap]"
            ) from None
        settings = self._settings
        escape = ldap.filter.escape_filter_chars
        wanted = settings.ldap_filter.replace("{group}", escape(group))
        wanted = wanted.replace("{user}", escape(user))
        try:
            with contextlib.ExitStack() as stack:
                directory = ldap.initialize(settings.ldap_uri)
                stack.callback(directory.unbind_ext)
                directory.set_option(ldap.OPT_NETWORK_TIMEOUT, settings.timeout)
                directory.set_option(ldap.OPT_TIMEOUT, settings.timeout)
                directory.set_option(ldap.OPT_REFERRALS, ldap.OPT_OFF)
                directory.protocol_version = ldap.VERSION3
                if settings.ldap_ca_file is not None:
                    directory.set_option(ldap.OPT_X_TLS_CACERTFILE, str(settings.ldap_ca_file))
                directory.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
                directory.set_option(ldap.OPT_X_TLS_NEWCTX, 0)
                if settings.ldap_starttls and str(settings.ldap_uri).startswith("ldap:"):
                    directory.start_tls_s()
                if settings.ldap_bind_dn is not None:
                    password = settings.ldap_bind_password
                    directory.simple_bind_s(
                        settings.ldap_bind_dn, b"" if password is None else password.reveal()
                    )
                found = directory.search_ext_s(
                    settings.ldap_base,
                    ldap.SCOPE_SUBTREE,
                    wanted,
                    ["1.1"],
                    timeout=settings.timeout,
                    sizelimit=2,
                )
        except ldap.SIZELIMIT_EXCEEDED:
            return True
        except ldap.LDAPError as error:
            raise SourceFailed(f"LDAP at {settings.ldap_uri}: {_short(error)}") from error
        # Continuation references to other directories have no name.
        return any(name is not None for name, _attributes in found)


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
