"""Limits of an access to a key: which operations and RPM packages it is good for.

They are asked for in the outer fields `only` and `rpm-names`, kept in a table of their own
(`database.schema`), and hold for whoever uses the access, a key administrator too.
"""

from __future__ import annotations

from typing import Final

from ..database import AccessLimits, KeyAccess
from ..errors import RequestRefused, Status, quoted, shortened
from ..protocol.codec import Fields
from ..protocol.operations import OPERATIONS

#: What no limit takes from who has an access: it concerns that access alone, or what is public.
ALWAYS_ALLOWED: Final = frozenset({"change-passphrase", "get-public-key"})
#: The operations that an access can be limited to.
LIMITABLE: Final = frozenset(
    name for name, operation in OPERATIONS.items() if operation.rights.by_passphrase
)
_RPM_OPERATIONS: Final = frozenset({"sign-rpm", "sign-rpms"})
#: Other work of the key itself: by it, whoever may sign RPMs of some names alone could sign others,
#: for an RPM's header is data as any.
_OTHER_WORK: Final = frozenset(
    name
    for name in LIMITABLE - _RPM_OPERATIONS
    if OPERATIONS[name].max_payload or name == "sign-certificate"
)


def asked_for(fields: Fields, before: AccessLimits) -> AccessLimits:
    """The limits that a request asks for; where it says nothing of one, that is as `before`.

    An empty field is no limit of its kind. Raises `RequestRefused` for what cannot be a limit.
    """
    operations, names = before.operations, before.rpm_names
    if "only" in fields:
        operations = frozenset(_list(fields.safe_string("only"))) or None
        for name in sorted((operations or frozenset()) - LIMITABLE):
            raise RequestRefused(
                Status.UNKNOWN_ERROR,
                f"{quoted(name, 60)} is no operation on a key; name some as sign-rpm",
            )
    if "rpm-names" in fields:
        names = _list(fields.safe_string("rpm-names")) or None
    if names is None:
        return AccessLimits(operations)
    operations = _RPM_OPERATIONS if operations is None else operations
    for name in sorted(_OTHER_WORK & operations):
        raise RequestRefused(
            Status.UNKNOWN_ERROR,
            f"who may use {quoted(name, 40)} can sign an RPM of any name by it; limit the"
            " access to sign-rpm and sign-rpms, or to no names",
        )
    return AccessLimits(operations, names)


def _list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def told(limits: AccessLimits) -> dict[str, str]:
    """Limits as fields of a reply: those that there are."""
    fields = {}
    if limits.operations is not None:
        fields["only"] = ",".join(sorted(limits.operations))
    if limits.rpm_names is not None:
        fields["rpm-names"] = ",".join(limits.rpm_names)
    return fields


def require_within(limits: AccessLimits, own: KeyAccess) -> None:
    """Raise `RequestRefused` where `limits` leave more than the access `own` of who sets them."""
    if not limits.within(own.limits):
        raise RequestRefused(
            Status.AUTHENTICATION_FAILED,
            f"nobody gives more than he has: {shortened(_described(own), 200)}",
        )


def require_allowed(access: KeyAccess, operation: str) -> None:
    """Raise `RequestRefused`, with the limit, unless the access is good for `operation`.

    To be asked of who has proven the access alone: he is told the truth.
    """
    if not allows(access.limits, operation):
        raise RequestRefused(Status.AUTHENTICATION_FAILED, shortened(_described(access), 255))


def allows(limits: AccessLimits, operation: str) -> bool:
    """Whether an access with these limits is good for `operation`."""
    return (
        limits.operations is None or operation in limits.operations or operation in ALWAYS_ALLOWED
    )


def require_rpm_allowed(access: KeyAccess, name: str | None) -> None:
    """Raise `RequestRefused`, with the limit, unless a package of that name may be signed."""
    if not access.limits.allows_rpm(name):
        raise RequestRefused(
            Status.AUTHENTICATION_FAILED,
            f"the RPM's name is {quoted(str(name), 60)}, and {shortened(_described(access), 160)}",
        )


def _described(access: KeyAccess) -> str:
    fields = told(access.limits)
    parts = [fields["only"].replace(",", ", ")] if "only" in fields else []
    if "rpm-names" in fields:
        parts.append(f"RPMs named {fields['rpm-names'].replace(',', ' or ')}")
    said = "; ".join(parts) or "nothing"
    return f"your access to key {quoted(access.key.name, 40)} is limited to {said}"
