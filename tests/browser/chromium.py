"""The browser of the browser tests. Importing this module does not need Playwright."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def chromium() -> Iterator[Any]:
    """Start the browser, or skip the test if there is no browser or no Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: no browser tests")
    from tests.browser import lab

    if lab.find_browser() is None:
        pytest.skip("no Chromium or Chrome is installed: no browser tests")
    with sync_api.sync_playwright() as playwright:
        browser = lab.launch(playwright)
        yield browser
        browser.close()
