"""Requests to a Koji hub: where an RPM is, and that it keep a signature.

For bridge and client. The library `koji` (the extra `koji` of this package) is imported when a hub
is first needed, never before. Whatever a hub answers is checked here: outside of this module there
are only typed values, and no name of the hub's becomes part of an address or a path unless it is
made of harmless characters. Answers are bounded in size and in time. Foreign errors end here as
`KojiError`.

A `Hub` is for one thread and one request: the library's session is no more than that.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote, urlsplit

from .errors import SigulError
from .logevents import DEBUG, INFO, LogEvent, tell

log = logging.getLogger(__name__)


class KojiLog(LogEvent):
    """Events of the log."""

    LOGGED_IN = "koji-logged-in", INFO, "Logged in to Koji at {url!t} ({kind!t})"
    LOGGED_IN_FOR = (
        "koji-logged-in-for",
        INFO,
        ("Logged in to Koji at {url!t} ({kind!t}) on behalf of {user!q}"),
    )
    LOGOUT_FAILED = "koji-logout-failed", INFO, "Logging out of Koji at {url!t} failed: {why!t}"
    CALL_FAILED = "koji-call-failed", DEBUG, "{where!t}: {what!t} failed"


#: Longest answer to a call, in bytes: that of an RPM with very many signatures.
MAX_ANSWER: Final = 4 << 20
#: Bytes of a download that are read at once.
_PIECE: Final = 1 << 20
#: The section of a Koji configuration file that counts where none has the instance's name.
_PROFILE: Final = "koji"
#: A name, version, release, arch or volume: what may be part of an address.
_WORD: Final = re.compile(r"[A-Za-z0-9_+^~%][A-Za-z0-9._+^~%-]{0,254}")
_NEVRA: Final = re.compile(
    r"(?P<name>.+)-(?:(?P<epoch>[0-9]{1,10}):)?(?P<version>[^-:]+)-(?P<release>[^-:]+)"
    r"\.(?P<arch>[A-Za-z0-9_]+)"
)

#: A length in bytes, as HTTP has it.
_LENGTH: Final = re.compile("[0-9]{1,18}")
#: The parts of an RPM's name that it always has; each may be part of an address.
NEVRA_PARTS: Final = ("name", "version", "release", "arch")

#: Kerberos takes its key table from the environment: one login at a time.
_kerberos_lock = threading.Lock()


class KojiError(SigulError):
    """Koji cannot be used, or does not do what it is asked; the message says why."""


@dataclass(frozen=True, slots=True)
class NEVRA:
    """The name of an RPM. `epoch` None: not said. `str()` is how people write it."""

    name: str
    epoch: str | None
    version: str
    release: str
    arch: str

    @classmethod
    def parse(cls, text: str) -> NEVRA | None:
        """`NAME-[EPOCH:]VERSION-RELEASE.ARCH`; None where `text` is none."""
        found = _NEVRA.fullmatch(text)
        if found is None or found["arch"] == "rpm":
            return None
        nevra = cls(**found.groupdict())
        return nevra if nevra.is_harmless else None

    @property
    def is_harmless(self) -> bool:
        """Tell whether all of it may be part of an address."""
        return all(_WORD.fullmatch(getattr(self, part)) for part in NEVRA_PARTS)

    @property
    def file_name(self) -> str:
        """The name of the RPM's file."""
        return f"{self.name}-{self.version}-{self.release}.{self.arch}.rpm"

    def __str__(self) -> str:
        epoch = f"{self.epoch}:" if self.epoch not in (None, "", "0") else ""
        return f"{self.name}-{epoch}{self.version}-{self.release}.{self.arch}"


@dataclass(frozen=True, slots=True)
class HubRPM:
    """An RPM that a hub has. `sigmd5` is the MD5 of header and payload, 16 bytes."""

    number: int
    nevra: NEVRA
    build: int
    sigmd5: bytes


@dataclass(frozen=True, slots=True)
class HubAccess:
    """The way to a hub: Koji's configuration file (None: Koji's own), the instance's name.

    `timeout` is for one call, and for the longest silence of a download, in seconds.
    """

    config: Path | None
    instance: str | None
    timeout: float


class Hub(contextlib.AbstractContextManager["Hub"]):
    """A session with a hub, to be closed. Nothing is sent before the first call."""

    def __init__(self, access: HubAccess) -> None:
        self._koji = _library()
        self._access = access
        #: When what is under way must be over, and what to say where it is not.
        self._limit: tuple[float, str] | None = None
        with self._errors("its configuration"):
            self._options = _options(self._koji, access)
        self._url = str(self._options["server"])
        self._session = _session(self._koji, self._url, self._options, self._left)
        self._checked = False

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session; a hub that does not care about it changes nothing."""
        try:
            self._session.logout()
        except Exception as error:  # noqa: BLE001 - the work is done
            tell(log, KojiLog.LOGOUT_FAILED, url=self._url, why=str(error))
        # Else the library would try again when the session is collected.
        self._session.setSession(None)
        self._session.rsession.close()

    # ------------------------------------------------------------------------------------- limits

    @contextlib.contextmanager
    def within(self, seconds: float, what: str) -> Iterator[None]:
        """Give all that is asked and downloaded in the block `seconds` together.

        Raises `KojiError` that names `what` where they do not suffice.
        """
        self._limit = (
            time.monotonic() + seconds,
            f"{what} took longer than {seconds:g} s (download-timeout)",
        )
        try:
            yield
        finally:
            self._limit = None

    def _left(self) -> float:
        """Seconds for the next step. Raises `KojiError` where none are left of `within`."""
        if self._limit is None:
            return self._access.timeout
        end, told = self._limit
        left = end - time.monotonic()
        if left <= 0:
            raise KojiError(told)
        return min(left, self._access.timeout)

    # ------------------------------------------------------------------------------------- asking

    def rpm(self, nevra: NEVRA) -> HubRPM:
        """The RPM `nevra`. Raises `KojiError` where there is none."""
        wanted = {part: getattr(nevra, part) for part in NEVRA_PARTS}
        answer = self._call("getRPM", wanted)
        if answer is None:
            raise KojiError(f"Koji at {self._url} has no RPM {nevra}", "check its name")
        row = _mapping(answer)
        found = NEVRA(
            epoch=None if row.get("epoch") is None else str(_number(row, "epoch")),
            **{part: _text(row, part) for part in wanted},
        )
        if any(getattr(found, part) != wanted[part] for part in wanted):
            raise KojiError(f"Koji at {self._url} was asked for {nevra} and told of another RPM")
        if nevra.epoch is not None and (nevra.epoch or "0") != (found.epoch or "0"):
            raise KojiError(
                f"Koji at {self._url} has {found}, which has another epoch than {nevra}"
            )
        digest = _text(row, "payloadhash")
        if not re.fullmatch("[0-9a-f]{32}", digest):
            raise KojiError(f"Koji at {self._url} does not tell the MD5 of {nevra}")
        return HubRPM(_number(row, "id"), found, _number(row, "build_id"), bytes.fromhex(digest))

    def address(self, rpm: HubRPM) -> str:
        """The address at which the unsigned RPM can be downloaded."""
        top = self._options.get("topurl")
        if not isinstance(top, str) or urlsplit(top).scheme not in ("http", "https"):
            raise KojiError(
                f"the configuration of Koji at {self._url} has no topurl to download RPMs from",
                "add topurl = https://…",
            )
        build = _mapping(self._call("getBuild", rpm.build))
        default = build.get("volume_name") in (None, "DEFAULT")
        volume = [] if default else ["vol", _word(build, "volume_name")]
        words = [_word(build, name) for name in ("name", "version", "release")]
        path = [*volume, "packages", *words, rpm.nevra.arch, rpm.nevra.file_name]
        return "/".join([top.rstrip("/"), *map(quote, path)])

    def download(
        self,
        address: str,
        target: BinaryIO,
        *,
        limit: int,
        promise: Callable[[int], None] = lambda _length: None,
    ) -> int:
        """Write what is at `address` to `target`, at most `limit` bytes; how many there were.

        `promise` is told first how many will come at most, and may wait, or raise what is raised
        then.
        """
        import requests

        same_host = urlsplit(address).netloc == urlsplit(self._url).netloc
        verify = self._options.get("serverca") if same_host else None
        count = 0
        with (
            self._errors(f"downloading {address}"),
            requests.get(
                address,
                stream=True,
                timeout=self._left(),
                verify=verify or True,
                headers={"Accept-Encoding": "identity"},
            ) as answer,
        ):
            answer.raise_for_status()
            told = answer.headers.get("Content-Length")
            expected = int(told) if told is not None and _LENGTH.fullmatch(told) else limit
            if expected > limit:
                raise KojiError(f"{address} has more than the {limit} bytes that are allowed")
            promise(expected)
            limit = expected
            # What has come, and not a piece of full size: one that trickles is noticed.
            while piece := answer.raw.read1(_PIECE):
                count += len(piece)
                if count > limit:
                    raise KojiError(f"{address} has more than the {limit} bytes that are allowed")
                self._left()
                target.write(piece)
            if told is not None and told != str(count):
                raise KojiError(f"{address} broke off after {count} of {told} bytes")
        return count

    # -------------------------------------------------------------------------------- signatures

    def log_in(self, proxied: str | None) -> None:
        """Log in as the configuration says, on behalf of the user `proxied` where one is given."""
        options = self._options
        kind = options.get("authtype") or ("ssl" if options.get("cert") else "gssapi")
        # By itself, so that a hub that is not there is said to be that: a failed login is told in
        # the library's own words.
        self._check_version()
        with self._errors("logging in"):
            if kind == "ssl":
                self._session.ssl_login(
                    options.get("cert"), None, options.get("serverca") or None, proxyuser=proxied
                )
            elif kind in ("gssapi", "kerberos"):
                with _kerberos_lock:
                    self._session.gssapi_login(
                        principal=options.get("principal"),
                        keytab=options.get("keytab"),
                        proxyuser=proxied,
                    )
            else:
                raise KojiError(
                    f"authtype {kind} of Koji at {self._url} is not supported", "use ssl or gssapi"
                )
        if proxied:
            tell(log, KojiLog.LOGGED_IN_FOR, url=self._url, kind=kind, user=proxied)
        else:
            tell(log, KojiLog.LOGGED_IN, url=self._url, kind=kind)

    def add_signature(self, rpm: HubRPM, header: bytes) -> bool:
        """Have the hub keep the signature header `header` of `rpm`; whether it had none before.

        A signature by the same key that is there already stays: a request that is made once more
        makes another one, which is not better.
        """
        with self._errors("the new signature"):
            key = self._koji.get_sighdr_key(header)
        if not isinstance(key, str) or not re.fullmatch("[0-9a-f]{8}", key):
            raise KojiError("the RPM that came back has no signature that Koji could store")
        if self._has_signature(rpm, key):
            return False
        try:
            self._call("addRPMSig", rpm.number, base64.b64encode(header).decode("ascii"))
        except KojiError:
            # The answer may have been lost, and the library's second try refused.
            digest = hashlib.md5(header, usedforsecurity=False).hexdigest()
            if not self._has_signature(rpm, key, digest):
                raise
        return True

    def _has_signature(self, rpm: HubRPM, key: str, digest: str | None = None) -> bool:
        answer = self._call("queryRPMSigs", rpm_id=rpm.number, sigkey=key)
        if not isinstance(answer, list):
            raise KojiError(f"Koji at {self._url} does not tell which signatures there are")
        return any(
            row.get("sigkey") == key and digest in (None, row.get("sighash"))
            for row in [_mapping(item) for item in answer]
        )

    # -------------------------------------------------------------------------------------- calls

    def _call(self, method: str, *arguments: object, **named: object) -> object:
        self._check_version()
        with self._errors(method):
            return self._session.callMethod(method, *arguments, **named)

    def _check_version(self) -> None:
        if self._checked:
            return
        self._checked = True
        version = self._call("getAPIVersion")
        if version != self._koji.API_VERSION:
            raise KojiError(
                f"Koji at {self._url} has version {version!r:.40} of its interface, and not"
                f" {self._koji.API_VERSION}",
                "another version of the library koji is needed",
            )

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turn whatever goes wrong in foreign code into `KojiError`."""
        where = f"Koji at {self._url}" if hasattr(self, "_url") else "Koji"
        try:
            yield
        except SigulError:
            raise
        except Exception as error:
            # Anything may come out of a library that reads what a hub says.
            tell(log, KojiLog.CALL_FAILED, exc_info=True, where=where, what=what)
            # Where the time is up, that is the reason, whatever the last step met.
            self._left()
            raise KojiError(f"{where}: {what}: {_reason(error)}") from error


# ---------------------------------------------------------------------------------- the library


def _library() -> Any:
    try:
        import koji
    except ModuleNotFoundError as error:
        raise KojiError(
            f"the Python module {error.name} is not installed", "install sigul-stack[koji]"
        ) from None
    return koji


def _options(koji: Any, access: HubAccess) -> Mapping[str, Any]:
    """Koji's configuration; the section is the instance's own where there is one."""
    config = None if access.config is None else str(access.config)
    if config is not None and not os.access(config, os.R_OK):
        raise KojiError(f"the configuration file '{config}' cannot be read")
    options: Mapping[str, Any]
    try:
        options = koji.read_config(access.instance or _PROFILE, user_config=config)
    except koji.ConfigurationError:
        # Of Koji's own files, no other section may stand for an instance's.
        if config is None:
            raise
        options = koji.read_config(_PROFILE, user_config=config)
    return options


def _session(koji: Any, url: str, options: Mapping[str, Any], left: Callable[[], float]) -> Any:
    """A session that gives up in time, and reads no more than it should.

    `left` gives the seconds for a step, or raises where there are none.
    """

    class Session(koji.ClientSession):  # type: ignore[misc]
        def _sendOneCall(self, *arguments: Any) -> Any:
            # Each try anew, for those before it have taken of the time.
            self.opts["timeout"] = left()
            return super()._sendOneCall(*arguments)

        def _read_xmlrpc_response(self, response: Any) -> Any:
            timeout = left()
            end = time.monotonic() + timeout
            parser, unmarshaller = koji.getparser()
            count = 0
            while piece := response.raw.read1(_PIECE, decode_content=True):
                count += len(piece)
                if count > MAX_ANSWER:
                    raise KojiError(f"Koji at {url} sent more than {MAX_ANSWER} bytes")
                if time.monotonic() > end:
                    raise KojiError(f"Koji at {url} took longer than {timeout:g} s to answer")
                parser.feed(piece)
            parser.close()
            result = unmarshaller.close()
            return result[0] if len(result) == 1 else result

    timeout = left()
    settings = {
        **koji.grab_session_options(dict(options)),
        "timeout": timeout,
        "auth_timeout": timeout,
        # Once more at once; its own waits are for builders, which have all day.
        "max_retries": 1,
        "retry_interval": 1,
        "anon_retry": False,
        "offline_retry": False,
        "debug": False,
        "debug_xmlrpc": False,
    }
    return Session(url, settings)


def _reason(error: BaseException) -> str:
    """The reason of an error, in words; of a failed connection only what the system says of it."""
    inner: BaseException | None = error
    for _ in range(8):
        if inner is None:
            break
        if isinstance(inner, TimeoutError) or "timed out" in str(inner):
            return "timed out"
        if isinstance(inner, OSError) and inner.errno and inner.strerror:
            return inner.strerror
        causes = (getattr(inner, "reason", None), *inner.args[:1], inner.__cause__)
        inner = next((cause for cause in causes if isinstance(cause, BaseException)), None)
    return " ".join(str(error).split())[:300] or type(error).__name__


# ------------------------------------------------------------------------ what a hub may answer


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise KojiError("Koji answers something that is no record")
    return value


def _text(row: Mapping[str, object], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.isprintable() or len(value) > 1024:
        raise KojiError(f"Koji answers a record whose {name} is no text")
    return value


def _word(row: Mapping[str, object], name: str) -> str:
    value = _text(row, name)
    if not _WORD.fullmatch(value):
        raise KojiError(f"Koji answers a {name} that cannot be part of an address")
    return value


def _number(row: Mapping[str, object], name: str) -> int:
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise KojiError(f"Koji answers a record whose {name} is no number")
    return value
