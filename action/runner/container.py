"""The container that signs: its image, how it is run, and the events that it gives.

It gets no rights: no capability, no way to more privileges, a read-only root, the runner's own
user, and of the machine's files the workspace alone, which it can only read; for a tag the git
directory of the repository instead. Secrets come on its standard input. It is removed when the
action ends, however that ends: `clean` removes what a killed run has left.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from .errors import ActionError, Rejected
from .inputs import Inputs
from .workflow import say

#: Seconds for docker to answer, and to fetch an image.
ANSWER_SECONDS = 60.0
PULL_SECONDS = 900.0
#: Seconds of a whole dry run.
DRY_RUN_SECONDS = 600.0
#: Longest event, in bytes: a signature's, with room.
MAX_EVENT = 1 << 20
#: Beginning of the names of containers, and of the directories that tell of them.
NAME = "sigul-action-"


def _docker(*arguments: str, seconds: float = ANSWER_SECONDS) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["docker", *arguments],
            capture_output=True, text=True, errors="backslashreplace",
            stdin=subprocess.DEVNULL, timeout=seconds, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise ActionError("docker is not on this runner: the action needs it") from None
    except subprocess.TimeoutExpired:
        raise ActionError(f"docker {arguments[0]} did not end in {seconds:g} s") from None


def find_image(reference: str) -> tuple[str, str]:
    """The ID of the image to run, and its name by digest; fetched where it is not there.

    An image that was made on this machine has no such name: then both are its ID.
    """
    if _docker("image", "inspect", reference).returncode:
        say(f"fetching {reference}")
        pulled = _docker("pull", "--quiet", reference, seconds=PULL_SECONDS)
        if pulled.returncode:
            raise Rejected(f"the image {reference} is not to be had: {_last(pulled.stderr)}")
    done = _docker("image", "inspect", reference)
    if done.returncode:
        raise ActionError(f"docker does not know the image {reference}: {_last(done.stderr)}")
    [found] = json.loads(done.stdout)
    name = reference.partition("@")[0]
    if "@" not in reference:
        name = reference.rpartition(":")[0]
    digests = [text for text in found.get("RepoDigests") or () if text.startswith(f"{name}@")]
    return found["Id"], digests[0] if digests else found["Id"]


def _user() -> str:
    """The user in the container who is the runner's: root where the engine is rootless."""
    done = _docker("info", "--format", "{{json .SecurityOptions}}")
    if done.returncode:
        raise ActionError(f"no Docker engine answers on this runner: {_last(done.stderr)}")
    return "0:0" if "name=rootless" in done.stdout else f"{os.getuid()}:{os.getgid()}"


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it did not say why"


class Container:
    """A container that does one job. As a context: it is gone at the end."""

    def __init__(self, inputs: Inputs, image: str, mounts: Sequence[tuple[Path, bool]]) -> None:
        """`mounts`: each path, and whether it may be written."""
        self._inputs = inputs
        self._image = image
        self._mounts = mounts
        self._name = NAME + secrets.token_hex(8)
        self._mark = _marks() / self._name

    def __enter__(self) -> Container:
        self._mark.mkdir(mode=0o700)
        return self

    def __exit__(self, *_: object) -> None:
        remove(self._mark)

    def _command(self) -> list[str]:
        command = [
            "docker", "run", "--name", self._name, "--rm", "--interactive", "--pull=never",
            "--log-driver=none", "--read-only", "--cap-drop=ALL",
            "--security-opt=no-new-privileges", "--pids-limit=256", "--ulimit=core=0",
            "--user", _user(), "--workdir=/tmp", "--env=HOME=/tmp",
            "--tmpfs=/tmp:rw,noexec,nosuid,nodev,mode=1777,size=128m",
        ]  # fmt: skip
        if self._inputs.hosts_entry is not None:
            host, address = self._inputs.hosts_entry
            command += ["--add-host", f"{host}:{address}"]
        for path, writable in self._mounts:
            # A CSV record: a quoted field may hold commas.
            fields = ["type=bind", f"source={path}", f"target={path}"]
            fields += [] if writable else ["readonly"]
            quoted = ('"' + text.replace('"', '""') + '"' for text in fields)
            command += ["--mount", ",".join(quoted)]
        if self._inputs.is_tag:
            command += _git_environment(self._mounts[0][0])
        return [*command, "--entrypoint=sigul-stack", self._image, "sign-job"]

    def events(self, job: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The container's events, until it ends. Raises `ActionError` where it fails."""
        process = subprocess.Popen(
            self._command(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin and process.stdout and process.stderr  # noqa: S101 - for mypy
        said: list[str] = []
        listener = threading.Thread(target=_log, args=(process.stderr, said), daemon=True)
        listener.start()
        timer = threading.Timer(DRY_RUN_SECONDS, remove, (self._mark,))
        if self._inputs.dry_run:
            timer.start()
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(json.dumps(job).encode())
            yield from _events(process.stdout)
            code = process.wait(ANSWER_SECONDS)
            listener.join(ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            raise ActionError(f"docker did not end {ANSWER_SECONDS:g} s after its job") from None
        finally:
            # Where the step is to end a runner gives it some seconds, so nothing is waited for.
            timer.cancel()
            process.kill()
            process.wait()
        if code > 1 or code < 0:
            raise ActionError(
                f"the container failed (exit code {code}): {said[-1] if said else 'no word'};"
                " is its image a client of this action's release?"
            )


def _git_environment(repository: Path) -> list[str]:
    """Have git trust the repository, and run none of its hooks where the secrets are."""
    variables = {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": str(repository),
        "GIT_CONFIG_KEY_1": "core.hooksPath",
        "GIT_CONFIG_VALUE_1": "/dev/null",
    }
    return [f"--env={name}={value}" for name, value in variables.items()]


def _log(stream: IO[bytes], said: list[str]) -> None:
    """Write what the container says on standard error to the log; the last line stays in `said`."""
    for line in iter(lambda: stream.readline(8192), b""):
        said[:] = [line.decode("utf-8", "backslashreplace").strip()]
        say(f"  {said[0]}")


def _events(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    for line in iter(lambda: stream.readline(MAX_EVENT), b""):
        try:
            event = json.loads(line)
            if not isinstance(event["event"], str):
                raise ValueError("an event has a name")
        except (ValueError, KeyError, TypeError):
            raise ActionError(
                "the container said what is no event: is its image a client of this release?"
            ) from None
        yield event


# ----------------------------------------------------------------------------------- at the end


def _marks() -> Path:
    """The directory with a mark for each container that may be running."""
    directory = os.environ.get("RUNNER_TEMP", "")
    if not directory:
        raise ActionError("RUNNER_TEMP is not set: the action is for a runner")
    return Path(directory)


def remove(mark: Path) -> None:
    """Remove the container that a mark tells of, and the mark. Never fails."""
    with contextlib.suppress(ActionError):
        _docker("rm", "--force", "--volumes", mark.name)
    shutil.rmtree(mark, ignore_errors=True)


def clean() -> None:
    """Remove what runs of the action that were killed have left."""
    for mark in sorted(_marks().glob(f"{NAME}*")):
        say(f"removing the container {mark.name}, which an ended run has left")
        remove(mark)
