"""The action's one step, from its inputs to its outputs and exit code."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

from . import container
from .errors import ActionError, Rejected
from .files import find_files
from .inputs import Inputs, read_inputs
from .results import Results
from .tags import Repository, tag_name
from .workflow import fail, mask, say, set_outputs

#: The number of the form of jobs and events (sigul_stack/cli/signjob/request.py).
FORM = 1


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
        step.is_rejected = True
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
        self.is_rejected = False
        self._image = ""
        self._results = Results(Path("/"), dry_run=True)

    def write_outputs(self) -> None:
        """Write the step's outputs, however it ended."""
        results = self._results
        validation = "passed" if results.accepted else ""
        set_outputs(
            {
                "validation_status": "rejected" if self.is_rejected else validation,
                "signed_count": str(len(results.signed)),
                "kept_count": str(len(results.kept)),
                "container_image": self._image,
                "key_fingerprint": results.fingerprint,
            }
        )

    def run(self) -> None:
        """Do what the inputs say. Raises `ActionError`."""
        inputs = read_inputs(os.environ)
        _mask(inputs)
        if inputs.is_tag:
            self._sign_tag(inputs, _workspace())
        else:
            self._sign_files(inputs, _workspace())

    def _sign_files(self, inputs: Inputs, workspace: Path) -> None:
        files = find_files(inputs.sign_object, workspace, inputs.exclude_globs)
        say(f"{len(files)} files to sign")
        self._results = Results(workspace, files, dry_run=inputs.dry_run)
        self._have_done(inputs, _job(inputs, files=[str(path) for path in files]), workspace)
        if not inputs.dry_run:
            self._results.check_files()

    def _sign_tag(self, inputs: Inputs, workspace: Path) -> None:
        name = tag_name(inputs.sign_object)
        repository = Repository(workspace)
        self._results = Results(workspace, dry_run=inputs.dry_run)
        job = _job(inputs, repository=str(repository.directory), tag=name)
        self._have_done(inputs, job, repository.directory, writable=not inputs.dry_run)
        if inputs.dry_run:
            return
        if not self._results.tag:
            raise ActionError("the tag is not signed")
        if inputs.push_tag:
            say(f"pushed to {repository.push(inputs, name, self._results.tag)}")

    def _have_done(
        self, inputs: Inputs, job: dict[str, Any], mount: Path, *, writable: bool = False
    ) -> None:
        """Have a container do a job, and take what it tells."""
        image, self._image = container.find_image(inputs.image)
        say(f"image {self._image}")
        with (
            container.Container(inputs, image, [(mount, writable)]) as signer,
            closing(signer.events(job)) as events,
        ):
            for event in events:
                self._results.hear(event)
        if not self._results.accepted:
            raise ActionError("the container ended before it had looked at the job")


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
