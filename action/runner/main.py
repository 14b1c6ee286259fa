"""The action's one step, from its inputs to its outputs and exit code."""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import container
from .errors import ActionError, Rejected
from .files import ENDING, find_files, shown
from .inputs import Inputs, read_inputs
from .tags import Repository, tag_name
from .workflow import fail, mask, say, set_outputs

#: The number of the form of jobs and events (sigul_stack/cli/signjob/request.py).
FORM = 1
#: Names of files that are listed where they could not be signed.
LISTED = 20


class Ended(BaseException):
    """The runner ends the step: raised by signals, so that all is taken down in order."""


def main(arguments: Sequence[str]) -> int:
    """Run `sign` (no argument) or `clean`; the exit code, which is 2 for wrong arguments."""
    if list(arguments) == ["clean"]:
        try:
            container.clean()
        except ActionError as error:
            say(str(error))
        return 0
    if arguments:
        print("usage: sign.py [clean]")
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    step = Step()
    try:
        step.run()
        return 0
    except Ended:
        fail("the step was ended before all was signed")
        return 1
    except Rejected as error:
        step.validation = "rejected"
        fail(str(error))
        return 1
    except (ActionError, OSError) as error:
        fail(str(error))
        return 1
    finally:
        step.write_outputs()


def _end(number: int, _frame: object) -> NoReturn:
    raise Ended


class Step:
    """One step's run, and what its outputs tell of it."""

    def __init__(self) -> None:
        self.validation = ""
        self._image = ""
        self._signed = 0
        self._kept = 0
        self._fingerprint = ""
        self._files: list[Path] = []
        self._failed: dict[int, str] = {}
        self._workspace = Path("/")

    def write_outputs(self) -> None:
        """Write the step's outputs, however it ended."""
        set_outputs(
            {
                "validation_status": self.validation,
                "signed_count": str(self._signed),
                "kept_count": str(self._kept),
                "container_image": self._image,
                "key_fingerprint": self._fingerprint,
            }
        )

    def run(self) -> None:
        """Do what the inputs say. Raises `ActionError`."""
        inputs = read_inputs(os.environ)
        _mask(inputs)
        self._workspace = _workspace()
        if inputs.is_tag:
            self._sign_tag(inputs)
        else:
            self._sign_files(inputs)

    def _sign_files(self, inputs: Inputs) -> None:
        self._files = find_files(inputs.sign_object, self._workspace, inputs.exclude_globs)
        say(f"{len(self._files)} files to sign")
        job = _job(inputs, files=[str(path) for path in self._files])
        for event in self._events(inputs, job, self._workspace, writable=False):
            self._hear(event)
        for number in list(self._failed)[:LISTED]:
            fail(f"{shown(self._files[number], self._workspace)}: {self._failed[number]}")
        if not inputs.dry_run:
            say(
                f"{self._signed} files signed and verified, {self._kept} had a good signature"
                " already"
            )
            missing = len(self._files) - self._signed - self._kept
            if missing:
                raise ActionError(
                    f"{missing} of {len(self._files)} files are not signed; another run of the"
                    " step signs those alone"
                )

    def _sign_tag(self, inputs: Inputs) -> None:
        name = tag_name(inputs.sign_object)
        repository = Repository(self._workspace)
        job = _job(inputs, repository=str(repository.directory), tag=name)
        new = ""
        for event in self._events(inputs, job, repository.directory, writable=not inputs.dry_run):
            if event["event"] == "tag":
                new = str(event["new"])
                self._fingerprint = str(event["fingerprint"])
                say(f"tag {name}, signed and verified: {event['old']} is {new} now")
            else:
                self._hear(event)
        if inputs.dry_run:
            return
        if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", new):
            raise ActionError("the tag is not signed")
        if inputs.push_tag:
            say(f"pushed to {repository.push(inputs, name, new)}")

    def _events(self, inputs: Inputs, job: dict[str, Any], mount: Path, *, writable: bool) -> Any:
        image, self._image = container.find_image(inputs.image)
        say(f"image {self._image}")
        with container.Container(inputs, image, [(mount, writable)]) as signer:
            yield from signer.events(job)
        if self.validation != "passed":
            raise ActionError("the container ended before it had looked at the job")

    # ------------------------------------------------------------------------------------ events

    def _hear(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "log":
            say(f"  {event['text']}")
        elif kind == "accepted":
            self.validation = "passed"
        elif kind == "rejected":
            raise Rejected(str(event["reason"]))
        elif kind == "attempt":
            say(f"attempt {event['number']} of {event['of']}: {event['reason']}")
        elif kind == "ended":
            fail(str(event["reason"]))
        else:
            self._hear_of_file(kind, event)

    def _hear_of_file(self, kind: str, event: dict[str, Any]) -> None:
        number = event["file"]
        file = self._files[number]
        signature = file.with_name(file.name + ENDING)
        name = shown(file, self._workspace)
        if kind == "failed":
            self._failed[number] = str(event["reason"])
            say(f"failed: {name}: {event['reason']}")
            return
        if kind == "stale":
            say(f"{name}: its {ENDING} is not a good signature, and is removed")
            signature.unlink()
            return
        if kind == "signed":
            _write(signature, str(event["signature"]))
            self._signed += 1
        elif kind == "kept":
            self._kept += 1
        self._failed.pop(number, None)
        self._fingerprint = str(event["fingerprint"])
        say(f"{kind}: {name}")


def _workspace() -> Path:
    text = os.environ.get("GITHUB_WORKSPACE", "")
    if not text or not Path(text).is_dir():
        raise ActionError("GITHUB_WORKSPACE is no directory: the action is for a runner")
    return Path(os.path.realpath(text))


def _mask(inputs: Inputs) -> None:
    mask(inputs.passphrase)
    mask(inputs.gh_key)
    for value in re.findall(
        r"(?im)^[ \t]*nss-password[ \t]*[:=][ \t]*(\S.*?)[ \t]*$", inputs.configuration
    ):
        mask(value)


def _job(
    inputs: Inputs, files: Sequence[str] = (), repository: str = "", tag: str = ""
) -> dict[str, Any]:
    return {
        "form": FORM,
        "dry_run": inputs.dry_run,
        "key": inputs.key,
        "passphrase": inputs.passphrase,
        "bundle": inputs.bundle,
        "configuration": inputs.configuration,
        "expected_bridge": inputs.expected_bridge,
        "public_key": inputs.public_key,
        "files": list(files),
        "repository": repository,
        "tag": tag,
        "attempts": inputs.max_retries,
        "retry_delay": inputs.retry_delay,
        "attempt_timeout": inputs.attempt_timeout,
    }


def _write(path: Path, text: str) -> None:
    """Write a signature, whole or not at all, for everybody to read."""
    descriptor, draft = tempfile.mkstemp(prefix=".sigul-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink()
        raise
