"""What commands print on standard output."""

from __future__ import annotations

from collections.abc import Iterable

from ...client.output import OutputError, write_all


def print_bytes(data: bytes) -> None:
    """Write `data` to standard output as it is. Raises `OutputError`."""
    try:
        write_all(1, data)
    except OSError as error:
        raise OutputError(
            f"standard output did not take all of the output: {error.strerror}; make room there"
        ) from error


def print_lines(lines: Iterable[str]) -> None:
    """Write `lines` to standard output, each with its end. Raises `OutputError`."""
    print_bytes(b"".join(f"{line}\n".encode() for line in lines))
