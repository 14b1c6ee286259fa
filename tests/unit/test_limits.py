"""Limits of an access: what they say, what they allow, and whether one is within another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.database import UNLIMITED, AccessLimits, Key, KeyAccess, KeyType
from sigul_stack.errors import MAX_MESSAGE_BYTES, RequestRefused, Status
from sigul_stack.protocol.codec import MAX_FIELD_BYTES, Fields
from sigul_stack.server import limits

RPMS = frozenset({"sign-rpm", "sign-rpms"})


def access(found: AccessLimits, key: str = "k") -> KeyAccess:
    return KeyAccess("alice", Key(key, KeyType.GNUPG, "AB"), b"", True, found)


def asked(before: AccessLimits = UNLIMITED, **fields: str) -> AccessLimits:
    values = {name.replace("_", "-"): text.encode() for name, text in fields.items()}
    return limits.asked_for(Fields(values), before)


def test_fields_and_back() -> None:
    assert asked() == UNLIMITED
    found = asked(only=" sign-data, decrypt,")
    assert found == AccessLimits(frozenset({"sign-data", "decrypt"}))
    assert limits.told(found) == {"only": "decrypt,sign-data"}
    found = asked(rpm_names="a*,b?")
    assert found == AccessLimits(RPMS, ("a*", "b?"))
    assert limits.told(found) == {"only": "sign-rpm,sign-rpms", "rpm-names": "a*,b?"}
    assert limits.told(UNLIMITED) == {}
    # What is not named stays; what is empty ends.
    assert asked(found, only="sign-rpm") == AccessLimits(frozenset({"sign-rpm"}), ("a*", "b?"))
    assert asked(found, rpm_names="") == AccessLimits(RPMS)
    assert asked(found, only="", rpm_names=" ,") == UNLIMITED


def test_all_operations_fit_into_a_field() -> None:
    assert len(",".join(limits.LIMITABLE)) <= MAX_FIELD_BYTES
    assert limits.ALWAYS_ALLOWED <= limits.LIMITABLE


@pytest.mark.parametrize(
    "name", ["list-users", "new-key", "modify-key-user", "sign", "*", "x" * 255]
)
def test_what_is_no_operation_on_a_key_is_no_limit(name: str) -> None:
    with pytest.raises(RequestRefused, match="no operation on a key"):
        asked(only=f"sign-data,{name}")


@pytest.mark.parametrize(
    "name",
    ["sign-text", "sign-data", "decrypt", "sign-git-tag", "sign-container", "sign-ostree",
     "sign-certificate", "sign-pe"],
)  # fmt: skip
def test_names_of_rpms_go_with_no_other_way_to_sign(name: str) -> None:
    with pytest.raises(RequestRefused, match=f"who may use '{name}' can sign an RPM of any name"):
        asked(only=f"sign-rpm,{name}", rpm_names="a*")
    # Nor by two changes, one after the other.
    with pytest.raises(RequestRefused, match="of any name"):
        asked(AccessLimits(frozenset({name})), rpm_names="a*")
    with pytest.raises(RequestRefused, match="of any name"):
        asked(AccessLimits(RPMS, ("a*",)), only=name)


def test_what_is_allowed() -> None:
    only = access(AccessLimits(frozenset({"sign-data"})))
    for name in ("sign-data", "change-passphrase", "get-public-key"):
        limits.require_allowed(only, name)
    for name in sorted(limits.LIMITABLE - limits.ALWAYS_ALLOWED - {"sign-data"}):
        with pytest.raises(RequestRefused) as refused:
            limits.require_allowed(only, name)
        assert refused.value.status == Status.AUTHENTICATION_FAILED
        assert refused.value.message == "your access to key 'k' is limited to sign-data"
        limits.require_allowed(access(UNLIMITED), name)
    # A row that somebody has emptied by hand allows less, not more.
    with pytest.raises(RequestRefused, match="limited to"):
        limits.require_allowed(access(AccessLimits(frozenset({""}))), "sign-data")


@pytest.mark.parametrize(
    ("patterns", "name", "allowed"),
    [
        (("kernel",), "kernel", True),
        (("kernel",), "kernel-core", False),
        (("kernel", "kernel-*"), "kernel-core", True),
        (("kernel*",), "Kernel", False),
        (("kernel*",), "xkernel", False),
        (("k?rnel",), "kernel", True),
        (("k[a-f]rnel",), "kernel", True),
        (("k[!a-f]rnel",), "kernel", False),
        (("kernel",), "kernel\n", False),
        (("a.b",), "axb", False),
        (("*",), None, False),
        (None, None, True),
    ],
)
def test_names_of_rpms(patterns: tuple[str, ...] | None, name: str | None, allowed: bool) -> None:
    found = access(AccessLimits(RPMS, patterns))
    if allowed:
        limits.require_rpm_allowed(found, name)
        return
    with pytest.raises(RequestRefused) as refused:
        limits.require_rpm_allowed(found, name)
    assert refused.value.status == Status.AUTHENTICATION_FAILED


def test_a_long_name_and_a_costly_pattern_are_bounded() -> None:
    found = access(AccessLimits(RPMS, ("*a" * 100 + "b",)), "k" * 255)
    with pytest.raises(RequestRefused) as refused:
        limits.require_rpm_allowed(found, "\x1b" + "a" * 100_000)
    message = refused.value.message
    assert message is not None
    assert len(message.encode()) <= MAX_MESSAGE_BYTES
    assert "\x1b" not in message


@pytest.mark.parametrize(
    ("inner", "outer", "within"),
    [
        (UNLIMITED, UNLIMITED, True),
        (AccessLimits(RPMS), UNLIMITED, True),
        (UNLIMITED, AccessLimits(RPMS), False),
        (AccessLimits(frozenset({"sign-rpm"})), AccessLimits(RPMS), True),
        (AccessLimits(RPMS), AccessLimits(frozenset({"sign-rpm"})), False),
        (AccessLimits(RPMS), AccessLimits(RPMS, ("a*",)), False),
        (AccessLimits(RPMS, ("a*",)), AccessLimits(RPMS), True),
        (AccessLimits(RPMS, ("a*",)), AccessLimits(RPMS, ("b", "a*")), True),
        (AccessLimits(RPMS, ("ab",)), AccessLimits(RPMS, ("a*",)), True),
        (AccessLimits(RPMS, ("ab", "b")), AccessLimits(RPMS, ("a*",)), False),
        # Within by its meaning, perhaps: a pattern in a pattern is not looked into.
        (AccessLimits(RPMS, ("ab*",)), AccessLimits(RPMS, ("a*",)), False),
        (AccessLimits(RPMS, ("[!x]",)), AccessLimits(RPMS, ("[a-z!]*",)), False),
    ],
)
def test_one_within_another(inner: AccessLimits, outer: AccessLimits, within: bool) -> None:
    assert inner.within(outer) is within
    if not within:
        with pytest.raises(RequestRefused, match="nobody gives more than he has"):
            limits.require_within(inner, access(outer))


_PATTERNS = st.lists(st.text("ab*?[]!-", min_size=1, max_size=4), min_size=1, max_size=3)


@given(_PATTERNS, _PATTERNS, st.text("ab*?[]!-", max_size=5))
def test_what_is_within_allows_no_other_name(inner: list[str], outer: list[str], name: str) -> None:
    narrow, wide = AccessLimits(RPMS, tuple(inner)), AccessLimits(RPMS, tuple(outer))
    if narrow.within(wide) and narrow.allows_rpm(name):
        assert wide.allows_rpm(name)
