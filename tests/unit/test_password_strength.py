"""Which passwords are taken for random, so that NSS need not make guesses at them slow."""

from __future__ import annotations

import base64
import random

import pytest

from sigul_stack.password_strength import why_weak
from sigul_stack.secret import Secret

#: What chance brings is the same in each run.
CHANCE = random.Random(16)  # noqa: S311 - no secret


def random_password(kind: str) -> str:
    data = CHANCE.randbytes(32)
    match kind:
        case "kit":
            return base64.urlsafe_b64encode(data).decode().rstrip("=")
        case "base64":
            return base64.b64encode(data).decode()
        case "hexadecimal":
            return data.hex()
        case _:
            return data[:16].hex().upper()


@pytest.mark.parametrize("kind", ["kit", "base64", "hexadecimal", "short"])
def test_what_is_random_is_taken_for_it(kind: str) -> None:
    """But for one in a hundred; of the kit's kind, one in 300."""
    count = 2000
    weak = sum(why_weak(Secret(random_password(kind))) is not None for _ in range(count))
    assert weak <= count * (0.0033 if kind in ("kit", "base64") else 0.01)


@pytest.mark.parametrize(
    "password",
    [
        "", "x", "nss-pw", "Xk3" * 11, "a" * 64, "0123456789" * 4,
        "abcdefghijklmnopqrstuvwxyz0123456789",
        "qwertyuiop1234567890asdfghjklzxcvbnm",
        "correct horse battery staple tango 17",
        "correct-horse-battery-staple-tango-2024",
        "correcthorse2024batterystaple17tangos",
        "CorrectHorseBatteryStapleTroubador1",
        "TheCatSatOnTheMatAndAteMyBigRat2024",
        "The1Cat2Sat3On4The5Mat6And7Ate8My9Rat",
        "Sommer2024Winter2025Herbst2026Fruehling",
        "MyCompanySigulBridgePassword2023_Prod",
        "CORRECT-HORSE-BATTERY-STAPLE-TANGO-17",
        "31415926535897932384626433832795028841",
        "2024-01-01T00:00:00Z 2025-01-01T00:00",
        "Grüße von der Brücke an alle Kunden 12",
    ],
)  # fmt: skip
def test_what_people_choose_is_weak(password: str) -> None:
    reason = why_weak(Secret(password))
    assert reason is not None
    # Nothing of it is told.
    assert not password or len(password) < 3 or password not in reason


def test_less_than_128_bits_are_few() -> None:
    assert why_weak(Secret(random_password("kit")[:31])) == "has fewer than 32 characters"
