"""What images for Helm charts have beyond the components': tools, and records of packages."""

from __future__ import annotations

from typing import Final

from . import tars

#: dpkg's list of packages, a paragraph each.
_STATUS: Final = "var/lib/dpkg/status"
#: Where a chart mounts the server's volume, in the image as well: else the engine would make it.
_SERVERS: Final = "var/lib/sigul/server"
_SIGUL: Final = 1000


def with_tools(own: tars.Root, tools: tars.Root) -> tars.Root:
    """The root that an image's becomes with what another root has besides.

    What both have stays as the image has it.
    """
    made = {**tools, **own}
    made[_STATUS] = tars.file(_STATUS, _merged(own[_STATUS], tools[_STATUS]))
    return made


def servers_directory() -> tars.Entry:
    """The directory of the server's data."""
    entry = tars.directory(_SERVERS)
    entry.info.uid = entry.info.gid = _SIGUL
    return entry


def _merged(own: tars.Entry, tools: tars.Entry) -> bytes:
    """Both lists' paragraphs, each package's once; one that is installed before one that is not."""
    packages: dict[str, str] = {}
    for entry in (tools, own):
        for paragraph in (entry.content or b"").decode().strip().split("\n\n"):
            name, *fields = paragraph.split("\n")
            if "Status: install ok installed" in fields or name not in packages:
                packages[name] = paragraph
    return "".join(f"{paragraph}\n\n" for paragraph in packages.values()).encode()
