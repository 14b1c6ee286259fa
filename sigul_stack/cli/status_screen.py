"""Where `sigul-stack status` is shown: once, or again and again in the place of itself.

rich writes to standard output by itself, past `outcome.say`. So this module alone has its console,
and all that is shown is made by `status_parts`, which escapes as `say` does. rich is slow to load:
only who shows something imports this.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC, datetime
from types import FrameType, TracebackType

from rich.console import Console, RenderableType
from rich.live import Live

from ..errors import SigulError
from ..observe.view import BridgeView
from ..protocol.status import ServerStatus
from .status_parts import Look
from .status_tables import bridge_tables, lost_notice, server_tables

#: Columns where the output is no terminal and COLUMNS does not say.
_WIDTH = 120
#: Most rows of a table that is shown once, and of one that has to stay on a screen.
_ROWS, _LIVE_ROWS = 25, 6


def _console() -> Console:
    """A console of standard output, whatever that is: without colours where it is no terminal.

    Text of others is never markup, nor looked at for what could be highlighted.
    """
    console = Console(file=sys.stdout, markup=False, emoji=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH
    return console


def _tables(
    console: Console, shown: BridgeView | ServerStatus, others: int, rows: int
) -> RenderableType:
    unicode = console.encoding.lower().startswith("utf")
    look = Look(width=console.width, rows=rows, unicode=unicode, others=others)
    if isinstance(shown, BridgeView):
        return bridge_tables(shown, look)
    return server_tables(shown, look)


def show(shown: BridgeView | ServerStatus, others: int = 0) -> None:
    """Show it once. `others` are former processes of the same daemon."""
    console = _console()
    console.print(_tables(console, shown, others, _ROWS))


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


class Screen:
    """What is shown again every so many seconds, in a terminal in the place of what was there.

    Where standard output is no terminal, each follows the one before.
    """

    def __init__(self, every: float) -> None:
        self._every = every
        self._console = _console()
        self._live: Live | None = None
        self._last: RenderableType | None = None
        self._seen = ""

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            # Who ends it leaves the terminal as it was.
            signal.signal(signal.SIGTERM, _end)
            self._live = Live(console=self._console, screen=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, shown: BridgeView | ServerStatus, others: int) -> None:
        """Show it now."""
        rows = _LIVE_ROWS if self._live is not None else _ROWS
        self._last = _tables(self._console, shown, others, rows)
        self._seen = f"{datetime.now(UTC):%H:%M:%S} UTC"
        self._write(self._last)

    def lost(self, error: SigulError) -> None:
        """Show that the daemon does not answer, and what it told last."""
        last = self._last if self._live is not None else None
        self._write(lost_notice(error, self._every, self._seen, last))

    def _write(self, what: RenderableType) -> None:
        if self._live is not None:
            self._live.update(what, refresh=True)
        else:
            self._console.print(what)
            sys.stdout.flush()
