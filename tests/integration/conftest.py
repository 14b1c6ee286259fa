"""Sites for the tests here, the cheapest first: take the first that will do.

* `running_site` runs while a module's tests do: for tests that only send requests, and remove the
  users and keys that they made. A module whose tests need other options has such a fixture of its
  own, made in the same way.
* `site` is a test's own, and is not running: for tests that start, kill, reconfigure or fill
  something. Bridge and server start in half a second.
* `template` is never started: for copies, and for programs that need no daemon.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.site import Site

#: Users that have a client certificate in the template.
CERTIFICATES = ("admin", "alice", "bob")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site that is made once and never started; its copies have two workers."""
    return Site.make(tmp_path_factory.mktemp("template") / "site", CERTIFICATES, workers=2)


@pytest.fixture
def site(template: Site, tmp_path: Path) -> Iterator[Site]:
    """A new site for one test, not running; whatever it starts is ended afterwards."""
    fresh = Site.copy(template, tmp_path / "site")
    yield fresh
    fresh.stop_all()
    shutil.rmtree(fresh.directory)


@pytest.fixture(scope="module")
def running_site(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running site for the tests of one module, which must leave no user or key behind."""
    shared_site = Site.copy(template, tmp_path_factory.mktemp("running") / "site")
    with shared_site.running():
        yield shared_site
