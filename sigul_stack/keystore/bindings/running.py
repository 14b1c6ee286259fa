"""Run the programs of binding methods: bounded in time, secrets through descriptors alone.

Whatever goes wrong with a program is that method's failure and no other's: the alternatives of a
layer are still tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...errors import KeystoreError
from ...system.programs import Finished, ToolTimeout, run
from .methods import MethodFailed

#: Limit for one program, in seconds: a slow token or TPM, not a person who is asked something.
TIME_LIMIT = 30.0


def run_tool(
    arguments: Sequence[str],
    *,
    package: str,
    data: bytes = b"",
    inherit: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run a program to its end, with `data` as its standard input; its exit code is not judged.

    `package` is the Debian package that has it, for the error where it is missing; `inherit` and
    `environment` are as for `programs.run`. Raises `MethodFailed`.
    """
    try:
        return run(
            arguments,
            package=package,
            time_limit=TIME_LIMIT,
            stdin=data,
            inherit=inherit,
            environment=environment or {},
        )
    except ToolTimeout:
        raise MethodFailed(
            f"{arguments[0]} did not finish within {TIME_LIMIT:g} s and was stopped",
            "see whether what it talks to works",
        ) from None
    except KeystoreError as error:  # ToolMissing: its message names the package
        raise MethodFailed(error.problem, error.cure) from error


def only_arguments(arguments: Mapping[str, str], known: frozenset[str]) -> None:
    """Refuse to bind with an argument that means nothing here. Raises `MethodFailed`."""
    unknown = sorted(arguments.keys() - known)
    if unknown:
        raise MethodFailed(
            f"{', '.join(unknown)} means nothing here",
            f"it takes: {', '.join(sorted(known)) or 'no argument'}",
        )
