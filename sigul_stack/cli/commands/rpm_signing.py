"""The work of `sign-rpms`: which packages are signed already, and one request for the rest.

Each package is told of in the report as soon as it is known what became of it.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...client.rpm_packages import Package, RPMOptions, is_source
from ...errors import SigulError
from ..progress import progress
from .log_proofs import ProofDirectory
from .planning import Call
from .rpm_report import RPMReport

if TYPE_CHECKING:
    from ...formats.signed_note import LogProof

#: RPMs at which is looked at once: gpg is a process for each.
_LOOKS_AT_ONCE: Final = 4


def unsigned(
    call: Call,
    packages: Sequence[Package],
    options: RPMOptions,
    proofs: ProofDirectory | None,
    report: RPMReport,
    public_key: bytes,
) -> list[Package]:
    """The packages that are not signed yet, as far as that can be found out; tells of the rest."""
    from concurrent.futures import ThreadPoolExecutor

    from ...client.rpm_signed import signed_rpms

    key, passphrase = call.arguments.key, call.secrets["passphrase"]
    public_key = public_key or call.client.get_public_key(key, passphrase=passphrase)
    left = []
    with (
        signed_rpms(public_key, options) as signed,
        progress("Looking", len(packages), unit="RPMs") as advance,
        ThreadPoolExecutor(_LOOKS_AT_ONCE, "look") as pool,
    ):

        def look(package: Package) -> bool | SigulError:
            # A proof that is wanted and not there comes with a new signature alone.
            if proofs is not None and not proofs.has(_named(package)):
                return False
            try:
                return signed.is_done(package)
            except SigulError as error:
                return error

        for package, result in zip(packages, pool.map(look, packages), strict=True):
            advance(1)
            if isinstance(result, SigulError):
                report.failed(package.source, package.target, result)
            elif result:
                report.already_signed(package.source, package.target)
            else:
                left.append(package)
    return left


def sign_packages(
    call: Call,
    packages: Sequence[Package],
    options: RPMOptions,
    proofs: ProofDirectory | None,
    report: RPMReport,
) -> int:
    """Sign the packages; how many of them are source RPMs whose files were to be signed."""
    arguments = call.arguments
    sources = 0
    with progress("Signing", len(packages), unit="RPMs") as advance:

        def done(package: Package, error: SigulError | None) -> None:
            nonlocal sources
            advance(1)
            if error is None and proofs is not None:
                error = proofs.error_of(_named(package))
            if error is not None:
                report.failed(package.source, package.target, error)
                return
            report.signed(package.source, package.target)
            if options.file_signing_key is not None and _of_source(package):
                sources += 1

        def proved(package: Package, proof: LogProof) -> None:
            if proofs is not None:
                proofs.write(_named(package), proof)

        call.client.sign_rpms(
            arguments.key,
            call.secrets["passphrase"],
            packages,
            options,
            done=done,
            proved=proved,
        )
    return sources


def _named(package: Package) -> Path:
    """The file that a package's proof is named after: the signed one, else what was named."""
    return package.target or package.source


def _of_source(package: Package) -> bool:
    if package.remote is not None:
        return package.remote.nevra.arch == "src"
    try:
        if not stat.S_ISREG(package.source.stat().st_mode):
            return False  # a pipe, which gives its content once
        with package.source.open("rb") as file:
            return is_source(file)
    except OSError:
        return False
