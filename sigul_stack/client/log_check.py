"""The client's look at the server's signing log: each OK reply is held against what is known of it.

The leaf has to be about the very request: its operation, user and things, the SHA-256 of what was
sent and of what came back. What a witness is and what it complains of: `evidence.witness`.

Invariant: nothing of a reply is put in its place before this has looked at it, and nothing of the
log is believed that is not under the reply's HMAC. The modules behind it are loaded while the
server works, and by no start of a program.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ..config.client import ClientSettings
from ..errors import printable, quoted
from ..records import dataclass

if TYPE_CHECKING:
    from ..evidence.leaf import Leaf
    from ..evidence.observation import Observation
    from ..evidence.witness import Witness
    from ..formats.signed_note import LogProof

#: Of inputs up to this size the SHA-256 is made in any case, in bytes: it takes no time. Of larger
#: ones it is where there may be a log; else it is made afterwards, for the first reply that has it.
SMALL_INPUT: Final = 1 << 20
#: The first field of a reply with evidence.
_FIRST_FIELD: Final = "log-1"
#: Longest text that is compared with a leaf's, in bytes: the server shortens longer ones.
_COMPARED_BYTES: Final = 255

#: Gives the SHA-256 of what was sent, in hexadecimal; None where nobody here knows that.
Sent = Callable[[], str | None]


class SiteLog:
    """The client's side of servers' logs, by its settings: for all requests, from any thread."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._witness: Witness | None = None

    def may_be(self) -> bool:
        """Tell whether a reply is likely to have evidence, as far as that shows without a look."""
        settings = self._settings
        if settings.require_signing_log or settings.signing_log_keys is not None:
            return True
        return settings.log_state.exists()

    def witness(self) -> Witness:
        """The witness. Raises `SigulError` where its trusted keys cannot be read."""
        from ..evidence.given_files import read_keys
        from ..evidence.witness import Witness

        with self._lock:
            if self._witness is None:
                keys = self._settings.signing_log_keys
                trusted = () if keys is None else read_keys(keys)
                self._witness = Witness(
                    self._settings.log_state,
                    trusted,
                    is_usual=self._settings.signing_log_state is None,
                )
            return self._witness

    def begin(self, server: str) -> Observation:
        """An observation, which this server's next replies are held against.

        Raises `LogComplaint`.
        """
        return self.witness().begin(server, required=self._settings.require_signing_log)

    @staticmethod
    def load_library() -> None:
        """Load what checks many signatures, while the server works."""
        from ..formats.signed_note import load_library

        load_library()


def shows_log(fields: Mapping[str, bytes]) -> bool:
    """Tell whether a reply's fields have evidence of a log."""
    return _FIRST_FIELD in fields


@dataclass(frozen=True, slots=True)
class LogCheck:
    """The look at the replies to one request: its operation, user and outer fields."""

    observation: Observation
    op: str
    user: str
    fields: Mapping[str, object]

    def reply(
        self, fields: Mapping[str, bytes], sent: Sent, received: str | None
    ) -> LogProof | None:
        """Look at an authentic OK reply, or at that of one RPM; the proof of its leaf, if any.

        `received` is the SHA-256 of its payload in hexadecimal, None where that is not to be in the
        leaf. Raises `LogComplaint`.
        """
        return self.observation.check_fields(fields, lambda leaf: self._judge(leaf, sent, received))

    def _judge(self, leaf: Leaf, sent: Sent, received: str | None) -> str:
        """Say what of a leaf is not about this request; empty where all is."""
        if leaf.result != "ok":
            return f"says that a request was {leaf.result}, and the reply says that it was done"
        pairs: list[tuple[str, str, object]] = [
            ("operation", leaf.op, self.op),
            ("user", leaf.user, self.user),
        ]
        for name, value in leaf.objects.items():
            pairs.append((name, value, self.fields.get(name, "")))
        if "key" in self.fields:
            used = leaf.objects.get("key") or (leaf.key.name if leaf.key is not None else "")
            pairs.append(("key", used, self.fields["key"]))
        for what, found, asked in pairs:
            if not _is_same(found, asked):
                return f"is about the {what} {quoted(found, 80)} and not {quoted(str(asked), 80)}"
        asked_for = sent()
        if asked_for is not None:
            found = leaf.input.sha256 if leaf.input is not None else _EMPTY
            if found != asked_for:
                return f"is about an input with SHA-256 {found}, and {asked_for} was sent"
        if received is not None:
            found = leaf.output.sha256 if leaf.output is not None else "none"
            if found != received:
                return f"tells of an output with SHA-256 {found}, and {received} came"
        return ""


_EMPTY: Final = hashlib.sha256(b"").hexdigest()


def _is_same(found: str, asked: object) -> bool:
    shown = printable(str(asked))
    return found == shown or len(shown.encode()) > _COMPARED_BYTES


def nothing_sent() -> str | None:
    """The `Sent` of what the bridge fetches: nobody here knows it."""
    return None
