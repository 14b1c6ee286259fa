"""Debian's Chromium without a screen, and what it can tell of a page: its tree, log and requests.

Nothing is fetched: browser and driver are those of the machine (`scripts/bootstrap long`), and
selenium's own way of finding and downloading them is never gone.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from unittest import mock

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

BROWSER: Final = Path("/usr/bin/chromium")
DRIVER: Final = Path("/usr/bin/chromedriver")
#: Seconds for a page to load, and for a script of the test.
_SECONDS: Final = 30
PHONE: Final = 360
SCREEN: Final = 1200
_TALL: Final = 800

#: The lowest contrast of a text on what it stands on, by WCAG 2 (1.4.3), and of which text.
_CONTRAST: Final = """
const light = c => { const v = c.map(x => x / 255).map(
    x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
const parts = text => text.match(/[\\d.]+/g).map(Number);
const behind = node => { for (let e = node; e; e = e.parentElement) {
    const c = parts(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] === 1) return c; }
  return [255, 255, 255]; };
let worst = [99, ''];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || e.closest('svg')) continue;
  const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < worst[0]) worst = [ratio, walker.currentNode.data];
}
return worst;
"""


class Chromium:
    """A browser with one window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def command(self, name: str, **settings: object) -> dict[str, Any]:
        """A command of Chromium's own protocol."""
        answer: dict[str, Any] = self._driver.execute_cdp_cmd(name, settings)
        return answer

    def show(self, width: int, *, dark: bool = False, javascript: bool = True) -> None:
        """Have a window of so many pixels, of light or dark taste."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=_TALL,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self.command("Emulation.setScriptExecutionDisabled", value=not javascript)

    def open(self, url: str) -> None:
        """Load a page."""
        self._driver.get(url)

    @property
    def title(self) -> str:
        return self._driver.title

    def _log(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self._driver.get_log(kind)  # type: ignore[no-untyped-call]
        return entries

    def told(self) -> list[str]:
        """What the console and the policy have said since the last time."""
        return [entry["message"] for entry in self._log("browser")]

    def requested(self) -> list[str]:
        """The addresses that pages have asked for since the last time."""
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def accessible(self) -> list[str]:
        """The names in the accessibility tree, in their order: what assistive technology has."""
        nodes = self.command("Accessibility.getFullAXTree")["nodes"]
        return [
            node["name"]["value"]
            for node in nodes
            if not node["ignored"] and node.get("name", {}).get("value")
        ]

    def roles(self) -> list[str]:
        """The roles in that tree."""
        nodes = self.command("Accessibility.getFullAXTree")["nodes"]
        return [node["role"]["value"] for node in nodes if not node["ignored"]]

    def width(self) -> tuple[int, int]:
        """How wide the document is, and the window."""
        wide, window = self._driver.execute_script(
            "return [document.documentElement.scrollWidth, window.innerWidth]"
        )
        return wide, window

    def lowest_contrast(self) -> tuple[float, str]:
        """The contrast of the text that is hardest to read, and that text."""
        ratio, text = self._driver.execute_script(_CONTRAST)
        return ratio, text

    def picture(self, width: int, height: int) -> bytes:
        """A PNG of the page's top."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        answer = self.command(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip
        )
        return base64.b64decode(answer["data"])


@contextlib.contextmanager
def chromium(directory: Path) -> Iterator[Chromium]:
    """A browser, with all that it writes in `directory`, while the block lasts."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in (
        "--headless=new",
        "--hide-scrollbars",
        "--disable-lcd-text",
        # A container has neither what its sandbox needs nor room in /dev/shm.
        "--no-sandbox",
        "--disable-dev-shm-usage",
        # It asks its maker for nothing.
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--no-proxy-server",
        f"--user-data-dir={directory / 'profile'}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    offline = {"SE_OFFLINE": "true", "SE_AVOID_STATS": "true", "HOME": str(directory)}
    with mock.patch.dict(os.environ, offline):
        driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
        try:
            driver.set_page_load_timeout(_SECONDS)
            driver.set_script_timeout(_SECONDS)
            browser = Chromium(driver)
            # What its own first page has asked for is no page's of the test.
            browser.open("about:blank")
            browser.told()
            browser.requested()
            yield browser
        finally:
            driver.quit()
