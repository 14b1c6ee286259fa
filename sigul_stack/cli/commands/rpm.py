"""Commands that sign RPMs."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

from ...client.rpm import Package, RPMOptions, zero_length
from ...errors import SigulError
from ..logs import printable
from ..outcome import AlreadyTold
from .execution import Invocation
from .model import Arguments


def check_rpm(arguments: Arguments) -> None:
    """What can be found wrong with `sign-rpm` before anything is asked for."""
    _check_koji(arguments)
    _check_file(arguments.rpm)


def check_rpms(arguments: Arguments) -> None:
    """What can be found wrong with `sign-rpms` before anything is asked for."""
    _check_koji(arguments)
    names: dict[str, str] = {}
    for rpm in arguments.rpm:
        _check_file(rpm)
        other = names.setdefault(Path(rpm).name, rpm)
        if other is not rpm:
            raise SigulError(
                f"'{other}' and '{rpm}' would be signed to the same file; sign them one by one"
            )
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SigulError(
            f"'{arguments.output}' cannot be made: {error.strerror}; name another directory"
        ) from error


def _check_koji(arguments: Arguments) -> None:
    if arguments.store_in_koji or arguments.koji_instance is not None:
        raise SigulError(
            "Koji is not supported yet; leave --store-in-koji, --koji-only and --koji-instance out"
        )


def _check_file(name: str) -> None:
    try:
        found = Path(name).stat()
    except OSError as error:
        raise SigulError(
            f"'{name}' cannot be read: {error.strerror}; name a file that you may read (fetching"
            " RPMs from Koji by their NEVRA is not supported yet)"
        ) from error
    if stat.S_ISREG(found.st_mode) and not found.st_size:
        raise zero_length(name)


def _options(call: Invocation) -> RPMOptions:
    return RPMOptions(
        file_signing_key=call.arguments.file_signing_key,
        file_signing_key_passphrase=call.secrets.get("file_signing_key_passphrase"),
        head_signing=call.arguments.head_signing,
        v3_signature=call.arguments.v3_signature,
    )


def sign_rpm(call: Invocation) -> None:
    """`sigul sign-rpm KEY RPM`."""
    call.client.sign_rpm(
        call.arguments.key,
        call.secrets["passphrase"],
        call.payload,
        call.output,
        _options(call),
    )


def sign_rpms(call: Invocation) -> None:
    """`sigul sign-rpms KEY RPM…`: a line on standard error for each that failed."""
    failed = False

    def done(package: Package, error: SigulError | None) -> None:
        nonlocal failed
        if error is not None:
            failed = True
            text = printable(f"Error signing {package.source}: {error}")
            print(text, file=sys.stderr, flush=True)

    packages = [
        Package(Path(rpm), call.arguments.output / Path(rpm).name) for rpm in call.arguments.rpm
    ]
    call.client.sign_rpms(
        call.arguments.key, call.secrets["passphrase"], packages, _options(call), done=done
    )
    if failed:
        raise AlreadyTold("not all RPMs were signed")
