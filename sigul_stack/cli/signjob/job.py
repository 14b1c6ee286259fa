"""A job from its document to its end: prepared, looked at or signed in attempts, and told of.

Events, beside those of each file (see action/README.md): `accepted` once everything but signing is
known to be well, `rejected` where it is not, `ended` where signing could not be finished.
"""

from __future__ import annotations

import json
import os
import select
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ... import __version__
from ...client.git_tag import read_tag
from ...config.client import ClientSettings
from ...config.fields import Loaded
from ...errors import SigulError
from ...system.pipes import BadEvent, EventReader
from ...system.processes import fork, reap
from ...system.signals import wait
from .attempt import Attempt, proof_of, signature_of
from .events import Events, reason_of
from .preparation import check_files, prepare
from .request import SignJob

#: Seconds that an attempt over its time has to end by itself.
_GRACE_SECONDS: Final = 10.0
#: Seconds between looks at an attempt without a limit.
_LOOK_SECONDS: Final = 600.0


def do_job(document: bytes, events: Events) -> int:
    """Do the job that a JSON document describes; 0 where all of it is done, else 1."""
    with tempfile.TemporaryDirectory(prefix="sigul-job-") as name:
        directory = Path(name)
        try:
            job = SignJob.parse(document)
            loaded = prepare(job, directory)
            settings = loaded.settings
            events.tell("log", text=f"sigul-stack {__version__}")
            for warning in loaded.warnings:
                events.tell("log", text=reason_of(warning))
            events.tell("log", text=f"bridge {settings.bridge_hostname}:{settings.bridge_port}")
            if job.repository is not None:
                read_tag(job.repository, job.tag)
            check_files(job)
            if job.dry_run:
                from .dry_run import check_client

                check_client(loaded, events)
        except SigulError as error:
            events.tell("rejected", reason=reason_of(error))
            return 1
        events.tell("accepted")
        return 0 if job.dry_run else _Signing(job, loaded, directory, events).run()


class _Signing:
    """The attempts of one job, and what is left of it."""

    def __init__(
        self, job: SignJob, loaded: Loaded[ClientSettings], directory: Path, events: Events
    ) -> None:
        self._job = job
        self._settings = loaded.settings
        self._directory = directory
        self._events = events
        #: The files that are not signed, by their numbers; of a tag the one number 0.
        self._pending = dict.fromkeys(range(len(job.files) or 1))
        #: What the last attempt failed for, as a whole and of each file.
        self._reason = ""
        self._for_good = False
        #: The id of the request that it failed in, as a member of events; empty where it is none.
        self._request: dict[str, str] = {}

    def run(self) -> int:
        """Sign everything, or tell why that was not to be; 0 or 1."""
        for number in range(1, self._job.attempts + 1):
            if number > 1:
                time.sleep(self._job.retry_delay)
            self._reason, self._request = "", {}
            self._attempt(first=number == 1)
            if not self._pending:
                return 0
            self._events.tell(
                "attempt", number=number, of=self._job.attempts, left=len(self._pending),
                reason=self._reason or "not everything was signed", **self._request,
            )  # fmt: skip
            if self._for_good:
                break
        self._events.tell(
            "ended", left=len(self._pending), reason=self._reason or "not everything was signed",
            **self._request,
        )  # fmt: skip
        return 1

    def _attempt(self, *, first: bool) -> None:
        """Have a child make an attempt, and take down what it did."""
        descriptor, writer = os.pipe()
        attempt = Attempt(
            self._job, self._settings, self._directory, tuple(self._pending), first, writer
        )
        pid = fork(attempt.work, writer, ignore=())
        os.close(writer)
        try:
            for event in self._events_of(descriptor):
                self._hear(event)
        except TimeoutError:
            self._reason = (
                f"the attempt was ended: it finished nothing in {self._job.attempt_timeout} s"
            )
        except (BadEvent, ValueError, KeyError):
            self._reason = "the attempt was ended: its process said what it may not"
        finally:
            code = _end(pid)
            os.close(descriptor)
        if code and not self._reason:
            self._reason = f"the attempt's process failed (exit code {code})"

    def _events_of(self, descriptor: int) -> Iterator[dict[str, Any]]:
        """The child's events, to its end. Raises `TimeoutError`, `BadEvent`, ValueError."""
        reader = EventReader(descriptor)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        limit = self._job.attempt_timeout
        last = time.monotonic()
        while True:
            left = last + limit - time.monotonic() if limit else _LOOK_SECONDS
            if left <= 0:
                raise TimeoutError
            if not wait(poll, left):
                continue
            told = reader.read()
            if told is None:
                return
            for _code, body in told:
                last = time.monotonic()
                yield json.loads(body)

    def _hear(self, told: dict[str, Any]) -> None:
        kind = told["kind"]
        if kind == "ended":
            self._reason, self._for_good = told["reason"], told["for_good"]
            self._request = {"request": told["request"]} if "request" in told else {}
            return
        number = told.get("file", 0)
        if kind in ("signed", "kept", "tag"):
            del self._pending[number]
        fields = {name: value for name, value in told.items() if name != "kind"}
        if kind == "signed":
            fields["signature"] = signature_of(self._directory, number).read_text("ascii")
            with suppress(FileNotFoundError):
                fields["proof"] = proof_of(self._directory, number).read_text("utf-8")
        self._events.tell(kind, **fields)


def _end(pid: int) -> int:
    """End an attempt's process group; the exit code of its first process, -N for signal N."""
    code = reap(pid, 0.0)
    for number in (signal.SIGTERM, signal.SIGKILL):
        # Before it has made a group of its own there is none.
        with suppress(ProcessLookupError):
            os.killpg(pid, number)
        if code is None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            code = reap(pid, _GRACE_SECONDS)
    return -signal.SIGKILL if code is None else code
