"""A separate JupyterLab server and a browser for its notebooks, for the browser tests and `screenshot.py`."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from playwright.sync_api import Browser, Page, Playwright, Route

ROOT = Path(__file__).resolve().parents[2]
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_FLAGS += ["--disable-component-update", "--disable-sync"]


def find_browser() -> str | None:
    """Return the path of an installed Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


def launch(playwright: Playwright) -> Browser:
    """Start the browser."""
    return playwright.chromium.launch(executable_path=find_browser(), args=_FLAGS)


class Lab:
    """A running server for the notebooks in `folder`."""

    def __init__(self, url: str, token: str, folder: Path) -> None:
        self.url, self.token, self.folder = url, token, folder
        self._pages = 0

    def write(self, name: str, *cells: str) -> str:
        """Write a notebook of code cells and return its name."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.folder / name)
        return name

    def open(self, browser: Browser, name: str, *, width: int = 1250, height: int = 900) -> Page:
        """Open a notebook in a new tab and wait for its kernel."""
        page = browser.new_page(viewport={"width": width, "height": height})
        page.route(lambda url: not url.startswith(self.url), _refuse)
        self._pages += 1  # cells can hang in a reused workspace
        page.goto(f"{self.url}/lab/workspaces/w{self._pages}/tree/{name}?reset&token={self.token}", timeout=90_000)
        page.wait_for_function(
            """() => {
                const panel = window.jupyterapp?.shell?.currentWidget;
                return panel?.sessionContext?.session?.kernel?.status === "idle";
            }""",
            timeout=90_000,
        )
        return page


def run_all(page: Page) -> None:
    """Run all cells of the open notebook, without waiting for them."""
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")


def write_cell(page: Page, code: str) -> None:
    """Replace the code in the first cell of the open notebook."""
    page.evaluate(
        """(code) => {
            const [cell] = window.jupyterapp.shell.currentWidget.content.widgets;
            cell.model.sharedModel.setSource(code);
        }""",
        code,
    )


def execute(page: Page, code: str) -> str:
    """Run code in the kernel of the open notebook, outside its cells, and return what it prints."""
    return page.evaluate(
        """async (code) => {
            const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            const future = kernel.requestExecute({ code });
            let output = "";
            future.onIOPub = ({ content }) => { output += content.text ?? (content.evalue ?? ""); };
            await future.done;
            return output;
        }""",
        code,
    )


def _refuse(route: Route) -> None:
    """Refuse requests to other servers: the project must run without a network."""
    if route.request.url.startswith(("data:", "blob:")):
        route.continue_()
    else:
        route.abort()


@contextmanager
def serve(folder: Path) -> Iterator[Lab]:
    """Serve `folder/notebooks`, and keep settings, workspaces and caches in other folders of `folder`."""
    notebooks, token = folder / "notebooks", secrets.token_hex(8)
    notebooks.mkdir(parents=True, exist_ok=True)
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false"}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
    command += [f"--port={port}", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={notebooks}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    url = f"http://127.0.0.1:{port}"
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait_for_server(url, token, server, folder / "server.log")
            yield Lab(url, token, notebooks)
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_for_server(url: str, token: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended at once:\n{log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(f"{url}/api/status?token={token}", timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not answer within a minute:\n{log.read_text()[-2000:]}")
