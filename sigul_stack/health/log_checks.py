"""Checks of a server's signing log: it is there and whole at its edge, and somebody else has it.

Only what is cheap is read, whatever the log's size: the checkpoint, the tiles of its right edge,
two leaves. `sigul-stack audit verify` reads all of it. The server has the log's lock meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..checks import Check, failed, ok, warning
from ..config.server import ServerSettings
from .rooms import room
from .steps import DOCTOR, CheckContext, Layer, Mode, Step

if TYPE_CHECKING:
    from ..evidence.log_reader import LogReader

#: Largest note of a push that is read, in bytes.
_MAX_PUSHED: Final = 1 << 16
#: Seconds for adding up its files, of which there are 4 for each thousand leaves.
_SIZE_SECONDS: Final = 2.0
_DAY: Final = 86400.0
_RESTORE: Final = "see 'restoring the log' in docs/runbooks.md"
_PUSH: Final = (
    "sigul-stack audit push, in the kit playbooks/push-log.yml; on a timer of its own, with"
    " --warn-push 0 where nobody else is to have it"
)


@dataclass(frozen=True, slots=True)
class LogChecks:
    """Checks of one server's signing log."""

    context: CheckContext[ServerSettings]

    def steps(self) -> tuple[Step, ...]:
        """The layer's looks, in order."""
        return (
            Step(Layer.SIGNING_LOG, self.log, (Layer.CONFIGURATION,)),
            Step(Layer.SIGNING_LOG, self.pushed, (Layer.SIGNING_LOG,)),
            Step(Layer.SIGNING_LOG, self.owner, (Layer.CONFIGURATION,), DOCTOR),
        )

    def log(self) -> Iterator[Check]:
        """Check that it opens, that its edge is what its checkpoint says, and that it can grow."""
        from ..evidence.log_reader import LogReader
        from ..formats.merkle_tree import NotProven

        directory = self.context.settings.signing_log_directory
        if not (directory / "checkpoint").exists():
            yield self._missing(directory)
            return
        try:
            found = self._edge(LogReader.open(directory))
        except NotProven as error:
            yield failed(
                Layer.SIGNING_LOG,
                f"the log in '{directory}' is damaged: {error.problem}",
                f"nothing is signed without it: {_RESTORE}",
            )
            return
        yield found
        if self.context.options.measured is not None and (size := _size(directory)) is not None:
            self.context.measure("sigul_signing_log_bytes", size)
        yield from room("signing-log", directory, Layer.SIGNING_LOG)

    def _missing(self, directory: Path) -> Check:
        if self.context.mode is Mode.DOCTOR:  # perhaps before the first start
            return ok(
                Layer.SIGNING_LOG, f"there is none in '{directory}': a server makes it as it starts"
            )
        return failed(
            Layer.SIGNING_LOG,
            f"there is no signing log in '{directory}'",
            f"correct signing-log, or restart the server, which makes one; if it was lost:"
            f" {_RESTORE}",
        )

    def _edge(self, reader: LogReader) -> Check:
        from ..formats.merkle_tree import NotProven
        from ..formats.signed_note import open_checkpoint

        if reader.public_key is None:
            raise NotProven("its public key, key.pub, is not there")
        head = open_checkpoint(reader.checkpoint, reader.public_key)
        if reader.root() != head.root:
            raise NotProven(f"its tiles are not those of its checkpoint of {head.size} leaves")
        age = (
            time.time()
            - (self.context.settings.signing_log_directory / "checkpoint").stat().st_mtime
        )
        return ok(
            Layer.SIGNING_LOG,
            f"{head.size} leaves of {head.origin}, the last checkpoint was made {_ago(age)} ago",
            log_leaves=head.size,
            log_origin=head.origin,
            checkpoint_age_seconds=round(age),
        )

    def pushed(self) -> Iterator[Check]:
        """Check that another machine has it, as far as it was lately."""
        from ..evidence.leaf import Leaf
        from ..evidence.log_reader import LogReader
        from ..evidence.pushed import PUSHED

        directory = self.context.settings.signing_log_directory
        if not (directory / "checkpoint").exists():
            return
        limit = self.context.limits.warn_push_days * _DAY
        last = _last_push(directory / PUSHED)
        self.context.measure(
            "sigul_signing_log_pushed_timestamp_seconds", 0 if last is None else last[0]
        )
        if last is not None:
            age, size, target = time.time() - last[0], last[1], last[2]
            text = f"{size} leaves were pushed to {target} {_ago(age)} ago"
            values = {"pushed_leaves": size, "push_age_seconds": round(age)}
            if limit and age > limit:
                yield warning(
                    Layer.SIGNING_LOG, f"{text}: what came after is nowhere else", _PUSH, **values
                )
            else:
                yield ok(Layer.SIGNING_LOG, text, **values)
            return
        began = _seconds(Leaf.parse(LogReader.open(directory).entry(0)).time)
        text = "it was never pushed, so nobody but this server has it"
        # A new site is given time to make its timer.
        if limit and time.time() - began > limit:
            yield warning(Layer.SIGNING_LOG, text, _PUSH)
        else:
            yield ok(Layer.SIGNING_LOG, text)

    def owner(self) -> Iterator[Check]:
        """Check that nobody else may read its key, or write there."""
        directory = self.context.settings.signing_log_directory
        for path, others in ((directory, 0o022), (directory / "key", 0o077)):
            if not path.exists():
                continue
            if stat.S_IMODE(path.stat().st_mode) & others:
                yield warning(
                    Layer.SIGNING_LOG,
                    f"others than its owner may {'write' if others == 0o022 else 'read'} '{path}'",
                    f"chmod go-rwx '{path}'; whoever had the key can sign another history: then"
                    " begin a new origin with sigul-stack audit new-origin",
                )


def _last_push(path: Path) -> tuple[float, int, str] | None:
    """Time (s since 1970), leaves and target of the last push; None where there was none."""
    try:
        with path.open("rb") as file:
            told = json.loads(file.read(_MAX_PUSHED))
        return _seconds(told["time"]), int(told["size"]), str(told["to"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None  # as if there had been none, which is warned of


def _size(directory: Path) -> int | None:
    """Bytes of all files of the log; None where there are more than can be looked at in time."""
    end, size = time.monotonic() + _SIZE_SECONDS, 0
    for where, _directories, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += Path(where, name).lstat().st_size
        if time.monotonic() > end:
            return None
    return size


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _ago(seconds: float) -> str:
    if seconds < 2 * 60:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} days"
