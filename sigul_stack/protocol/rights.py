"""The rights that operations need, and the things that they are needed on.

Data: the table of operations names them, `server.rights` checks by them, and
docs/operations.md ("Rights") tells them.
"""

from __future__ import annotations

import enum

from ..records import dataclass


class Rights(enum.Enum):
    """The rights that an operation needs (docs/operations.md, "Rights")."""

    ADMIN = "administrator"
    KEY_USER = "key user"
    KEY_ADMIN = "key administrator"
    KEY_USER_OR_ADMIN = "key user or administrator"
    KEY_ADMIN_OR_ADMIN = "key administrator or administrator"
    #: Of a second key, for which the request has no passphrase.
    ACCESS = "an access"
    #: Of the bridge, by its certificate alone.
    BRIDGE = "the bridge"

    @property
    def by_passphrase(self) -> bool:
        """Whether a key's passphrase can give this right."""
        return self not in (Rights.ADMIN, Rights.ACCESS, Rights.BRIDGE)

    @property
    def by_password(self) -> bool:
        """Whether an administrator's password can give this right."""
        return self in (Rights.ADMIN, Rights.KEY_USER_OR_ADMIN, Rights.KEY_ADMIN_OR_ADMIN)

    @property
    def needs_key_admin(self) -> bool:
        """Whether a key user must have the key-administrator flag."""
        return self in (Rights.KEY_ADMIN, Rights.KEY_ADMIN_OR_ADMIN)


class Thing(enum.Enum):
    """The kinds of things that a server has and a request names."""

    USER = "user"
    KEY = "key"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Object:
    """A thing that a request names in `field`, and the right that is needed for that.

    The right is one on the key that the field `key_field` names; an administrator's is on all.
    Where another passphrase than the request's gives it, the inner field `opened_by` has that.
    """

    field: str
    thing: Thing
    right: Rights
    key_field: str
    opened_by: str
