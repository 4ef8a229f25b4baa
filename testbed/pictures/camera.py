"""Writes what a page shows as a small picture."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
from PIL import Image
from playwright.sync_api import Page

from testbed.stack import ROOT

LARGEST: Final = 300_000
"""Bytes of a picture."""
TALLEST: Final = 2000
"""Pixels of a screen that is longer than the window."""
MARGIN: Final = 12
"""Pixels that a picture shows below the card that it ends with."""
COLOURS: Final = 256
STYLES: Final = ROOT / "services/console/static/console.css"
_BOXES: Final = """
selector => [...document.querySelectorAll(selector)].map(element => {
  const box = element.getBoundingClientRect();
  return [Math.round(box.top + window.scrollY), Math.round(box.bottom + window.scrollY)];
})
"""
_HEIGHT: Final = "document.documentElement.scrollHeight"
Spans = Sequence[Sequence[int]]
Colour = tuple[int, ...]


@dataclass(frozen=True)
class Camera:
    """Writes pictures into a folder.

    Attributes:
        folder: Where they go.
        written: Names of the pictures that were written.
    """

    folder: Path
    written: set[str] = field(default_factory=set)

    def shoot(self, page: Page, name: str, *, theme: Literal["light", "dark"] = "light", whole: bool = False) -> None:
        """Write a picture of a page, `NAME.png` or `NAME-dark.png`; of more than the window if it is asked for."""
        page.emulate_media(color_scheme=theme)
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement && document.activeElement.blur()")
        window = page.viewport_size
        if whole and window is not None:  # the navigation is as high as the window
            ends = end_of(page.evaluate(_HEIGHT), page.evaluate(_BOXES, ".card"), page.evaluate(_BOXES, "tbody tr"))
            page.set_viewport_size({"width": window["width"], "height": max(window["height"], ends)})
        taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        self._write(taken, name if theme == "light" else f"{name}-dark")
        if window is not None:
            page.set_viewport_size(window)
        page.emulate_media(color_scheme="light")

    def _write(self, taken: Image.Image, name: str) -> None:
        file = self.folder / f"{name}.png"
        taken.save(file, optimize=True)
        if file.stat().st_size > LARGEST:
            with_palette(taken, theme_colours(STYLES.read_text())).save(file, optimize=True)
        if file.stat().st_size > LARGEST:
            raise RuntimeError(
                f"{file} has {file.stat().st_size} bytes; the limit is {LARGEST}: show less of the page."
            )
        self.written.add(name)
        print(f"{file.name:<32}{taken.width} x {taken.height}  {file.stat().st_size / 1000:.0f} kB", flush=True)


def end_of(height: int, cards: Spans, rows: Spans, tallest: int = TALLEST) -> int:
    """Return where the picture of a page ends: below a card, else below a row of a table, never within one.

    Args:
        height: Of the page.
        cards: Top and bottom of each card.
        rows: Top and bottom of each row.
        tallest: The picture has at most so many pixels.
    """
    if height <= tallest:
        return height
    for spans, least, margin in ((cards, tallest // 2, MARGIN), (rows, 0, 0)):
        ends = [bottom for _, bottom in spans if least < bottom + margin <= tallest]
        whole = [end for end in ends if not any(top < end + margin and end < bottom for top, bottom in spans)]
        if whole:
            return max(whole) + margin
    return tallest


def theme_colours(styles: str) -> list[Colour]:
    """Return the colours that a style sheet names."""
    named = dict.fromkeys(re.findall(r"#([0-9a-f]{6})\b", styles))
    return [tuple(bytes.fromhex(name)) for name in named]


def with_palette(taken: Image.Image, kept: Sequence[Colour]) -> Image.Image:
    """Return a picture in 256 colours: rare colours of the theme stay as they are, the others are the nearest."""
    present = {colour for _, colour in taken.getcolors(taken.width * taken.height) or ()}
    own = [colour for colour in kept if colour in present][: COLOURS // 2]
    others = taken.quantize(COLOURS - len(own), dither=Image.Dither.NONE).getpalette() or []
    palette = np.array([*own, *zip(*[iter(others[: 3 * (COLOURS - len(own))])] * 3, strict=False)], dtype=np.int32)
    pixels = np.asarray(taken, dtype=np.int32).reshape(-1, 3)
    colours, index = np.unique(pixels, axis=0, return_inverse=True)  # Pillow's own search takes only about the nearest
    nearest = np.array([((palette - colour) ** 2).sum(axis=1).argmin() for colour in colours], dtype=np.uint8)
    reduced = Image.fromarray(nearest[index.reshape(taken.height, taken.width)], mode="P")
    reduced.putpalette(palette.astype(np.uint8).tobytes())
    return reduced
