"""The preparation of a job: its bundle is opened, its configuration read and compared.

The caller's configuration (`sigul-conf`) is read first, then the bundle's own `client.conf` over
it, and in both the database is the bundle's.
"""

from __future__ import annotations

import configparser
import os
import stat
from pathlib import Path

from ...bundle import check_configuration, unpack
from ...config import load_client
from ...config.client import ClientSettings
from ...config.fields import Loaded
from ...errors import SigulError, quoted
from .request import SignJob


def prepare(job: SignJob, directory: Path) -> Loaded[ClientSettings]:
    """Open the job's bundle below `directory`, and read its configuration. Raises `SigulError`."""
    check_configuration(job.configuration)
    opened = unpack(job.bundle, job.passphrase)
    place = directory / "bundle"
    opened.write_to(place)
    system = directory / "configuration"
    system.mkdir()
    (system / "client.conf").write_bytes(job.configuration)
    own = directory / "client.conf"
    own.write_text(_with_database(opened.configuration or b"", place / opened.nss_directory))
    loaded = load_client(own, system_directory=system)
    _compare(job.expected_bridge, loaded.settings)
    return loaded


def _with_database(configuration: bytes, database: Path) -> str:
    """A configuration with `nss-dir` set. It is valid: the bundle was checked."""
    parser = configparser.RawConfigParser()
    parser.read_string(configuration.decode("utf-8-sig"))
    if not parser.has_section("nss"):
        parser.add_section("nss")
    parser.set("nss", "nss-dir", str(database))
    lines = []
    for section in (parser.default_section, *parser.sections()):
        own = parser.defaults() if section == parser.default_section else parser[section]
        lines.append(f"[{section}]")
        # A value that goes on in further lines does so with blanks before each.
        lines += [f"{name}: {value}".replace("\n", "\n ") for name, value in own.items()]
    return "\n".join(lines) + "\n"


def _compare(expected: str, settings: ClientSettings) -> None:
    """Raise `SigulError` where the bridge is another one than the job expects."""
    if not expected:
        return
    found = f"{settings.bridge_hostname.lower().removesuffix('.')}:{settings.bridge_port}"
    if found != expected:
        raise SigulError(
            f"the configuration has the bridge {quoted(found, 300)}, not {quoted(expected, 300)}",
            "correct sigul-conf, or the client.conf in the bundle, or expected-bridge",
        )


def check_files(job: SignJob) -> None:
    """Raise `SigulError` where a file of the job's is none, or cannot be read."""
    for path in job.files:
        try:
            with path.open("rb") as file:
                regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        except OSError as error:
            raise SigulError(
                f"{quoted(str(path), 300)} cannot be read: {error.strerror}",
                "let the user that runs the job read it, and its directory",
            ) from None
        if not regular:
            raise SigulError(f"{quoted(str(path), 300)} is no plain file", "leave it out")
