"""Parents of both daemons, of which a process looks at certificates again: real processes, no NSS.

What that process finds is the plan's to say here; with NSS it is tests/hostile/test_ending.py's.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

#: What both scripts have: certificates, and what the process says of them.
COMMON = """
import hashlib, os, signal, sys, threading, time
from sigul_stack.errors import SigulError
from sigul_stack.system.processes import SignalPipe
from sigul_stack.transport import nss_certificates
what = sys.argv[1]
def say(*words):
    # In one piece: several processes speak.
    os.write(1, " ".join(map(str, words)).encode() + b"\\n")
def tell(number):
    # The main thread, which waits: it would not wake for a signal that another thread takes, nor
    # for one that comes when it has let go of Python's lock and does not wait yet.
    time.sleep(0.2)
    signal.pthread_kill(threading.main_thread().ident, number)
def number(certificate): return hashlib.sha256(certificate).digest()
def look(found, tell):
    say("asked", sorted(found.asked.values()))
    if what == "good":
        for item in found.asked: tell(item)
    elif what == "bad":
        for item, certificate in found.asked.items():
            if certificate != b"trent": tell(item)
    elif what == "fails":
        raise SigulError("no NSS")
    elif what == "crashes":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hangs":
        time.sleep(600)
stop, reload = SignalPipe(signal.SIGTERM), SignalPipe(signal.SIGHUP)
"""

SERVER = (
    COMMON
    + """
from sigul_stack.server import supervisor
from sigul_stack.server.events import *
supervisor.LOOK_SECONDS = 0.5
def serve(parent):
    name = b"trent"
    parent.send(WorkerEvent.ATTACHED, HANDSHAKE_SECONDS.pack(0.1))
    parent.send(WorkerEvent.BUSY)
    parent.send_parts(WorkerEvent.CERTIFICATE, name)
    parent.send(WorkerEvent.CLIENT, encode_client("trent", "trent", "sign-data"))
    command = parent.command()
    say("told", bytes(command))
    os._exit(3 if command == WorkerCommand.DISTRUSTED else 0)
def idle(parent):
    parent.command()
def plan(serve):
    return supervisor.ServerPlan(
        serve, lambda: None, look, lambda: None, workers=1, max_requests=0, shutdown_timeout=5
    )
made = supervisor.Supervisor(plan(serve), lambda: plan(idle), stop=stop, reload=reload)
def wait_for(count):
    while True:
        time.sleep(0.01)
        try:
            if len(made.status().requests) == count:
                return
        except RuntimeError:
            pass  # it changes just now
def drive():
    wait_for(1)
    tell(signal.SIGHUP)
    wait_for(0)
    tell(signal.SIGTERM)
threading.Thread(target=drive).start()
made.run()
say(made.status().totals["requests_ended_total"])
"""
)

BRIDGE = (
    COMMON
    + """
from sigul_stack.bridge import parent as module
from sigul_stack.bridge.control import BridgeCommand, BridgeEvent, receive_command, receive_digest
module.LOOK_SECONDS = 0.5
def serve(listeners, parent):
    parent.send(BridgeEvent.READY)
    while True:
        command = receive_command(parent)
        if command is BridgeCommand.HAND_OVER:
            parent.send(BridgeEvent.HANDED_OVER)
            for name in (b"trent", b"alice"):
                parent.send_parts(BridgeEvent.CERTIFICATE, name)
                parent.send(BridgeEvent.WHOLE)
        elif command is BridgeCommand.DISTRUST:
            names = {number(name): name for name in (b"trent", b"alice")}
            say("distrusted", names[receive_digest(parent)].decode())
        elif command is BridgeCommand.END:
            return
def plan():
    return module.BridgePlan(serve, look, (), shutdown_timeout=5)
made = module.Parent(plan(), plan, stop=stop, reload=reload)
looked = threading.Event()
wanted = 0
take = made._take_look
def taken(*arguments):
    take(*arguments)
    old = [child for child in made._children.values() if child.certificates]
    if len(old) == wanted and all(len(child.seen) == 2 for child in old):
        looked.set()
made._take_look = taken
def drive():
    global wanted
    for wanted in (1, 2):  # certificates that were good are asked for once more
        looked.clear()
        tell(signal.SIGHUP)
        if not looked.wait(20):
            say("not looked at")
    tell(signal.SIGTERM)
made.run(threading.Thread(target=drive).start)
"""
)


def run(script: str, what: str) -> list[str]:
    """What the script prints where the process does that."""
    done = subprocess.run(
        [sys.executable, "-c", script, what], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("what", "told", "ended"),
    [
        ("good", "G", 0),
        ("bad", "D", 1),
        ("fails", "D", 1),
        ("crashes", "D", 1),
        ("hangs", "D", 1),
    ],
)
def test_a_server_s_requests_go_on_only_with_good_certificates(
    what: str, told: str, ended: int
) -> None:
    assert run(SERVER, what) == ["asked [b'trent']", f"told b'{told}'", str(ended)]


@pytest.mark.parametrize(
    ("what", "distrusted"),
    [
        ("good", []),
        ("bad", ["trent"]),
        ("fails", ["alice", "trent"]),
        ("crashes", ["alice", "trent"]),
        ("hangs", ["alice", "trent"]),
    ],
)
def test_a_bridge_s_old_children_end_what_is_not_said_to_be_good(
    what: str, distrusted: list[str]
) -> None:
    lines = run(BRIDGE, what)
    told = sorted(line.removeprefix("distrusted ") for line in lines if "distrusted" in line)
    # The first old child is asked after at both reloads, the second one at the second.
    assert told == sorted(3 * distrusted)
