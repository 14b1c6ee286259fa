"""Commands that sign RPMs.

What names no file that is here, but could be the name of an RPM, is one of Koji's: its hub is asked
for the MD5 that the server is to find, and the bridge fetches it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...client.output_file import identity, identity_of
from ...client.rpm_packages import Package, RPMOptions, zero_length
from ...errors import SigulError
from ...kojihub import NEVRA, Hub, HubAccess
from ..outcome import Failures
from ..shared_arguments import argument
from .arguments import KEY, PASSPHRASE, named_place
from .command import CommandGroup, SecretPrompt
from .many_files import make_directory
from .planning import Arguments, Call, Planning, Run, refuse_endless, standard_output_or_path

if TYPE_CHECKING:
    from ...config.client import ClientSettings

Opened = TypeVar("Opened")

COMMANDS = CommandGroup()


def _signs_files(arguments: Arguments) -> bool:
    return arguments.file_signing_key is not None


_SECRETS = (
    PASSPHRASE,
    SecretPrompt(
        "file_signing_key_passphrase",
        "File signing key passphrase",
        file_argument="file_signing_key_passphrase_file",
        when=_signs_files,
    ),
)
_OPTIONS = (
    argument(
        "--file-signing-key", metavar="K", help="sign the packages' files, too, with ECC or RSA key"
    ),
    argument(
        "--file-signing-key-passphrase-file",
        metavar="F",
        type=Path,
        help="file with the bound passphrase of that key, instead of asking for it",
    ),
    argument(
        "--store-in-koji", action="store_true", help="have the bridge store the signature in Koji"
    ),
    argument(
        "--koji-only",
        action="store_true",
        help="do not return the signed RPM, only store its signature in Koji",
    ),
    argument(
        "-k", "--koji-instance", metavar="I", help="use another Koji instance, of koji-instances"
    ),
    argument(
        "--v3-signature",
        action="store_true",
        help="sign header and payload together as well, as RPM 3 did",
    ),
    argument(
        "--head-signing",
        action="store_true",
        help="send only the packages' headers, and put the signatures in here",
    ),
)


def _misuse(arguments: Arguments) -> str | None:
    if arguments.file_signing_key_passphrase_file is not None and not _signs_files(arguments):
        return "--file-signing-key-passphrase-file needs --file-signing-key"
    if arguments.koji_only and not arguments.store_in_koji:
        return "--koji-only needs --store-in-koji"
    return None


def _misuse_of_many(arguments: Arguments) -> str | None:
    if arguments.output is None and not arguments.koji_only:
        return "-o/--output DIR is needed, for the signed RPMs"
    return _misuse(arguments)


# -------------------------------------------------------------------------------- RPMs are found


def _look(name: str, look: Callable[[Path], Opened], *, head_signing: bool) -> Opened | NEVRA:
    """Call `look` on the file `name`; its name in Koji where there is none. Raises `SigulError`."""
    try:
        return look(Path(name))
    except OSError as error:
        nevra = NEVRA.parse(name)
        if nevra is None or not isinstance(error, FileNotFoundError):
            raise SigulError(
                f"'{name}' cannot be read: {error.strerror}",
                "name a file that you may read, or an RPM of Koji's as NAME-VERSION-RELEASE.ARCH",
            ) from error
    if head_signing:
        raise SigulError(
            f"'{name}' is to come from Koji, where only whole RPMs are to be had",
            "leave --head-signing out",
        )
    return nevra


def _refuse_empty(name: str, state: os.stat_result) -> None:
    if stat.S_ISREG(state.st_mode) and not state.st_size:
        raise zero_length(name)


def _options(call: Call) -> RPMOptions:
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
def _hub(settings: ClientSettings, instance: str | None) -> Iterator[Callable[[], Hub]]:
    """A function that gives the hub, which is reached for when it is first called."""
    koji = settings.koji
    with contextlib.ExitStack() as resources:

        @functools.cache
        def hub() -> Hub:
            return resources.enter_context(
                Hub(HubAccess(koji.config_of(instance), instance, koji.koji_timeout))
            )

        yield hub


# ------------------------------------------------------------------------------------ one RPM


@COMMANDS.planned(
    "sign-rpm",
    "Sign an RPM",
    KEY,
    argument("rpm", help="the RPM: a file, or a NEVRA in Koji"),
    argument(
        "-o",
        "--output",
        metavar="FILE",
        type=standard_output_or_path,
        help="write the signed RPM to FILE, with - to standard output (default: replace the RPM;"
        " one of Koji's goes to standard output)",
    ),
    *_OPTIONS,
    secrets=_SECRETS,
    misuse=_misuse,
)
def sign_rpm(planning: Planning) -> Run:
    """Open the RPM, where it is a file, and the output."""
    arguments = planning.arguments
    name = arguments.rpm
    found = _look(name, lambda path: path.open("rb"), head_signing=arguments.head_signing)
    if isinstance(found, NEVRA):
        return _plan_remote(planning, found)
    refuse_endless(Path(name), found)
    source = planning.keep_input(Path(name), found)
    _refuse_empty(name, source.state)
    output = None if arguments.koji_only else planning.open_successor(source)
    return lambda call: call.client.sign_rpm(
        arguments.key, call.secrets["passphrase"], source.seekable(), output, _options(call)
    )


def _plan_remote(planning: Planning, nevra: NEVRA) -> Run:
    arguments = planning.arguments
    output = None if arguments.koji_only else planning.open_output(binary=True)

    def run(call: Call) -> None:
        with _hub(call.settings, arguments.koji_instance) as hub:
            remote = hub().rpm(nevra)
        call.client.sign_koji_rpm(
            arguments.key, call.secrets["passphrase"], remote, output, _options(call)
        )

    return run


# ----------------------------------------------------------------------------------- many RPMs


@COMMANDS.planned(
    "sign-rpms",
    "Sign RPMs",
    KEY,
    argument("rpm", nargs="+", help="the RPMs: files, or NEVRAs in Koji"),
    argument(
        "-o",
        "--output",
        metavar="DIR",
        type=named_place,
        help="write the signed RPMs to DIR, which is made if need be; one that is there already is"
        " replaced",
    ),
    *_OPTIONS,
    secrets=_SECRETS,
    misuse=_misuse_of_many,
)
def sign_rpms(planning: Planning) -> Run:
    """Check the RPMs, and that none would take another's place; make the output's directory.

    An RPM that cannot be signed costs itself, and is told of later, as long as another is left.
    """
    arguments = planning.arguments
    found: dict[str, os.stat_result | NEVRA | SigulError] = {}
    names: dict[str, str] = {}
    for rpm in arguments.rpm:
        try:
            state = _look(rpm, _readable, head_signing=arguments.head_signing)
            if not isinstance(state, NEVRA):
                _refuse_empty(rpm, state)
        except SigulError as error:
            found[rpm] = error
            continue
        name = state.file_name if isinstance(state, NEVRA) else Path(rpm).name
        if name in names:
            raise SigulError(
                f"'{names[name]}' and '{rpm}' would be signed to the same file",
                "sign them one by one",
            )
        names[name] = rpm
        found[rpm] = state
    if not names:
        _fail_all({rpm: error for rpm, error in found.items() if isinstance(error, SigulError)})
    targets = {}
    if not arguments.koji_only:
        targets = {rpm: arguments.output / name for name, rpm in names.items()}
        _check_targets(found, targets)
        make_directory(arguments.output)
    return lambda call: _sign_many(call, found, targets)


def _readable(path: Path) -> os.stat_result:
    """The state of a file that can be read. A pipe is not opened before its turn."""
    state = path.stat()
    if stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode):
        path.open("rb").close()
    return state


def _check_targets(
    found: Mapping[str, os.stat_result | NEVRA | SigulError], targets: Mapping[str, Path]
) -> None:
    """Refuse to sign an RPM to a target that is another RPM to be signed.

    An RPM's own place is none to refuse: it is replaced, as `sign-rpm` does.
    """
    sources = {
        rpm: identity_of(state) for rpm, state in found.items() if isinstance(state, os.stat_result)
    }
    for rpm, target in targets.items():
        there = identity(target)
        if there is not None and there in sources.values() and there != sources.get(rpm):
            raise SigulError(
                f"'{rpm}', signed, would take the place of another RPM that is to be signed:"
                f" '{target}' is a link to it",
                "name another directory",
            )


def _fail_all(errors: Mapping[str, SigulError]) -> None:
    """None of the RPMs can be signed: raise the only error, or a line for each."""
    if len(errors) == 1:
        raise next(iter(errors.values()))
    failures = Failures()
    for rpm, error in errors.items():
        failures.tell(rpm, error)
    failures.end("no RPM is left to sign")


def _sign_many(
    call: Call,
    found: Mapping[str, os.stat_result | NEVRA | SigulError],
    targets: Mapping[str, Path],
) -> None:
    """Sign what was found, in one request; a line on standard error for each that failed."""
    failures = Failures()
    arguments = call.arguments
    packages = []
    with _hub(call.settings, arguments.koji_instance) as hub:
        for rpm, state in found.items():
            package = Package(Path(rpm), targets.get(rpm))
            try:
                if isinstance(state, SigulError):
                    raise state
                if isinstance(state, NEVRA):
                    package = dataclasses.replace(package, remote=hub().rpm(state))
                packages.append(package)
            except SigulError as error:
                failures.tell(rpm, error)
    if packages:
        call.client.sign_rpms(
            arguments.key,
            call.secrets["passphrase"],
            packages,
            _options(call),
            done=lambda package, error: failures.tell(package.source, error),
        )
    failures.end("not all RPMs were signed")
