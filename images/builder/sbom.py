"""The package list of an image, as CycloneDX 1.5 JSON: Debian packages and Python distributions."""

from __future__ import annotations

import email
import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from . import tars
from .components import SUITE

_STATUS: Final = "var/lib/dpkg/status"
_NAMESPACE: Final = uuid.UUID("f2a9a3a6-52a7-4f5c-9a55-0f2b3b1d6a10")


def document(image: str, version: str, root: tars.Root, programs: tars.Root, created: int) -> bytes:
    """The list of an image whose Debian root and programs are these."""
    components = [*_debian(root), *_python(programs.values())]
    body = json.dumps(components, sort_keys=True)
    listed = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, image + body)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z"),
            "component": {"type": "container", "name": image, "version": version},
        },
        "components": components,
    }
    return json.dumps(listed, indent=1, sort_keys=True).encode() + b"\n"


def _debian(root: tars.Root) -> list[dict[str, object]]:
    found = []
    status = (root[_STATUS].content or b"").decode()
    for paragraph in status.strip().split("\n\n"):
        package = email.message_from_string(paragraph)
        if package["Status"] != "install ok installed":
            continue
        name, version, arch = package["Package"], package["Version"], package["Architecture"]
        found.append(
            {
                "type": "library",
                "name": name,
                "version": version,
                "purl": f"pkg:deb/debian/{name}@{version}?arch={arch}&distro={SUITE}",
            }
        )
    return sorted(found, key=lambda package: str(package["name"]))


def _python(programs: Iterable[tars.Entry]) -> list[dict[str, object]]:
    found = []
    for entry in programs:
        if not entry.name.endswith(".dist-info/METADATA"):
            continue
        metadata = email.message_from_bytes(entry.content or b"")
        name, version = metadata["Name"], metadata["Version"]
        package: dict[str, object] = {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version}",
        }
        if licence := metadata["License-Expression"]:
            package["licenses"] = [{"expression": licence}]
        found.append(package)
    return sorted(found, key=lambda package: str(package["name"]).lower())
