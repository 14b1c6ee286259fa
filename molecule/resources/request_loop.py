"""Sends `list-users` through a site's client again and again, and says how many requests failed.

    request_loop.py CONTAINER PASSWORD-FILE STOP-FILE

It sends one at least, and ends when STOP-FILE is there, or when PASSWORD-FILE is another: whoever
started it was killed, and the site of this name is made anew. It prints one JSON document: how many
requests there were, and what each that failed said. The password is read from its file in here,
for what runs in the background under Ansible has its arguments and its input kept in a file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

#: Longest that requests are sent, and that one may take, in seconds; time between two.
MAX_SECONDS: Final = 1200
REQUEST_SECONDS: Final = 60
PAUSE_SECONDS: Final = 1.0


def main(container: str, password_file: str, stop_file: str) -> None:
    """Run until told to stop."""
    password = Path(password_file).read_bytes()

    def is_to_end() -> bool:
        try:
            return Path(stop_file).exists() or Path(password_file).read_bytes() != password
        except OSError:
            return True

    command = ["docker", "exec", "-i", container, "sigul", "--batch", "-c"]
    requests, failures = 0, []
    end = time.monotonic() + MAX_SECONDS
    while requests == 0 or (time.monotonic() < end and not is_to_end()):
        done = subprocess.run(
            [*command, "/etc/sigul/client.conf", "list-users"],
            input=password + b"\0",
            capture_output=True,
            check=False,
            timeout=REQUEST_SECONDS,
        )
        requests += 1
        if done.returncode != 0 or b"admin" not in done.stdout:
            failures.append(f"{time.strftime('%T')} {done.stderr.decode(errors='replace')}")
        time.sleep(PAUSE_SECONDS)
    print(json.dumps({"requests": requests, "failures": failures}))


if __name__ == "__main__":
    main(*sys.argv[1:])
