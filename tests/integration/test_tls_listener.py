"""Listening sockets that NSS accepts on: what they cost, and what comes of them; NSS's reads."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sigul_stack.pki.derivation import read_derivation
from tests.site import Site

#: As many as certutil takes, which is the most that NSS does: 30 to 60 ms for an RSA key.
ROUNDS = 10_000
#: Requests of which the cheapest is looked at.
REQUESTS = 5
#: Processor seconds of a bridge for a request; those of two keys that are read are 0.06 and more.
MOST_SECONDS = 0.03

#: Opens NSS, and makes connections from this process to itself.
GROUND = """
import os, socket, sys, threading, time
from pathlib import Path
from sigul_stack.config.shared import NSSSettings
from sigul_stack.errors import DeadlineExceeded, PeerClosed
from sigul_stack.secret import Secret
from sigul_stack.transport import nss
from sigul_stack.transport.nss_listener import TLSListener
from sigul_stack.transport.stream import readable
from sigul_stack.transport.tcp import bytes_waiting

directory, nickname, hostname = sys.argv[1:4]
settings = NSSSettings(
    directory=f"sql:{directory}", password=Secret((Path(directory) / "nss-password").read_bytes()),
    min_tls=sys.argv[4], max_tls=sys.argv[4],
)
nss.open_database(settings)
identity = nss.load_identity(nickname)

def listening():
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    # What is accepted has room for many records at once.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 400_000)
    return listener

def connect(listener):
    tcp = socket.create_connection(listener.getsockname())
    assert readable([listener], 5)
    return tcp

def shake_hands(tcp, accepted):
    ours, theirs = nss.TLSConnection(tcp, "it", None), accepted.connection(None)
    thread = threading.Thread(
        target=ours.handshake_as_client, args=(settings, identity, hostname, 10)
    )
    thread.start()
    theirs.handshake_prepared(10)
    thread.join()
    return ours, theirs
"""

ACCEPTING = """
kernel = listening()
other = kernel.dup()
listener = TLSListener(kernel, settings, identity)
begin = time.monotonic()
assert listener.accept() is None and time.monotonic() - begin < 1

# Neither a peer that says nothing nor one that is gone again is waited for.
silent = connect(kernel)
begin = time.monotonic()
waiting = listener.accept()
assert time.monotonic() - begin < 1
assert (waiting.host, waiting.address) == ("127.0.0.1", "127.0.0.1:%d" % silent.getsockname()[1])
assert not os.get_inheritable(waiting.tcp.fileno())
connection = waiting.connection(None)
begin = time.monotonic()
try:
    connection.handshake_prepared(0.2)
except DeadlineExceeded:
    assert time.monotonic() - begin < 2
else:
    raise AssertionError("a silent peer was waited for")
connection.discard()
silent.close()

# Each has the certificates of both.
for _ in range(3):
    ours, theirs = shake_hands(connect(kernel), listener.accept())
    assert ours.peer.fingerprint == theirs.peer.fingerprint == identity.fingerprint
    assert theirs.tls_version == settings.max_tls
    ours.write(b"hello", 5)
    assert theirs.read(100, 5) == b"hello"
    ours.close()
    theirs.close()

# Who shows no certificate is refused.
tcp = connect(kernel)
bare = nss.TLSConnection(tcp, "it", None)
def dial():
    try: bare.handshake_as_client(settings, None, hostname, 5)
    except Exception: pass
thread = threading.Thread(target=dial)
thread.start()
refused = listener.accept().connection(None)
try:
    refused.handshake_prepared(5)
except Exception as error:
    print("refused:", type(error).__name__)
thread.join()
refused.discard()
bare.discard()

# Closed here, it is another process's as before.
before = connect(kernel)
kept = listener.accept()
listener.close()
with socket.create_connection(other.getsockname()):
    assert readable([other], 5)
    other.accept()[0].close()
ours, theirs = shake_hands(before, kept)
ours.close()
theirs.close()
print("done")
"""

READING = """
kernel = listening()
listener = TLSListener(kernel, settings, identity)

inner_listener = socket.create_server(("127.0.0.1", 0))
def pair():
    near = socket.create_connection(inner_listener.getsockname())
    left = inner_listener.accept()[0]
    right = connect(kernel)
    accepted = listener.accept()
    relaying = threading.Event()
    def pump(source, target):
        while not relaying.is_set():
            if readable([source], 0.01):
                data = source.recv(65536)
                if not data:
                    return
                target.sendall(data)
    pumps = [threading.Thread(target=pump, args=ends) for ends in ((left, right), (right, left))]
    for item in pumps: item.start()
    ours, theirs = shake_hands(near, accepted)
    # With TLS 1.3 the dialler's part is behind its own end of the handshake.
    ours.write(b"begin", 5)
    assert theirs.read(100, 5) == b"begin"
    relaying.set()
    for item in pumps: item.join()
    return ours, theirs, left, right

def taken(left, count):
    data = b""
    while len(data) < count:
        assert readable([left], 5)
        data += left.recv(1 << 20)
    return data

def records(data):
    found = []
    while data:
        size = 5 + int.from_bytes(data[3:5], "big")
        found.append(data[:size])
        data = data[size:]
    return found

def wait_for(connection, count):
    end = time.monotonic() + 5
    while bytes_waiting(connection._os) < count:
        assert time.monotonic() < end
        time.sleep(0.001)

payload = os.urandom(10 * 16384 + 100)
for how in ("close-notify", "cut", "cut in a record", "many"):
    ours, theirs, left, right = pair()
    ours.write(payload, 5)
    encrypted = taken(left, len(payload) + 11 * 5)
    assert len(records(encrypted)) == 11, len(records(encrypted))
    parts = records(encrypted)
    if how == "many":
        # Many records are one read, however few looks there were.
        right.sendall(encrypted)
        wait_for(theirs, len(encrypted))
        assert theirs.read(256 * 1024, 5) == payload
    else:
        # What is whole is given at once; what is not here yet is not waited for, and not lost.
        right.sendall(b"".join(parts[:3]) + parts[3][:1000])
        wait_for(theirs, sum(map(len, parts[:3])) + 1000)
        begin = time.monotonic()
        assert theirs.read(256 * 1024, 5) == payload[: 3 * 16384]
        assert time.monotonic() - begin < 2
        try:
            theirs.read(256 * 1024, 0.05)
            raise AssertionError("a part of a record was given")
        except DeadlineExceeded:
            pass
        right.sendall(parts[3][1000:] + b"".join(parts[4:10]))
        rest = b""
        while len(rest) < 7 * 16384:
            rest += theirs.read(256 * 1024, 5)
        assert rest == payload[3 * 16384 : 10 * 16384]
        right.sendall(parts[10])
        assert theirs.read(256 * 1024, 5) == payload[-100:]
    assert not theirs.was_cut_off()
    if how == "cut in a record":
        ours.write(bytes(16384) + b"x", 5)
        data = taken(left, 16384 + 1 + 2 * 5)
        right.sendall(data[:-3])
        right.shutdown(socket.SHUT_WR)
        time.sleep(0.05)
        got = theirs.read(256 * 1024, 5)
        assert got == bytes(16384)
        try:
            assert theirs.read(256 * 1024, 5) == b""
        except PeerClosed:
            pass
    elif how == "cut":
        # A full record with the kernel's end right behind it.
        ours.write(bytes(2 * 16384), 5)
        right.sendall(taken(left, 2 * 16384 + 2 * 5))
        right.shutdown(socket.SHUT_WR)
        got = b""
        while data := theirs.read(256 * 1024, 5):
            got += data
        assert got == bytes(2 * 16384)
        assert theirs.was_cut_off()
    elif how == "close-notify":
        ours.write(bytes(2 * 16384), 5)
        ours.end_writing()
        right.sendall(taken(left, 2 * 16384 + 2 * 5 + 20))
        right.shutdown(socket.SHUT_WR)
        got = b""
        while data := theirs.read(256 * 1024, 5):
            got += data
        assert got == bytes(2 * 16384)
        assert not theirs.was_cut_off()
    for item in (ours, theirs): item.discard()
    for item in (left, right): item.close()
print("done")
"""

ENDS = """
from sigul_stack.transport.nested import ServingEnd, inner_session
from sigul_stack.transport.chunked import ChunkedStream
from sigul_stack.transport import memory

begin = time.process_time()
ready = ServingEnd(settings, identity)
made = time.process_time() - begin
client, server = memory.pair()
seconds = []
def serve():
    begin = time.thread_time()
    with inner_session(
        ChunkedStream(server, 10), settings, identity, timeout=10, server_hostname=None, ready=ready
    ) as session:
        seconds.append(time.thread_time() - begin)
        assert session.peer.fingerprint == identity.fingerprint
        session.write(session.read(100)[::-1])
thread = threading.Thread(target=serve)
thread.start()
with inner_session(
    ChunkedStream(client, 10), settings, identity, timeout=10, server_hostname=hostname
) as session:
    session.write(b"abc")
    assert session.read(100) == b"cba"
thread.join()
# What the key costs was paid before.
print(made, seconds[0])
assert seconds[0] < made / 2
unused = ServingEnd(settings, identity)
descriptors = len(os.listdir("/proc/self/fd"))
unused.discard()
assert len(os.listdir("/proc/self/fd")) == descriptors - 3
print("done")
"""


def slow_down(database: Path) -> None:
    """Have the keys of a database cost much."""
    password = database / "nss-password"
    subprocess.run(
        ["certutil", "-W", "-d", f"sql:{database}", "-f", password, "-@", password],
        check=True, timeout=60, capture_output=True,
        env={**os.environ, "NSS_MAX_MP_PBE_ITERATION_COUNT": str(ROUNDS)},
    )  # fmt: skip
    assert read_derivation(database).most_rounds == ROUNDS


@pytest.mark.parametrize("version", ["tls1.2", "tls1.3"])
@pytest.mark.parametrize("program", [ACCEPTING, READING], ids=["accepting", "reading"])
def test_in_one_process(template: Site, program: str, version: str) -> None:
    run(template, program, version, template.path("pki/bridge"))


def test_an_inner_sessions_serving_end_is_made_before(template: Site, tmp_path: Path) -> None:
    site = Site.copy(template, tmp_path / "site")
    slow_down(site.path("pki/bridge"))
    run(site, ENDS, "tls1.2", site.path("pki/bridge"))


def run(site: Site, program: str, version: str, database: Path) -> None:
    """Run a program behind GROUND."""
    done = site.run(
        sys.executable, "-c", GROUND + program, str(database), "sigul-bridge-cert",
        site.bridge_name, version, seconds=30,
    )  # fmt: skip
    assert done.stdout.split()[-1:] == [b"done"], done.stdout


def cpu(pid: int) -> float:
    """The seconds of processor time of a process, all its threads."""
    return time.clock_gettime(~pid << 3 | 2)


def test_a_bridge_reads_its_key_when_it_starts_and_never_again(
    template: Site, tmp_path: Path
) -> None:
    site = Site.copy(template, tmp_path / "site")
    site.workers = 1
    site.configure()
    slow_down(site.path("pki/bridge"))
    with site.running() as daemons:
        bridge = daemons[0]
        site.sigul("list-users", secrets=[site.admin_password])
        spent = []
        for _ in range(REQUESTS):
            start = cpu(bridge.serving)
            site.sigul("list-users", secrets=[site.admin_password])
            spent.append(cpu(bridge.serving) - start)
        # A client's handshake and a worker's are in each. Others' work makes processor time longer,
        # never shorter: keys that are read are in the least, too.
        assert min(spent) < MOST_SECONDS
