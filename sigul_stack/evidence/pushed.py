"""`pushed.json` in a log's directory: when the log was last copied elsewhere, for health.

{"size":LEAVES,"time":"2026-11-30T17:22:15Z","to":"/srv/copy"}
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Final

from ..errors import printable
from ..system.files import write_whole

PUSHED: Final = "pushed.json"


def note_push(directory: Path, size: int, to: str, now: datetime) -> None:
    """Note that the log's first `size` leaves went to a place. Raises OSError."""
    told = {"size": size, "time": f"{now:%Y-%m-%dT%H:%M:%SZ}", "to": printable(to)}
    content = json.dumps(told, separators=(",", ":")) + "\n"
    write_whole(directory / PUSHED, content.encode(), replace=True, mode=0o644)
