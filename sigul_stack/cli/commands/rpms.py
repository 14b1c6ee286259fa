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
from typing import TYPE_CHECKING, Final, TypeVar

from ...client.rpm_packages import Package, RPMOptions, ZeroLengthRPM, is_source
from ...config.reading import read_small
from ...errors import SigulError
from ...kojihub import NEVRA, Hub, HubAccess
from ...secret import Secret
from ..outcome import say
from ..shared_arguments import argument
from .arguments import KEY, PASSPHRASE, named_place
from .command import CommandGroup, SecretPrompt
from .log_proofs import WRITE, WRITE_MANY, ProofDirectory, plan_many
from .many_files import make_directory
from .planning import Arguments, Call, Planning, Run, refuse_endless, standard_output_or_path
from .rpm_batch import Batch, Found
from .rpm_report import RPMReport
from .rpm_signing import sign_packages, unsigned

if TYPE_CHECKING:
    from ...config.client import ClientSettings

Opened = TypeVar("Opened")

COMMANDS = CommandGroup()

#: More than any public key (bytes).
_MAX_PUBLIC_KEY: Final = 1 << 20


def _signs_files(arguments: Arguments) -> bool:
    return arguments.file_signing_key is not None


_SECRETS = (
    PASSPHRASE,
    SecretPrompt(
        "file_signing_key_passphrase",
        PASSPHRASE.prompt,
        "of the file signing key",
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


def _idle(arguments: Arguments) -> Iterator[str]:
    if arguments.koji_only and arguments.output is not None:
        yield "-o/--output has no effect: with --koji-only nothing comes back"


def _misuse_of_many(arguments: Arguments) -> str | None:
    if arguments.output is None and not arguments.koji_only:
        return "-o/--output DIR is needed, for the signed RPMs"
    if arguments.resume and arguments.koji_only:
        return "--resume looks at the signed RPMs, and with --koji-only none comes back"
    if arguments.public_key is not None and not arguments.resume:
        return "--public-key needs --resume"
    return _misuse(arguments)


# -------------------------------------------------------------------------------- RPMs are found


def _look(name: str, look: Callable[[Path], Opened]) -> Opened | NEVRA:
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
    return nevra


def _refuse_empty(name: str, state: os.stat_result) -> None:
    if stat.S_ISREG(state.st_mode) and not state.st_size:
        raise ZeroLengthRPM(name)


def _options(arguments: Arguments, secret: Secret | None = None) -> RPMOptions:
    """The options that the arguments ask for; `secret` is the file signing key's passphrase."""
    return RPMOptions(
        file_signing_key=arguments.file_signing_key,
        file_signing_key_passphrase=secret,
        head_signing=arguments.head_signing,
        v3_signature=arguments.v3_signature,
        store_in_koji=arguments.store_in_koji,
        returned=not arguments.koji_only,
        koji_instance=arguments.koji_instance,
    )


def _options_of(call: Call) -> RPMOptions:
    return _options(call.arguments, call.secrets.get("file_signing_key_passphrase"))


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
    WRITE,
    secrets=_SECRETS,
    misuse=_misuse,
    idle=_idle,
)
def sign_rpm(planning: Planning) -> Run:
    """Open the RPM, where it is a file, and the output."""
    arguments = planning.arguments
    name = arguments.rpm
    found = _look(name, lambda path: path.open("rb"))
    if isinstance(found, NEVRA):
        return _plan_remote(planning, found)
    refuse_endless(Path(name), found)
    source = planning.keep_input(Path(name), found)
    _refuse_empty(name, source.state)
    output = None if arguments.koji_only else planning.open_successor(source)

    def run(call: Call) -> None:
        file = source.seekable()
        without = _signs_files(arguments) and is_source(file)
        call.client.sign_rpm(
            arguments.key, call.secrets["passphrase"], file, output, _options_of(call)
        )
        _tell_of_sources(int(without))

    return run


def _plan_remote(planning: Planning, nevra: NEVRA) -> Run:
    arguments = planning.arguments
    _options(arguments).check_remote()
    output = None if arguments.koji_only else planning.open_output(binary=True)

    def run(call: Call) -> None:
        with _hub(call.settings, arguments.koji_instance) as hub:
            remote = hub().rpm(nevra)
        call.client.sign_koji_rpm(
            arguments.key, call.secrets["passphrase"], remote, output, _options_of(call)
        )
        _tell_of_sources(int(_signs_files(arguments) and nevra.arch == "src"))

    return run


def _tell_of_sources(count: int) -> None:
    """Tell that the files of `count` RPMs were not signed, as rpm itself does not."""
    if count:
        say(
            f"Note: {count} source RPM{'s' if count > 1 else ''} signed without signatures of the"
            " files in it, for nothing installs those",
            error=True,
        )


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
    WRITE_MANY,
    argument(
        "--resume",
        action="store_true",
        help="sign only what is not there yet, whole and signed by KEY, in DIR; that is really"
        " verified, with gpg",
    ),
    argument(
        "--public-key",
        metavar="FILE",
        type=Path,
        help="verify with this armoured public key (default: the server is asked for KEY's)",
    ),
    argument(
        "--json",
        action="store_true",
        help="print one JSON document: what became of each RPM, and why",
    ),
    secrets=_SECRETS,
    misuse=_misuse_of_many,
    idle=_idle,
)
def sign_rpms(planning: Planning) -> Run:
    """Check the RPMs, and that none would take another's place; make the output's directory.

    An RPM that cannot be signed costs itself, and is told of later, as long as another is left.
    """
    arguments, options = planning.arguments, _options(planning.arguments)
    batch = Batch()
    for rpm in arguments.rpm:
        try:
            state = _look(rpm, _readable)
            if isinstance(state, NEVRA):
                options.check_remote()
            else:
                _refuse_empty(rpm, state)
        except SigulError as error:
            batch.add(rpm, error)
        else:
            batch.add(rpm, state)
    found = batch.found
    if not batch.names:
        errors = {rpm: error for rpm, error in found.items() if isinstance(error, SigulError)}
        _fail_all(_report(arguments, len(errors)), errors)
    targets: Mapping[str, Path] = {}
    if not arguments.koji_only:
        targets = batch.targets(arguments.output)
        make_directory(arguments.output)
    proofs = plan_many(arguments)
    public_key = b"" if arguments.public_key is None else _public_key(arguments.public_key)
    return lambda call: _sign_many(call, found, targets, proofs, public_key)


def _public_key(path: Path) -> bytes:
    try:
        return read_small(path, _MAX_PUBLIC_KEY)
    except OSError as error:
        raise SigulError(
            f"the public key '{path}' cannot be read: {error.strerror}",
            "name a file of `get-public-key`, or leave --public-key out",
        ) from error


def _readable(path: Path) -> os.stat_result:
    """The state of a file that can be read. A pipe is not opened before its turn."""
    state = path.stat()
    if stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode):
        path.open("rb").close()
    return state


def _fail_all(report: RPMReport, errors: Mapping[str, SigulError]) -> None:
    """None of the RPMs can be signed: a line for each."""
    for rpm, error in errors.items():
        report.failed(rpm, None, error)
    report.end("no RPM is left to sign")


def _report(arguments: Arguments, total: int) -> RPMReport:
    return RPMReport(arguments.key, total, resumes=arguments.resume, as_json=arguments.json)


def _sign_many(
    call: Call,
    found: Mapping[str, Found],
    targets: Mapping[str, Path],
    proofs: ProofDirectory | None,
    public_key: bytes,
) -> None:
    """Sign what was found, in one request; a line on standard error for each that failed."""
    arguments, options = call.arguments, _options_of(call)
    report = _report(arguments, len(found))
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
                report.failed(rpm, package.target, error)
    sources = 0
    try:
        if arguments.resume and packages:
            packages = unsigned(call, packages, options, proofs, report, public_key)
        if packages:
            sources = sign_packages(call, packages, options, proofs, report)
    except SigulError as error:
        report.fail_rest([*found], error)
        report.sum_up()
        raise
    _tell_of_sources(sources)
    report.end("not all RPMs were signed")
