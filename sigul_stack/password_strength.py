"""Is a password random enough that guesses at it need not be slow? The one rule for that.

The rule, which is about how a password looks, for nobody can see where it comes from:

* 32 characters or more, all of them letters, digits or `+ / - _ = .`: what `secrets`, `openssl
  rand` and base64 make; the kit's have 43, which are 256 random bits; 32 hexadecimal ones are 128;
* no fewer than 10 different ones;
* either hexadecimal digits alone, of which at one of five neighbours a letter and a digit meet, or
  small letters and capitals, where at one of three neighbours the kind changes (small, capital,
  digit, sign), and one capital of seven is not followed by a small letter, as it is in words;
* no five characters in a row come twice.

Invariant: of what `Secret.random` makes of the kit's length, less than one in 300 is called
weak; sentences, words with numbers, keyboard rows and repetitions are. A wrong "weak" costs time, a
wrong "random" security: in doubt it is weak. Must not tell any part of the password.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from .secret import Secret

#: The fewest characters; of hexadecimal digits, 128 bits.
LEAST_CHARACTERS: Final = 32

_LEAST_DIFFERENT: Final = 10
#: The least part of neighbours of different kinds. Of random base64 it is 0.64, of hexadecimal
#: digits 0.47.
_CHANGES: Final = 0.33
_CHANGES_OF_HEXADECIMAL: Final = 0.2
#: The least part of capitals that no small letter follows. Of random base64 it is 0.6.
_CAPITALS_ALONE: Final = 0.15
_REPEATED: Final = 5

_HEXADECIMAL = re.compile(rb"[0-9a-f]+|[0-9A-F]+")
_ALLOWED = re.compile(rb"[A-Za-z0-9+/_.=-]*")


def why_weak(password: Secret) -> str | None:
    """The reason that a password may be guessed, as a sentence's end; None: it is random."""
    value = password.reveal()
    if len(value) < LEAST_CHARACTERS:
        return f"has fewer than {LEAST_CHARACTERS} characters"
    if not _ALLOWED.fullmatch(value):
        return "has blanks or signs that random ones of base64 or hexadecimal digits do not have"
    pieces = [value[start : start + _REPEATED] for start in range(len(value) - _REPEATED + 1)]
    if (
        len(set(value)) < _LEAST_DIFFERENT
        or len(set(pieces)) < len(pieces)
        or not _takes_turns(value)
    ):
        return "looks like words, a pattern or a repetition, and not random"
    return None


def _takes_turns(value: bytes) -> bool:
    """Tell whether the kinds of characters are mixed as they are where chance has chosen."""
    neighbours = list(pairwise(map(_kind, value)))
    changes = sum(left != right for left, right in neighbours) / len(neighbours)
    if _HEXADECIMAL.fullmatch(value):
        return changes >= _CHANGES_OF_HEXADECIMAL
    followers = [right for left, right in neighbours if left == "capital"]
    alone = sum(right != "small" for right in followers)
    return (
        any(kind == "small" for kind, _ in neighbours)
        and alone > 0
        and alone >= _CAPITALS_ALONE * len(followers)
        and changes >= _CHANGES
    )


def _kind(byte: int) -> str:
    character = chr(byte)
    if character.isdigit():
        return "digit"
    if not character.isalpha():
        return "sign"
    return "small" if character.islower() else "capital"
