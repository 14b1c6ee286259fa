"""`sigul-stack sign-job`: one job of a CI's, from a JSON document to events about each signature.

For the action in `action/`, which runs it in a container and writes down what it gives. A job opens
a bundle of certificates, signs files or a tag, and verifies each signature before it is given away.
All that is secret comes on standard input. Nothing is written but below a temporary directory of
the job's own, and, for a tag, into its repository.
"""

from __future__ import annotations

import argparse
import sys

from ..shared_arguments import Subparsers, add_command

#: More than any job (bytes): names of 100,000 files.
MAX_JOB_BYTES = 64 << 20


def add_parser(subparsers: Subparsers) -> None:
    """Add the `sign-job` command."""
    add_command(
        subparsers,
        "sign-job",
        run,
        help="sign what a JSON document on standard input says (for CI)",
        description="Does one signing job of a CI, as the action of this project asks for it:"
        " reads it as JSON from standard input, and writes an event a line, in JSON, to standard"
        " output. action/README.md tells of jobs and events.",
        epilog="Exit code: 0 all is signed and verified (or the dry run found all well), 1 not.",
    )


def run(_options: argparse.Namespace) -> int:
    """Do the job on standard input; 0 or 1."""
    from .events import Events
    from .job import do_job

    return do_job(sys.stdin.buffer.read(MAX_JOB_BYTES + 1), Events(sys.stdout))
