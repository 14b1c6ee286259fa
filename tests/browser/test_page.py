"""The bridge's page in a real browser: what is on it, and who can read it.

With SIGUL_WRITE_PICTURES=1 the pictures of docs/ are made, too, from views that never change.
"""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from sigul_stack.observe import figures
from sigul_stack.observe.page import CSP, render
from tests import views
from tests.browser.chromium import PHONE, SCREEN, Chromium, chromium

#: It starts a browser, which the fast lane has not.
pytestmark = pytest.mark.long("sigul_stack/observe", "tests/browser", "tests/views.py")

DOCS = Path(__file__).parents[2] / "docs"
VIEWS = ("calm", "troubled", "empty", "hostile")
#: WCAG 2, level AA, for text of any size.
READABLE = 4.5


class _Pages(http.server.BaseHTTPRequestHandler):
    """Gives each view's page as the bridge gives it: with the policy, and nothing else."""

    answers: ClassVar[dict[str, bytes]] = {
        f"/{name}": render(getattr(views, name)()) for name in VIEWS
    }

    def do_GET(self) -> None:
        """Answer one request."""
        page = self.answers.get(self.path)
        self.send_response(200 if page else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Security-Policy", CSP)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(page or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


def plain(text: str) -> str:
    return " ".join(text.split()).casefold()


@pytest.mark.parametrize("width", [SCREEN, PHONE])
@pytest.mark.parametrize("name", VIEWS)
def test_the_accessibility_tree_holds_every_figure(
    browser: Chromium, pages: str, name: str, width: int
) -> None:
    browser.show(width)
    browser.open(f"{pages}/{name}")
    tree = plain(" ".join(browser.accessible()))
    view = getattr(views, name)()
    wanted = views.figures_of(view) + views.points_of(view)
    assert [item for item in wanted if plain(item) not in tree] == []


@pytest.mark.parametrize("width", [SCREEN, PHONE])
def test_tables_stay_tables_and_charts_are_lists(browser: Chromium, pages: str, width: int) -> None:
    view = views.calm()
    browser.show(width)
    browser.open(f"{pages}/calm")
    roles = browser.roles()
    assert roles.count("table") == 5
    assert roles.count("rowheader") == sum(
        map(len, (view.under_way, view.recent, view.servers, view.certificates, view.logs))
    )
    assert roles.count("columnheader") == 7 + 7 + 4 + 4 + 5
    assert roles.count("listitem") >= len(views.points_of(view))
    assert {"banner", "main", "contentinfo"} <= set(roles)


@pytest.mark.parametrize("name", VIEWS)
def test_nobody_scrolls_sideways(browser: Chromium, pages: str, name: str) -> None:
    for width in (320, PHONE, 600, 737, 900, SCREEN, 2000):
        browser.show(width)
        browser.open(f"{pages}/{name}")
        wide, window = browser.width()
        assert wide <= window == width, f"{width} pixels"


@pytest.mark.parametrize("name", VIEWS)
def test_it_asks_no_other_host_and_breaks_no_policy(
    browser: Chromium, pages: str, name: str
) -> None:
    browser.show(SCREEN)
    browser.told(), browser.requested()
    browser.open(f"{pages}/{name}")
    assert browser.title.startswith("Sigul bridge: ")
    assert browser.told() == []
    assert browser.requested() == [f"{pages}/{name}"]


@pytest.mark.parametrize("name", VIEWS)
def test_it_reads_the_same_without_javascript(browser: Chromium, pages: str, name: str) -> None:
    browser.show(PHONE)
    browser.open(f"{pages}/{name}")
    before = browser.accessible()
    browser.show(PHONE, javascript=False)
    browser.open(f"{pages}/{name}")
    assert browser.accessible() == before
    assert len(before) > 20


def test_what_peers_call_themselves_stays_text(browser: Chromium, pages: str) -> None:
    browser.show(SCREEN)
    browser.open(f"{pages}/hostile")
    # The first of these names would have changed it.
    assert browser.title == f"Sigul bridge: {len(views.HOSTILE_NAMES)} conditions to see to"
    tree = browser.accessible()
    for name in views.HOSTILE_NAMES:
        assert figures.shown(name) in tree
    assert browser.roles().count("image") == 0


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", VIEWS)
def test_every_text_stands_out(browser: Chromium, pages: str, name: str, dark: bool) -> None:
    browser.show(SCREEN, dark=dark)
    browser.open(f"{pages}/{name}")
    ratio, text = browser.lowest_contrast()
    assert READABLE <= ratio < 22, text


def test_it_looks_different_at_night(browser: Chromium, pages: str) -> None:
    """And the pictures of the documentation, where they are asked for."""
    pictures = []
    for name, file, width, height, dark in (
        ("calm", "observe-page", SCREEN, 1480, False),
        ("troubled", "observe-page-phone", PHONE, 1400, True),
        ("calm", "", SCREEN, 1480, True),
    ):
        browser.show(width, dark=dark)
        browser.open(f"{pages}/{name}")
        pictures.append(browser.picture(width, height))
        if file and "SIGUL_WRITE_PICTURES" in os.environ:
            (DOCS / f"{file}.png").write_bytes(pictures[-1])
    assert pictures[0] != pictures[2]
