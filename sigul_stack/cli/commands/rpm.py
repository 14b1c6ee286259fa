"""Commands that sign RPMs.

What names no file that is here, but could be the name of an RPM, is one of Koji's: its hub is asked
for the MD5 that the server is to find, and the bridge fetches it.
"""

from __future__ import annotations

import contextlib
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from ...client.output import identity
from ...client.rpm import Package, RPMOptions, zero_length
from ...config.client import ClientSettings
from ...errors import SigulError
from ...kojihub import NEVRA, Access, Hub, HubRPM
from ...protocol.codec import printable
from ..outcome import AlreadyTold
from .execution import Invocation
from .model import Arguments


def check_rpm(arguments: Arguments) -> None:
    """What can be found wrong with `sign-rpm` before anything is asked for."""
    _check(arguments, arguments.rpm)


def check_rpms(arguments: Arguments) -> None:
    """What can be found wrong with `sign-rpms` before anything is asked for.

    An RPM that cannot be signed costs itself, and is told of later, as long as another is left.
    """
    names: dict[str, str] = {}
    failed: list[tuple[str, SigulError]] = []
    for rpm in arguments.rpm:
        try:
            nevra = _check(arguments, rpm)
        except SigulError as error:
            failed.append((rpm, error))
            continue
        name = Path(rpm).name if nevra is None else nevra.file_name
        other = names.setdefault(name, rpm)
        if other is not rpm:
            raise SigulError(
                f"'{other}' and '{rpm}' would be signed to the same file; sign them one by one"
            )
    if not names:
        _fail_all(failed)
    if arguments.koji_only:
        return
    _check_places({Path(rpm): arguments.output / name for name, rpm in names.items()})
    try:
        arguments.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SigulError(
            f"'{arguments.output}' cannot be made: {error.strerror}; name another directory"
        ) from error


def _check_places(targets: Mapping[Path, Path]) -> None:
    """Refuse to sign RPMs to their `targets` where one is another RPM that is to be signed.

    An RPM's own place is none to refuse: it is replaced, as `sign-rpm` does.
    """
    sources = {identity(source) for source in targets}
    for source, target in targets.items():
        there = identity(target)
        if there is not None and there in sources and there != identity(source):
            raise SigulError(
                f"'{source}', signed, would take the place of another RPM that is to be signed:"
                f" '{target}' is a link to it; name another directory"
            )


def _fail_all(failed: list[tuple[str, SigulError]]) -> NoReturn:
    """None of the RPMs can be signed: raise the only error, or a line for each."""
    if len(failed) == 1:
        raise failed[0][1]
    for rpm, error in failed:
        _tell(rpm, error)
    raise AlreadyTold("no RPM is left to sign")


def _tell(rpm: str | Path, error: SigulError) -> None:
    print(printable(f"Error signing {rpm}: {error}"), file=sys.stderr, flush=True)


def _check(arguments: Arguments, name: str) -> NEVRA | None:
    """Check one operand; its NEVRA where it is one of Koji's."""
    path = Path(name)
    try:
        found = path.stat()
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            path.open("rb").close()
    except OSError as error:
        nevra = NEVRA.parse(name)
        if nevra is None or not isinstance(error, FileNotFoundError):
            raise SigulError(
                f"'{name}' cannot be read: {error.strerror}; name a file that you may read, or an"
                " RPM of Koji's as NAME-VERSION-RELEASE.ARCH"
            ) from error
        if arguments.head_signing:
            raise SigulError(
                f"'{name}' is to come from Koji, where only whole RPMs are to be had; leave"
                " --head-signing out"
            ) from None
        return nevra
    if stat.S_ISREG(found.st_mode) and not found.st_size:
        raise zero_length(name)
    return None


def _options(call: Invocation) -> RPMOptions:
    arguments = call.arguments
    return RPMOptions(
        file_signing_key=arguments.file_signing_key,
        file_signing_key_passphrase=call.secrets.get("file_signing_key_passphrase"),
        head_signing=arguments.head_signing,
        v3_signature=arguments.v3_signature,
        store_in_koji=arguments.store_in_koji,
        returned=not arguments.koji_only,
        koji_instance=arguments.koji_instance,
    )


@contextlib.contextmanager
def _looking_up(
    settings: ClientSettings, instance: str | None
) -> Iterator[Callable[[NEVRA], HubRPM]]:
    """A function that asks the hub, which is reached for when it is first called."""
    koji = settings.koji
    with contextlib.ExitStack() as stack:
        hubs: list[Hub] = []

        def look_up(nevra: NEVRA) -> HubRPM:
            if not hubs:
                access = Access(koji.config_of(instance), instance, koji.koji_timeout)
                hubs.append(stack.enter_context(Hub(access)))
            return hubs[0].rpm(nevra)

        yield look_up


def sign_rpm(call: Invocation) -> None:
    """`sigul sign-rpm KEY RPM`."""
    arguments, passphrase = call.arguments, call.secrets["passphrase"]
    payload = cast("BinaryIO | None", call.payload)
    if payload is not None:
        call.client.sign_rpm(arguments.key, passphrase, payload, call.output, _options(call))
        return
    nevra = _check(arguments, arguments.rpm)
    if nevra is None:
        raise SigulError(f"'{arguments.rpm}' came to be just now; try again")
    with _looking_up(call.settings, arguments.koji_instance) as look_up:
        remote = look_up(nevra)
    call.client.sign_koji_rpm(arguments.key, passphrase, remote, call.output, _options(call))


def sign_rpms(call: Invocation) -> None:
    """`sigul sign-rpms KEY RPM…`: a line on standard error for each that failed."""
    failed = False

    def done(package: Package, error: SigulError | None) -> None:
        nonlocal failed
        if error is not None:
            failed = True
            _tell(package.source, error)

    arguments = call.arguments
    packages = []
    with _looking_up(call.settings, arguments.koji_instance) as look_up:
        for rpm in arguments.rpm:
            package = Package(Path(rpm), None)
            try:
                nevra = _check(arguments, rpm)
                remote = None if nevra is None else look_up(nevra)
            except SigulError as error:
                done(package, error)
                continue
            name = Path(rpm).name if nevra is None else nevra.file_name
            target = None if arguments.koji_only else arguments.output / name
            packages.append(Package(package.source, target, remote))
    if packages:
        call.client.sign_rpms(
            arguments.key, call.secrets["passphrase"], packages, _options(call), done=done
        )
    if failed:
        raise AlreadyTold("not all RPMs were signed")
