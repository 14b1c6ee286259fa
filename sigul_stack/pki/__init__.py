"""Certificates of a Sigul site: a CA, leaf certificates, and the NSS databases they go into.

    site = make_site(directory, bridge="bridge.example.org", server="server.example.org",
                     users=["admin"])

or step by step: `Authority.create` or `.open`, `.issue(LeafRequest(…))` gives a `Leaf`, which goes
into an `NSSDatabase`. `renew_leaf` replaces one, `inspect_database` tells whether a database is
what its component needs. `sigul-stack pki` is this on the command line.

Works through certutil and pk12util and never initialises NSS in the process, so that a caller may
fork, or open NSS itself, as it likes. Invariant: a CA's private key is in no database but its own,
and every database changes whole or not at all. No password or key is in any argument or message.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .authority import AUTHORITY_LIFETIME, Authority
    from .certificates import CertificateInfo
    from .contents import AUTHORITY_NICKNAME, put_authority, put_bundle, put_leaf
    from .database import DatabaseKind, NSSDatabase
    from .inspection import Topic, inspect_database
    from .leaf import LEAF_LIFETIME, Leaf, LeafRequest, Role
    from .material import Bundle, read_certificates, read_pem, read_pkcs12
    from .passwords import PASSWORD_FILE_NAME, Permissions, make_password_file, read_password
    from .renewal import renew_leaf
    from .rollover import Done, Phase, Rollover, Standing, Step, register
    from .site import Component, Made, Site, make_site

_HOME = {
    "AUTHORITY_LIFETIME": ".authority",
    "AUTHORITY_NICKNAME": ".contents",
    "LEAF_LIFETIME": ".leaf",
    "PASSWORD_FILE_NAME": ".passwords",
    "Authority": ".authority",
    "Bundle": ".material",
    "CertificateInfo": ".certificates",
    "Component": ".site",
    "DatabaseKind": ".database",
    "Done": ".rollover",
    "Leaf": ".leaf",
    "LeafRequest": ".leaf",
    "Made": ".site",
    "NSSDatabase": ".database",
    "Permissions": ".passwords",
    "Phase": ".rollover",
    "Role": ".leaf",
    "Rollover": ".rollover",
    "Site": ".site",
    "Standing": ".rollover",
    "Step": ".rollover",
    "Topic": ".inspection",
    "inspect_database": ".inspection",
    "make_password_file": ".passwords",
    "make_site": ".site",
    "put_authority": ".contents",
    "put_bundle": ".contents",
    "put_leaf": ".contents",
    "read_certificates": ".material",
    "read_password": ".passwords",
    "read_pem": ".material",
    "read_pkcs12": ".material",
    "register": ".rollover",
    "renew_leaf": ".renewal",
}

__all__ = [
    "AUTHORITY_LIFETIME",
    "AUTHORITY_NICKNAME",
    "LEAF_LIFETIME",
    "PASSWORD_FILE_NAME",
    "Authority",
    "Bundle",
    "CertificateInfo",
    "Component",
    "DatabaseKind",
    "Done",
    "Leaf",
    "LeafRequest",
    "Made",
    "NSSDatabase",
    "Permissions",
    "Phase",
    "Role",
    "Rollover",
    "Site",
    "Standing",
    "Step",
    "Topic",
    "inspect_database",
    "make_password_file",
    "make_site",
    "put_authority",
    "put_bundle",
    "put_leaf",
    "read_certificates",
    "read_password",
    "read_pem",
    "read_pkcs12",
    "register",
    "renew_leaf",
]


def __getattr__(name: str) -> object:
    """Import what is asked for, when it is: the command line is made up of more than this."""
    if name in _HOME:
        return getattr(import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
