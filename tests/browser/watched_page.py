"""A page whose every request and complaint is noted."""

from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, Request

INLINE = ("data", "blob")


class WatchedPage:
    """`page` is Playwright's; `expected` holds parts of complaints that a test provokes."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.expected: list[str] = []
        self._complaints: list[str] = []
        self._requests: list[str] = []
        page.on("console", lambda said: self._note(said.type, said.text))
        page.on("pageerror", lambda error: self._note("error", str(error)))
        page.on("request", self._ask)

    def screenshot(self, path: Path) -> None:
        """Of the whole page, in a window as high as it is: what is sticky would else cover something."""
        size = self.page.viewport_size
        assert size is not None
        height = self.page.evaluate("document.documentElement.scrollHeight")
        self.page.set_viewport_size({"width": size["width"], "height": height})
        self.page.screenshot(path=path)
        self.page.set_viewport_size(size)

    def overflow(self) -> int:
        """Pixels that the page is wider than the window."""
        return self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    def check(self) -> None:
        """No complaint but those expected, and nothing asked of another place."""
        assert [c for c in self._complaints if not any(e in c for e in self.expected)] == []
        home = urlsplit(self._requests[0])
        for url in map(urlsplit, self._requests):
            assert url.scheme in INLINE or url[:2] == home[:2], f"the page asked {url.geturl()}"
        if home.scheme == "file":
            assert [u for u in self._requests if urlsplit(u).scheme == "file"] == [
                self._requests[0]
            ]

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self._complaints.append(text)

    def _ask(self, request: Request) -> None:
        self._requests.append(request.url)
