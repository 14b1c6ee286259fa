"""`sigul-stack diagnose`: a file for a bug report, with all that is needed and no secret in it.

What is in it is collected by `health.bundle`.
"""

from __future__ import annotations

import argparse
import gzip
import io
import sys
import tarfile
import time
from pathlib import Path
from typing import Final

from ..errors import SigulError
from ..system.files import write_whole
from .outcome import print_bytes, say
from .shared_arguments import Subparsers, add_command, argument, config_file

#: The directory that the bundle unpacks to.
TOP: Final = "sigul-diagnostics"
_USUAL_CONFIGURATIONS: Final = tuple(
    f"/etc/sigul/{component}.conf" for component in ("bridge", "server", "client")
)
_USUAL_LOGS: Final = tuple(f"/var/log/sigul_{component}.log" for component in ("bridge", "server"))

_README: Final = """\
What `sigul-stack diagnose` found. Passwords, passphrases, keys, hashes and names of users and keys
are not collected; what looked like a secret in the rest says [removed]. Look through it before you
give it to anybody: host names, user names of clients and paths are in it.

"""


def add_parser(subparsers: Subparsers) -> None:
    """Add the `diagnose` command."""
    add_command(
        subparsers,
        "diagnose",
        run,
        config_file(
            "a component's configuration (can be repeated; without: those in /etc/sigul)",
            action="append",
            default=[],
        ),
        argument(
            "--log",
            metavar="FILE",
            type=Path,
            action="append",
            default=[],
            help="a log whose end is to be in it (can be repeated; without: those in /var/log)",
        ),
        argument(
            "--output",
            metavar="FILE",
            default=f"{TOP}.tar.gz",
            help="what to write, - for standard output (default: %(default)s)",
        ),
        help="collect what a bug report needs, without secrets",
        description="Writes a file for a bug report: versions, configuration, doctor's reports,"
        " certificates, the database's layout and counts, listings of directories, ends of logs,"
        " status of daemons. Secrets are left out.",
    )


def run(options: argparse.Namespace) -> None:
    """Collect and write the bundle, and say what is in it."""
    from ..health.bundle import collect

    texts = dict(
        collect(
            options.config_file or _those_there(_USUAL_CONFIGURATIONS),
            options.log or _those_there(_USUAL_LOGS),
        )
    )
    texts = {"README.txt": _README + "".join(f"{name}\n" for name in texts), **texts}
    if options.output == "-":
        if sys.stdout.isatty():
            raise SigulError("the file is not for a terminal", "name one, or redirect the output")
        print_bytes(_bundle(texts))
        where, note = "to standard output", True
    else:
        _write(Path(options.output), _bundle(texts))
        where, note = f"{options.output} (only its owner may read it)", False
    # Standard output may be the bundle.
    say(f"wrote {where}, with:", error=note)
    for name in texts:
        say(f"  {name}", error=note)
    say("Look through it before you give it to anybody.", error=note)


def _those_there(names: tuple[str, ...]) -> list[Path]:
    from ..config.ini import look_for

    return [path for path in map(Path, names) if look_for(path)]


def _bundle(texts: dict[str, str]) -> bytes:
    """The bundle: a compressed tar archive of `texts` by name."""
    content = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=content, mode="wb") as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for document, text in texts.items():
            data = text.encode("utf-8", "backslashreplace")
            member = tarfile.TarInfo(f"{TOP}/{document}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def _write(target: Path, content: bytes) -> None:
    """Write the bundle, whole or not at all, for its owner alone. Raises `SigulError`."""
    try:
        write_whole(target, content, replace=True)
    except OSError as error:
        raise SigulError(
            f"'{target}' cannot be written: {error.strerror}", "name another with --output"
        ) from error
