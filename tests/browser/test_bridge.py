"""A real bridge's own page: in a browser, and the same in `sigul-stack status`, after a request."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigul_stack.observe.view import decode_view
from tests import views
from tests.browser.chromium import PHONE, SCREEN, chromium
from tests.site import Site, free_port, module

#: A site and a browser, in one test: both take their time to start.
pytestmark = pytest.mark.long(
    "sigul_stack/observe", "sigul_stack/bridge/management.py", "sigul_stack/bridge/sight.py",
    "tests/browser",
)  # fmt: skip


def test_the_page_of_a_bridge_that_has_served_somebody(tmp_path: Path) -> None:
    port = free_port()
    site = Site.make(tmp_path / "site")
    site.extra = {
        "bridge": {
            "management": f"listen: 127.0.0.1:{port}\n",
            "daemon": f"status-socket: {site.path('run')}/bridge.sock\n",
        }
    }
    site.configure()
    with site.running(), chromium(tmp_path / "chromium") as browser:
        site.sigul("list-users", secrets=[site.admin_password])
        browser.show(SCREEN, javascript=False)
        browser.open(f"http://127.0.0.1:{port}/")
        assert browser.title.startswith("Sigul bridge: ")
        assert browser.told() == []
        assert browser.requested() == [f"http://127.0.0.1:{port}/"]
        tree = " ".join(browser.accessible())
        command = [*module("stack"), "status", "-c", str(site.path("bridge.conf"))]
        view = decode_view(site.run(*command, "--json").stdout)
        [request] = view.recent
        assert (request.op, request.state) == ("list-users", "ok")
        name = request.id or "no id"
        # What has not changed between the two looks.
        for said in (
            name, request.common_name, "list-users", "✓ ok", str(view.pid), view.version,
            *(item.common_name for item in view.certificates),
        ):  # fmt: skip
            assert said in tree, said
        assert any(point in tree for point in views.points_of(view))
        browser.show(PHONE)
        browser.open(f"http://127.0.0.1:{port}/")
        wide, window = browser.width()
        assert wide <= window == PHONE
        shown = site.run(*command).stdout.decode()
        assert name in shown and "list-users" in shown
