"""Runs `sigul` as its own program, and writes what its start was like to a file, as JSON.

`python -I tests/start_probe.py FILE ARGUMENT…`. `before` are the modules that were loaded when the
thread that dials the bridge was started, `peak` the most memory that was resident, in KiB.

Without `site` where the environment says so: a machine may load modules there that are none of
ours, and would hide what the client loads.
"""

from __future__ import annotations

import os
import sys

before: list[str] = []


def audit(event: str, _arguments: tuple[object, ...]) -> None:
    """Note the modules at the start of the first thread."""
    if event == "_thread.start_new_thread" and not before:
        before.extend(sys.modules)


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
    sys.addaudithook(audit)
    _exit, os._exit = os._exit, end  # type: ignore[assignment]
    from sigul_stack.cli.sigul import program

    program()
