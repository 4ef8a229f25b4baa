"""A person at the console of a stack: signs in with the printed link, reads, and orders; by names and roles only."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page, expect

from testbed.browser import LONGEST_MS, Observed, open_window
from testbed.stack import Stack


def printed_link(stack: Stack, name: str | None = None) -> str:
    """Return what `slipway open` prints, for a person who has a key of the stack or for that of this machine."""
    key = ("--key", str(stack.state / "keys/credentials" / f"{name}.nk")) if name is not None else ()
    return stack.ok("open", *key).strip()


@dataclass
class Person:
    """A person with a browser of their own.

    Attributes:
        name: Whose key signs in.
        page: What the person sees.
        observed: What the browser did meanwhile.
    """

    name: str
    page: Page
    observed: Observed

    @classmethod
    def with_window(cls, browser: Browser, name: str) -> "Person":
        return cls(name, *open_window(browser))

    def sign_in(self, link: str) -> None:
        self.page.goto(link)
        self.page.get_by_role("button", name="Sign in").press("Enter")
        expect(self.page.get_by_role("heading", name="Fleet", exact=True)).to_be_visible(timeout=LONGEST_MS)

    def open_screen(self, name: str) -> None:
        """Choose a screen in the navigation."""
        self.page.get_by_role("navigation", name="Screens").get_by_role("link", name=name, exact=True).click()
        self.sees_heading(name)

    def goto(self, path: str) -> None:
        """Open a deep link."""
        here = urlsplit(self.page.url)
        self.page.goto(f"{here.scheme}://{here.netloc}{path}")

    def sees(self, text: str | re.Pattern[str], within: Locator | None = None, timeout_s: float = 60) -> None:
        place = within or self.page.get_by_role("main")
        expect(place.get_by_text(text).first).to_be_visible(timeout=timeout_s * 1000)

    def sees_heading(self, name: str | re.Pattern[str], timeout_s: float = 60) -> None:
        expect(self.page.get_by_role("heading", name=name).first).to_be_visible(timeout=timeout_s * 1000)

    def follow(self, name: str | re.Pattern[str], *, exact: bool = False) -> None:
        """Follow a link, once it is there."""
        self.page.get_by_role("main").get_by_role("link", name=name, exact=exact).first.click()

    def row(self, text: str) -> Locator:
        """Return the first row of a table that has a text."""
        return self.page.get_by_role("row").filter(has_text=text).first

    def order(self, label: str, text: str, button: str) -> None:
        """Write into a field, go on with the Tab key to a button, and press it."""
        self.page.get_by_label(label).first.fill(text)
        self.page.keyboard.press("Tab")
        expect(self.page.get_by_role("button", name=button)).to_be_focused()
        self.page.keyboard.press("Enter")
        self.sees_heading("Ordered")
        self.follow("Continue")
