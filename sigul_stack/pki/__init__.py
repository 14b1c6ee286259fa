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
    from .authority import AUTHORITY_LIFETIME as AUTHORITY_LIFETIME
    from .authority import Authority as Authority
    from .certificate_info import CertificateInfo as CertificateInfo
    from .contents import AUTHORITY_NICKNAME as AUTHORITY_NICKNAME
    from .contents import put_authority as put_authority
    from .contents import put_bundle as put_bundle
    from .contents import put_leaf as put_leaf
    from .inspection import Topic as Topic
    from .inspection import inspect_database as inspect_database
    from .leaf import LEAF_LIFETIME as LEAF_LIFETIME
    from .leaf import Leaf as Leaf
    from .leaf import LeafRequest as LeafRequest
    from .leaf import Role as Role
    from .material import Bundle as Bundle
    from .material import read_certificates as read_certificates
    from .material import read_pem as read_pem
    from .material import read_pkcs12 as read_pkcs12
    from .nss_directory import DatabaseKind as DatabaseKind
    from .nss_directory import NSSDatabase as NSSDatabase
    from .password_files import PASSWORD_FILE_NAME as PASSWORD_FILE_NAME
    from .password_files import Permissions as Permissions
    from .password_files import make_password_file as make_password_file
    from .password_files import read_password as read_password
    from .renewal import renew_leaf as renew_leaf
    from .rollover import Phase as Phase
    from .rollover import Rollover as Rollover
    from .rollover import RolloverAction as RolloverAction
    from .rollover import RolloverChange as RolloverChange
    from .rollover import RolloverProgress as RolloverProgress
    from .rollover import register as register
    from .site import Component as Component
    from .site import Made as Made
    from .site import Site as Site
    from .site import make_site as make_site

#: The names that are to be had from here, by the module that has them.
_NAMES = {
    "authority": "AUTHORITY_LIFETIME Authority",
    "certificate_info": "CertificateInfo",
    "contents": "AUTHORITY_NICKNAME put_authority put_bundle put_leaf",
    "nss_directory": "DatabaseKind NSSDatabase",
    "inspection": "Topic inspect_database",
    "leaf": "LEAF_LIFETIME Leaf LeafRequest Role",
    "material": "Bundle read_certificates read_pem read_pkcs12",
    "password_files": "PASSWORD_FILE_NAME Permissions make_password_file read_password",
    "renewal": "renew_leaf",
    "rollover": "RolloverChange Phase Rollover RolloverProgress RolloverAction register",
    "site": "Component Made Site make_site",
}


def __getattr__(name: str) -> object:
    """Import what is asked for, when it is: the command line is made up of more than this."""
    for module, names in _NAMES.items():
        if name in names.split():
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
