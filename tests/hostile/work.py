"""Honest users at work: they sign with `sigul`, one request after the other, beside an attack."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.site import Site

#: What a test's report has of latency; tests/conftest.py prints it behind the last test.
LATENCY: Final = "latency"
#: The aim: with an attack at most so many times as long as without, and so many seconds more.
AIM_FACTOR, AIM_SECONDS = 2.0, 0.2
#: Seconds between two signatures of a user's as long as the attack lasts.
PAUSE: Final = 0.3


@dataclass
class Honest:
    """Users of `key` by their passphrases, each with the configuration NAME.conf.

    Without an attack each signs `calm` times first, at the same time as the others, where `before`
    has no such latency yet: it is printed beside that of an attack.
    """

    site: Site
    key: str
    passphrases: Mapping[str, str]
    #: Where lines about latency go.
    properties: list[tuple[str, object]]
    calm: int = 3
    before: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def during(self, attack: str, least: int = 3) -> Iterator[None]:
        """The block is the attack; meanwhile all sign, at least `least` times each.

        Fails where one of their requests did; prints how long they took. `attack` names it there.
        """
        if not self.before:
            self.before += self._sign(threading.Event(), self.calm, until_over=False)
        over, done = threading.Event(), _Result()
        working = threading.Thread(target=done.keep, args=(self, over, least))
        working.start()
        try:
            yield
        finally:
            over.set()
            working.join()
        if done.error is not None:
            raise done.error
        self._tell(attack, done.seconds)

    def sign(self, user: str) -> float:
        """One signature of a user's; it must succeed. Returns how many seconds it took."""
        began = time.monotonic()
        name = f"honest-{user}-{threading.get_ident()}"
        data, signature = self.site.path(f"{name}.txt"), self.site.path(f"{name}.sig")
        data.write_text("what honest people sign\n")
        self.site.sigul(
            "sign-data", "-o", str(signature), self.key, str(data),
            secrets=[self.passphrases[user]], config=f"{user}.conf",
        )  # fmt: skip
        assert signature.stat().st_size > 0
        signature.unlink()
        return time.monotonic() - began

    def _sign(self, over: threading.Event, least: int, *, until_over: bool) -> list[float]:
        """All sign at once, `least` times each and until it is `over`; seconds of each signature.

        Raises the first failure, after which nobody begins another.
        """
        seconds: list[float] = []
        failures: list[BaseException] = []

        def work(user: str) -> None:
            count = 0
            while not failures and (count < least or (until_over and not over.is_set())):
                try:
                    seconds.append(self.sign(user))
                except BaseException as error:  # what it is, is raised below
                    failures.append(error)
                count += 1
                # People pause, and whoever attacks gets on with it meanwhile.
                over.wait(PAUSE if until_over else 0)

        threads = [threading.Thread(target=work, args=(user,)) for user in self.passphrases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise AssertionError("an honest request failed") from failures[0]
        return seconds

    def _tell(self, attack: str, seconds: list[float]) -> None:
        before, now = statistics.median(self.before), statistics.median(seconds)
        aim = AIM_FACTOR * before + AIM_SECONDS
        line = (
            f"{attack}: {len(seconds)} honest requests, median {now:.2f} s, worst"
            f" {max(seconds):.2f} s; without attack {before:.2f} s, worst {max(self.before):.2f} s;"
            f" aim {aim:.2f} s {'met' if now <= aim else 'MISSED'}"
        )
        print(f"LATENCY {line}")
        self.properties.append((LATENCY, line))


@dataclass
class _Result:
    """What came of honest work in a thread of its own."""

    seconds: list[float] = field(default_factory=list)
    error: BaseException | None = None

    def keep(self, honest: Honest, over: threading.Event, least: int) -> None:
        """Work until it is `over`."""
        try:
            self.seconds = honest._sign(over, least, until_over=True)
        except BaseException as error:  # raised where the test is
            self.error = error
