"""The outlook of a key, gpg's own choice foretold: which part signs, why none, what comes soon.

gpg takes the newest subkey that may sign now, else the primary key if that may sign, and none where
the primary key itself is of no use. Where it refuses it says only `Unusable secret key`: the reason
is found here, in its listing of the key. Pure: no gpg, no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from .output import KeyPart, ListedKey

DAY_SECONDS: Final = 24 * 3600

_ANOTHER: Final = "sign with another key, or import this one again with a new signing subkey"
_RESTORE: Final = "restore it from a backup, or import the key with it"


@dataclass(frozen=True, slots=True)
class Fault:
    """The reason why a part of a key does not sign, or soon will not, in words, and the cure.

    `replaced`: another part signs because of it.
    """

    problem: str
    cure: str
    replaced: bool = False


#: What there is to say of a key that the store has lost.
GONE: Final = Fault(
    "the key is not in the key store",
    "have the server's administrator restore it from a backup, or delete it (delete-key)",
)


@dataclass(frozen=True, slots=True)
class Outlook:
    """A key's near future.

    `signer` is the part that signs now, None where none does, for the reason `fault`. `notes` are
    what its owner should know though it signs: another part should, or its time is nearly over.
    """

    signer: KeyPart | None
    signer_name: str
    fault: Fault | None
    notes: tuple[Fault, ...]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All there is to tell, the worst first."""
        return (*(() if self.fault is None else (self.fault,)), *self.notes)


def outlook(key: ListedKey, now: float, warn_days: int) -> Outlook:
    """Foretell what becomes of `key` at `now` (seconds since 1970), and in `warn_days` after it."""
    primary, subkeys = key.parts[0], key.parts[1:]
    if (fault := _fault(key, 0, now)) is not None and _must_hold(primary, now):
        return Outlook(None, "", fault, ())
    signing = [number for number in range(1, len(key.parts)) if key.parts[number].can_sign]
    good = [number for number in signing if _chosen(key.parts[number], now)]
    if good:
        number = _newest(key, good)
    elif primary.can_sign:
        number = 0
    elif signing:
        return Outlook(None, "", _fault(key, _newest(key, signing), now), ())
    else:
        what = "key and subkeys are" if subkeys else "the key is"
        return Outlook(
            None, "", Fault(f"{what} not meant for signing", "sign with another key"), ()
        )
    if (fault := _fault(key, number, now)) is not None:
        return Outlook(None, "", fault, ())
    return Outlook(
        key.parts[number],
        _name(number),
        None,
        (*_passed_over(key, number, signing, now), *_soon(key, number, now, warn_days)),
    )


def _newest(key: ListedKey, numbers: list[int]) -> int:
    """The newest of those parts; of several that were made in the same second the first."""
    return max(numbers, key=lambda number: (key.parts[number].created, -number))


def _must_hold(primary: KeyPart, now: float) -> bool:
    """True if what is wrong with the primary key is wrong with all of the key."""
    return primary.revoked or primary.invalid or _expired(primary, now) or primary.created > now


def _chosen(part: KeyPart, now: float) -> bool:
    """True if gpg would take this subkey. It may find afterwards that the secret is missing."""
    return not (part.revoked or part.invalid or _expired(part, now) or part.created > now)


def _expired(part: KeyPart, now: float) -> bool:
    return part.expires is not None and part.expires <= now


def _fault(key: ListedKey, number: int, now: float) -> Fault | None:
    """Return why the part of that number does not sign; None where it does, if it is meant to."""
    part, name = key.parts[number], _name(number)
    if part.revoked:
        return Fault(f"{name} has been revoked", _ANOTHER)
    # Of one from the future gpg also says that it is invalid, for so are its signatures.
    if part.created > now:
        return Fault(
            f"{name} was made at {_time(part.created)}, and the server's clock says {_time(now)}",
            "set the clock that is wrong, the server's or the one it was made by; or wait",
        )
    if _expired(part, now):
        return Fault(f"{name} expired on {_day(part.expires)}", _renewed(number))
    if part.invalid:
        return Fault(
            f"gpg finds no valid self-signature on {name}", "renew it, and import the key again"
        )
    if not part.secret:
        return Fault(f"the secret of {name} is not in the key store", _RESTORE)
    return None


def _passed_over(key: ListedKey, number: int, signing: list[int], now: float) -> Iterator[Fault]:
    """A newer signing subkey that would sign, if it could."""
    if not signing or (newest := _newest(key, signing)) == number:
        return
    fault = _fault(key, newest, now)
    if fault is not None:
        yield Fault(f"{fault.problem}, so {_name(number)} signs", fault.cure, replaced=True)


def _soon(key: ListedKey, number: int, now: float, warn_days: int) -> Iterator[Fault]:
    for each in sorted({0, number}):
        expires = key.parts[each].expires
        if expires is not None and now < expires < now + warn_days * DAY_SECONDS:
            days = int((expires - now) // DAY_SECONDS)
            yield Fault(f"{_name(each)} expires on {_day(expires)}, in {days} days", _renewed(each))


def _renewed(number: int) -> str:
    subkey = f" --subkey {number}" if number else ""
    return f"set a new date: sigul change-key-expiration KEY{subkey} --expire-date YYYY-MM-DD"


def _name(number: int) -> str:
    return f"signing subkey {number}" if number else "the primary key"


def _day(seconds: float | None) -> str:
    return f"{datetime.fromtimestamp(seconds or 0, UTC):%Y-%m-%d}"


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
