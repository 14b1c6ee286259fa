"""What the server takes without asking rpmkeys, rpmkeys takes: packages damaged in every way.

The server may sign a package that `digests_hold` says yes to without rpmkeys having seen it. So
each damaged package of which it says yes is given to the machine's rpmkeys here, as the server
would have. Most damage is *fitted*: the digests are made anew, so that nothing but the damage
itself can give it away. Each case is made from a seed, which is in the message where it fails.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import io
import random
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from sigul_stack.errors import KeystoreError, ProtocolError
from sigul_stack.formats.rpm_head import EntryType, HeaderEntry, Region, encode_header, parse_head
from sigul_stack.formats.rpm_plain import MAIN_TYPES, ONE_OR_MORE
from sigul_stack.signing import rpm_checks, rpm_digests
from sigul_stack.signing.rpm_digests import digests_hold
from sigul_stack.system.programs import ToolTimeout
from tests.site import PROGRAM_SECONDS

from .rpm_support import build

#: Damaged packages in the fast lane, and in the long one.
FEW, MANY = 1500, 40_000
#: Files of one run of rpmkeys.
GROUP = 200


@dataclass(frozen=True)
class Parts:
    """A package in parts that can be damaged one by one."""

    lead: bytes
    signature: Mapping[int, HeaderEntry]
    main: Mapping[int, HeaderEntry]
    payload: bytes

    @classmethod
    def of(cls, package: bytes) -> Parts:
        """The parts of a whole package."""
        head = parse_head(package)
        payload = package[head.length :]
        return cls(head.lead, dict(head.signature.entries), dict(head.main.entries), payload)

    def fitted(
        self,
        main: bytes | None = None,
        payload: bytes | None = None,
        signature: Callable[[dict[int, HeaderEntry]], Iterable[HeaderEntry]] | None = None,
        damage_signature: Callable[[bytes], bytes] = bytes,
    ) -> bytes:
        """A package with this main header, and digests in its signature header that fit."""
        main = encode_header(Region.MAIN, self.main.values()) if main is None else main
        rest = main + (self.payload if payload is None else payload)
        fitting = {
            269: text(269, hashlib.sha1(main, usedforsecurity=False).hexdigest()),
            273: text(273, hashlib.sha256(main).hexdigest()),
            1000: HeaderEntry.integer(1000, len(rest)),
            1004: HeaderEntry.binary(1004, hashlib.md5(rest, usedforsecurity=False).digest()),
        }
        entries = {tag: fitting.get(tag, entry) for tag, entry in self.signature.items()}
        listed = entries.values() if signature is None else signature(entries)
        made = damage_signature(encode_header(Region.SIGNATURE, listed))
        return self.lead + made + bytes(-len(made) % 8) + rest


def text(tag: int, value: str) -> HeaderEntry:
    """An entry of one text."""
    return HeaderEntry(tag, EntryType.STRING, 1, value.encode() + b"\0")


# ------------------------------------------------------------------------------------- damage


def flip(data: bytes, at: int, chance: random.Random) -> bytes:
    """Bytes of which one is another."""
    value = chance.choice((data[at] ^ (1 << chance.randrange(8)), 0, 0xFF, chance.randrange(256)))
    return data[:at] + bytes([value]) + data[at + 1 :]


def flipped(parts: Parts, chance: random.Random) -> bytes:
    """One byte of one region is another: nothing fits."""
    package = parts.fitted()
    head = parse_head(package)
    count = len(head.signature.entries) + 1
    mains = head.main_offset + 16 + 16 * (len(head.main.entries) + 1)
    edges = [
        *(0, 96, 112, 112 + 16 * count, 96 + len(head.signature.raw), head.main_offset),
        *(head.main_offset + 16, mains, head.length, len(package)),
    ]
    start, end = chance.choice([pair for pair in pairwise(edges) if pair[0] < pair[1]])
    return flip(package, chance.randrange(start, end), chance)


def cut(parts: Parts, chance: random.Random) -> bytes:
    """Bytes are missing, or there are more."""
    package = parts.fitted()
    at = chance.randrange(len(package))
    return chance.choice(
        (
            package[:at],
            package[: -chance.randrange(1, 20)],
            package + chance.randbytes(chance.randrange(1, 20)),
            package[:at] + chance.randbytes(chance.randrange(1, 20)) + package[at:],
            package[:at] + package[at + chance.randrange(1, 20) :],
        )
    )


def header_damage(data: bytes, chance: random.Random) -> bytes:
    """A header, damaged: a number of its index or region, an entry's place, a byte anywhere."""
    made = bytearray(data)
    kind = chance.randrange(7)
    count = int.from_bytes(data[8:12], "big")
    if not 1 <= count <= (len(data) - 17) // 16 or len(data) < 64:  # it has been damaged before
        return flip(data, chance.randrange(len(data)), chance)
    at = 16 + 16 * chance.randrange(count)
    if kind == 0:  # one number of an entry
        field = at + 4 * chance.randrange(4)
        old = int.from_bytes(made[field : field + 4], "big")
        new = chance.choice(
            (old + 1, old - 1, old + 4, old - 4, 0, 1, old * 2, 2**31, 2**32 - 1,
             chance.randrange(12), chance.choice(list(MAIN_TYPES)))
        )  # fmt: skip
        made[field : field + 4] = (new % 2**32).to_bytes(4, "big")
    elif kind == 1:  # an entry twice, in another's place
        other = 16 + 16 * chance.randrange(count)
        made[at : at + 16] = made[other : other + 16]
    elif kind == 2:  # two entries in each other's places
        other = 16 + 16 * chance.randrange(count)
        made[at : at + 16], made[other : other + 16] = made[other : other + 16], made[at : at + 16]
    elif kind == 3:  # the region's last entry
        return flip(data, len(data) - 1 - chance.randrange(16), chance)
    elif kind == 4:  # the intro
        return flip(data, chance.randrange(16), chance)
    elif kind == 5:  # an entry's data
        start = 16 + 16 * count
        return flip(data, chance.randrange(start, len(data)), chance)
    else:  # more data than there are, or entries outside of the region
        more = chance.randbytes(chance.randrange(1, 33))
        place = chance.choice((len(made), len(made) - 16, 16 + 16 * count))
        made[place:place] = more
        length = int.from_bytes(made[12:16], "big") + len(more)
        made[12:16] = length.to_bytes(4, "big")
    return bytes(made)


def main_header(parts: Parts, chance: random.Random) -> bytes:
    """A damaged main header, with digests that fit."""
    main = encode_header(Region.MAIN, parts.main.values())
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        main = header_damage(main, chance)
    return parts.fitted(main)


def signature_header(parts: Parts, chance: random.Random) -> bytes:
    """A damaged signature header."""
    return parts.fitted(damage_signature=lambda data: header_damage(data, chance))


def some_entry(tag: int, chance: random.Random) -> HeaderEntry:
    """An entry of any type, mostly the one that rpm knows."""
    kind = MAIN_TYPES.get(tag)
    if kind is None or chance.random() < 0.3:
        kind = chance.choice(list(EntryType))
    count = chance.choice((1, 1, 1, 2, 3, 17))
    widths = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1}
    if kind in widths:
        return HeaderEntry(tag, kind, count, chance.randbytes(widths[kind] * count))
    words = [chance.choice((b"", b"x", b"\xff\xfe", b"0" * 64, b"a b")) for _ in range(count)]
    if kind == EntryType.STRING:
        words = words[:1]
    return HeaderEntry(tag, kind, len(words), b"".join(word + b"\0" for word in words))


def main_entries(parts: Parts, chance: random.Random) -> bytes:
    """Entries of the main header that are others, missing or additional; all fits."""
    entries = dict(parts.main)
    for _ in range(chance.choice((1, 1, 2, 5))):
        tag = chance.choice(
            (chance.choice(list(entries)), chance.choice(list(MAIN_TYPES)),
             chance.randrange(64, 6000), 5092, 5093, 5097, 5114)
        )  # fmt: skip
        if chance.random() < 0.25:
            entries.pop(tag, None)
        else:
            entries[tag] = some_entry(tag, chance)
    return parts.fitted(encode_header(Region.MAIN, entries.values()))


def signature_entries(parts: Parts, chance: random.Random) -> bytes:
    """Entries of the signature header that are others, missing, additional, or there twice."""

    def damage(entries: dict[int, HeaderEntry]) -> Iterable[HeaderEntry]:
        tag = chance.choice(
            (chance.choice(list(entries)), chance.randrange(256, 280), chance.randrange(999, 1012))
        )
        kind = chance.randrange(5)
        if kind == 0:
            entries.pop(tag, None)
        elif kind == 1 and tag in entries:
            return [*entries.values(), entries[tag]]
        elif kind == 2 and tag in entries:
            old = entries[tag]
            entries[tag] = HeaderEntry(
                tag,
                old.type,
                old.count,
                flip(bytes(old.data), chance.randrange(len(old.data)), chance),
            )
        elif kind == 3 and tag in (269, 273) and tag in entries:
            entries[tag] = text(tag, bytes(entries[tag].data[:-1]).decode().upper())
        else:
            entries[tag] = some_entry(tag, chance)
        return entries.values()

    return parts.fitted(signature=damage)


def payload(parts: Parts, chance: random.Random) -> bytes:
    """Another payload; its own digests fit or do not, all others do."""
    other = chance.choice(
        (b"", parts.payload[:-1], parts.payload + b"\0", chance.randbytes(100),
         flip(parts.payload, chance.randrange(len(parts.payload)), chance))
    )  # fmt: skip
    entries = dict(parts.main)
    number, name = chance.choice(
        ((8, "sha256"), (9, "sha384"), (10, "sha512"), (2, "sha1"), (1, "md5"))
    )
    digest = hashlib.new(name, other, usedforsecurity=False).hexdigest()
    if chance.random() < 0.8:
        listed = [digest] * chance.choice((1, 1, 1, 2))
        entries[5092] = HeaderEntry.strings(5092, listed)
    if chance.random() < 0.8:
        entries[5093] = HeaderEntry.integer(5093, number)
    if chance.random() < 0.5:
        entries[5097] = HeaderEntry.strings(5097, [chance.choice((digest, "0" * 64, "x", ""))])
    if chance.random() < 0.2:
        del entries[chance.choice((5092, 5093))]
    return parts.fitted(encode_header(Region.MAIN, entries.values()), other)


def lead(parts: Parts, chance: random.Random) -> bytes:
    """Another lead, under no digest."""
    return flip(parts.fitted(), chance.choice((chance.randrange(96), 4, 5, 6, 7, 78, 79)), chance)


DAMAGE = (
    flipped, cut, main_header, signature_header, main_entries, signature_entries, payload, lead
)  # fmt: skip


def damaged(samples: list[Parts], seed: int) -> bytes:
    """The damaged package of a seed."""
    chance = random.Random(seed)  # noqa: S311 - it is to be the same each time
    return DAMAGE[seed % len(DAMAGE)](chance.choice(samples), chance)


# ---------------------------------------------------------------------------------- judgement


def takes(package: bytes) -> bool:
    """Whether the server takes a package without rpmkeys."""
    try:
        head = parse_head(package)
    except ProtocolError:
        return False
    return digests_hold(io.BytesIO(package), len(package), head, PROGRAM_SECONDS)


def refused_by_rpm(directory: Path, packages: Mapping[int, bytes]) -> set[int]:
    """Those of `packages` that rpmkeys does not find good, as the server asks it."""
    good: set[int] = set()
    listed = list(packages)
    for first in range(0, len(listed), GROUP):
        group = listed[first : first + GROUP]
        paths = {str(directory / f"{number}.rpm"): number for number in group}
        for path, number in paths.items():
            Path(path).write_bytes(packages[number])
        said = subprocess.run(
            [*rpm_checks._CHECK, *paths], capture_output=True, timeout=PROGRAM_SECONDS, check=False,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        ).stdout.decode("utf-8", "replace")  # fmt: skip
        # Of what is no package at all it says the name, and goes on in the same line.
        good |= {paths[path] for path in re.findall(r"([^:\n]+): digests OK\n", said)}
        for path in paths:
            Path(path).unlink()
    return set(listed) - good


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Parts]:
    """Whole packages: binary and source, with scripts, and without some of the digests."""
    directory = tmp_path_factory.mktemp("packages")
    more = "%post\necho installed\n%pretrans -p /bin/sh\necho before\n"
    built = [
        Parts.of(build(directory, "plain").read_bytes()),
        Parts.of(build(directory, "sourced", source=True).read_bytes()),
        Parts.of(build(directory, "more", epoch=3, more=more).read_bytes()),
    ]
    without = [
        Parts(part.lead, {tag: part.signature[tag] for tag in part.signature if tag not in gone},
              part.main, part.payload)
        for part in built[:2]
        for gone in ((269,), (1004,), (1000,), (1008,), (269, 1004, 1000, 1007, 1008))
    ]  # fmt: skip
    return built + without


def look(samples: list[Parts], seeds: Iterable[int], directory: Path) -> tuple[int, int]:
    """How many of the damaged packages the server takes, and how many there are."""
    taken, count = {}, 0
    for seed in seeds:
        count += 1
        package = damaged(samples, seed)
        if takes(package):
            taken[seed] = package
    refused = refused_by_rpm(directory, taken)
    assert not refused, f"taken, and refused by rpmkeys: damage of seeds {sorted(refused)[:20]}"
    return len(taken), count


def test_whole_packages_are_taken_without_rpmkeys(samples: list[Parts], tmp_path: Path) -> None:
    packages = {number: part.fitted() for number, part in enumerate(samples)}
    assert [number for number, package in packages.items() if not takes(package)] == []
    assert refused_by_rpm(tmp_path, packages) == set()


def test_what_is_taken_without_rpmkeys_rpmkeys_takes(samples: list[Parts], tmp_path: Path) -> None:
    taken, count = look(samples, range(FEW), tmp_path)
    # Else nothing was tried: other values where no digest is wrong are no damage to rpm.
    assert count / 20 < taken < count / 2


@pytest.mark.long("sigul_stack/formats/rpm_*.py", "sigul_stack/signing/rpm*.py")
def test_of_many_damaged_packages_too(samples: list[Parts], tmp_path: Path) -> None:
    taken, count = look(samples, range(FEW, FEW + MANY), tmp_path)
    assert count / 20 < taken < count / 2


@pytest.mark.long("sigul_stack/formats/rpm_*.py", "sigul_stack/signing/rpm*.py")
def test_rpmkeys_refuses_damage_that_is_refused_here(samples: list[Parts], tmp_path: Path) -> None:
    """That the damage is real: of what rpmkeys refuses, nothing is taken; and it refuses much."""
    packages = {seed: damaged(samples, seed) for seed in range(4000)}
    refused = refused_by_rpm(tmp_path, packages)
    assert len(refused) > len(packages) / 3
    assert [seed for seed in refused if takes(packages[seed])] == []


def test_each_tag_is_of_the_type_that_this_rpm_knows(samples: list[Parts], tmp_path: Path) -> None:
    """By the library itself, and by a package for each tag and type."""
    name = ctypes.util.find_library("rpm")
    assert name, "librpm is not installed"
    library = ctypes.CDLL(name)
    assert {tag: library.rpmTagGetTagType(tag) for tag in MAIN_TYPES} == dict(MAIN_TYPES)
    chance = random.Random(0)  # noqa: S311 - it is to be the same each time
    taken: dict[int, bytes] = {}
    part = samples[0]
    for tag in MAIN_TYPES:
        for kind in EntryType:
            entry = some_entry(tag, chance)
            while entry.type != kind:
                entry = some_entry(tag, chance)
            entries = {**part.main, tag: entry}
            package = part.fitted(encode_header(Region.MAIN, entries.values()))
            if takes(package):
                assert kind == MAIN_TYPES[tag] or (tag in ONE_OR_MORE and kind == EntryType.STRING)
                taken[16 * tag + kind] = package
    assert len(taken) > len(MAIN_TYPES)  # but for the digests' own
    assert refused_by_rpm(tmp_path, taken) == set()


# ----------------------------------------------------------------------------- limits and ends


def test_a_package_that_is_read_too_slowly_ends(
    samples: list[Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = samples[0].fitted()
    monkeypatch.setattr(rpm_digests, "BYTES_PER_SECOND", 1 << 40)
    with pytest.raises(ToolTimeout, match="signing-timeout"):
        digests_hold(io.BytesIO(package), len(package), parse_head(package), -1.0)


def test_it_ends_with_its_process(samples: list[Parts], monkeypatch: pytest.MonkeyPatch) -> None:
    from sigul_stack.system import programs

    package = samples[0].fitted()

    class Ending(io.BytesIO):
        """A file during whose reading the process is about to end."""

        def read(self, size: int | None = -1, /) -> bytes:
            programs.end_all()
            return super().read(size)

    monkeypatch.setattr(programs, "_running", set())
    with pytest.raises(KeystoreError, match="ending"):
        digests_hold(Ending(package), len(package), parse_head(package), PROGRAM_SECONDS)
