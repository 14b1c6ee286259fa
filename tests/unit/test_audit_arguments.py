"""Arguments of `sigul-stack audit`: what each takes, and what it is then."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from sigul_stack.cli.audit.arguments import digest, index_or_digest, moment, whole_number

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (moment, "2026-11-30", "2026-11-30"),
        (moment, "2026-11-30Z", "2026-11-30"),
        (moment, "2026-11-30T17:22", "2026-11-30T17:22"),
        (moment, "2026-11-30T17:22:15Z", "2026-11-30T17:22:15"),
        (moment, "2026-11-30T17:22:15.1", "2026-11-30T17:22:15.1"),
        (digest, HEX.upper(), HEX),
        (whole_number, "0", 0),
        (whole_number, "007", 7),
        (index_or_digest, "12", 12),
        (index_or_digest, HEX, HEX),
        # Sixty-four digits are no index of any log.
        (index_or_digest, "1" * 64, "1" * 64),
    ],
)
def test_what_is_taken(kind: Callable[[str], object], text: str, value: object) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((moment, text) for text in (
            "", "today", "2026-11", "2026-11-31", "2026-11-30T24:00", "2026-11-30T17",
            "2026-11-30 17:22", "2026-11-30T17:22+01:00", "2026-11-30T17:22:15.1234",
            "\u0662\u0660\u0662\u0666-11-30", "2026-11-30\n",
        )),
        *((digest, text) for text in ("", "abc", HEX + "0", HEX[:-1] + "g", HEX + "\n")),
        *((whole_number, text) for text in ("", "-1", "+1", "1.0", "0x1", "1" * 19, "\u0661")),
        *((index_or_digest, text) for text in ("", "-1", "abc", "1" * 20)),
    ],
)  # fmt: skip
def test_what_is_refused(kind: Callable[[str], object], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        kind(text)
