"""Ansible module: what a container has said is kept in a file, before the container is replaced.

An engine removes the log that it has written itself (drivers json-file and local) together with the
container. What journald or syslog was given stays there.
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
short_description: Keep the log of a container that is about to be removed
options:
  container: {type: str, required: true, description: The container, which need not be there.}
  directory: {type: path, required: true, description: Where the files are; root's alone.}
  name: {type: str, required: true, description: What the files' names begin with.}
  keep: {type: int, default: 5, description: How many files stay; older ones are removed.}
extends_documentation_fragment: [community.docker.docker]
"""

#: Drivers whose logs are gone with the container.
_LOST: Final = ("json-file", "local")
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


def keep(client: Any, directory: Path, name: str, count: int) -> str:
    """Write the container's log, and remove the oldest; the file, empty where there is none."""
    container = client.get_container(client.module.params["container"])
    if container is None or container["HostConfig"]["LogConfig"]["Type"] not in _LOST:
        return ""
    file = directory / f"{name}-{container['Created'][:19].replace(':', '')}-{container['Id'][:12]}"
    if client.check_mode:
        return str(file)
    directory.mkdir(mode=0o700, exist_ok=True)
    new = directory / f".{name}.new"
    new.unlink(missing_ok=True)
    stream = client.get_raw_stream(
        "/containers/{0}/logs", container["Id"], chunk_size=65536,
        params={"stdout": 1, "stderr": 1, "timestamps": 1},
    )  # fmt: skip
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
        for piece in pieces(stream):
            written.write(piece)
        written.flush()
        os.fsync(written.fileno())
    new.replace(file)
    # Their names begin with the time.
    for old in sorted(directory.glob(f"{name}-*"))[:-count]:
        old.unlink()
    return str(file)


def main() -> None:
    """Run the module."""
    client = AnsibleDockerClient(
        argument_spec={
            "container": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "keep": {"type": "int", "default": 5},
        },
        supports_check_mode=True,
    )
    given = client.module.params
    try:
        file = keep(client, Path(given["directory"]), given["name"], given["keep"])
    except OSError as error:
        client.fail(f"the log of {given['container']} cannot be kept: {error}")
    except (DockerException, RequestException) as error:
        client.fail(f"the engine does not give the log of {given['container']}: {error}")
    client.module.exit_json(changed=bool(file), file=file)


if __name__ == "__main__":
    main()
