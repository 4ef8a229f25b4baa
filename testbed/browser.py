"""Debian's chromium, driven by Playwright: what a person sees, and what the browser did meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from testbed.monitoring import require

SIZE: Final = {"width": 1280, "height": 800}
REPORT_VIOLATIONS: Final = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`content security policy: ${event.violatedDirective} refused ${event.blockedURI}`));
"""
ONLY_VIOLATIONS: Final = {"resultTypes": ["violations"]}
COLOURS: Final = {**ONLY_VIOLATIONS, "runOnly": ["color-contrast"]}
GRAVE: Final = ("serious", "critical")
LONGEST_MS: Final = 120_000
"""How long a page may take until it shows what a test waits for."""


@dataclass
class Observed:
    """What a browser did besides showing pages.

    Attributes:
        hosts: The hosts that it sent requests to, with their ports.
        problems: Errors and warnings of scripts and of the content security policy, dialogs, windows that opened.
    """

    hosts: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def follow(self, context: BrowserContext) -> None:
        """Note what the pages of a context do from now on."""
        context.add_init_script(REPORT_VIOLATIONS)
        context.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        context.on("console", self._note_message)
        context.on("weberror", lambda error: self.problems.append(f"error: {error.error}"))
        context.on("dialog", self._note_dialog)
        context.on("page", self._note_page)

    def _note_message(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")

    def _note_dialog(self, dialog: Any) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note_page(self, page: Page) -> None:
        page.on("websocket", lambda socket: self.hosts.add(urlsplit(socket.url).netloc))
        page.on("popup", lambda popup: self.problems.append(f"window: {popup.url}"))


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser without a window; without chromium the test is skipped."""
    program = require("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


def open_window(browser: Browser, **options: Any) -> tuple[Page, Observed]:
    """Return a page with cookies of its own, and what its browser does."""
    context = browser.new_context(viewport=SIZE, reduced_motion="reduce", timezone_id="UTC", **options)
    context.set_default_timeout(LONGEST_MS)
    observed = Observed()
    observed.follow(context)
    return context.new_page(), observed


def grave_findings(page: Page) -> list[str]:
    """Return what axe finds serious or critical on a page in light, and about its colours in dark."""
    page.emulate_media(color_scheme="light")
    violations = Axe().run(page, options=ONLY_VIOLATIONS).response["violations"]
    page.emulate_media(color_scheme="dark")
    violations += page.evaluate("(options) => axe.run(options)", COLOURS)["violations"]
    page.emulate_media(color_scheme="light")
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:200]}: {node['failureSummary']}"
        for violation in violations
        if violation["impact"] in GRAVE
        for node in violation["nodes"]
    ]
