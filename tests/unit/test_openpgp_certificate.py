"""Which part of a key signs, beside what gpg chooses; keygrips and key boxes beside gpg's."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sigul_stack.formats import keybox
from sigul_stack.formats.openpgp_certificate import CannotSign, Part, read_certificate
from sigul_stack.formats.openpgp_packets import MalformedPacket, PacketType, encode_packet
from tests.held_data import held
from tests.openpgp_certificates import (
    BINDING,
    DIRECT,
    NOW,
    POSITIVE,
    REVOKED,
    SUBKEY_REVOKED,
    UID_REVOKED,
    GnuPGHome,
    Key,
    Plan,
    Said,
    SubkeyPlan,
    make,
    signature,
)

OWN = Said(100, POSITIVE, flags=3)
ONLY_CERTIFIES = Said(100, POSITIVE, flags=1)
SUBKEY = SubkeyPlan(50, (Said(50, BINDING, flags=2),))
BOUND = Said(40, BINDING, flags=2)
OTHER = SubkeyPlan(40, (BOUND,))
EXPIRED = SubkeyPlan(40, (replace(BOUND, expires=39),))
KEY = Plan(100, ((OWN,),), subkeys=(SUBKEY, OTHER))

#: Keys, and which part signs: -1 the primary key, 0 and more a subkey, or why there is none.
CASES: dict[str, tuple[Plan, int | str]] = {
    "a primary key": (Plan(100, ((OWN,),)), -1),
    "the newest subkey": (KEY, 1),
    "the newest subkey, first": (replace(KEY, subkeys=(OTHER, SUBKEY)), 0),
    "the first of one second": (replace(KEY, subkeys=(SUBKEY, SUBKEY)), 0),
    "a subkey that encrypts": (
        replace(KEY, subkeys=(SUBKEY, SubkeyPlan(40, (Said(40, BINDING, flags=12),)))), 0,
    ),
    "an expired subkey": (
        replace(KEY, subkeys=(SUBKEY, EXPIRED)), 0,
    ),
    "a subkey that expires now": (
        replace(KEY, subkeys=(SUBKEY, SubkeyPlan(40, (replace(BOUND, expires=40),)))), 1,
    ),
    "a prolonged subkey": (
        replace(KEY, subkeys=(SUBKEY, SubkeyPlan(40, (
            Said(40, BINDING, flags=2, expires=10), Said(20, BINDING, flags=2, expires=90))))), 1,
    ),
    "a shortened subkey": (
        replace(KEY, subkeys=(SUBKEY, SubkeyPlan(40, (
            Said(20, BINDING, flags=2, expires=39), Said(40, BINDING, flags=2))))), 0,
    ),
    "a revoked subkey": (
        replace(KEY, subkeys=(SUBKEY, SubkeyPlan(40, (
            Said(40, BINDING, flags=2), Said(10, SUBKEY_REVOKED))))), 0,
    ),
    "a revoked subkey, bound anew": (
        replace(KEY, subkeys=(SUBKEY, SubkeyPlan(40, (
            Said(40, BINDING, flags=2), Said(10, SUBKEY_REVOKED), Said(5, BINDING, flags=2))))), 0,
    ),
    "a revocation that does not hold": (
        replace(KEY, subkeys=(SUBKEY, SubkeyPlan(40, (
            Said(40, BINDING, flags=2), Said(10, SUBKEY_REVOKED, damaged=True))))), 1,
    ),
    "a subkey of tomorrow": (
        replace(KEY, subkeys=(SUBKEY, SubkeyPlan(-1, (Said(-1, BINDING, flags=2),)))), 0,
    ),
    "a subkey without its secret": (
        replace(KEY, subkeys=(SUBKEY, replace(OTHER, secret=False))), 0,
    ),
    "a subkey without back signature": (
        replace(KEY, subkeys=(SUBKEY, SubkeyPlan(40, (replace(BOUND, back=False),)))),
        "cross-certify",
    ),
    "a binding that does not hold": (
        replace(KEY, subkeys=(SUBKEY, SubkeyPlan(40, (replace(BOUND, damaged=True),)))),
        0,
    ),
    "a binding with a critical unknown": (
        replace(KEY, subkeys=(SUBKEY, SubkeyPlan(40, (replace(BOUND, critical=True),)))),
        0,
    ),
    "a subkey that says no use": (replace(KEY, subkeys=(SubkeyPlan(40, (Said(40, BINDING),)),)), 0),
    "a stub of a primary key": (replace(KEY, secret=False), 1),
    "a stub, and no subkey that signs": (Plan(100, ((OWN,),), secret=False), "no secret key"),
    "a primary key that may not sign": (Plan(100, ((ONLY_CERTIFIES,),)), "may not sign"),
    "an expired primary key": (
        replace(KEY, user_ids=((replace(OWN, expires=99),),)), "expired on 2025-06-14",
    ),
    "a prolonged primary key": (
        replace(KEY, user_ids=((replace(OWN, expires=20), replace(OWN, ago=30, expires=99.5),
            replace(OWN, ago=20)),)), 1,
    ),
    "a shortened primary key": (
        replace(KEY, user_ids=((OWN, replace(OWN, ago=50, expires=60)),)), "expired",
    ),
    "the other user ID's expiry": (
        replace(KEY, user_ids=((replace(OWN, ago=30),), (replace(OWN, expires=60),))), "expired",
    ),
    "an expiry on the key itself": (
        replace(KEY, direct=(Said(90, DIRECT, flags=3, expires=60),)), "expired",
    ),
    "a revoked primary key": (replace(KEY, direct=(Said(10, REVOKED),)), "revoked"),
    "a primary key revoked in version 3": (
        replace(KEY, direct=(Said(10, REVOKED, version=3),)), "revoked",
    ),
    "self-signatures of version 3": (
        Plan(100, ((Said(100, POSITIVE, version=3),),), subkeys=(
            SubkeyPlan(40, (Said(40, BINDING, version=3), Said(10, SUBKEY_REVOKED, version=3))),)),
        -1,
    ),
    "a revoked user ID of two": (
        replace(KEY, user_ids=((OWN,), (OWN, Said(10, UID_REVOKED)))), 1,
    ),
    "the only user ID revoked": (
        Plan(100, ((ONLY_CERTIFIES, Said(10, UID_REVOKED)),)), -1,
    ),
    "flags of the newest user ID": (
        Plan(100, ((OWN,), (replace(ONLY_CERTIFIES, ago=50),))), "may not sign",
    ),
    "flags of the newest signature": (
        Plan(100, ((OWN, replace(ONLY_CERTIFIES, ago=50)),)), "may not sign",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GnuPGHome]:
    made = GnuPGHome(tmp_path_factory.mktemp("gpg") / "home")
    yield made
    made.close()


def lost(plan: Plan, primary: Key, subkeys: list[Key]) -> list[str]:
    """Keygrips of the parts whose secret keys are not there."""
    parts = [
        (primary, plan.secret),
        *zip(subkeys, (sub.secret for sub in plan.subkeys), strict=True),
    ]
    return [key.keygrip for key, secret in parts if not secret]


def named(part: Part) -> str:
    """The keygrip of a part, as the names of the agent's files have it."""
    return part.keygrip.hex().upper()


def chosen(public: bytes, gone: list[str]) -> str | None:
    try:
        part = read_certificate(public).signing_part(NOW, lambda part: named(part) not in gone)
    except CannotSign as error:
        assert error.problem
        assert error.cure
        return None
    return part.fingerprint.hex().upper()


@pytest.mark.system
@pytest.mark.parametrize("case", CASES)
def test_the_part_that_gpg_takes(home: GnuPGHome, case: str) -> None:
    plan, expected = CASES[case]
    secret, primary, subkeys = make(plan)
    gone = lost(plan, primary, subkeys)
    public = home.take(secret, gone)
    assert public is not None
    by_gpg = home.signer(primary.fingerprint.hex().upper())
    if isinstance(expected, str):
        assert by_gpg is None
        with pytest.raises(CannotSign, match=expected) as refused:
            read_certificate(public).signing_part(NOW, lambda part: named(part) not in gone)
        assert primary.fingerprint.hex().upper() in refused.value.problem
        assert refused.value.cure
    else:
        part = read_certificate(public).signing_part(NOW, lambda part: named(part) not in gone)
        key = primary if expected < 0 else subkeys[expected]
        assert part.fingerprint == key.fingerprint
        assert by_gpg == key.fingerprint.hex().upper()
        assert part.primary == (expected < 0)
        assert (part.algorithm, part.created) == (22, key.created)
        assert part.public_key == key.private.public_key()


def any_plan(chance: random.Random) -> Plan:
    """Some key: most of them sign, and few are as anybody would have them."""

    def said(kind: int, made: float, flags: list[int | None]) -> Said:
        ago = chance.choice([made, made, made / 2, made / 3, 0, 0, -1])
        return Said(
            ago, kind, chance.choice(flags),
            expires=chance.choice([None, None, None, 0, made + 5, made - 1, made]),
            back=chance.random() < 0.85,
            sig_expires=chance.choice([*[None] * 9, abs(made) * 2, max(ago - 1, 0.5)]),
            damaged=chance.random() < 0.06, critical=chance.random() < 0.05,
            version=3 if chance.random() < 0.05 else 4,
        )  # fmt: skip

    made = chance.choice([100, 50, 100, 50, 100, 50, 100, 50, 100, -2])
    of_primary: list[int | None] = [None, 1, 3, 2, 3, 3]
    of_subkeys: list[int | None] = [2, 2, 2, 2, 12, None, 32, 0]
    user_ids = []
    for _ in range(chance.choice([1, 1, 2])):
        kinds = [POSITIVE] * 7 + [UID_REVOKED]
        first = [Said(made, POSITIVE, chance.choice(of_primary))] * (chance.random() < 0.85)
        more = [
            said(chance.choice(kinds), made, of_primary) for _ in range(chance.choice([0, 0, 1, 2]))
        ]
        user_ids.append((*first, *more))
    direct = [said(chance.choice([DIRECT] * 9 + [REVOKED]), made, of_primary)]
    subkeys = []
    for _ in range(chance.choice([0, 1, 1, 2, 3])):
        ago = chance.choice([90, 40, 40, 20, 20, 10, -3])
        bindings = [said(BINDING, max(ago, 0), of_subkeys) for _ in range(chance.choice([1, 1, 2]))]
        revoked = [Said(1, SUBKEY_REVOKED)] * (chance.random() < 0.1)
        subkeys.append(SubkeyPlan(ago, (*bindings, *revoked), chance.random() < 0.85))
    return Plan(
        made, tuple(user_ids), tuple(direct) * (chance.random() < 0.2), tuple(subkeys),
        chance.random() < 0.85,
    )  # fmt: skip


def is_bound(plan: Plan) -> bool:
    """True if some self-signature on the primary key or a user ID holds."""
    return any(
        said.kind in (POSITIVE, DIRECT, UID_REVOKED)
        and not (said.damaged or said.critical)
        and said.ago <= plan.ago
        # One on the key itself that has expired says nothing any more.
        and not (said.kind == DIRECT and said.sig_expires and said.sig_expires < said.ago)
        for said in (*plan.direct, *(said for each in plan.user_ids for said in each))
    )


def compare_with_gpg(home: GnuPGHome, seed: int, count: int) -> None:
    chance = random.Random(seed)  # noqa: S311  (keys to try, none to keep)
    signing = refused = 0
    for number in range(count):
        plan = any_plan(chance)
        secret, primary, subkeys = make(plan)
        gone = lost(plan, primary, subkeys)
        public = home.take(secret, gone)
        if public is not None and not is_bound(plan):
            # GnuPG 2.4 takes such a key, and others would not.
            assert chosen(public, gone) is None
        elif public is not None:
            by_gpg = home.signer(primary.fingerprint.hex().upper())
            assert chosen(public, gone) == by_gpg, f"key {number} of seed {seed}: {plan}"
            signing += by_gpg is not None
            refused += by_gpg is None
    assert signing > count / 3
    assert refused > count / 6


@pytest.mark.system
def test_some_keys_are_as_gpg_has_them(home: GnuPGHome) -> None:
    compare_with_gpg(home, seed=1, count=60)


@pytest.mark.system
@pytest.mark.long("sigul_stack/formats", "tests/openpgp_certificates.py")
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_keys_are_as_gpg_has_them(home: GnuPGHome, seed: int) -> None:
    compare_with_gpg(home, seed, count=1_000)


VECTORS = json.loads(held("openpgp-keys", "keys.json").read_text())


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_keys_that_gpg_made(vector: dict[str, object]) -> None:
    """With gpg's commands (tests/data/openpgp-keys): parts, keygrips, and the part that signs."""
    public = base64.b64decode(str(vector["public"]))
    certificate = read_certificate(public)
    grips = {part.fingerprint.hex().upper(): named(part) for part in certificate.parts()}
    known = vector["grips"]
    assert isinstance(known, dict)
    assert grips.items() <= known.items()
    secrets = vector["secrets"]
    assert isinstance(secrets, list)
    for now, signer in vector["signers"]:  # type: ignore[attr-defined]
        try:
            part = certificate.signing_part(now, lambda part: named(part) in secrets)
        except CannotSign:
            assert signer is None
        else:
            assert part.fingerprint.hex().upper() == signer


@pytest.mark.parametrize("kind", [REVOKED, SUBKEY_REVOKED])
def test_revocations_that_cannot_be_checked_count(kind: int) -> None:
    """Of RIPEMD-160, which gpg can check; not of MD5, which it takes for nothing."""
    for number, stops in ((3, True), (1, False)):
        revocation = Said(10, kind, hash=number)
        plan = Plan(100, ((ONLY_CERTIFIES,),), subkeys=(SUBKEY,))
        if kind == REVOKED:
            plan = replace(plan, direct=(revocation,))
        else:
            plan = replace(plan, subkeys=(replace(SUBKEY, said=(*SUBKEY.said, revocation)),))
        public, _ = public_of(plan)
        assert (chosen(public, []) is None) == stops


def test_what_may_be_a_designated_revokers_revocation_counts() -> None:
    revoker = Key(NOW - 10)
    plan = replace(KEY, direct=(Said(90, DIRECT, flags=3, revoker=revoker.fingerprint),))
    public, primary = public_of(plan)
    first = len(encode_packet(PacketType.PUBLIC_KEY, primary.body))
    for by, expected in ((revoker, False), (Key(NOW - 10), True)):
        body = signature(by, Said(1, REVOKED), primary.hashed, primary)
        forged = public[:first] + encode_packet(PacketType.SIGNATURE, body) + public[first:]
        assert (chosen(forged, []) is not None) == expected


@pytest.mark.parametrize("version", [3, 5, 6])
def test_keys_of_other_versions_are_refused_with_a_cure(version: int) -> None:
    body = bytes((version,)) + Key(NOW - 10).body[1:]
    certificate = read_certificate(encode_packet(PacketType.PUBLIC_KEY, body))
    with pytest.raises(CannotSign, match=f"version {version}") as refused:
        certificate.signing_part(NOW, lambda _part: True)
    assert "version 4" in refused.value.cure
    assert certificate.parts() == []


def test_unknown_algorithms_and_curves_are_named() -> None:
    """Nothing binds a key that nothing is known of: nobody here could tell."""
    head = b"\4" + (NOW - 10).to_bytes(4, "big")
    for rest in (
        b"\x63" + bytes(40),
        b"\x13\x02\x2a\x03\0\x08\xff",
        b"\x16\x09" + bytes(9),
        b"\x01",
    ):
        certificate = read_certificate(encode_packet(PacketType.PUBLIC_KEY, head + rest))
        assert certificate.parts() == []
        with pytest.raises(CannotSign):
            certificate.signing_part(NOW, lambda _part: True)


def test_a_subkey_of_an_unknown_algorithm_is_passed_by() -> None:
    """As gpg does; where it is all that may sign, the error names it."""
    secret, primary, _ = make(Plan(100, ((ONLY_CERTIFIES,),)))
    del secret
    unknown = b"\4" + (NOW - 10).to_bytes(4, "big") + b"\x63" + bytes(40)
    public = encode_packet(PacketType.PUBLIC_KEY, primary.body)
    subkey = encode_packet(PacketType.PUBLIC_SUBKEY, unknown)
    with pytest.raises(CannotSign):
        read_certificate(public + subkey).signing_part(NOW, lambda _part: True)


def public_of(plan: Plan) -> tuple[bytes, Key]:
    """The public key of a plan, without gpg: secret packets become public ones."""
    secret, primary, subkeys = make(plan)
    for key, of_secret, of_public in (
        (primary, PacketType.SECRET_KEY, PacketType.PUBLIC_KEY),
        *((sub, PacketType.SECRET_SUBKEY, PacketType.PUBLIC_SUBKEY) for sub in subkeys),
    ):
        secret = secret.replace(
            encode_packet(of_secret, key.secret_body), encode_packet(of_public, key.body)
        )
    return secret, primary


PUBLIC, PRIMARY = public_of(KEY)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(at=st.integers(0, len(PUBLIC) - 1), mask=st.integers(1, 255))
def test_a_changed_byte_lets_nothing_else_sign(at: int, mask: int) -> None:
    """Another byte anywhere: a part of the key signs as before, or none does."""
    data = bytearray(PUBLIC)
    data[at] ^= mask
    allowed = {part.fingerprint for part in read_certificate(PUBLIC).parts()}
    try:
        certificate = read_certificate(bytes(data))
        part = certificate.signing_part(NOW, lambda _part: True)
    except (MalformedPacket, CannotSign):
        return
    assert part.fingerprint in allowed


@given(data=st.binary(max_size=400))
def test_any_bytes_are_a_certificate_or_malformed(data: bytes) -> None:
    for given_bytes in (data, PUBLIC[:60] + data, PUBLIC + data):
        with contextlib.suppress(MalformedPacket, CannotSign):
            read_certificate(given_bytes).signing_part(NOW, lambda _part: True)


def test_signatures_of_others_say_nothing() -> None:
    """Not even where they have this key's ID as their issuer."""
    before = read_certificate(PUBLIC).signing_part(NOW, lambda _part: True)
    other = Key(NOW - 10)
    body = signature(other, Said(1, REVOKED), PRIMARY.hashed, PRIMARY)
    first = len(encode_packet(PacketType.PUBLIC_KEY, PRIMARY.body))
    for issued in (
        body,
        body.replace(other.fingerprint[-8:], PRIMARY.fingerprint[-8:]),
        body.replace(other.fingerprint, PRIMARY.fingerprint),
    ):
        revocation = encode_packet(PacketType.SIGNATURE, issued)
        forged = PUBLIC[:first] + revocation + PUBLIC[first:]
        assert read_certificate(forged).signing_part(NOW, lambda _part: True) == before


def test_a_key_with_signatures_without_end_costs_little() -> None:
    """Each self-signature is verified once; there is an end to it."""
    first = len(encode_packet(PacketType.PUBLIC_KEY, PRIMARY.body))
    rest = PUBLIC[first:]
    at = 2 + rest[1]  # behind the user ID
    one = rest[at : at + 2 + rest[at + 1]]
    data = PUBLIC[: first + at] + one * 15_000 + rest[at:]
    began = time.process_time()
    with pytest.raises(CannotSign, match="self-signatures"):
        read_certificate(data).signing_part(NOW, lambda _part: True)
    assert time.process_time() - began < 4


def test_the_first_key_is_read() -> None:
    other, _ = public_of(KEY)
    before = read_certificate(PUBLIC).signing_part(NOW, lambda _part: True)
    assert read_certificate(PUBLIC + other).signing_part(NOW, lambda _part: True) == before
    for data in (b"", encode_packet(PacketType.USER_ID, b"a") + PUBLIC):
        with pytest.raises(MalformedPacket):
            read_certificate(data)


# --- Key boxes ------------------------------------------------------------------------------------

FIRST = struct.pack(">IBBHIIIIII", 32, 1, 1, 2, 0x4B425866, 0, 0, 0, 0, 0)


def blob(
    fingerprint: bytes, block: bytes, *, kind: int = 2, flags: int = 0, version: int = 1
) -> bytes:
    key = fingerprint + bytes(8) if version == 1 else fingerprint.ljust(32, b"\0") + bytes(24)
    offset = 20 + len(key)
    length = offset + len(block) + 20
    head = struct.pack(">IBBHIIHH", length, kind, version, flags, offset, len(block), 1, len(key))
    return head + key + block + bytes(20)


@pytest.mark.system
def test_the_box_that_gpg_writes(home: GnuPGHome) -> None:
    plans = [make(KEY) for _ in range(5)]
    whole = home.take(plans[0][0], [])
    assert whole is not None
    for secret, _, _ in plans[1:]:
        home.run("--import", given=secret)
    box = max(home.path.glob("ring*.kbx"), key=lambda path: path.stat().st_mtime_ns).read_bytes()
    for _, primary, subkeys in plans:
        block = keybox.find_key(box, primary.fingerprint)
        assert block is not None
        assert read_certificate(block).fingerprint == primary.fingerprint.hex().upper()
        assert chosen(block, []) == subkeys[1].fingerprint.hex().upper()
        assert keybox.find_key(box, subkeys[0].fingerprint) is None
    assert keybox.find_key(memoryview(box), bytes(20)) is None


@pytest.mark.parametrize("version", [1, 2])
def test_only_keys_of_gpg_are_found(version: int) -> None:
    wanted, other = b"w" * 20, b"o" * 20
    # Another key's user ID may say whatever somebody likes: here, a blob as it might be.
    within = blob(other, b"--" + blob(wanted, b"forged", version=version) + b"--", version=version)
    assert keybox.find_key(FIRST + within, wanted) is None
    ours = blob(wanted, b"block", version=version)
    assert keybox.find_key(FIRST + within + ours, wanted) == b"block"
    for unwanted in (
        blob(wanted, b"x", kind=0), blob(wanted, b"x", kind=3), blob(wanted, b"x", flags=2),
    ):  # fmt: skip
        assert keybox.find_key(FIRST + unwanted, wanted) is None
        assert keybox.find_key(FIRST + unwanted + ours, wanted) == b"block"


@given(
    data=st.binary(max_size=200),
    field=st.sampled_from([(0, 4), (8, 4), (12, 4), (16, 2), (18, 2)]),
    value=st.integers(0, 2**32 - 1) | st.integers(0, 300),
)
def test_damaged_boxes_are_malformed(data: bytes, field: tuple[int, int], value: int) -> None:
    wanted = b"w" * 20
    ours = bytearray(blob(wanted, b"block"))
    at, width = field
    ours[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "big")
    for box in (data, FIRST + data, FIRST + bytes(ours), FIRST + bytes(ours) + data):
        try:
            found = keybox.find_key(box, wanted)
        except MalformedPacket:
            continue
        assert found is None or found in box


def test_a_key_among_100_000_is_found_at_once() -> None:
    """A key of 1 KiB each: a look at every blob, and none at what is in it."""
    count = 100_000
    block = bytes(1000)
    box = FIRST + b"".join(blob(number.to_bytes(20, "big"), block) for number in range(count))
    began = time.process_time()
    assert keybox.find_key(box, (count - 1).to_bytes(20, "big")) == block
    assert keybox.find_key(box, b"\xff" * 20) is None
    assert time.process_time() - began < 1
