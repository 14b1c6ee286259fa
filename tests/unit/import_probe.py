"""Imports modules, each in a fresh process, and prints as JSON what happened meanwhile.

`python -m tests.unit.import_probe MODULE… -- MODULE…` is run by test_architecture.py, apart from
pytest, which has half of the modules loaded already. What counts is what the package does itself: a
call counts if a frame of the package is on the stack below the nearest import, so that what other
libraries do when they are imported does not.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

PACKAGE = "sigul_stack"

#: The class of `os.environ`, which has no public name.
_Environment: Any = type(os.environ)

#: Audit events of things that no import may do; `open` and `socket.` are compared as prefixes.
_EVENTS = (
    "open", "socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system",
    "os.putenv", "os.mkdir", "os.remove", "os.rename", "tempfile.",
)  # fmt: skip


def _culprit() -> str | None:
    """`module:line` of the package's code that is being executed at import; None if none is."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return None
        name = frame.f_globals.get("__name__", "")
        if name == PACKAGE or name.startswith(PACKAGE + "."):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return None


def _watch(happened: list[str]) -> None:
    """Append to `happened` whatever the package does from now on that an import may not do."""

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(_EVENTS) and (culprit := _culprit()):
            happened.append(f"{culprit} {event}{arguments!r}")

    class Watched(_Environment):  # type: ignore[misc] # known at run time only
        """Reports who reads; all reading methods of the class end in one of these two."""

        def __getitem__(self, key: object) -> object:
            if culprit := _culprit():
                happened.append(f"{culprit} reads the environment's {key!r}")
            return super().__getitem__(key)

        def __iter__(self) -> object:
            if culprit := _culprit():
                happened.append(f"{culprit} reads the whole environment")
            return super().__iter__()

    os.environ.__class__ = Watched
    os.environb.__class__ = Watched
    sys.addaudithook(audit)


def _logging_state() -> object:
    ours = {
        name: (logger.level, list(logger.handlers), logger.propagate, logger.disabled)
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.split(".")[0] == PACKAGE
    }
    touched = {name: state for name, state in ours.items() if state != (0, [], True, False)}
    root = logging.root
    return root.level, list(root.handlers), root.manager.disable, logging.lastResort, touched


def _signal_state() -> object:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _probe(module: str) -> dict[str, list[str]]:
    happened: list[str] = []
    before = _logging_state(), _signal_state()
    _watch(happened)
    try:
        importlib.import_module(module)
    except Exception as error:
        happened.append(f"{module} cannot be imported: {error!r}")
    if _logging_state() != before[0]:
        happened.append(f"{module} sets up logging")
    if _signal_state() != before[1]:
        happened.append(f"{module} sets a signal handler")
    if threading.active_count() != 1:
        happened.append(f"{module} starts a thread")
    nss = sys.modules.get("nss.nss")
    if nss is not None and nss.nss_is_initialized():
        happened.append(f"{module} initialises NSS")
    return {"happened": happened, "loaded": sorted(sys.modules)}


def _in_a_child(work: Callable[[], Any]) -> Any:
    """What `work` gives in a child process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            result = work()
            with open(writing, "w") as pipe:  # noqa: PTH123 - a descriptor, not a path
                json.dump(result, pipe)
            status = 0
        finally:
            # Not through the parent's clean-up; a traceback has been printed by then.
            if status:
                sys.excepthook(*sys.exc_info())
            os._exit(status)
    os.close(writing)
    with open(reading) as pipe:  # noqa: PTH123 - a descriptor, not a path
        text = pipe.read()
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("the error is above")
    return json.loads(text)


def _import(modules: Iterable[str]) -> None:
    """Import what can be imported of `modules`."""
    for module in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def _foreign(modules: list[str]) -> list[str]:
    """What is not of the package and loaded once `modules` are."""
    _import(modules)
    return [name for name in sys.modules if name.split(".")[0] not in (PACKAGE, "__main__")]


def main() -> None:
    """Probe each module of the command line in a child process; print name → findings.

    Modules behind `--` are probed where all is loaded already that is not of the package: that
    takes a fraction of the time, and "loaded" means nothing then.
    """
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    alone, others = words[:end], words[end + 1 :]
    found = {module: _in_a_child(functools.partial(_probe, module)) for module in alone}
    _import(_in_a_child(functools.partial(_foreign, others)))
    for module in others:
        found[module] = _in_a_child(functools.partial(_probe, module))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
