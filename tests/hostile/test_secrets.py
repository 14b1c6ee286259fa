"""Guesses at secrets, secrets that are no secret, and MD5 in place of a digest."""

from __future__ import annotations

import pytest

from sigul_stack.errors import Status
from tests.hostile.conftest import (
    TRENTS_KEY,
    AttackerFactory,
    Ground,
)
from tests.hostile.work import Honest

pytestmark = pytest.mark.once("the server's own rules")
GUESSES = 60


def guess(user: str = "trent", key: str = TRENTS_KEY, secret: str = "wrong") -> dict[str, object]:
    """A request of somebody who does not know the passphrase."""
    return {
        "op": "sign-data", "user": user, "fields": {"key": key.encode()},
        "secrets": {"passphrase": secret.encode()}, "payload": b"x", "hear": True,
    }  # fmt: skip


def test_guesses(ground: Ground, honest: Honest, attacker: AttackerFactory) -> None:
    site, _server = ground.site, ground.server
    crowd = attacker(site, "trent", "crowd")
    with honest.during(f"{GUESSES} guesses at once"):
        told = crowd.run(scripts=[guess()], each=GUESSES)
    from collections import Counter

    print(
        Counter(
            (
                c["error"],
                c["result"].get("status"),
                str(c["result"].get("fields")),
                c["result"].get("bridge"),
            )
            for c in told
        )
    )
    print("seconds", max(c["seconds"] for c in told))
    print("LOG wrong", ground.server.text.count("did not open"))
    assert Status


def test_one_char(ground: Ground) -> None:
    site = ground.site
    print(site.sigul("new-user", "weak", "--with-password", secrets=["admin-pw", "x"], code=None))
    print(site.sigul("new-key", "weakkey", secrets=["admin-pw", "x"], code=None))
