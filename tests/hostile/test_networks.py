"""One machine with many addresses: it counts as one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.faults.networks import network
from tests.site import PROGRAM_SECONDS, Site

pytestmark = pytest.mark.once("the kernel's network")

#: How many connections are in their handshake at most, and how many the attacker opens.
LIMIT, CROWD = 8, 40
#: Silent connections, the first of them from the address of somebody else; each from an address of
#: its own. Prints for each whether the bridge has ended it.
CONNECT = """
import json, select, socket, sys, time
port, addresses = int(sys.argv[1]), json.loads(sys.argv[2])
made = []
IPV6_FREEBIND = 78
for address in addresses:
    item = socket.socket(socket.AF_INET6)
    item.settimeout(20)
    item.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    item.bind((address, 0))
    item.connect(("2001:db8:ffff::1", port))
    made.append(item)
    time.sleep(0.02)
def ended(item):
    return bool(select.select([item], [], [], 0)[0])
end = time.monotonic() + 20
while sum(map(ended, made)) < len(made) - int(sys.argv[3]) and time.monotonic() < end:
    time.sleep(0.05)
print(json.dumps(list(map(ended, made))))
"""


def test_many_addresses_of_one_network_push_out_only_their_own(quiet: Site) -> None:
    quiet.listen_address = "::"
    quiet.extra["bridge"] = {
        "bridge": f"max-handshakes: {LIMIT}\nhandshake-timeout: {PROGRAM_SECONDS}\n"
    }
    quiet.configure()
    with network() as networks:
        networks.here.run("ip", "link", "set", "lo", "up")
        # All of its addresses are this machine's.
        networks.here.run("ip", "-6", "route", "add", "local", "2001:db8::/32", "dev", "lo")
        quiet.prefix = networks.here.prefix
        bridge = quiet.start_bridge()
        addresses = ["2001:db8:1::1", *(f"2001:db8:2:0:{n:x}::{n:x}" for n in range(1, CROWD))]
        done = subprocess.run(
            [
                *quiet.prefix, sys.executable, "-c", CONNECT, str(quiet.client_port),
                json.dumps(addresses), str(LIMIT),
            ],
            capture_output=True, text=True, timeout=PROGRAM_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        ended = json.loads(done.stdout)
        assert sum(ended) == CROWD - LIMIT
        assert not ended[0]
        assert bridge.stop() == 0
