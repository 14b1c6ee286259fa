"""Arguments that several programs and subcommands have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from .. import __version__

#: Help of `-c` where it names a server's file.
SERVER_FILE: Final = "the server's configuration file, read after /etc/sigul/server.conf"


def add_config_file(parser: argparse.ArgumentParser, help: str, **settings: Any) -> None:
    """Add `-c FILE`; `settings` are more of `argparse`'s, such as `action`."""
    parser.add_argument("-c", "--config-file", metavar="FILE", type=Path, help=help, **settings)


def add_verbose(parser: argparse.ArgumentParser, help: str = "tell more (twice: all)") -> None:
    """Add `-v`, which counts."""
    parser.add_argument("-v", "--verbose", action="count", default=0, help=help)


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add `--version`."""
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
