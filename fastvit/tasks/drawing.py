"""Colors, boxes, labels and legends on pictures, in the pictures' own pixels."""

import colorsys
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom

SHORTEST_SIDE = 256  # pixels; smaller pictures are enlarged, so that a label can be read
ENLARGED_SIDE = 4096  # pixels to which one is enlarged at most
DARK = (38, 38, 38)


def distinct_colors(count: int) -> list[Color]:
    """Far apart in hue for neighbours, however many there are."""
    colors = []
    for i in range(count):
        hue = i * 0.618034 % 1  # the golden ratio spreads any number of them
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0 if i % 2 == 0 else 0.75)
        colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colors


def enlarged(image: Image.Image) -> tuple[Image.Image, int]:
    """A picture that is large enough for labels, and the whole number by which its sides have been multiplied."""
    factor = max(1, min(-(-SHORTEST_SIDE // min(image.size)), ENLARGED_SIDE // max(image.size)))
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST), factor


def draw_boxes(image: Image.Image, boxes: Sequence[Box], texts: Sequence[str], colors: Sequence[Color]) -> None:
    """Draw frames, each with its text on top, into the picture."""
    pen, font = ImageDraw.Draw(image), _font(image)
    for (left, top, right, bottom), text, color in zip(boxes, texts, colors, strict=True):
        pen.rectangle((left, top, max(right, left), max(bottom, top)), outline=color, width=max(2, font.size // 6))
        _, _, width, height = pen.textbbox((0, 0), text, font=font)
        x = max(min(left, image.width - width), 0)
        y = max(min(top - height if top >= height else top, image.height - height), 0)  # above the frame, or within it
        pen.rectangle((x, y, x + width, y + height), fill=color)
        pen.text((x, y), text, font=font, fill=_readable_on(color))


def with_legend(image: Image.Image, entries: Sequence[tuple[str, Color]]) -> Image.Image:
    """The picture with names on their colors in rows below it."""
    font = _font(image)
    pen, pad = ImageDraw.Draw(image), font.size // 2
    places, x, y = [], 0, image.height
    for name, _ in entries:
        width = round(pen.textlength(name, font=font)) + 2 * pad
        if x and x + width > image.width:
            x, y = 0, y + 2 * font.size
        places.append((x, y, x + width, y + 2 * font.size))
        x += width
    whole = Image.new("RGB", (image.width, y + 2 * font.size if entries else image.height), "white")
    whole.paste(image)
    pen = ImageDraw.Draw(whole)
    for (name, color), place in zip(entries, places, strict=True):
        pen.rectangle(place, fill=color)
        pen.text((place[0] + pad, place[1] + pad), name, font=font, fill=_readable_on(color))
    return whole


def _font(image: Image.Image) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(max(12, min(image.size) // 40))


def _readable_on(color: Color) -> str:
    """Black or white, by the luminance of the color."""
    red, green, blue = color
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
