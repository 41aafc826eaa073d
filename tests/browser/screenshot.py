"""Runs a notebook in JupyterLab and takes screenshots of all its cells in the light theme and the dark theme.

python tests/browser/screenshot.py lessons/00_start_here.ipynb screenshots/
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from lab import launch, run_all, serve
from playwright.sync_api import Page, sync_playwright

_SETTLED = """() => {
    const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")];
    const panels = [...document.querySelectorAll(".labkit-status")];
    return prompts.every((prompt) => !prompt.textContent.includes("*"))
        && panels.every((panel) => !["queued", "running"].includes(panel.dataset.state));
}"""


def shoot(page: Page, path: Path) -> None:
    """Take one screenshot as tall as the notebook, in a window that is tall enough for all cells."""
    for height in (15_000, 15_000, None):  # twice, since JupyterLab draws only cells near the visible part
        page.evaluate(
            "document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0"
        )  # the notebook may have scrolled during the run
        height = height or page.evaluate("""() => {
            const last = [...document.querySelectorAll(".jp-Notebook .jp-Cell")].at(-1);
            return Math.ceil(last.getBoundingClientRect().bottom) + 60;
        }""")
        page.set_viewport_size({"width": 1250, "height": height})
        page.wait_for_timeout(1500)
    page.screenshot(path=path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebook", type=Path, help="notebook to run")
    parser.add_argument("folder", type=Path, help="folder for the screenshots")
    parser.add_argument("--timeout", type=int, default=300, help="longest time to wait for the notebook, in seconds")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, serve(Path(scratch)) as lab, sync_playwright() as playwright:
        shutil.copy(options.notebook, lab.folder)
        browser = launch(playwright)
        page = lab.open(browser, options.notebook.name)
        page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        run_all(page)
        page.wait_for_timeout(2000)
        page.wait_for_function(_SETTLED, timeout=1000 * options.timeout)
        for theme in ("Light", "Dark"):
            change = f"execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})"
            page.evaluate(f"window.jupyterapp.commands.{change}")
            path = options.folder / f"{options.notebook.stem}_{theme.lower()}.png"
            shoot(page, path)
            print(path)
        browser.close()


if __name__ == "__main__":
    main()
