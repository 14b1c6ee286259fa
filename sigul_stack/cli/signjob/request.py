"""A signing job as JSON describes it: read, and checked for its form.

The action and the image that does its jobs may be of different releases: `FORM` is the number of
this form, and a job of another one is refused with that as the reason.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...errors import SigulError
from ...secret import Secret

#: The number of this form of jobs and events.
FORM: Final = 1

#: Largest number of attempts, and of seconds.
_MAX_NUMBER: Final = 86_400


@dataclass(frozen=True, slots=True)
class SignJob:
    """A job: files to sign, or a tag. Times are in seconds.

    `bundle` and `configuration` are the action's `sigul-pki` and `sigul-conf`.
    `expected_bridge` is `host:port` in lower case, or empty; `public_key` an armoured key, or empty
    where the server is to be asked. `files` are absolute paths; `repository` is the git directory
    of `tag`. An attempt may go `attempt_timeout` without a finished file; 0: without a limit.
    """

    dry_run: bool
    key: str
    passphrase: Secret
    bundle: bytes
    configuration: bytes
    expected_bridge: str
    public_key: bytes
    files: tuple[Path, ...]
    repository: Path | None
    tag: str
    attempts: int
    retry_delay: int
    attempt_timeout: int

    @classmethod
    def parse(cls, data: bytes) -> SignJob:
        """The job that `data` describes. Raises `SigulError`."""
        try:
            read = json.loads(data)
        except (ValueError, RecursionError):
            raise SigulError("the job is not JSON", "sign-job is for the action") from None
        if not isinstance(read, dict) or read.pop("form", None) != FORM:
            raise SigulError(
                f"the job is not of form {FORM}, which this program knows",
                "take the action and the image of one release",
            )
        fields = _Fields(read)
        job = cls(
            dry_run=fields.flag("dry_run"),
            key=fields.text("key"),
            passphrase=Secret(fields.text("passphrase")),
            bundle=fields.text("bundle").encode(),
            configuration=fields.text("configuration").encode(),
            expected_bridge=fields.text("expected_bridge"),
            public_key=fields.text("public_key").encode(),
            files=fields.paths("files"),
            repository=Path(text) if (text := fields.text("repository")) else None,
            tag=fields.text("tag"),
            attempts=fields.number("attempts", least=1),
            retry_delay=fields.number("retry_delay"),
            attempt_timeout=fields.number("attempt_timeout"),
        )
        fields.end()
        if bool(job.files) == bool(job.repository) or bool(job.repository) != bool(job.tag):
            raise _wrong("files", "name files, or a tag and its repository")
        return job


def _wrong(name: str, why: str) -> SigulError:
    return SigulError(f"the job's '{name}' is not what it should be: {why}")


class _Fields:
    """The members of a JSON object, each of which is taken once."""

    def __init__(self, members: dict[str, Any]) -> None:
        self._members = members

    def _take(self, name: str, kind: type) -> Any:
        value = self._members.pop(name, None)
        if type(value) is not kind:
            raise _wrong(name, f"it has to be there, as {kind.__name__}")
        return value

    def text(self, name: str) -> str:
        value: str = self._take(name, str)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _wrong(name, "it is not Unicode") from None
        return value

    def flag(self, name: str) -> bool:
        return bool(self._take(name, bool))

    def number(self, name: str, least: int = 0) -> int:
        value = int(self._take(name, int))
        if not least <= value <= _MAX_NUMBER:
            raise _wrong(name, f"it has to be between {least} and {_MAX_NUMBER}")
        return value

    def paths(self, name: str) -> tuple[Path, ...]:
        values = self._take(name, list)
        for value in values:
            if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
                raise _wrong(name, "each has to be an absolute path")
            try:
                os.fsencode(value)
            except UnicodeEncodeError:
                raise _wrong(name, "each has to be what a file can be called") from None
        return tuple(map(Path, values))

    def end(self) -> None:
        if self._members:
            raise _wrong(sorted(self._members)[0], "no such member is known")
