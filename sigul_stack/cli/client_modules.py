"""What a GitHub action imports from the client's image: its modules `client` and `utils`.

sigul-sign-action loads a client's configuration and opens its NSS database in an interpreter of its
own, before it signs or instead of that. No text of an error here tells a secret, its file or its
option; and none has the error that led to it, which might.
"""

from __future__ import annotations

import dataclasses
import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import NSSError, SigulError, WrongNSSPassword
from ..secret import Secret
from .secret_input import NSS_PASSWORD

if TYPE_CHECKING:
    from ..config.client import ClientSettings

_HIDDEN: Final = "a secret of the configuration cannot be used; look at nss-password in [nss]"


class ConfigurationError(Exception):
    """A client's configuration cannot be used."""


class NSSInitError(Exception):
    """The NSS database cannot be opened."""


class ClientConfiguration:
    """A client's configuration, with the attributes that it always had.

    It is that of /etc/sigul/client.conf, and of the file `config_path` over it, which may begin
    with `~` and may be missing. Where it has no password of the NSS database, `getpass.getpass` is
    asked, as it is in that moment. Raises `ConfigurationError`, and what `getpass.getpass` raises.
    """

    def __init__(self, config_path: str) -> None:
        self.settings = _settings(config_path)
        self.bridge_hostname: str = self.settings.bridge_hostname
        self.bridge_port: int = self.settings.bridge_port
        self.server_hostname: str = self.settings.server_hostname
        self.user_name: str = self.settings.user_name
        self.client_cert_nickname: str = self.settings.client_cert_nickname
        #: A plain path.
        self.nss_dir: str = str(self.settings.nss.path)
        if self.settings.nss.password is None:
            password = Secret(getpass.getpass(f"{NSS_PASSWORD}: "))
            nss = dataclasses.replace(self.settings.nss, password=password)
            self.settings = dataclasses.replace(self.settings, nss=nss)


def nss_init(config: ClientConfiguration) -> None:
    """Open the NSS database of a configuration in this process. Raises `NSSInitError`."""
    from ..transport import nss

    problem = ""
    try:
        nss.open_database(config.settings.nss)
    except WrongNSSPassword as error:
        problem = error.problem
    except NSSError as error:
        problem = str(error)
    except SigulError:
        problem = _HIDDEN
    if problem:
        raise NSSInitError(problem)


def _settings(config_path: str) -> ClientSettings:
    from ..config import load_client, values
    from ..config.ini import look_for

    problem = ""
    try:
        path = Path(values.absolute(config_path))
        return load_client(path if look_for(path) else None).settings
    except SigulError as error:
        problem = _without_secrets(error)
    raise ConfigurationError(problem)


def _without_secrets(error: SigulError) -> str:
    """The text of an error; another where it is about a secret."""
    from ..config.secrecy import TELLING

    text = str(error)
    return _HIDDEN if TELLING.search(text) else text
