"""The result of a canary's last try, in two files: for the health check, and for node_exporter.

Layout of the first, the state file, one JSON object of at most `_MAX_BYTES`:

    {"failed": "verify: the signature is another key's", "seconds": {"sign": 0.21, "verify": 0.05},
     "success_time": 1764547200.0, "success": false, "time": 1764547500.0}

Invariant: both files are written whole, or stay as they were; a canary that crashed or hangs leaves
the old ones, and their age tells. What is read of a state file is not trusted: whoever may write
there may say what they like, and gains nothing but a wrong verdict. Nothing in it is a secret.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from ..checks import Check, failed, ok
from ..config.identity import rights_of_owner
from ..config.reading import read_small
from ..errors import SigulError, printable
from ..system.files import locked, write_whole
from .steps import Layer, Skipped

#: The phases that have a time, as the metric names them.
PHASES: Final = ("sign", "verify", "log")
#: Largest state file that is read, and longest text of a failure, in bytes and characters.
_MAX_BYTES: Final = 16 * 1024
_MAX_TEXT: Final = 500
#: Seconds for others who write the same file, and that a clock may be ahead of ours.
_LOCK_SECONDS: Final = 5.0
_CLOCK_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class CanaryResult:
    """One try. Times are in seconds since 1970, `seconds` how long each phase took that ended.

    `success_time` is that of the last try that succeeded, 0 where none has. `failed` says in a
    line what was wrong with this one, empty where nothing was.
    """

    success: bool
    seconds: Mapping[str, float] = field(default_factory=dict)
    failed: str = ""
    time: float = 0.0
    success_time: float = 0.0

    def encode(self) -> bytes:
        """The state file's content."""
        members = {**asdict(self), "failed": self.failed[:_MAX_TEXT]}
        return json.dumps(members, sort_keys=True).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> CanaryResult:
        """The result that a state file holds. Raises ValueError where it holds none."""
        if len(data) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        try:
            members = json.loads(data)
            if not isinstance(members, dict):
                raise ValueError("no object")
            success, text, seconds = (members[name] for name in ("success", "failed", "seconds"))
            times = (members["time"], members["success_time"])
        except (KeyError, RecursionError) as error:
            raise ValueError("not what a canary writes") from error
        is_right = (
            isinstance(success, bool)
            and isinstance(text, str)
            and isinstance(seconds, dict)
            and set(seconds) <= set(PHASES)
            and all(map(_is_time, (*times, *seconds.values())))
        )
        if not is_right:
            raise ValueError("not what a canary writes")
        return cls(success, seconds, printable(text[:_MAX_TEXT]), *map(float, times))


def _is_time(value: object) -> bool:
    """Whether JSON's `value` is a number of seconds: finite, and not below 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value < 1 << 53 and math.isfinite(value)


def read(path: Path) -> CanaryResult | None:
    """The last result; None where there is no file. Raises `SigulError` where it holds none."""
    try:
        with rights_of_owner(path.parent):
            return CanaryResult.parse(read_small(path, _MAX_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Skipped(
            f"'{path}' cannot be read: {error.strerror}",
            "name the --state-file of sigul-stack canary, as a user who may read it",
        ) from error
    except ValueError as error:
        raise SigulError(
            f"'{path}' is no state file of a canary: {error}",
            "name the --state-file of sigul-stack canary; a damaged one is made anew by its next"
            " run",
        ) from None


def keep(result: CanaryResult, state: Path, metrics: Path | None) -> CanaryResult:
    """Write a result of this moment to both files; `result` with its times.

    What the state file tells of the last success is kept, but for a time that is yet to come.
    Raises `SigulError` where a file cannot be written.
    """
    path = state
    busy = SigulError(
        f"others have written '{state}' for {_LOCK_SECONDS:g} s", "see which canaries hang: ps"
    )
    try:
        with rights_of_owner(state.parent), locked(state.parent, _LOCK_SECONDS, busy):
            try:
                before = read(state)
            except SigulError:
                before = None  # of no use to anybody
            now = time.time()
            known = 0.0 if before is None or before.success_time > now else before.success_time
            result = replace(result, time=now, success_time=now if result.success else known)
            write_whole(state, result.encode(), replace=True, mode=0o644)
        if metrics is not None:
            path = metrics
            with rights_of_owner(metrics.parent):
                write_whole(metrics, _metrics_text(result), replace=True, mode=0o644)
    except OSError as error:
        raise SigulError(
            f"'{path}' cannot be written: {error.strerror or error}",
            f"have '{path.parent}' be a directory that user ID {os.geteuid()} may write to, with"
            " room",
        ) from error
    return result


def _metrics_text(result: CanaryResult) -> bytes:
    from ..observe.exposition import Samples, text

    samples = Samples()
    samples.add("sigul_canary_success", float(result.success))
    samples.add("sigul_canary_timestamp_seconds", result.time)
    samples.add("sigul_canary_success_timestamp_seconds", result.success_time)
    for phase in PHASES:
        if phase in result.seconds:
            samples.add("sigul_canary_phase_seconds", result.seconds[phase], phase=phase)
    return text(samples)


def canary_checks(path: Path, most_seconds: float) -> Iterator[Check]:
    """Check that the last try succeeded, at most `most_seconds` ago. Raises `SigulError`."""
    result = read(path)
    if result is None:
        yield failed(
            Layer.CANARY,
            f"no canary has run: there is no '{path}'",
            "run sigul-stack canary with that --state-file, on a timer",
        )
        return
    age = time.time() - result.time
    seconds = result.seconds
    took = ", ".join(f"{name} {seconds[name]:.3f} s" for name in PHASES if name in seconds)
    values = {"canary_age_seconds": round(age, 1), "canary_success": result.success}
    if age < -_CLOCK_SECONDS:
        yield failed(
            Layer.CANARY,
            f"the last test signature is from {-age:.0f} s in the future",
            "set the clock that is wrong, and run sigul-stack canary",
            **values,
        )
    elif not result.success:
        last = f"{result.time - result.success_time:.0f} s before it" if result.success_time else ""
        yield failed(
            Layer.CANARY,
            f"the test signature of {age:.0f} s ago failed: {result.failed}; the last good one was"
            f" {last or 'never'}",
            "run sigul-stack canary, which says the cure",
            **values,
        )
    elif age > most_seconds:
        yield failed(
            Layer.CANARY,
            f"the last test signature is {age:.0f} s old, and {most_seconds:g} s is the limit",
            "see why sigul-stack canary does not run: its timer, or what it hangs in",
            **values,
        )
    else:
        yield ok(
            Layer.CANARY, f"a test signature was good {max(age, 0):.0f} s ago ({took})", **values
        )
