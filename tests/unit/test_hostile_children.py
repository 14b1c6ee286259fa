"""Children that were broken into: whatever they say or do, their parents go on, and end when told.

Real parents and real processes; what a child does is the plan's to say here. The same at real
daemons, from outside: tests/hostile/test_children.py.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

#: A limit against hanging, in seconds.
LIMIT = 60.0

#: What all scripts have. `attack` gets the child's ends of its pipes.
COMMON = """
import logging, os, signal, struct, sys, threading, time
from sigul_stack.errors import SigulError
from sigul_stack.system.processes import *
from sigul_stack.transport.nss_certificates import Look
logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stdout)
def raw(parent, *pieces):
    for data in pieces:
        assert os.write(parent.events, data) == len(data)
def event(code, body=b""):
    return struct.pack("!cH", code, len(body)) + body
def stay(parent):
    # Who reads its commands ends with its parent.
    while parent.command(): pass
    os._exit(0)
stop, reload = SignalPipe(signal.SIGTERM), SignalPipe(signal.SIGHUP)
def tell(number):
    signal.pthread_kill(threading.main_thread().ident, number)
"""

#: The first worker is the attacker; the next one is honest, and says that it serves.
SERVER = (
    COMMON
    + """
from sigul_stack.server import supervisor
from sigul_stack.server.events import *
HELLO = event(b"A", struct.pack("!d", 0.1))
BUSY = HELLO + event(b"B")
MEASURED = struct.pack("!BBB7d", 0, 1, 0, *7 * [0.1])
def attack(parent):
    ATTACK
first, served = os.memfd_create("first"), os.pipe()
os.write(first, b"x")
def serve(parent):
    if os.pread(first, 1, 0):
        os.ftruncate(first, 0)
        attack(parent)
        time.sleep(600)
    raw(parent, HELLO)
    os.write(served[1], b"x")
    stay(parent)
plan = supervisor.ServerPlan(
    serve, lambda: None, lambda look, tell: None, lambda: None, workers=1, max_requests=1,
    shutdown_timeout=5,
)
made = supervisor.Supervisor(plan, lambda: plan, stop=stop, reload=reload)
def drive():
    os.read(served[0], 1)
    # Nothing of the attacker counts, and it is gone.
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            found = made.status()
        except RuntimeError:
            continue  # it changes just now
        if (found.workers_attached, found.workers_busy, found.requests) == (1, 0, ()):
            os.write(1, b"serves\\n")
            break
        time.sleep(0.05)
    tell(signal.SIGTERM)
threading.Thread(target=drive, daemon=True).start()
made.run()
print("ends")
"""
)

#: What a worker may do, and the reason for its end.
ATTACKS = {
    "a stray byte": (r'raw(parent, b"\0")', "less than a whole event"),
    "half an event": (r'raw(parent, b"A\0\10\0")', "less than a whole event"),
    "a length of no event": (r'raw(parent, b"A\xff\xff" + bytes(9000))', "longer than any is"),
    "an unknown event": ('raw(parent, event(b"Z"))', "no such event"),
    "a handshake without its length": ('raw(parent, event(b"A"))', "no number"),
    "a handshake of no length": (
        'raw(parent, event(b"A", struct.pack("!d", float("nan"))))', "length is none",
    ),
    "attached twice": ("raw(parent, HELLO + HELLO)", "cannot attach now"),
    "detached unattached": ('raw(parent, event(b"D"))', "not attached"),
    "busy unattached": ('raw(parent, event(b"B"))', "no request can have come"),
    "busy twice": ('raw(parent, BUSY + event(b"B"))', "no request can have come"),
    "a client in one name": ('raw(parent, BUSY + event(b"U", b"x"))', "another number of names"),
    "a client in three names": (
        r'raw(parent, BUSY + event(b"U", b"a\0b\0c"))', "another number of names",
    ),
    "an id that forges lines": (
        r'raw(parent, BUSY + event(b"U", b"a\0b\0c\0" + b"0} ERROR x"))', "an id that is none",
    ),
    "a client's endless name": (
        r'raw(parent, BUSY + event(b"U", b"\0\0\0" + bytes(4000).replace(b"\0", b"x")))',
        "longer name than there may be",
    ),
    "two clients": (
        r'raw(parent, BUSY + 2 * event(b"U", b"a\0b\0c\0"))', "no client to tell now",
    ),
    "a certificate without end": (
        'raw(parent, BUSY, *40 * [event(b"C", bytes(4000))])', "too much of a certificate",
    ),
    "a certificate of nobody": ('raw(parent, event(b"C", b"x"))', "no certificate to tell now"),
    "another's number": (
        'raw(parent, BUSY + event(b"N", b"workers_crashed_total"))', "not a worker's to count",
    ),
    "a verdict that nobody asked for": (
        'raw(parent, event(b"G", bytes(32)))', "not asked to look",
    ),
    "a request's end before it came": (
        'raw(parent, HELLO + event(b"M", MEASURED))', "no request to tell of now",
    ),
    "a request's end twice": (
        'raw(parent, BUSY + 2 * event(b"M", MEASURED))', "no request to tell of now",
    ),
    "a request's end without its length": (
        'raw(parent, BUSY + event(b"M", b"x"))', "too little of its request",
    ),
    "an operation of its own": (
        'raw(parent, BUSY + event(b"M", MEASURED + b"x"))', "no such operation",
    ),
    "a size of the signing log": (
        'raw(parent, BUSY + event(b"L", bytes(16)))', "does not write the signing log",
    ),
}  # fmt: skip


def run(script: str, **replaced: str) -> list[str]:
    """What the script prints; it has to end by itself."""
    for name, text in replaced.items():
        script = script.replace(name, text)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"the parent hangs; it had said {error.stdout!r}") from None
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


#: Beside the workers there is one that writes the signing log, as far as that is to be seen here.
LOGGED = """
from sigul_stack.evidence.writer import LogChannel
channel = LogChannel()
def write(parent):
    parent.send(WorkerEvent.LOGGED, encode_logged(7, 1e9))
    WRITE
def honest(parent):
    channel.client()._sender.send(b"a message")
    raw(parent, HELLO)
    os.write(served[1], b"x")
    stay(parent)
"""
_ALL = "    while channel.receiver.recv(100): pass"


def run_logged(attack: str, write: str = _ALL) -> list[str]:
    """The script of a server with a writer; what it prints."""
    script = SERVER.replace("first, served", LOGGED + "first, served", 1)
    for old, new in (
        (
            '    raw(parent, HELLO)\n    os.write(served[1], b"x")\n    stay(parent)\nplan',
            "    honest(parent)\nplan",
        ),
        ("shutdown_timeout=5,", "shutdown_timeout=5, write_log=write,"),
        ("stop=stop, reload=reload)", "stop=stop, reload=reload, channel=channel)"),
        ("    serve, lambda", "    work, lambda"),
        ("plan = ", "def work(parent):\n    serve(parent)\nplan = "),
        ("(found.workers_attached, found.workers_busy, found.requests) == (1, 0, ())",
         "found.workers_attached == 1 and found.signing_log_size == 7"),
    ):  # fmt: skip
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    return run(script, ATTACK=attack, WRITE=write.strip())


def test_the_writer_of_the_signing_log_is_there_and_ends_behind_the_workers() -> None:
    lines = run_logged("honest(parent)")
    assert lines == ["serves", "ends"]


def test_who_ends_the_way_to_the_log_for_all_ends_it_for_those_of_now() -> None:
    """Whoever waits with the old way is replaced: the next ones have a new one."""
    lines = run_logged(
        "raw(parent, HELLO); import socket;"
        " channel.client()._sender.shutdown(socket.SHUT_RDWR); stay(parent)"
    )
    assert any("The signing log's process has ended (exit code 0)" in line for line in lines)
    assert lines[-2:] == ["serves", "ends"]


@pytest.mark.parametrize("write", ["os.kill(os.getpid(), 9)", "1 / 0", "raise SigulError('no')"])
def test_a_writer_that_fails_comes_again_and_again_and_no_faster(write: str) -> None:
    lines = run_logged("time.sleep(2); honest(parent)", write)
    assert "serves" in lines and lines[-1] == "ends"
    # At once, after 0.5 s, after 1 s more.
    assert 2 <= sum("The signing log's process has ended" in line for line in lines) <= 5


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_worker_that_breaks_the_rules_is_killed_and_the_server_goes_on(attack: str) -> None:
    code, reason = ATTACKS[attack]
    lines = run(SERVER, ATTACK=code)
    assert any("is killed: it broke the rules of its pipe" in line for line in lines), lines
    assert any(reason in line for line in lines), lines
    assert "serves" in lines and lines[-1] == "ends"


@pytest.mark.parametrize(
    "attack",
    [
        # The end of its events is not its end.
        "os.close(parent.events)",
        # What it leaves behind has the pipe still.
        "os.fork() and os._exit(0); os.close(1); os.close(2); time.sleep(20)",
    ],
)
def test_a_worker_that_is_not_heard_any_more_is_not_waited_for(attack: str) -> None:
    lines = run(SERVER, ATTACK=attack)
    assert "serves" in lines and lines[-1] == "ends"


@pytest.mark.parametrize(
    ("end", "result"), [("os.kill(os.getpid(), 9)", "failed"), ("os._exit(3)", "ended")]
)
def test_a_request_that_ends_with_its_worker_is_counted(end: str, result: str) -> None:
    attack = f"""
    raw(parent, BUSY + event(b"N", b"requests_protocol_1_total"))
    raw(parent, event(b"U", b"a\\0b\\0sign-data\\0"))
    {end}
"""
    script = SERVER.replace('print("ends")', 'print(made.metrics().decode())\nprint("ends")')
    lines = run(script, ATTACK=attack)
    counted = [line for line in lines if line.startswith("sigul_server_requests_total")]
    assert counted == [
        f'sigul_server_requests_total{{op="sign-data",result="{result}",version="1"}} 1.0'
    ]
    assert "sigul_server_workers_crashed_total " + ("1.0" if result == "failed" else "0.0") in lines


def test_a_worker_that_floods_its_pipe_keeps_nobody_waiting() -> None:
    flood = """
    raw(parent, BUSY)
    os.write(served[1], b"x")
    while True:
        raw(parent, 100 * event(b"N", b"wrong_secrets_total"))
"""
    drive = """
    os.read(served[0], 1)
    made.end("nobody")
"""
    script = SERVER.replace("    os.read(served[0], 1)\n", drive)
    # It breaks no rule, and stays; so the server has its time for a request to finish.
    lines = run(script.replace("monotonic() + 20", "monotonic() + 1"), ATTACK=flood)
    assert lines[-1] == "ends"


def test_a_worker_that_does_not_read_its_commands_is_killed() -> None:
    """Whoever waited for room in its control pipe would hang."""
    attack = r"""
    raw(parent, BUSY + event(b"U", b"a\0b\0c\0"))
    os.write(served[1], b"x")
"""
    drive = """
    os.read(served[0], 1)
    child = next(iter(made._children.values()))
    while not child.is_over:
        child.command(b"S")
    os.read(served[0], 1)
"""
    lines = run(SERVER.replace("    os.read(served[0], 1)\n", drive), ATTACK=attack)
    assert any("does not read its commands" in line for line in lines), lines
    assert "serves" in lines and lines[-1] == "ends"


# -------------------------------------------------------------------------------------- the bridge

#: The first child serves and does as the attack says, where it has not been `ready` yet too.
BRIDGE = (
    COMMON
    + """
from sigul_stack.bridge import parent as module
from sigul_stack.bridge.control import BridgeCommand, BridgeEvent, receive_command, receive_digest
READY = event(b"R")
go = os.pipe()
count = os.memfd_create("count")
os.write(count, b"x")
def serve(listeners, parent):
    if os.pread(count, 1, 0):
        os.ftruncate(count, 0)
        raw(parent, READY)
        os.read(go[0], 1)  # the parent says that it serves
        ATTACK
        time.sleep(600)
    raw(parent, READY)
    while (command := parent.command()) not in (b"", b"E"): pass
    os._exit(0)
def look(found, tell): pass
plan = module.BridgePlan(serve, look, (), shutdown_timeout=5)
made = module.Parent(plan, lambda: plan, stop=stop, reload=reload)
def drive():
    RELOAD
    end = time.monotonic() + 20
    while time.monotonic() < end:
        time.sleep(0.05)
        serving = made._serving
        if serving is not None and serving.pid != first[0] and made._takes_servers is serving:
            os.write(1, b"serves\\n")
            break
    tell(signal.SIGTERM)
first = []
def ready():
    os.write(go[1], b"x")
    first.append(made._serving.pid)
    threading.Thread(target=drive, daemon=True).start()
made.run(ready)
print("ends")
"""
)

BRIDGE_ATTACKS = {
    "a stray byte": (r'raw(parent, b"\0")', "", "less than a whole event"),
    "an unknown event": ('raw(parent, event(b"Z"))', "", "no such event"),
    "ready twice": ("raw(parent, READY)", "", "not about to serve"),
    "handed over unasked": ('raw(parent, event(b"H"))', "", "not to hand over"),
    "a certificate while it serves": ('raw(parent, event(b"C", b"x"))', "", "no certificates"),
    "a certificate of nothing": (
        'raw(parent, event(b"W"))', "", "nothing of a certificate",
    ),
    "a certificate without end": (
        'parent.command(); parent.command(); raw(parent, *40 * [event(b"C", bytes(4000))])',
        "tell(signal.SIGHUP)", "too much of a certificate",
    ),
    "handed over again and again": (
        'parent.command(); parent.command(); raw(parent, 3 * event(b"H"))',
        "tell(signal.SIGHUP)", "not to hand over",
    ),
    "a verdict that nobody asked for": (
        'raw(parent, event(b"G", bytes(32)))', "", "not asked to look",
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", BRIDGE_ATTACKS)
def test_a_bridge_s_child_that_breaks_the_rules_is_killed_and_another_serves(attack: str) -> None:
    code, reload, reason = BRIDGE_ATTACKS[attack]
    lines = run(BRIDGE, ATTACK=code, RELOAD=reload or "pass")
    assert any(reason in line for line in lines), lines
    assert "serves" in lines and lines[-1] == "ends"


def test_more_certificates_than_any_bridge_has_are_not_kept() -> None:
    code = (
        "parent.command(); parent.command();"
        " [raw(parent, *15 * [event(b'C', os.urandom(4000))], event(b'W')) for _ in range(2000)]"
    )
    lines = run(BRIDGE, ATTACK=code, RELOAD="tell(signal.SIGHUP)")
    assert any("too many certificates" in line for line in lines), lines
    assert "serves" in lines and lines[-1] == "ends"


def test_a_bridge_s_child_that_never_hands_over_is_not_waited_for() -> None:
    script = BRIDGE.replace("shutdown_timeout=5)", "shutdown_timeout=5, hand_over_timeout=0.5)")
    script = script.replace("stop, reload =", "module.HAND_OVER_SECONDS = 0.5\nstop, reload =", 0)
    lines = run(
        script.replace("READY = event", "module.HAND_OVER_SECONDS = 0.5\nREADY = event"),
        ATTACK="pass", RELOAD="tell(signal.SIGHUP)",
    )  # fmt: skip
    assert any("did not do what it was told in time" in line for line in lines), lines
    assert "serves" in lines and lines[-1] == "ends"


# ------------------------------------------------------------------------------------ one child

IN_CHILD = (
    COMMON
    + """
def work():
    # Its end of the pipe: the newest descriptor that is open for writing.
    import fcntl
    ends = [n for n in range(3, 50) if os.path.exists(f"/proc/self/fd/{n}")
            and os.readlink(f"/proc/self/fd/{n}").startswith("pipe:")
            and fcntl.fcntl(n, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY]
    events = ends[-1]
    ATTACK
try:
    run_in_child(work, "the work", 1.0)
except SigulError as error:
    print(error.problem)
print("goes on")
"""
)


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (r'os.write(events, b"\0"); time.sleep(600)', "less than a whole event"),
        ('os.write(events, event(b"Z")); time.sleep(600)', "said what it may not"),
        ("time.sleep(600)", "not done in 1 s"),
    ],
)
def test_work_in_a_child_has_a_limit(attack: str, told: str) -> None:
    lines = run(IN_CHILD, ATTACK=attack)
    assert told in lines[0]
    assert lines[1:] == ["goes on"]


def test_work_that_closes_its_pipe_and_stays_is_killed() -> None:
    script = COMMON + "\nfrom sigul_stack.system import processes\nprocesses.KILL_AFTER_SECONDS = 1"
    lines = run(script + IN_CHILD[len(COMMON) :], ATTACK="os.close(events); time.sleep(600)")
    assert lines == ["the work failed (exit code -9)", "goes on"]


# -------------------------------------------------------------------------------------- signals


def test_a_signal_that_another_thread_is_given_ends_the_wait() -> None:
    """Python's handler runs in the main thread, which waits and would not hear of it."""
    script = (
        COMMON
        + """
class Family(ProcessFamily):
    def _is_settled(self): return True
    def _try_plan(self, plan): pass
    def _handle_event(self, child, code, body): pass
    def _handle_end(self, child, code): pass
    def _dismiss(self, child): return 0.0
made = Family(None, lambda: None, stop=stop, reload=reload, back_off=BackOff(first=0.0))
def other():
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
threading.Thread(target=other).start()
while not made._wait(None): pass
print("ends")
"""
    )
    assert run(script) == ["ends"]


def test_children_have_nothing_of_their_parent_s_signals() -> None:
    script = (
        COMMON
        + """
def work():
    import fcntl
    own = os.readlink("/proc/self/fd/1")
    found = [n for n in range(3, 50) if os.path.exists(f"/proc/self/fd/{n}")]
    pipes = [n for n in found if os.readlink(f"/proc/self/fd/{n}").startswith("pipe:")]
    # The events' reading end is run_in_child's own, the writing end the child's.
    os.write(1, f"{len(pipes)} {signal.set_wakeup_fd(-1)}\\n".encode())
run_in_child(work, "the work", 30.0)
"""
    )
    assert run(script) == ["2 -1"]


# ------------------------------------------------------------------------- one that gives a report

REPORT = (
    COMMON
    + """
from sigul_stack.health import bundle
from sigul_stack.system import processes
processes.KILL_AFTER_SECONDS = bundle.KILL_AFTER_SECONDS = 1.0
def work():
    ATTACK
    return b"a report"
print(bundle._in_child(work, 2.0))
"""
)


@pytest.mark.parametrize(
    ("attack", "given"),
    [
        ("pass", "b'a report'"),
        ("return bytes(100 * 1024**2)", "None"),
        ("time.sleep(600)", "None"),
        ("os.closerange(3, 50); time.sleep(600)", "None"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "None"),
    ],
)
def test_an_examination_is_not_waited_for_without_end(attack: str, given: str) -> None:
    assert run(REPORT, ATTACK=attack) == [given]
