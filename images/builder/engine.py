"""The container engine, through its command line."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from .commands import FETCH_SECONDS, BuildError, run

#: The label that holds the hash of all that an image was made from.
INPUTS_LABEL: Final = "org.sigul-stack.inputs"

_HINT: Final = "see what the container engine says"


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the engine has."""

    identity: str
    inputs: str
    #: The checksums of its layers, the lowest first.
    layers: tuple[str, ...] = ()


def check() -> None:
    """Raises `BuildError` where no engine answers."""
    try:
        run(["docker", "version", "--format", "{{.Server.Version}}"], seconds=30)
    except BuildError as error:
        raise BuildError(f"{error}\nno container engine answers; run `scripts/engine`") from None


def find(reference: str) -> Image | None:
    """The image of this name, if there is one."""
    names = run(["docker", "image", "ls", "--quiet", "--no-trunc", reference], hint=_HINT).split()
    if not names:
        return None
    return inspect(names[0].decode())


def inspect(reference: str) -> Image:
    """An image that has to be there."""
    [found] = json.loads(run(["docker", "image", "inspect", reference], hint=_HINT))
    labels = (found["Config"] or {}).get("Labels") or {}
    layers = (found["RootFS"] or {}).get("Layers") or []
    return Image(found["Id"], labels.get(INPUTS_LABEL, ""), tuple(layers))


def have(reference: str) -> Image:
    """An image, fetched where it is not there."""
    image = find(reference)
    if image is None:
        run(
            ["docker", "pull", "--quiet", reference],
            seconds=FETCH_SECONDS,
            hint=f"{reference} cannot be had: leave BASE_IMAGE unset to make one",
        )
        image = inspect(reference)
    return image


def build(
    context: Path,
    target: str,
    tags: list[str],
    arguments: Mapping[str, str],
    labels: Mapping[str, str],
) -> Image:
    """Build a target of a directory's Dockerfile, without the network."""
    command = ["docker", "build", "--quiet", "--network", "none", "--force-rm", "--target", target]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    for name, value in labels.items():
        command += ["--label", f"{name}={value}"]
    for tag in tags:
        command += ["--tag", tag]
    run([*command, str(context)], hint=_HINT)
    return inspect(tags[0])


def process(image: str, command: list[str], given: bytes) -> bytes:
    """What a command prints that gets `given`, in a container without the network."""
    name = f"sigul-stack-build-{uuid.uuid4().hex[:12]}"
    options = ["--rm", "--interactive", "--network", "none", "--user", "0:0", "--name", name]
    # What it makes has the same bytes each time.
    options += ["--env", "PYTHONHASHSEED=0"]
    try:
        return run(["docker", "run", *options, image, *command], given=given, hint=_HINT)
    finally:
        _remove(name)


def remove(repositories: Iterable[str]) -> list[str]:
    """Remove the images of these names that have our label, with all tags; the names removed.

    Raises `BuildError` where a container still uses one.
    """
    options = ["--filter", f"label={INPUTS_LABEL}", "--format", "{{.Repository}}:{{.Tag}}"]
    found = [
        name
        for repository in repositories
        for name in run(["docker", "image", "ls", *options, repository]).decode().split()
        if not name.endswith(":<none>")
    ]
    for name in found:
        run(["docker", "image", "rm", name], hint="remove the containers that use it first")
    return found


def forget_replaced() -> None:
    """Remove images of ours whose names have gone to newer ones and that no container uses."""
    command = ["docker", "image", "prune", "--force", "--filter", f"label={INPUTS_LABEL}"]
    try:
        run(command, hint=_HINT)
    except BuildError as error:
        # Of another build on this engine: what is left then goes with the next one.
        if "prune operation is already running" not in str(error):
            raise


def export(image: str, output: IO[bytes]) -> None:
    """Write the file system of an image to a file."""
    name = f"sigul-stack-build-{uuid.uuid4().hex[:12]}"
    run(["docker", "create", "--name", name, image, "true"], hint=_HINT)
    try:
        run(["docker", "export", name], output=output, hint=_HINT)
    finally:
        _remove(name)


def change(image: str, options: list[str], command: list[str], output: IO[bytes]) -> None:
    """Write the file system to a file that an image has after a command, run with the network."""
    name = f"sigul-stack-build-{uuid.uuid4().hex[:12]}"
    try:
        run(
            ["docker", "run", "--user", "0:0", "--name", name, *options, image, *command],
            seconds=FETCH_SECONDS,
            hint="see whether containers reach a Debian mirror",
        )
        run(["docker", "export", name], output=output, hint=_HINT)
    finally:
        _remove(name)


def _remove(name: str) -> None:
    if run(["docker", "ps", "--all", "--quiet", "--filter", f"name=^{name}$"], hint=_HINT).strip():
        run(["docker", "rm", "--force", "--volumes", name], hint=_HINT)
