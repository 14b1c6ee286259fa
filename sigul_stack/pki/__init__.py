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
    from .acceptance import accept_leaf, authority_warnings
    from .authority import AUTHORITY_LIFETIME, Authority
    from .certificate_info import CertificateInfo
    from .contents import AUTHORITY_NICKNAME, put_authority, put_bundle, put_leaf
    from .inspection import Topic, inspect_database
    from .key_cost import KeyCost
    from .leaf import LEAF_LIFETIME, KeyKind, Leaf, LeafRequest, Role
    from .material import Bundle, read_certificates, read_pem, read_pkcs12
    from .nss_directory import DatabaseKind, NSSDatabase, Tuning
    from .password_files import (
        PASSWORD_FILE_NAME,
        Permissions,
        make_password_file,
        password_beside,
        read_password,
    )
    from .pem_export import PEMFiles, PEMPaths, export_pem, find_leaf, write_pem_files
    from .renewal import renew_leaf
    from .rollover import (
        Phase,
        Rollover,
        RolloverAction,
        RolloverChange,
        RolloverProgress,
        register,
    )
    from .site import Component, Made, Site, make_site

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
    "KeyCost",
    "KeyKind",
    "Leaf",
    "LeafRequest",
    "Made",
    "NSSDatabase",
    "PEMFiles",
    "PEMPaths",
    "Permissions",
    "Phase",
    "Role",
    "Rollover",
    "RolloverAction",
    "RolloverChange",
    "RolloverProgress",
    "Site",
    "Topic",
    "Tuning",
    "accept_leaf",
    "authority_warnings",
    "export_pem",
    "find_leaf",
    "inspect_database",
    "make_password_file",
    "make_site",
    "password_beside",
    "put_authority",
    "put_bundle",
    "put_leaf",
    "read_certificates",
    "read_password",
    "read_pem",
    "read_pkcs12",
    "register",
    "renew_leaf",
    "write_pem_files",
]

#: The modules that have them, in the order in which they are looked through.
_MODULES = (
    "acceptance",
    "authority",
    "certificate_info",
    "contents",
    "inspection",
    "key_cost",
    "leaf",
    "material",
    "nss_directory",
    "password_files",
    "pem_export",
    "renewal",
    "rollover",
    "site",
)


def __getattr__(name: str) -> object:
    """Import what is asked for, when it is: the command line is made up of more than this."""
    if name in __all__:
        for module in _MODULES:
            if (found := getattr(import_module(f".{module}", __name__), name, None)) is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
