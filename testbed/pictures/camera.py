"""Writes what a page shows as a small picture."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from PIL import Image
from playwright.sync_api import Page

LARGEST: Final = 300_000
"""Bytes of a picture."""
TALLEST: Final = 1500
"""Pixels of a screen that is longer than the window."""
COLOURS: Final = 256


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
        """Write a picture of a page, `NAME.png` or `NAME-dark.png`; of the whole page if it is asked for."""
        page.emulate_media(color_scheme=theme)
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement && document.activeElement.blur()")
        taken = Image.open(io.BytesIO(page.screenshot(full_page=whole))).convert("RGB")
        taken = taken.crop((0, 0, taken.width, min(taken.height, TALLEST)))
        self._write(taken, name if theme == "light" else f"{name}-dark")
        page.emulate_media(color_scheme="light")

    def _write(self, taken: Image.Image, name: str) -> None:
        file = self.folder / f"{name}.png"
        taken.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
        if file.stat().st_size > LARGEST:
            raise RuntimeError(
                f"{file} has {file.stat().st_size} bytes; the limit is {LARGEST}: show less of the page."
            )
        self.written.add(name)
        print(f"{file.name:<32}{taken.width} x {taken.height}  {file.stat().st_size / 1000:.0f} kB", flush=True)
