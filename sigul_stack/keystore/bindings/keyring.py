"""The binding method `keyring`, of old `keyctl`: a passphrase in the kernel's keyring.

The value is a name. The passphrase is what the user key `sigul:VALUE` holds, which somebody has put
into the session keyring (or one that is linked there) before. It can only open: what is in the
keyring is gone with the session, so nothing is bound to it here.

The kernel is asked with `keyctl` of keyutils, as its system calls have other numbers on each
architecture.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ...logevents import tell
from ...secret import Secret
from ...tools import KEYCTL
from ..log_events import KeystoreLog
from .methods import BindingMethod, MethodFailed, MethodSettings
from .running import run_tool

_log = logging.getLogger(__name__)


#: The kernel's limit for a key's description, in bytes, with the ending NUL.
_MAX_DESCRIPTION = 4096


class KeyringMethod:
    """`keyring`: the value names a key of the kernel's."""

    def bind(self, secret: Secret, arguments: Mapping[str, str]) -> str:
        """Always refused: raises `MethodFailed`."""
        raise MethodFailed(
            "keyring only opens: write a passphrase file"
            ' [{"method": "keyring", "value": "NAME"}] by hand, and put the passphrase into the'
            " session keyring with: keyctl padd user sigul:NAME @s"
        )

    def unbind(self, value: str, arguments: Mapping[str, str]) -> Secret:
        """The content of the key `sigul:VALUE`."""
        description = f"sigul:{value}"
        if not value.isprintable() or len(description.encode()) >= _MAX_DESCRIPTION:
            raise MethodFailed("the value is no name of a key", "write it anew")
        found = run_tool(["keyctl", "search", "@s", "user", description], package=KEYCTL.package)
        number = found.stdout.decode("ascii", "replace").strip()
        if found.returncode or not number.isdecimal():
            # Scripts match this line. The value is a name, no secret.
            tell(_log, KeystoreLog.KEYRING_KEY_MISSING, name=value)
            raise MethodFailed(
                f"there is no key {description} in the session keyring ({found.reason})",
                f"add it with: keyctl padd user {description} @s",
            )
        content = run_tool(["keyctl", "pipe", number], package=KEYCTL.package)
        if content.returncode or not content.stdout:
            raise MethodFailed(
                f"the key {description} cannot be read ({content.reason})",
                f"see `keyctl describe {number}`",
            )
        return Secret(content.stdout)


def make(settings: MethodSettings) -> BindingMethod:
    """The method; it has no settings."""
    return KeyringMethod()
