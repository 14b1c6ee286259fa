"""Is a password random enough that NSS need not make guesses at it slow? The one rule for that.

The rule, which is about how a password looks, for nobody can see where it comes from:

* 32 characters or more, all of them letters, digits or `+ / - _ = .`: what `secrets`, `openssl
  rand` and base64 make; the kit's have 43, which are 256 random bits; 32 hexadecimal ones are 128;
* no fewer than 10 different ones, letters among them, and digits or both kinds of letters;
* small letters, capitals, digits and signs take turns, as they do not in words and dates: at two of
  five neighbours where there are small letters and capitals, else at one of five;
* no five characters in a row come twice.

Invariant: of what `Secret.random` makes of the kit's length, less than one in a thousand is called
weak; sentences, words with numbers, keyboard rows and repetitions are. A wrong "weak" costs time, a
wrong "random" security: in doubt it is weak. Must not tell any part of the password.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from ..secret import Secret

#: The fewest characters; of hexadecimal digits, 128 bits.
LEAST_CHARACTERS: Final = 32

_LEAST_DIFFERENT: Final = 10
#: The least part of neighbours that are of different kinds. Of random base64 it is 0.64, of
#: hexadecimal digits 0.47.
_CHANGES_OF_BOTH_CASES: Final = 0.4
_CHANGES_OF_ONE_CASE: Final = 0.2
_REPEATED: Final = 5

_ALLOWED = re.compile(rb"[A-Za-z0-9+/_.=-]*")


def why_weak(password: Secret) -> str | None:
    """Why a password may be one that is guessed, as the end of a sentence; None: it is random."""
    value = password.reveal()
    if len(value) < LEAST_CHARACTERS:
        return f"has fewer than {LEAST_CHARACTERS} characters"
    if not _ALLOWED.fullmatch(value):
        return "has blanks or signs that random ones of base64 or hexadecimal digits do not have"
    kinds = [_kind(byte) for byte in value]
    changes = sum(left != right for left, right in pairwise(kinds)) / (len(value) - 1)
    cases = {"small", "capital"} & set(kinds)
    pieces = [value[start : start + _REPEATED] for start in range(len(value) - _REPEATED + 1)]
    if (
        len(set(value)) < _LEAST_DIFFERENT
        or not cases
        or changes < (_CHANGES_OF_BOTH_CASES if len(cases) > 1 else _CHANGES_OF_ONE_CASE)
        or len(set(pieces)) < len(pieces)
    ):
        return "looks like words, a pattern or a repetition, and not random"
    return None


def _kind(byte: int) -> str:
    character = chr(byte)
    if character.isdigit():
        return "digit"
    if not character.isalpha():
        return "sign"
    return "small" if character.islower() else "capital"
