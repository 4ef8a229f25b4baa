"""Make the pictures of the documentation: python -m testbed.pictures [FOLDER]; about five minutes.

It ends with an error unless every picture was written: with the output of the stack, also after SIGTERM.
"""

import hashlib
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from testbed.browser import chromium
from testbed.models import tiny_base, tiny_lora
from testbed.person import Person, printed_link
from testbed.pictures.camera import Camera
from testbed.pictures.results import RESULTS, announce_what_is_refused
from testbed.pictures.terminal import Recording
from testbed.screens import Shown, screens
from testbed.stack import POLICY, ROOT, Stack
from testbed.users import Users

MODELS = ("support-bot", "faq-bot")
MODEL = MODELS[0]
SURE = {"min_requests": 10, "alpha": 0.01, "window_s": 5}
TRIGGERS = (
    {"name": "slow", "metric": "ttft_ms", "threshold": 800, "allowed_ratio": 0.1, **SURE},
    {"name": "errors", "metric": "error_ratio", "threshold": 0.05, **SURE},
)
FIRST = {
    **POLICY,
    "triggers": [{**trigger, "action": "manual"} for trigger in TRIGGERS],
    "canary": {"steps": [0.4], "min_requests": 100, "beta": 0.9, "deadline_s": 600},
}
FULL = {
    **FIRST,
    "triggers": [{**trigger, "action": "automatic"} for trigger in TRIGGERS],
    "rehearsal": "required",
    "promotion": {"mode": "manual"},
}
LONG_CANARY = {**FIRST, "canary": {"steps": [0.2], "min_requests": 50_000, "deadline_s": 3600}}
SETTINGS = {
    "MONITOR_WINDOW_S": "10",
    "MONITOR_LATENESS_S": "2",
    "MONITOR_UPDATE_EVERY_S": "3",
    "MONITOR_ASSESS_EVERY_S": "3",
}
"""Shorter windows, so that a few minutes are a line."""
DARK = frozenset({"fleet", "release", "alert"})
OTHERS = ("sign-in", "release-running", "approval", "canary-running", "terminal-release", "terminal-rollback")
"""Pictures of a moment of the story, and of the terminal."""


@dataclass
class Studio:
    """A stack, a person at its console, and what takes the pictures."""

    stack: Stack
    anna: Person
    camera: Camera
    adapters: tuple[Path, Path]

    def publish(self, model: str, version: int, policy: dict, *variants: str) -> None:
        more = [word for variant in variants or ("bf16",) for word in ("--variant", variant)]
        data = hashlib.sha256(f"training data of {model}, run {version}".encode()).hexdigest()
        more += ["--run-id", f"{model}-run-{version}", "--data-hash", f"sha256:{data}"]
        self.stack.publish(model, self.adapters[version - 1], *more, policy=policy)


def first_releases(studio: Studio) -> None:
    """Publish the first versions, and show one on its way."""
    with ThreadPoolExecutor() as pool:
        publishing = [pool.submit(studio.publish, model, 1, FIRST) for model in MODELS]
        studio.anna.follow(MODEL, exact=True)
        studio.anna.follow("v1", exact=True)
        studio.anna.page.get_by_role("progressbar").first.wait_for()
        studio.camera.shoot(studio.anna.page, "release-running", whole=True)
        for published in publishing:
            published.result()
    for model in MODELS:
        studio.stack.promoted(model)


def second_release(studio: Studio) -> None:
    """Publish a second version with two variants and a rehearsal, and approve it."""
    anna, camera = studio.anna, studio.camera
    studio.publish(MODEL, 2, FULL, "bf16", "int8")
    anna.open_screen("Releases")
    anna.follow(f"{MODEL} v2")
    anna.sees("You approve exactly", timeout_s=400)
    camera.shoot(anna.page, "approval", whole=True)
    anna.order("Comment", "Reads well on our own prompts.", "Approve")
    anna.sees_heading("Canary")
    studio.stack.promoted(MODEL)


def incident(studio: Studio) -> None:
    """Slow the second version down until an alert moves its traffic."""
    drill = ("--fault", "delay_ms=1500", "--share", "0.9", "--for", "120s", "--reason", "a slow engine, on purpose")
    studio.stack.ok("drill", MODEL, *drill)
    studio.stack.await_event("rollback.completed", MODEL)
    (back,) = studio.stack.events("rollback.completed", MODEL)
    failed = back["data"]["failed"]
    target = f"{failed['model']}.v{failed['version']}.{failed['variant']}"
    studio.stack.ok("drill", MODEL, "--target", target, "--stop", "--reason", "the drill is over")


def running_canary(studio: Studio, model: str) -> None:
    """Show a canary that is under way, once it was assessed for a while."""
    release = studio.stack.events("release.opened", model)[-1]["data"]["release_id"]
    studio.anna.goto(f"/releases/{release}/canary")
    for plot in ("evidence", "latency"):
        studio.anna.page.locator(f"svg.chart.{plot}").wait_for(timeout=120_000)
    studio.camera.shoot(studio.anna.page, "canary-running", whole=True)


def every_screen(studio: Studio, shown: Shown) -> None:
    for screen in screens(shown).values():
        studio.anna.goto(screen.address)
        studio.anna.page.wait_for_load_state()
        if screen.name in RESULTS:
            RESULTS[screen.name](studio.stack, studio.anna.page)
        studio.camera.shoot(studio.anna.page, screen.name, whole=True)
        if screen.name in DARK:
            studio.camera.shoot(studio.anna.page, screen.name, theme="dark", whole=True)


def terminals(studio: Studio) -> None:
    """Show what the commands print about the same releases."""
    recorded = {
        "terminal-release": (("status", MODEL), ("routes",)),
        "terminal-rollback": (("alerts", MODEL, "--all"), ("routes", MODEL), ("versions", MODEL)),
    }
    page = studio.anna.page.context.browser.new_page(viewport={"width": 1100, "height": 100})
    for name, commands in recorded.items():
        recording = Recording(studio.stack)
        for command in commands:
            recording.run(*command)
        page.set_content(recording.page())
        size = page.locator("pre").bounding_box()
        page.set_viewport_size({"width": round(size["width"]), "height": round(size["height"])})
        studio.camera.shoot(page, name)
    page.close()


def take(studio: Studio) -> None:
    studio.anna.page.goto(link := printed_link(studio.stack, "anna"))
    studio.camera.shoot(studio.anna.page, "sign-in")
    studio.anna.sign_in(link)
    first_releases(studio)
    url = f"http://127.0.0.1:{studio.stack.part('gateway')['port']}"
    with ExitStack() as traffic:
        users = [Users(url, studio.stack.headers, model, rps=6.0 - number) for number, model in enumerate(MODELS)]
        for asking in users:
            traffic.enter_context(asking)
        second_release(studio)
        studio.publish("faq-bot", 2, LONG_CANARY)
        incident(studio)
        announce_what_is_refused(studio.stack)
        studio.stack.await_event("canary.assessed", "faq-bot", timeout_s=400)  # the fleet shows it
        running_canary(studio, "faq-bot")
        (alert, *_) = studio.stack.events("alert.raised", MODEL)
        second = studio.stack.events("release.opened", MODEL)[-1]["data"]
        shown = Shown(MODEL, second["release_id"], alert["data"]["alert_id"], f"{MODEL}.v1.bf16")
        every_screen(studio, shown)
        terminals(studio)
    check(studio, shown, users)


def check(studio: Studio, shown: Shown, users: list[Users]) -> None:
    """Raise RuntimeError if a picture is missing, or if what the pictures show went wrong."""
    names = {screen.name for screen in screens(shown).values()} | {f"{name}-dark" for name in DARK} | set(OTHERS)
    missing = sorted(names - studio.camera.written)
    if missing:
        raise RuntimeError(f"no picture was written of {', '.join(missing)}: see what precedes this")
    failed = [failure for asking in users for failure in asking.failed]
    silent = [asking for asking in users if not asking.answered]
    if failed or silent or studio.anna.observed.problems:
        raise RuntimeError(f"{len(silent)} models got no answer; {failed[:3]}; {studio.anna.observed.problems[:3]}")


def end(number: int, _frame: object) -> None:
    raise SystemExit(f"ended by {signal.Signals(number).name} before all pictures were written")


def main() -> None:
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs/pictures"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, chromium() as browser:
        base = tiny_base(Path(scratch) / "tiny-llama")
        adapters = (tiny_lora(base, Path(scratch) / "one"), tiny_lora(base, Path(scratch) / "two", seed=5))
        with Stack(Path(scratch) / "state", **SETTINGS) as stack:
            try:
                stack.ok("base", "import", str(base))
                stack.ok("keys", "add", "anna", "--role", "operator", "--role", "approver")
                take(Studio(stack, Person.with_window(browser, "anna"), Camera(folder), adapters))
            except BaseException:  # the folder with the output is removed
                print(stack.tail(), file=sys.stderr, flush=True)
                raise
    print(f"all pictures were written to {folder}", flush=True)


if __name__ == "__main__":
    main()
