"""The canary: one signature through the whole path, verified with public keys that were given.

    keys ─▶ sign ─▶ verify      by gpg, in a home with the one public key
                └─▶ log         the proof that came with the reply, by the log's public key

What is signed is random, and made for this try: neither an old signature nor an old leaf is about
it. Nobody's word is believed on the way: the public keys come from files, and never from the site
that is looked at; what the client has seen of the log before plays no part here, beside the
client's own look at each reply.

Must not change anything at the site but for the leaf that each signature leaves, and must not
leave the client's state other than any request does.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..checks import Check, Report, State, failed, ok
from ..client import Client, Reply
from ..config import PROGRAMS, load
from ..config.client import ClientSettings, own_file
from ..config.reading import read_small
from ..errors import SigulError, printable, quoted
from ..logcontext import current
from ..secret import Secret
from ..transport.stream import Deadline
from .canary_result import CanaryResult
from .examination import become_its_user
from .steps import Layer, Step, failure, walk, walk_within

if TYPE_CHECKING:
    from ..evidence.leaf import Leaf
    from ..formats.signed_note import PublicKey

#: Largest file of a public key, in bytes.
_MAX_KEY: Final = 1 << 20
_ARMOUR: Final = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"
#: The name of what is signed, as the signing log has it.
FILE_NAME: Final = "sigul-stack-canary"
_OPERATION: Final = "sign-data"
#: Seconds of the whole time that are left to tell what took too long.
_LAST_SECONDS: Final = 0.5
#: Random bytes in what is signed.
_NONCE_BYTES: Final = 32
_COMPONENT: Final = "canary"
_NOT_SIGNED: Final = (
    "sigul-stack doctor client -c CONFIGURATION looks at each layer on the way, and sigul-stack"
    " trace finds the request in the logs"
)
_NOT_VERIFIED: Final = (
    "compare the public key with what sigul get-public-key tells; where it is the right one, the"
    " server signs with another key, or something else: stop it, and look at its log"
)
#: The form of a request's id that client and server share. Older servers have one of their own.
_REQUEST_ID: Final = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class CanaryOptions:
    """The things that are tried.

    `read_secret` gives the passphrase of `key`. `public_key` is a file with the armoured OpenPGP
    key, `log_key` one with public keys of signing logs; None: the one that client.conf names. With
    `with_log` false the log is not looked at. `seconds` limits all of it.
    """

    key: str
    public_key: Path
    read_secret: Callable[[], Secret]
    log_key: Path | None = None
    with_log: bool = True
    user_name: str | None = None
    seconds: float = 60.0


def try_canary(path: Path | None, options: CanaryOptions) -> tuple[Report, CanaryResult]:
    """Sign, verify, and look into the log, as the client's file `path` configures it.

    Over after `options.seconds`, whatever it waits for. Never raises `SigulError`: what is wrong
    is in the report.
    """
    deadline = Deadline(options.seconds, "the canary")
    seconds: dict[str, float] = {}
    try:
        if path is None:
            path = own_file()
        settings = load(PROGRAMS["client"](), path, user_name=options.user_name).settings
        become_its_user(settings)
    except SigulError as error:
        first = Step(Layer.CONFIGURATION, _raising(error))
        report = walk(_COMPONENT, [first, Step(Layer.SIGN, tuple, (Layer.CONFIGURATION,))])
    else:
        canary = _Canary(settings, options, deadline, seconds)
        report = walk_within(options.seconds, _COMPONENT, canary.steps())
    return report, _result(report, dict(seconds))


@contextmanager
def _scratch(content: bytes) -> Iterator[Path]:
    """A file that holds `content` while the block lasts, for gpg opens what it reads by name."""
    with tempfile.NamedTemporaryFile(prefix="sigul-canary-") as file:
        file.write(content)
        file.flush()
        yield Path(file.name)


def _failure(layer: Layer, error: SigulError, cure: str) -> Check:
    """The check of a layer where `error` was met, with `cure` where that has none of its own."""
    return failed(layer, error.problem, error.cure or cure)


def _raising(error: SigulError) -> Callable[[], Check]:
    return lambda: failure(Layer.CONFIGURATION, error)


def _result(report: Report, seconds: dict[str, float]) -> CanaryResult:
    bad = next((check for check in report.checks if check.state is not State.OK), None)
    text = "" if bad is None else printable(f"{bad.layer}: {bad.finding}")
    return CanaryResult(bad is None, seconds, text)


@dataclass(slots=True)
class _Canary:
    """One try. `seconds` has how long each phase took, as far as it ended well."""

    settings: ClientSettings
    options: CanaryOptions
    deadline: Deadline
    seconds: dict[str, float]
    _public_key: bytes = b""
    _log_keys: tuple[PublicKey, ...] = ()
    _passphrase: Secret = field(default_factory=lambda: Secret(b""))
    _data: bytes = b""
    _reply: Reply | None = None
    _fingerprint: str = ""

    def steps(self) -> tuple[Step, ...]:
        """The layers, in order. The log is looked at also where the signature is not good."""
        return (
            Step(Layer.GIVEN_KEYS, self.keys),
            Step(Layer.SIGN, self.sign, (Layer.GIVEN_KEYS,)),
            Step(Layer.VERIFY, self.verify, (Layer.SIGN,)),
            Step(Layer.SIGNING_LOG, self.log, (Layer.SIGN,)),
        )

    # ---------------------------------------------------------------------------- what was given

    def keys(self) -> Iterator[Check]:
        """Read the public keys and the passphrase, before anything is asked of the site."""
        path = self.options.public_key
        try:
            self._public_key = read_small(path, _MAX_KEY)
        except OSError as error:
            raise SigulError(
                f"'{path}' cannot be read: {error.strerror}", "name the public key's file"
            ) from error
        if not self._public_key.lstrip().startswith(_ARMOUR) or len(self._public_key) > _MAX_KEY:
            yield failed(
                Layer.GIVEN_KEYS,
                f"'{path}' is no armoured public key of OpenPGP",
                f"make the canary's key one of the type gnupg, and write it there:"
                f" sigul get-public-key {self.options.key}",
            )
            return
        about = "the signing log is not looked at"
        if self.options.with_log:
            from ..evidence.given_files import read_keys

            log_key = self.options.log_key or self.settings.signing_log_keys
            if log_key is None:
                yield failed(
                    Layer.GIVEN_KEYS,
                    "no public key of the signing log was given",
                    "give --log-key FILE, with what the server has in key.pub of its signing log,"
                    " or set signing-log-keys in client.conf; --no-log where the server has no log",
                )
                return
            self._log_keys = read_keys(log_key)
            about = f"the signing log's is in '{log_key}'"
        self._passphrase = self.options.read_secret()
        yield ok(Layer.GIVEN_KEYS, f"the key's public part is in '{path}', {about}")

    # ------------------------------------------------------------------------------------ the try

    def sign(self) -> Iterator[Check]:
        """Have something signed that nobody has seen before."""
        now = datetime.datetime.now(datetime.UTC)
        nonce = os.urandom(_NONCE_BYTES).hex()
        self._data = f"A test of sigul-stack canary, {now:%FT%TZ}: {nonce}\n".encode()
        # Less than there is, for its own error says more than the end of all does.
        left = round(max(self.deadline.remaining() - _LAST_SECONDS, _LAST_SECONDS), 1)
        settings = dataclasses.replace(
            self.settings, connect_timeout=left, handshake_timeout=left, reply_timeout=left
        )
        try:
            with self._timed("sign"):
                self._reply = Client(settings).call(
                    _OPERATION,
                    {"key": self.options.key, "armor": False},
                    {"passphrase": self._passphrase},
                    payload=self._data,
                    file_name=FILE_NAME,
                )
        except SigulError as error:
            told = _failure(Layer.SIGN, error, _NOT_SIGNED)
            if error.request:  # by which sigul-stack trace finds it in all logs
                finding = f"{told.finding} (request {error.request})"
                told = dataclasses.replace(told, finding=finding, values={"request": error.request})
            yield told
            return
        yield ok(
            Layer.SIGN,
            f"key {quoted(self.options.key)} signed for {quoted(self.settings.user_name)} in"
            f" {self.seconds['sign']:.3f} s",
            sign_seconds=round(self.seconds["sign"], 6),
        )

    def verify(self) -> Iterator[Check]:
        """Verify the signature with the public key that was given, and no other."""
        from ..client.verify import BadSignature, verify

        assert self._reply is not None  # noqa: S101 - this layer needs that one
        left = max(self.deadline.remaining() - _LAST_SECONDS, _LAST_SECONDS)
        try:
            with (
                self._timed("verify"),
                _scratch(self._data) as data,
                _scratch(self._reply.payload) as signature,
            ):
                good = verify(self._public_key, data, signature, seconds=left / 2)
        except BadSignature as error:
            yield _failure(Layer.VERIFY, error, _NOT_VERIFIED)
            return
        self._fingerprint = good.fingerprint
        yield ok(
            Layer.VERIFY,
            f"a good signature by {good.fingerprint}, verified in {self.seconds['verify']:.3f} s",
            verify_seconds=round(self.seconds["verify"], 6),
            fingerprint=good.fingerprint,
        )

    def log(self) -> Iterator[Check]:
        """Check the proof that the signing log has this very signature."""
        if not self.options.with_log:
            yield ok(Layer.SIGNING_LOG, "not looked at, as --no-log says")
            return
        from ..evidence.matching import check_signed, key_of, open_proof
        from ..formats.signed_note import Checkpoint

        assert self._reply is not None  # noqa: S101 - this layer needs that one
        proof = self._reply.log_proof
        if proof is None:
            yield failed(
                Layer.SIGNING_LOG,
                "the server's reply has no proof of a signing log",
                "have the server's sigul-stack brought up to date; --no-log where it is to have"
                " none",
            )
            return
        with self._timed("log"):
            key = key_of(self._log_keys, Checkpoint.of(proof.checkpoint).origin)
            proven = open_proof(proof, key)
            signature = hashlib.sha256(self._reply.payload).hexdigest()
            data = hashlib.sha256(self._data).hexdigest()
            check_signed(proven.leaf, data, signature, self._fingerprint)
            wrong = self._not_of_this(proven.leaf)
        if wrong:
            yield failed(
                Layer.SIGNING_LOG,
                f"leaf {proven.index} of the log {quoted(key.name)} {wrong}",
                "the server writes something else than it does: look at its log with sigul-stack"
                " audit show, on another machine's copy",
            )
            return
        yield ok(
            Layer.SIGNING_LOG,
            f"leaf {proven.index} of {quoted(key.name)}, proven at {proven.checkpoint.size} leaves",
            log_seconds=round(self.seconds["log"], 6),
            log_leaves=proven.checkpoint.size,
            request=proven.leaf.request,
        )

    def _not_of_this(self, leaf: Leaf) -> str:
        """Say what of a leaf, whose digests are ours, is of another request; empty: nothing."""
        key = leaf.objects.get("key") or ("" if leaf.key is None else leaf.key.name)
        for what, found, asked in (
            ("operation", leaf.op, _OPERATION),
            ("user", leaf.user, self.settings.user_name),
            ("key", key, self.options.key),
        ):
            if found != printable(asked):
                return f"is about the {what} {quoted(found, 80)} and not {quoted(asked, 80)}"
        ours = current()
        known = "" if ours is None else ours.request
        if known and _REQUEST_ID.fullmatch(leaf.request) and leaf.request != known:
            return f"is about the request {leaf.request} and not {known}"
        return ""

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[phase] = time.monotonic() - began
