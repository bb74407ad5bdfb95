"""A real browser for the tests of pages: Debian's or the system's Chromium, driven by playwright."""

import shutil
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastvit.deploy.web_server import make_server

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync")
SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@contextmanager
def chromium():
    """A headless browser, for one test module; skips the tests where there is none."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="the browser is driven by playwright: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("there is no browser: apt-get install chromium")
    with api.sync_playwright() as playwright:
        options = [*QUIET, *SOFTWARE_GPU, *FAKE_CAMERA]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


def need_npm() -> None:
    """Skips the test where the page's runtime cannot be fetched."""
    from fastvit.deploy.formats.web import RUNTIME

    if shutil.which("npm") is None:
        pytest.skip("the runtime of the page comes from npm, which is not installed")
    if subprocess.run(["npm", "view", RUNTIME, "version"], capture_output=True, timeout=60).returncode:
        pytest.skip("npm reaches no registry, from which the runtime of the page comes")


@contextmanager
def served(folder: Path):
    """The address of a folder, while the block lasts."""
    with make_server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()
        thread.join()
