"""A program that prints, as JSON, what it finds around itself; `tests.fork_server` is tested by it.

    python -m tests.fork_probe [WHAT …]

WHAT is done before: `host=NAME` looks a name up, `exit=CODE` and `signal=NUMBER` say how it ends,
`wait` waits until it is killed, `text` fails with an exception that nobody handles.
"""

from __future__ import annotations

import gc
import json
import locale
import logging
import os
import random
import re
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from nss import nss

_CORE = resource.RLIMIT_CORE
_STREAM = ("encoding", "errors", "line_buffering", "write_through", "mode", "name")


def _stream(stream: Any) -> dict[str, object]:
    found = {name: getattr(stream, name) for name in _STREAM}
    raw = getattr(stream.buffer, "raw", stream.buffer)
    return {**found, "raw": (raw.name, raw.closefd, raw.mode), "seekable": stream.seekable()}


def surroundings() -> dict[str, object]:
    """What has to be the same, however the program is started."""
    umask = os.umask(0o22)
    status = Path("/proc/self/status").read_text().splitlines()
    return {
        "name": __name__,
        "arguments": sys.argv,
        "path": sys.path,
        "flags": str(sys.flags),
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
        "input": sys.stdin.buffer.read().hex(),
        "descriptors": sorted(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "streams": [_stream(item) for item in (sys.stdin, sys.stdout, sys.stderr)],
        "same streams": sys.stdin is sys.__stdin__ and sys.stdout is sys.__stdout__,
        # SigQ counts what all processes of this user have waiting.
        "signals": [line for line in status if re.match("Sig(?!Q)", line)],
        "handlers": [str(signal.getsignal(number))[:40] for number in signal.valid_signals()],
        "identity": [line for line in status if line[:3] in ("Uid", "Gid", "Cap", "NoN")],
        "umask": umask,
        # Each program first sets that on core files; so does one that a test calls in its own
        # process, which starts others later.
        "limits": [resource.getrlimit(number) for number in range(16) if number != _CORE],
        # Not what is frozen, which is all that was there before a fork.
        "gc": (gc.isenabled(), gc.get_threshold(), gc.get_debug()),
        "logging": (str(logging.root.handlers), logging.root.level, logging.root.disabled),
        "threads": threading.active_count(),
        "main thread": threading.current_thread() is threading.main_thread(),
        "locale": locale.setlocale(locale.LC_ALL),
        "zone": time.tzname,
        # Not what libraries say of their own warnings when they are loaded.
        "warnings": str([item for item in warnings.filters if item[2].__module__ == "builtins"]),
        "nss": nss.nss_is_initialized(),
    }


def main() -> None:
    """Print it, and do what the arguments say."""
    result = {"same": surroundings(), "own": {"pid": os.getpid(), "random": random.random()}}  # noqa: S311
    for word in sys.argv[1:]:
        what, _, value = word.partition("=")
        if what == "host":
            result["own"]["host"] = socket.getaddrinfo(value, 80)[0][4]
    print(json.dumps(result), flush=True)
    for word in sys.argv[1:]:
        what, _, value = word.partition("=")
        if what == "exit":
            sys.exit(int(value))
        if what == "signal":
            os.kill(os.getpid(), int(value))
        if what == "wait":
            signal.pause()
        if what == "text":
            raise LookupError("not handled")


if __name__ == "__main__":
    main()
