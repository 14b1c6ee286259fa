"""Ansible module: what a container has said is kept in a file, before the container is replaced.

An engine removes the log that it has written itself (drivers json-file and local) together with the
container. What journald or syslog was given stays there.

The container is ended first: the lines of a daemon that ends tell what became of the requests that
were under way, and whoever removes the container would end it after its log was read. Where the log
cannot be kept the container is started again, for then it is not replaced.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from ansible_collections.community.docker.plugins.module_utils._api.errors import DockerException
from ansible_collections.community.docker.plugins.module_utils.common_api import (
    AnsibleDockerClient,
    RequestException,
)

DOCUMENTATION = r"""
module: container_log
short_description: End a container that is about to be removed, and keep its log
options:
  container: {type: str, required: true, description: The container, which need not be there.}
  directory: {type: path, required: true, description: Where the files are; root's alone.}
  name: {type: str, required: true, description: What the files' names begin with.}
  stop_seconds: {type: int, required: true, description: Time it has to end.}
  keep: {type: int, default: 5, description: How many files stay; older ones are removed.}
extends_documentation_fragment: [community.docker.docker]
"""

#: Drivers whose logs are gone with the container.
_LOST: Final = ("json-file", "local")
#: Seconds that the engine has beside those that it waits for the container.
_ENGINE_SECONDS: Final = 60
#: What the engine puts before each piece: standard output or error, and its length in bytes.
_HEAD: Final = struct.Struct(">BxxxL")


def pieces(stream: Iterable[bytes]) -> Iterator[bytes]:
    """The log itself, of an engine's stream of both outputs."""
    waiting = bytearray()
    for block in stream:
        waiting += block
        while len(waiting) >= _HEAD.size:
            length = _HEAD.unpack_from(waiting)[1]
            if len(waiting) < _HEAD.size + length:
                break
            yield bytes(waiting[_HEAD.size : _HEAD.size + length])
            del waiting[: _HEAD.size + length]


def keep(client: Any, given: dict[str, Any]) -> str:
    """End the container, write its log, and remove the oldest; the file, empty where there is none.

    Raises `OSError`, and the engine's errors; the container runs then if it did before.
    """
    container = client.get_container(given["container"])
    if container is None or container["HostConfig"]["LogConfig"]["Type"] not in _LOST:
        return ""
    directory, identity = Path(given["directory"]), container["Id"]
    created = container["Created"][:19].replace(":", "")
    file = directory / f"{given['name']}-{created}-{identity[:12]}"
    if client.check_mode:
        return str(file)
    directory.mkdir(mode=0o700, exist_ok=True)
    client.post_call(
        "/containers/{0}/stop", identity,
        params={"t": given["stop_seconds"]}, timeout=given["stop_seconds"] + _ENGINE_SECONDS,
    )  # fmt: skip
    try:
        write(client, identity, file, directory / f".{given['name']}.new")
    except BaseException:
        if container["State"]["Running"]:
            client.post_call("/containers/{0}/start", identity)
        raise
    # Their names begin with the time.
    for old in sorted(directory.glob(f"{given['name']}-*"))[: -given["keep"]]:
        old.unlink()
    return str(file)


def write(client: Any, identity: str, file: Path, new: Path) -> None:
    """Write the log of the container with that ID: whole, or not at all."""
    new.unlink(missing_ok=True)
    try:
        stream = client.get_raw_stream(
            "/containers/{0}/logs", identity, chunk_size=65536,
            params={"stdout": 1, "stderr": 1, "timestamps": 1},
        )  # fmt: skip
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
            for piece in pieces(stream):
                written.write(piece)
            written.flush()
            os.fsync(written.fileno())
        new.replace(file)
    except BaseException:
        # What fills a disk does not stay there.
        new.unlink(missing_ok=True)
        raise


def main() -> None:
    """Run the module."""
    client = AnsibleDockerClient(
        argument_spec={
            "container": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "stop_seconds": {"type": "int", "required": True},
            "keep": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    given = client.module.params
    try:
        file = keep(client, given)
    # These first: they are OSErrors, too.
    except (DockerException, RequestException) as error:
        client.fail(f"the engine does not give the log of {given['container']}: {error}")
    except OSError as error:
        client.fail(
            f"the log of {given['container']} cannot be kept, so that is not replaced: {error};"
            " make room there, or have the logs elsewhere (component_log_driver)"
        )
    client.module.exit_json(changed=bool(file), file=file)


if __name__ == "__main__":
    main()
