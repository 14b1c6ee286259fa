"""Passwords that look random, and what a private key costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigul_stack.pki.key_cost import KeyCost, key_cost, looks_random
from sigul_stack.secret import Secret


@pytest.mark.parametrize("characters", [22, 32, 43])
def test_random_ones_look_so(characters: int) -> None:
    several = [looks_random(Secret.random(characters)) for _ in range(300)]
    # Of the shortest, one in 50 happens to have no digit.
    assert sum(several) >= 270
    assert characters < 32 or all(several)


@pytest.mark.parametrize(
    "password",
    ["0123456789abcdef" * 2, "0F1E2D3C4B5A" * 3, "9f8a4c0d" * 8, "aB3dE6gH9jK2mN5pQ8sT1v"],
)
def test_what_programs_draw(password: str) -> None:
    assert looks_random(Secret(password.encode()))


@pytest.mark.parametrize(
    "password",
    [
        "", "secret", "Secret123!", "correct horse battery staple and more",
        "correcthorsebatterystapleandmuchmoreofit", "aaaaaaaaaaaaaaaaAAAAAAAAAAAAAAAA1111111111",
        "0123456789abcdef", "AB12" * 12, "the Quick brown fox 1 jumps over 2 dogs",
    ],
)  # fmt: skip
def test_what_a_person_may_have_chosen(password: str) -> None:
    assert not looks_random(Secret(password.encode()))


def test_no_password() -> None:
    assert not looks_random(None)


def test_what_cannot_be_read_costs_nothing(tmp_path: Path) -> None:
    assert key_cost(tmp_path) == KeyCost(0, 0.0)
    (tmp_path / "key4.db").write_bytes(b"no database" * 1000)
    assert key_cost(tmp_path) == KeyCost(0, 0.0)


def test_in_words() -> None:
    assert KeyCost(10_000, 0.044).text == "44 ms a use (10000 rounds of key derivation)"
    assert KeyCost(10_000, 0.044).is_slow
    assert not KeyCost(1000, 0.004).is_slow
