"""What screens show once they were used: answers of the playground, proofs, a refusal and a dead letter."""

import re
from collections.abc import Callable
from typing import Any, Final

from playwright.sync_api import Page

from contracts.envelope import Event
from contracts.facts import CheckpointReady
from shared.runtime.clock import SystemClock
from testbed import factories
from testbed.stack import Stack
from testbed.story import Story

PROMPT: Final = "A parcel has not arrived after ten days. What should I answer?"
Show = Callable[[Stack, Page], None]


def ask_both(stack: Stack, page: Page) -> None:
    """Ask two versions, and wait for both answers."""
    page.get_by_label("Prompt").fill(PROMPT)
    page.get_by_label("Tokens").fill("24")
    page.get_by_label("Key of the gateway").fill(stack.headers["authorization"].removeprefix("Bearer "))
    page.get_by_role("button", name="Ask both").click()
    page.locator("p.answer").nth(1).wait_for()


def wait_for_proofs(_stack: Stack, page: Page) -> None:
    """Wait until the proofs of a version have come."""
    page.get_by_text("Reading signatures").wait_for(state="detached")
    page.locator("#proofs").get_by_text(re.compile("^(proven|stated)$")).first.wait_for()


RESULTS: Final[dict[str, Show]] = {"playground": ask_both, "version": wait_for_proofs}
"""What is done on a screen before its picture is taken, by the name of the picture."""


def announce_what_is_refused(stack: Stack) -> None:
    """Announce a checkpoint that is refused, and one that no service can read, and wait for what becomes of them."""
    story, run = Story(SystemClock().now()), "billing-bot-run-1"
    training = factories.training().model_copy(update={"run_id": run})
    base = factories.base().model_copy(update={"name": "tiny-llama"})
    ready = factories.fact(CheckpointReady, model="billing-bot", training=training, base=base)
    announced = story.event(ready, "billing-bot", run, by="admin")
    unreadable: Event[Any] = Event[Any].model_validate({**announced.model_dump(by_alias=True), "id": "x-1", "data": {}})
    stack.publish_as("admin", announced, unreadable)
    stack.await_event("checkpoint.rejected", "billing-bot")
