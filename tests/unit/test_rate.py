"""How long a peer may still be waited for: by what has moved, and by nothing else."""

from __future__ import annotations

import pytest

from sigul_stack.transport.rate import MOST_SECONDS, RateMeter, TooSlow

RATE = 1000


def meter() -> RateMeter:
    """A peer with a credit of ten seconds."""
    return RateMeter(RATE, "the peer sends", 10.0)


def test_a_silent_peer_has_its_first_credit_and_no_more() -> None:
    peer = meter()
    peer.waited(9.9, 0)
    assert peer.limit() == pytest.approx(0.1)
    peer.waited(0.1, 0)
    with pytest.raises(
        TooSlow, match=r"the peer sends slower than 1000 bytes/s \(min-payload-rate"
    ):
        peer.limit()


def test_a_byte_now_and_then_gains_nothing() -> None:
    peer = meter()
    with pytest.raises(TooSlow):
        for _ in range(100):
            peer.limit()
            peer.waited(1.0, 1)
    assert peer._left == pytest.approx(0, abs=1.1)


def test_one_that_keeps_to_the_rate_is_never_given_up() -> None:
    peer = meter()
    for _ in range(100_000):
        assert peer.limit() >= 9.9
        peer.waited(1.0, RATE)


def test_a_pause_is_paid_for_by_what_came_before_up_to_a_limit() -> None:
    peer = meter()
    peer.waited(0.0, 10**12)
    assert peer.limit() == MOST_SECONDS
    peer.waited(MOST_SECONDS - 1, 0)
    assert peer.limit() == pytest.approx(1.0)


def test_what_is_to_move_next_has_its_own_time() -> None:
    peer = meter()
    assert peer.limit(60 * RATE) == pytest.approx(70.0)
    peer.waited(65.0, 60 * RATE)
    assert peer.limit() == pytest.approx(5.0)
