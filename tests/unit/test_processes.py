"""Families of processes: what passes through their pipes, pauses, and how children end."""

from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest

from sigul_stack.system import processes
from sigul_stack.system.pipes import EventReader, ParentPipes
from sigul_stack.system.processes import BackOff

#: A family of the process that it runs in. Children do what the plan says.
FAMILY = """
import os, sys, time
from sigul_stack.errors import SigulError
from sigul_stack.system import processes
from sigul_stack.system.processes import *
import signal

processes.KILL_AFTER_SECONDS = 10

class Family(ProcessFamily):
    def __init__(self, plan):
        self.stop = SignalPipe(signal.SIGTERM)
        super().__init__(
            plan, lambda: plan, stop=self.stop, reload=SignalPipe(signal.SIGHUP),
            back_off=BackOff(first=0.0),
        )
        self.said = []

    def run(self, children, seconds=20):
        with self._running():
            for _ in range(children):
                assert self._start(Child(), self._plan)
            end = time.monotonic() + seconds
            while self._children and time.monotonic() < end and not self.is_done():
                self._wait(0.05)
        assert not self._children
        print(self.said)

    def is_done(self): return False
    def _is_settled(self): return True
    def _try_plan(self, plan): self.said.append("plan")
    def _handle_event(self, child, code, body): self.said.append((code, body))
    def _handle_end(self, child, code): self.said.append((code, child.failure))
    def _dismiss(self, child):
        child.close_control()
        return 0.2
"""


def run(code: str) -> str:
    """What a program with a family prints."""
    result = subprocess.run(
        [sys.executable, "-c", FAMILY + code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_events_and_the_end_of_each_child_are_heard() -> None:
    code = """
def work(parent):
    parent.send(b"A", b"body")
    parent.send(b"B")
    raise SigulError("no room", "make some")
Family(work).run(1)
"""
    assert run(code) == "[(b'A', b'body'), (b'B', b''), (1, 'no room; make some')]"


def test_a_child_ends_with_its_control_pipe_though_another_lives() -> None:
    code = """
class Two(Family):
    def is_done(self):
        if len(self.said) == 2:
            next(iter(self._children.values())).close_control()
        return len(self.said) == 3
def work(parent):
    parent.send(b"A")
    parent.command()
Two(work).run(2)
"""
    assert run(code) == "[(b'A', b''), (b'A', b''), (0, '')]"


def test_who_does_not_end_in_time_is_killed() -> None:
    code = """
class Deaf(Family):
    def is_done(self): return bool(self.said)
def work(parent):
    parent.send(b"A")
    time.sleep(600)
begin = time.monotonic()
Deaf(work).run(1)
assert time.monotonic() - begin < 8
"""
    assert run(code) == "[(b'A', b'')]"


def test_a_deadline_is_kept_while_the_family_serves() -> None:
    code = """
family = Family(lambda parent: time.sleep(600))
start = family._start
def timed(child, work):
    child.deadline = time.monotonic() + 0.2
    return start(child, work)
family._start = timed
family.run(1)
"""
    assert run(code) == "[(-9, '')]"


def test_a_reload_waits_until_the_last_one_is_settled() -> None:
    code = """
class Slow(Family):
    def _is_settled(self):
        self.said.append("asked")
        return len(self.said) > 2
    def is_done(self): return "plan" in self.said
family = Slow(lambda parent: parent.command())
os.kill(os.getpid(), signal.SIGHUP)
family.run(1)
"""
    assert run(code) == "['asked', 'asked', 'asked', 'plan']"


def test_a_long_failure_is_cut_to_what_a_pipe_takes_whole() -> None:
    reader, writer = os.pipe()
    try:
        ParentPipes(control=-1, events=writer).send(b"!", b"x" * 100_000)
        ParentPipes(control=-1, events=writer).send(b"A")
        events = EventReader(reader)
        assert list(events.read() or ()) == [(b"!", b"x" * (select.PIPE_BUF - 3))]
        assert list(events.read() or ()) == [(b"A", b"")]
    finally:
        os.close(reader)
        os.close(writer)


def test_pauses_double_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])

    def pauses(back_off: BackOff) -> list[float]:
        found = []
        for _ in range(9):
            back_off.failed()
            found.append(back_off.remaining())
            now[0] += found[-1]
            assert back_off.remaining() == 0
        return found

    at_once = BackOff(first=0.0)
    assert pauses(at_once) == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    at_once.reset()
    assert pauses(at_once)[:2] == [0, 0.5]
    assert pauses(BackOff(first=0.5))[:3] == [0.5, 1, 2]
