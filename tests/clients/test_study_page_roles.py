"""The study's page in a browser with the server's own log-in: what a role does not allow is disabled, and said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from people_server import GOOD, save_people
from server_process import Server
from study_page import chromium
from tiny_study import TINY_LABELS, make_tiny_study, save_nifti, tiny_scan

pytestmark = [pytest.mark.clients, pytest.mark.server, pytest.mark.timeout(1800)]

NAMES = {"reader": "rita", "annotator": "anna", "admin": "adam"}


def entered(browser: Browser, server: Server, name: str) -> Page:
    """The page, as somebody who has logged in sees it."""
    page = browser.new_context().new_page()
    page.goto(f"{server.url}/semisam/")
    page.fill("#username", name)
    page.fill("#password", GOOD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Study")).to_be_visible()
    return page


def test_each_role_finds_its_own_buttons_enabled(serve: Callable[..., Server], tmp_path: Path) -> None:
    save_people(tmp_path / "users", NAMES)
    study = make_tiny_study(tmp_path / "study", scans=3, finals=2)
    _, label, affine = tiny_scan(2)
    save_nifti(study / "labels" / "final" / "case_2.nii.gz", label[:-4], affine)  # drawn on another grid
    server = serve(study, labels=",".join(TINY_LABELS), users=str(tmp_path / "users"))
    server.start("/auth/")
    with chromium() as browser:
        page = entered(browser, server, "rita")
        page.get_by_role("button", name="Cannot be used 1").click()
        expect(page.get_by_text("The final label of case_2 cannot be used")).to_be_visible()
        for name, enabled in (("rita", 0), ("anna", 1), ("adam", 3)):
            page = entered(browser, server, name)
            page.goto(f"{server.url}/semisam/#/work")
            starts = page.get_by_role("button", name="Start", exact=True)
            expect(starts).to_have_count(3)
            assert sum(each.is_enabled() for each in starts.all()) == enabled
            expect(page.get_by_text(f"{name} has logged in with another role")).to_have_count(3 - enabled)
            page.context.close()
