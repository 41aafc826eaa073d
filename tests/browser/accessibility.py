"""What axe-core finds wrong on a page, in the light and the dark theme."""

from __future__ import annotations

from typing import Any

import pytest

# A plot and an equation are one image each, which has a description or its own markup.
_CONTEXT = {"exclude": [[".plot > *"], ["math > *"]]}


def problems(page: Any) -> list[tuple[str, str, list[str]]]:
    """Return the theme, the rule and the elements of each problem. Only the contrast depends on the theme.

    Args:
        page: An open page of Playwright. Its theme stays dark.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = []
    for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=scheme)
        options = {"preload": False, "resultTypes": ["violations"], **rules}
        for each in axe.Axe().run(page, _CONTEXT, options).response["violations"]:
            found.append((scheme, each["id"], [node["html"] for node in each["nodes"]]))
    return found
