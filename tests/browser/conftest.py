"""A real JupyterLab server and a real browser; without Chromium these tests skip and say so."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

ROOT = Path(__file__).parents[2]
TOKEN = "reader"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="chromium is not installed"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab that serves copies of the chapters."""
    folder = tmp_path_factory.mktemp("jupyter")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    shutil.copytree(ROOT / "data", folder / "data")
    # Every cell stays in the page, also those that are scrolled away.
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))
    # No question about news lies over what is looked at.
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false"}))
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    environment = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "PYTHONPATH": str(ROOT),
    }
    with (folder / "jupyter.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_answered(f"{address}/api?token={TOKEN}", server)
            yield address
        finally:
            server.terminate()
            server.wait(30)


def wait_until_answered(address: str, server: "subprocess.Popen[bytes]", timeout_s: float = 60.0) -> None:
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        assert server.poll() is None, "JupyterLab ended"
        try:
            with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - our own server
                return
        except urllib.error.URLError:
            time.sleep(0.2)
    pytest.fail("JupyterLab did not answer")


# Playwright keeps an event loop running in this thread while it is open, which would refuse the
# `asyncio.run` of whatever test comes next in the same worker: it closes behind the last test of a module.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


Open = Callable[..., list[str]]


@pytest.fixture
def open_notebook(page: Page, jupyter: str) -> Iterator[Open]:
    """Opens a notebook of the folder `notebooks`; returns a list to which its page's complaints are added."""

    def opened(name: str) -> list[str]:
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        # A workspace of its own does not open again what an earlier test had open.
        page.goto(f"{jupyter}/lab/workspaces/{Path(name).stem}/tree/notebooks/{name}?token={TOKEN}")
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        # What is asked before the kernel answers is not run.
        page.wait_for_selector("text=/\\| Idle/", timeout=60_000)
        page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        return complaints

    yield opened
    # Playwright waits for a promise for ever, so one that resolves stands beside it.
    page.evaluate("""() => Promise.race([
      window.jupyterapp.serviceManager.sessions.shutdownAll(),
      new Promise(done => setTimeout(done, 10000)),
    ])""")


@pytest.fixture
def open_cells(jupyter: str, open_notebook: Open) -> Open:
    """The same for a new notebook of these cells."""

    def opened(name: str, cells: list[str]) -> list[str]:
        v4: Any = nbformat.v4
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        notebook = v4.new_notebook(metadata=kernel, cells=[v4.new_code_cell(cell) for cell in cells])
        content = json.dumps({"type": "notebook", "content": notebook}).encode()
        address = f"{jupyter}/api/contents/notebooks/{name}?token={TOKEN}"
        request = urllib.request.Request(address, content, method="PUT")  # noqa: S310 - our own server
        with urllib.request.urlopen(request, timeout=30):  # noqa: S310 - our own server
            return open_notebook(name)

    return opened


@pytest.fixture
def run_cell(page: Page) -> Callable[[int], Locator]:
    """Runs the cell of that number, and returns where its outputs are; does not wait for it."""

    def run(number: int) -> Locator:
        page.evaluate(
            """number => {
              window.jupyterapp.shell.currentWidget.content.activeCellIndex = number;
              window.jupyterapp.commands.execute("notebook:run-cell");
            }""",
            number,
        )
        return page.locator(".jp-Notebook .jp-Cell").nth(number).locator(".jp-Cell-outputArea")

    return run


@pytest.fixture
def use_theme(page: Page) -> Callable[[str], None]:
    """Switches JupyterLab to its theme "light" or "dark"."""

    def use(tone: str) -> None:
        theme = f"JupyterLab {tone.capitalize()}"
        page.evaluate(
            "t => { window.jupyterapp.commands.execute('apputils:change-theme', {theme: t}) }", theme
        )
        light = str(tone == "light").lower()
        page.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached")

    return use


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def on_stage(page: Page) -> Callable[..., Any]:
    """Evaluates JS in the worker where the network panel's `stage` plays, again until it gives something."""

    def evaluate(javascript: str, timeout_s: float = 40.0) -> Any:
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            for worker in page.workers:
                if worker.evaluate("() => 'stage' in self"):
                    found = worker.evaluate(f"() => {{ const stage = self.stage; return ({javascript}) }}")
                    if found:
                        return found
            page.wait_for_timeout(100)
        raise TimeoutError(f"no stage says anything but no to {javascript}")

    return evaluate
