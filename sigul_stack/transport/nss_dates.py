"""Certificates out of date: NSS says `expired` of one that is not valid yet, too, and names none.

Which it is decides what to do: renew a certificate, or set a clock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from nss.error import NSPRError

from ..errors import quoted
from .nss_errors import OF_DATES, THEIRS_OF_DATES, Explanation

_CLOCKS: Final = "set the clock that is wrong (timedatectl set-ntp true), or wait until it is valid"


def explain_dates(symbol: str, presented: Any, own: Any, now: datetime) -> Explanation | None:
    """The meaning of an error about dates; None for another one, or where there is nothing to see.

    `presented` is the peer's certificate and `own` ours, as NSS has them, or None.
    """
    if symbol not in OF_DATES:
        return None
    whose = "our" if symbol == THEIRS_OF_DATES else "the peer's"
    for index, item in enumerate(_chain(own if symbol == THEIRS_OF_DATES else presented)):
        begins, ends = _time(item.valid_not_before), _time(item.valid_not_after)
        what = f"{whose} certificate" if index == 0 else "the CA's certificate"
        dates = (
            f"({symbol}): {quoted(_name(item), 60)}, valid from {begins:%Y-%m-%d %H:%M} to"
            f" {ends:%Y-%m-%d %H:%M} UTC; this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
        )
        if now < begins:
            return Explanation(f"{what} is not yet valid {dates}", _CLOCKS)
        if now > ends:
            renew = "renew it (sigul-stack pki renew)"
            if index:
                renew = "renew it (sigul-stack pki renew-ca) and give it to every component"
            elif symbol != THEIRS_OF_DATES:
                renew = "renew it on the peer's side (sigul-stack pki renew)"
            return Explanation(
                f"{what} has expired {dates}", f"{renew}; or set the clock, where that is wrong"
            )
        if symbol == THEIRS_OF_DATES and index == 0:
            valid = f"{what} is out of date by the peer's clock, not by ours {dates}"
    if symbol == THEIRS_OF_DATES and own is not None:
        return Explanation(valid, "set the peer's clock (timedatectl set-ntp true), or ours")
    return None


def _chain(certificate: Any) -> Iterable[Any]:
    if certificate is None:
        return ()
    with contextlib.suppress(NSPRError):
        if chain := list(certificate.get_cert_chain()):
            return chain
    return (certificate,)


def _name(certificate: Any) -> str:
    return str(certificate.subject_common_name or certificate.subject)


def _time(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC)
