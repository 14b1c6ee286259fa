"""The end of a program that runs in front of a person: its output, exit code and error line.

0 on success; else 1 and one line `Error: TEXT` on standard error. Some texts stand there without
`Error: `, as scripts compare them, and what explains them on a line of its own behind. Where it was
a request that failed, one more line has its id in the logs, `Request ID: 0123456789abcdef`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar, Final

from ..errors import SigulError, printable
from ..logcontext import request_id
from .logs import tell_kept
from .standard_streams import lost_output, open_standard_streams, output_failed

log = logging.getLogger(__name__)

NSS_PASSWORD_TEXT: Final = "Provided NSS password is incorrect"  # noqa: S105 - an error's text
UNBIND_TEXT: Final = "Unable to unbind the passphrase on the client"
UNBOUND_TEXT: Final = "Passphrase file is unbound!"
#: Errors that are said without `Error: ` before them: scripts compare the whole line.
_WHOLE_LINES: Final = frozenset({NSS_PASSWORD_TEXT, UNBIND_TEXT, UNBOUND_TEXT})

#: From how many things on their number is told though all went well.
_MANY: Final = 20


class AlreadyTold(SigulError):
    """A program fails, and has said why in lines of its own."""


class AnswersTold(AlreadyTold):
    """The same, and each line told an answer."""

    is_answer = True


class Failures:
    """Failures of some of many things; each is told at once, in a line on standard error."""

    #: Whether scripts know standard output as empty, whatever failed of not so many things.
    silent: ClassVar[bool] = False

    def __init__(self) -> None:
        self._count = 0
        self._answers_alone = True

    def tell(self, what: str | Path, error: SigulError | None) -> None:
        """Tell that signing `what` failed, unless `error` is None."""
        if error is not None:
            self._count += 1
            self._answers_alone &= error.is_answer
            for line in self.lines(what, error):
                say(line, error=True, flush=True)
            say_request(error)

    def lines(self, what: str | Path, error: SigulError) -> Sequence[str]:
        """The lines that tell of it."""
        return [f"Error signing {what}: {error}"]

    def end(self, text: str, things: str, total: int) -> None:
        """Sum up what became of `total` things; raise `AlreadyTold` with `text` where any failed.

        On standard output, for what is told on standard error is read by scripts: where there are
        more than anybody counts, to a person at a terminal, and where something failed, unless
        scripts know that command's standard output as empty.
        """
        told = self._count and not self.silent
        if total > 1 and (told or total >= _MANY or sys.stdout.isatty()):
            failed = f" of {total} {things}; {self._count} failed" if self._count else f" {things}"
            say(f"Signed {total - self._count}{failed}", flush=True)
        if self._count:
            raise (AnswersTold if self._answers_alone else AlreadyTold)(text)


def report(run: Callable[[], None]) -> int:
    """Call `run` and give the exit code; whatever it raises is said in one line.

    The text of an error that nobody foresaw may hold anything, a secret too: only its kind is told,
    and a traceback at `-v -v`. Behind a fault follows what the log has kept until then; behind an
    answer nothing does, for scripts compare what is said of it.
    """
    try:
        run()
        return 0
    except SigulError as error:
        is_answer = error.is_answer or error.problem in _WHOLE_LINES
        if not is_answer:
            log.debug("where it failed:", exc_info=True)
        if not isinstance(error, AlreadyTold):
            failed(str(error))
            say_request(error)
        if is_answer:
            return 1
    except KeyboardInterrupt:
        failed("interrupted")
        say_request()
    except Exception as error:
        log.debug("where it failed:", exc_info=True)
        failed(f"unexpected failure ({type(error).__name__}); -v -v tells more")
        say_request()
    tell_kept()
    return 1


def run_program(main: Callable[[], int]) -> int:
    """Run a whole program, `main`, with standard streams that never raise; its exit code.

    Where output was lost that is never 0: who reads it would else believe in what came.
    """
    open_standard_streams()
    try:
        code = main()
    except SystemExit as end:  # help was shown, or the command line does not fit
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return end_output(code)


def end_output(code: int, *, lost: int = 1) -> int:
    """The exit code of a program whose own is `code`: `lost` in place of 0 where output was lost.

    There is an error line about it then.
    """
    failure = lost_output()
    if failure is None:
        return code
    say(f"Error: {output_failed(failure)}", error=True, flush=True)
    return code or lost


def print_bytes(data: bytes) -> None:
    """Write `data` to standard output as it is. Raises `SigulError`."""
    try:
        with os.fdopen(1, "wb", closefd=False) as output:
            output.write(data)
    except OSError as error:
        raise output_failed(error) from error


def print_lines(lines: Iterable[str]) -> None:
    """Write `lines` to standard output, each with its end. Raises `SigulError`.

    What a server says stays a line each, and text: nothing in it reaches the terminal as more.
    """
    print_bytes(b"".join(f"{printable(line)}\n".encode() for line in lines))


def say(line: str, *, error: bool = False, flush: bool = False) -> None:
    """Say one line to a person: to standard output, or to standard error where it is an `error`.

    The only way from here to a terminal; what is to be told as it is goes through `print_bytes`.
    """
    print(printable(line), file=sys.stderr if error else sys.stdout, flush=flush)


def say_text(text: str, *, error: bool = False, flush: bool = False) -> None:
    """Say a text of several lines, whose ends in it are its own and nobody else's."""
    for line in text.split("\n"):
        say(line, error=error)
    if flush:
        (sys.stderr if error else sys.stdout).flush()


def failed(text: str) -> int:
    """Say the error `text`: in one line, or as a line that scripts know and one that explains it.

    Gives the exit code.
    """
    problem, _, explained = text.partition("; ")
    if problem not in _WHOLE_LINES:
        say(f"Error: {text}", error=True)
        return 1
    say(problem, error=True)
    if explained:
        say(explained, error=True)
    return 1


def request_of(error: SigulError | None = None) -> str:
    """The id of the request that failed with `error`; empty where it was none.

    An error that comes behind a request, as one of its output's file, is that request's still.
    """
    return (error.request if error is not None else "") or request_id()


def say_request(error: SigulError | None = None) -> None:
    """Say the id of the request that failed, behind the lines that tell why.

    On a line of its own, as scripts compare the others whole.
    """
    if request := request_of(error):
        say(f"Request ID: {request}", error=True, flush=True)


def repeat_known_line(text: str) -> None:
    """Say of the error `text`, which a log has told, the line that scripts know; else nothing."""
    problem = text.partition("; ")[0]
    if problem in _WHOLE_LINES:
        say(problem, error=True, flush=True)
