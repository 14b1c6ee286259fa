"""Runs `sigul` as its own program, and writes what its start was like to a file, as JSON.

`python -I -S tests/start_probe.py FILE PATHS ARGUMENT…`, where PATHS is what `sys.path` is to be,
between colons. `before` are the modules that were loaded when the thread that dials the bridge was
started, `peak` the most memory that was resident, in KiB.

Without `site`: a machine may load modules there that are none of ours, and would hide what the
client loads.
"""

from __future__ import annotations

import os
import sys
import threading

before: list[str] = []


def start(thread: threading.Thread) -> None:
    """Note the modules, and start the thread."""
    if thread.name == "dialling":
        before.extend(sys.modules)
    _start(thread)


def end(code: int) -> None:
    """Write what was seen, and end the process."""
    with open("/proc/self/status") as status:  # noqa: PTH123 - pathlib may not be loaded
        [peak] = [line.split()[1] for line in status if line.startswith("VmHWM:")]
    import json

    with open(place, "w") as file:  # noqa: PTH123
        json.dump({"before": before, "peak": int(peak)}, file)
    _exit(code)


if __name__ == "__main__":
    place, paths = sys.argv.pop(1), sys.argv.pop(1)
    sys.path = paths.split(":")
    _start, threading.Thread.start = threading.Thread.start, start  # type: ignore[method-assign]
    _exit, os._exit = os._exit, end  # type: ignore[assignment]
    from sigul_stack.cli.sigul import program

    program()
