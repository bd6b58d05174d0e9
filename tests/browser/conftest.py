"""The system's Chromium, over a real teacher. Screenshots go to the folder that VGS_SCREENSHOTS names, if any."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from teacher_server.client_file import new_token
from tests.browser.watched_page import WatchedPage
from tests.faults.teacher_process import free_port
from tests.loopback import serving

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WAIT_MS = 20_000
TOY = Path("examples/digits")
EXAMPLES = str(TOY / "explorer/examples.jsonl")
Opened = Callable[..., WatchedPage]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = os.environ.get("VGS_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on PATH; VGS_CHROMIUM may name it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        expect.set_options(timeout=WAIT_MS)  # a busy machine is no fault of the page's
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    """Of a server of the toy's teacher with the shipped examples."""
    port = free_port()
    with serving(TOY / "models/teacher", server={"http_port": port, "examples_file": EXAMPLES}):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The same, and the token that it wants."""
    token, digest = new_token()
    clients = tmp_path_factory.mktemp("clients") / "clients.toml"
    clients.write_text(f'[clients.lab]\ntoken_sha256 = "{digest}"\n')
    port = free_port()
    server = {"http_port": port, "examples_file": EXAMPLES, "clients_file": str(clients)}
    with serving(TOY / "models/teacher", server=server):
        yield f"http://127.0.0.1:{port}", token


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("VGS_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opened]:
    """Opens an address in a context of its own; whatever the page did wrong fails the test at its end."""
    contexts: list[BrowserContext] = []
    pages: list[WatchedPage] = []

    def open_page(address: str, width: int = 1280, scheme: str = "light") -> WatchedPage:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, locale="en-GB"
        )
        contexts.append(context)
        page: Page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        watched = WatchedPage(page)
        pages.append(watched)
        page.goto(address)
        return watched

    yield open_page
    for context in contexts:
        context.close()
    for page in pages:
        page.check()
