"""Pictures of screens: where they end, and that rare colours of the theme stay as they are."""

import random

import pytest

pytest.importorskip("PIL")
pytest.importorskip("playwright")
from PIL import Image

from testbed.pictures.camera import COLOURS, STYLES, end_of, theme_colours, with_palette

BADGE, BAD = (0x8A, 0x53, 0x00), (0xB3, 0x26, 0x1E)


@pytest.mark.parametrize(
    ("height", "cards", "rows", "expected"),
    [
        (900, [(0, 400), (420, 880)], [], 900),
        (2000, [(0, 1990)], [], 1000),
        (1500, [(0, 300), (316, 700), (716, 1490)], [], 712),
        (1500, [(0, 600), (616, 1100)], [], 612),
        (1500, [(0, 700), (0, 650), (716, 1490)], [], 712),  # beside each other
        (1500, [(0, 700), (0, 1200)], [(10, 500), (500, 980), (980, 1190)], 980),
        (1500, [(0, 1490)], [(100, 150), (150, 999), (999, 1003)], 999),
        (1500, [(0, 400), (405, 1490)], [(410, 460), (460, 1400)], 460),
    ],
)
def test_a_picture_ends_below_a_card_or_a_row_and_never_within_one(height, cards, rows, expected):
    assert end_of(height, cards, rows, 1000) == expected


def test_rare_colours_of_the_theme_stay_as_they_are():
    draw = random.Random(3)
    taken = Image.new("RGB", (200, 200))
    taken.putdata([(draw.randrange(256), draw.randrange(256), draw.randrange(256)) for _ in range(200 * 200)])
    taken.putpixel((5, 5), BADGE)
    taken.putpixel((6, 6), BAD)
    kept = with_palette(taken, theme_colours(STYLES.read_text()))
    assert len(kept.getcolors()) <= COLOURS
    shown = kept.convert("RGB")
    assert (shown.getpixel((5, 5)), shown.getpixel((6, 6))) == (BADGE, BAD)
    taken.paste((255, 255, 255), (0, 0, 4, 4))
    assert with_palette(taken, theme_colours(STYLES.read_text())).convert("RGB").getpixel((2, 2)) == (255, 255, 255)
    before = taken.quantize(COLOURS, dither=Image.Dither.NONE).convert("RGB")
    assert before.getpixel((5, 5)) != BADGE


def test_the_colours_of_both_themes_are_known():
    assert {BADGE, BAD, (0x6C, 0xB2, 0xF7)} <= set(theme_colours(STYLES.read_text()))
