"""The study's page in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from ohif import find_chromium
from tiny_study import ROOT

PICTURES = ROOT / ".artifacts" / "study_page"
AXE = ROOT / ".artifacts" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
"""Where `tests/clients/setup.sh` puts the checker of accessibility, if there is an npm."""
SECONDS = 120
_FLAGS = ("--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=_FLAGS, timeout=SECONDS * 1000)
        expect.set_options(timeout=SECONDS * 1000)
        yield browser
        browser.close()


class StudyPage:
    """One window with the page.

    Args:
        browser: where.
        url: of the server.
        reader: name of whoever looks; empty for nobody.
        more: further options of the window, such as its size.
    """

    def __init__(self, browser: Browser, url: str, reader: str = "anna", **more: Any) -> None:
        options = {"viewport": {"width": 1400, "height": 900}, "color_scheme": "light", **more}
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(SECONDS * 1000)
        if reader:
            self.context.add_init_script(f"localStorage.setItem('semisam-reader', {reader!r})")
        self.page: Page = self.context.new_page()
        self.wrong: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda line: self.wrong.append(line.text) if line.type == "error" else None)
        self.page.on("request", lambda asked: None if asked.url.startswith(url) else self.elsewhere.append(asked.url))
        self.url = url

    def open(self, part: str = "") -> StudyPage:
        """``scan/NAME``, ``work``, ``steps``, or the study itself."""
        self.page.goto(f"{self.url}/semisam/#/{part}")
        self.page.locator("main h1").first.wait_for()
        return self

    def press(self, name: str) -> None:
        """A button."""
        self.page.get_by_role("button", name=name, exact=True).first.click()

    def cards(self) -> Locator:
        """The scans as pictures."""
        return self.page.locator(".card")

    def drawn(self) -> None:
        """Wait until the picture of each scan, or each plane, is there."""
        self.page.wait_for_function(
            """() => document.querySelector('img.picture, .plane canvas')
                && [...document.querySelectorAll('img.picture')].every(each => each.naturalWidth > 0)
                && [...document.querySelectorAll('.plane canvas')].every(each => {
                  const {width, height} = each;
                  const {data} = each.getContext('2d').getImageData(0, 0, width, height);
                  return data.some((value, at) => at % 4 < 3 && value > 40);
                })"""
        )
        self.page.wait_for_timeout(300)

    def picture(self, name: str) -> Path:
        """Keep a screenshot."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        path = PICTURES / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def faults(self) -> list[str]:
        """Serious faults of accessibility on the screen, as axe-core finds them; skips the test without axe-core."""
        if not AXE.is_file():
            pytest.skip("axe-core is not there: tests/clients/setup.sh fetches it where there is an npm")
        self.page.evaluate(AXE.read_text(encoding="utf-8"))  # not as a script tag: the page lets none in
        found = self.page.evaluate("axe.run()")
        serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
        return [f"{each['id']}: {each['nodes'][0]['html']}" for each in serious]

    def too_wide(self) -> int:
        """Pixels that the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))
