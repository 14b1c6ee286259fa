"""Runs in a container of the base image: what only the image's own Python and NSS can do.

Standard input is the archive of a virtual environment, standard output that of the same with
compiled modules, and with python-nss-ng's copies of NSS replaced by links to the system's.
"""

from __future__ import annotations

import compileall
import io
import runpy
import sys
import tarfile
from pathlib import Path
from py_compile import PycInvalidationMode


def main() -> None:
    """Unpack, link, compile, pack."""
    prefix = sys.argv[1]
    data = io.BytesIO(sys.stdin.buffer.read())
    with tarfile.open(fileobj=data) as tar:
        tar.extractall("/", filter="tar")
    output, sys.stdout = sys.stdout, sys.stderr
    sys.argv = ["use-system-nss", prefix]
    runpy.run_path("/tmp/use-system-nss", run_name="__main__")  # noqa: S108 the container's own
    # Unchecked: nobody looks at a source's time or content at each start.
    good = compileall.compile_dir(
        prefix, quiet=1, force=True, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH
    )
    if not good:
        sys.exit("not every module could be compiled")
    with tarfile.open(fileobj=output.buffer, mode="w|") as tar:
        tar.add(prefix, arcname=Path(prefix).relative_to("/"))


if __name__ == "__main__":
    main()
