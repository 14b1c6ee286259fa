"""A command's row: its name, help, arguments, secrets and plan. Data only; no parser, no client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ...records import dataclass
from ..shared_arguments import Argument
from .planning import Arguments, Plan, Run

#: The reason why arguments do not fit together, or None.
Misuse = Callable[[Arguments], str | None]
#: The options that have no effect beside the others, each in words that say why. 1.2 takes them, so
#: that scripts may have them.
Idle = Callable[[Arguments], Iterable[str]]


def always(_arguments: Arguments) -> bool:
    """The condition that always holds."""
    return True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SecretPrompt:
    """A secret that a command asks for, where `when` holds.

    `name` is its key in `Call.secrets`. A `new` one is asked for twice. One that a passphrase file
    may stand for (`from_file`) is not asked for where `-f` names such a file, and none where the
    argument `file_argument` does. `prompt` is what expect scripts look for, so that two secrets of
    one command may have the same: `about` then tells a person which one it is, on a line before.
    """

    name: str
    prompt: str
    about: str = ""
    new: bool = False
    from_file: bool = False
    file_argument: str = ""
    when: Callable[[Arguments], bool] = always


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Command:
    """One command. `secrets` are asked for in this order, once `plan` has returned."""

    name: str
    help: str
    plan: Plan
    arguments: tuple[Argument, ...]
    secrets: tuple[SecretPrompt, ...]
    misuse: Misuse | None
    idle: Idle = lambda _arguments: ()
    #: Its run sends a request at once, where its input files are plain ones: so the bridge may be
    #: dialled ahead of it.
    dials_at_once: bool = False


class CommandGroup(list[Command]):
    """The commands of one module, in the order in which `--help-commands` lists them.

    Each decorator adds the command that the decorated function is, and leaves the function as it
    is.
    """

    def planned(
        self,
        name: str,
        help: str,
        *arguments: Argument,
        secrets: Sequence[SecretPrompt] = (),
        misuse: Misuse | None = None,
        idle: Idle = lambda _arguments: (),
        dials_at_once: bool = False,
    ) -> Callable[[Plan], Plan]:
        """Add a command whose plan the decorated function is."""

        def add(plan: Plan) -> Plan:
            prompts = tuple(secrets)
            self.append(Command(name, help, plan, arguments, prompts, misuse, idle, dials_at_once))
            return plan

        return add

    def request(
        self,
        name: str,
        help: str,
        *arguments: Argument,
        secrets: Sequence[SecretPrompt],
        misuse: Misuse | None = None,
        idle: Idle = lambda _arguments: (),
    ) -> Callable[[Run], Run]:
        """Add a command without files to plan: the decorated function is what is run."""

        def add(run: Run) -> Run:
            self.planned(
                name,
                help,
                *arguments,
                secrets=secrets,
                misuse=misuse,
                idle=idle,
                dials_at_once=True,
            )(lambda _: run)
            return run

        return add
