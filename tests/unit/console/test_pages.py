"""What each screen shows of the fleet of `testbed.story`, as text."""

import re

import pytest

from testbed.screens import Screen, Shown, screens
from tests.kit.page_text import page_text

SHOWN = Shown(
    model="faq-de",
    release_id="r-0000000000000026-1",
    alert_id="search-ranker.v2.int8/ttft-p95/4",
    target="faq-de.v2.int8",
)
SCREENS = {
    **{screen.name: screen for screen in screens(SHOWN).values() if screen.name != "playground"},  # needs a gateway
    "promoted": Screen("promoted", "/releases/r-0000000000000010-1"),
    "resolved": Screen("resolved", "/alerts?state=resolved"),
}


@pytest.mark.parametrize("name", SCREENS)
def test_a_screen(admin, snapshot, name):
    page = admin.get(SCREENS[name].address)
    assert page.status_code == 200
    assert re.sub(r"\| [A-Z2-7]{8} \|", "| KEY |", page_text(page.text)) == snapshot
