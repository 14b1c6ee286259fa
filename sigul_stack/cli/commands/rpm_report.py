"""A report of `sign-rpms`: the state of each RPM, told as it is known and summed up at the end.

In lines as scripts of 1.2 know them, or with `--json` as one document on standard output:

    {"key": NAME, "signed": N, "already_signed": N, "failed": N, "seconds": S, "rpms": [
      {"file": AS NAMED, "output": PATH or null, "state": "signed" | "already-signed" | "failed",
       "reason": TEXT or null, "may_have_happened": BOOL, "request": ID or null, "seconds": S}]}

`seconds` of an RPM are those from the beginning of the work to its end.
"""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...client.rpm_packages import ZeroLengthRPM
from ...errors import RequestRefused, SigulError, status_text
from ...logcontext import current
from ..outcome import Failures, print_bytes, say


class RPMState(enum.Enum):
    """The state of an RPM at the end."""

    SIGNED = "signed"
    ALREADY_SIGNED = "already-signed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class _Row:
    file: str
    output: Path | None
    state: RPMState
    error: SigulError | None
    request: str
    seconds: float


class _Lines(Failures):
    """Failures of RPMs: each in the line that scripts of 1.2 know, and what explains it behind."""

    silent = True

    def lines(self, what: str | Path, error: SigulError) -> Sequence[str]:
        """See `Failures.lines`."""
        text, explained = error.problem, error.cure
        if isinstance(error, RequestRefused):
            text, explained = status_text(error.status), error.message or ""
        elif isinstance(error, ZeroLengthRPM):
            text = f"Error: {text}"
        return [f"ERROR: Error signing {what}: {text}", *([f"  {explained}"] if explained else [])]


class RPMReport:
    """The fate of each RPM of a command. `resumes` and `as_json` are its options."""

    def __init__(self, key: str, total: int, *, resumes: bool = False, as_json: bool = False):
        self._key = key
        self._total = total
        self._resumes = resumes
        self._as_json = as_json
        self._rows: dict[str, _Row] = {}
        self._failures = _Lines()
        self._began = time.monotonic()

    def signed(self, file: str | Path, output: Path | None) -> None:
        """Note that an RPM is signed."""
        self._add(file, output, RPMState.SIGNED)

    def already_signed(self, file: str | Path, output: Path | None) -> None:
        """Note that an RPM was signed already."""
        self._add(file, output, RPMState.ALREADY_SIGNED)

    def failed(self, file: str | Path, output: Path | None, error: SigulError) -> None:
        """Note that an RPM is not signed, and tell why."""
        self._failures.tell(file, error)
        self._add(file, output, RPMState.FAILED, error)

    def _add(
        self,
        file: str | Path,
        output: Path | None,
        state: RPMState,
        error: SigulError | None = None,
    ) -> None:
        context = current()
        seconds = time.monotonic() - self._began
        request = "" if context is None or state is RPMState.ALREADY_SIGNED else context.request
        self._rows[str(file)] = _Row(str(file), output, state, error, request, seconds)

    def is_open(self, file: str | Path) -> bool:
        """Tell whether nothing is known of an RPM yet."""
        return str(file) not in self._rows

    def fail_rest(self, files: Sequence[str], error: SigulError) -> None:
        """Note that `error`, which ends all, is why the rest of `files` is not signed."""
        for file in files:
            if self.is_open(file):
                self._add(file, None, RPMState.FAILED, error)

    def sum_up(self) -> None:
        """Say the sum, or print the document, where it is asked for."""
        if self._as_json:
            print_bytes(json.dumps(self._document(), indent=1).encode() + b"\n")
        elif self._resumes:
            signed, already, failed = (self._count(state) for state in RPMState)
            say(
                f"Signed {signed}, already signed {already}, failed {failed} of {self._total} RPMs",
                flush=True,
            )

    def end(self, text: str) -> None:
        """Sum up; raise `AlreadyTold` with `text` where any RPM is not signed."""
        self.sum_up()
        if not (self._as_json or self._resumes):
            self._failures.end(text, "RPMs", self._total)
        elif self._count(RPMState.FAILED):
            raise self._failures.as_error(text)

    def _count(self, state: RPMState) -> int:
        return sum(row.state is state for row in self._rows.values())

    def _document(self) -> dict[str, object]:
        return {
            "key": self._key,
            "signed": self._count(RPMState.SIGNED),
            "already_signed": self._count(RPMState.ALREADY_SIGNED),
            "failed": self._count(RPMState.FAILED),
            "seconds": round(time.monotonic() - self._began, 3),
            "rpms": [
                {
                    "file": row.file,
                    "output": None if row.output is None else str(row.output),
                    "state": row.state.value,
                    "reason": None if row.error is None else str(row.error),
                    "may_have_happened": row.error is not None and row.error.may_have_happened,
                    "request": row.request or None,
                    "seconds": round(row.seconds, 3),
                }
                for row in self._rows.values()
            ],
        }
