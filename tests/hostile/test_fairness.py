"""One certificate with as many requests as it may have does not slow another one's down."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import pytest

from sigul_stack.errors import Status
from tests.faults.observe import children
from tests.hostile.conftest import TRENTS_KEY, AttackerFactory, HonestFactory, passphrase
from tests.site import Site, wait_until

MIB = 1024**2
#: Requests of one certificate at once, fewer than it may have; and how much each has to be hashed
#: by gpg for its signature.
CROWD, SIZE = 8, 40 * MIB
#: The niceness of a worker beside which there is another request of its client's name.
NICE = 10
#: Seconds that each wait of the crowd's clients may take.
PATIENCE = 120.0

# 8 x 40 MiB are sent and signed.
pytestmark = [pytest.mark.once("our own workers"), pytest.mark.timeout(300)]

#: The files that the long tests here prove something about.
PROVEN = (
    "sigul_stack/server/slots.py",
    "sigul_stack/server/worker.py",
)


@pytest.mark.long(*PROVEN)
def test_the_more_requests_of_one_name_the_nicer_they_are(
    quiet: Site, honest_at: HonestFactory, attacker: AttackerFactory
) -> None:
    quiet.start_bridge()
    server = quiet.start_server(4)
    script: dict[str, Any] = {
        "op": "sign-data", "user": "trent", "fields": {"key": TRENTS_KEY.encode()},
        "secrets": {"passphrase": passphrase("trent", TRENTS_KEY).encode()}, "zeros": SIZE,
        "chunk": 65536,
        # Half of them wait until the others have been served, on a machine that may be busy.
        "patience": PATIENCE, "all_patience": PATIENCE,
    }  # fmt: skip
    crowd = attacker(quiet, "trent", "crowd")
    seen: set[int] = set()

    def are_nice() -> bool:
        for worker in children(server.popen.pid):
            with contextlib.suppress(ProcessLookupError):
                seen.add(os.getpriority(os.PRIO_PROCESS, worker))
        return max(seen) > NICE

    with honest_at(quiet).during(f"{CROWD} large requests of one name"):
        crowd.start(scripts=[script], each=CROWD)
        wait_until(are_nice, 120, "workers that are nice")
        clients = crowd.result(200)
    for client in clients:
        assert client["error"] is None, client
        assert client["result"]["status"] == Status.OK
    # Those that wait, and the only one of its name, are as any process.
    assert 0 in seen
