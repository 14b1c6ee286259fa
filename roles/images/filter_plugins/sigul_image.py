"""Filters on what an engine tells of an image."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

#: What a container takes from its image. (Others of an image's Config are of the engine's making.)
_TAKEN = ("Cmd", "Entrypoint", "Env", "Healthcheck", "Labels", "StopSignal", "User", "Volumes",
          "WorkingDir")  # fmt: skip


def sigul_image_content(image: Mapping[str, Any]) -> str:
    """All that makes an image what it is, the same in every engine that has it.

    Layers are named by the SHA-256 of their archives; empty values are left out by some engines.
    """
    config = image.get("Config") or {}
    taken = {name: config[name] for name in _TAKEN if config.get(name)}
    layers = (image.get("RootFS") or {}).get("Layers") or []
    return json.dumps([image.get("Architecture"), layers, taken], sort_keys=True)


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, Callable[[Mapping[str, Any]], str]]:
        """By name."""
        return {"sigul_image_content": sigul_image_content}
