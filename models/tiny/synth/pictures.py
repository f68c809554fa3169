"""Drawn scenes: coloured shapes, numbers and short words, with questions about them.

In:  a seeded `random.Random`.
Out: `Scene` values, their RGB pixels, questions and answers, and a label for every soft token.
Invariant: pixels are drawn at the size that the encoder uses, so no resize happens in training.
"""

import random
from dataclasses import dataclass
from dataclasses import field

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from synth import world

COLORS = {
    "red": (215, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 80, 220),
    "yellow": (240, 215, 45),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
    "orange": (245, 140, 30),
    "purple": (140, 50, 170),
}
NAMES = list(COLORS)
SHAPES = ["circle", "square", "triangle"]
SIGNS = ["stop", "open", "exit", "cat", "dog", "sale", "taxi", "cafe"]
# (width, height) in soft tokens of 48 pixels: what the 70-token budget makes of the sizes below.
GRIDS = [(8, 8), (8, 8), (8, 8), (9, 7), (9, 7), (7, 9), (11, 6), (6, 11)]
CELL = 48
NATURAL = {
    (8, 8): [(256, 256), (300, 300), (480, 480), (512, 512), (640, 640)],
    (9, 7): [(320, 240), (640, 480), (400, 300), (800, 600)],
    (7, 9): [(240, 320), (480, 640), (300, 400)],
    (11, 6): [(640, 360), (480, 270), (854, 480)],
    (6, 11): [(360, 640), (270, 480)],
}
# What a soft token can show of a printed text: one of its digits, or the whole word.
PRINTED = [*"0123456789", *SIGNS]
# How finely a soft token tells the sides of a box.
STEPS = 25
TEXT = 1 + len(NAMES) * len(SHAPES)


@dataclass
class Thing:
    """One shape or one text: its box in pixels."""

    kind: str
    color: str
    box: tuple

    def name(self):
        return f"{self.color} {self.kind}"

    def middle(self):
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass
class Scene:
    """A picture before it is drawn."""

    grid: tuple
    things: list = field(default_factory=list)
    text: str = ""
    seed: int = 0
    noise: float = 0.0

    def size(self):
        return self.grid[0] * CELL, self.grid[1] * CELL


def find_place(r, scene, width, height):
    """A free box, or None."""
    w, h = scene.size()
    for _ in range(30):
        if width > w - 8 or height > h - 8:
            return None
        x, y = r.randint(4, w - width - 4), r.randint(4, h - height - 4)
        box = (x, y, x + width, y + height)
        apart = (
            box[2] + 6 < o.box[0] or o.box[2] + 6 < x or box[3] + 6 < o.box[1] or o.box[3] + 6 < y
            for o in scene.things
        )
        if all(apart):
            return box
    return None


def scene(r, grid=None):
    """A random scene: one to four shapes, or one printed text and perhaps a shape."""
    s = Scene(grid or r.choice(GRIDS), seed=r.getrandbits(32))
    s.noise = r.uniform(2, 10) if r.random() < 0.4 else 0.0
    if r.random() < 0.3:
        s.text = str(r.randint(0, 99)) if r.random() < 0.6 else r.choice(SIGNS)
        height = r.randint(80, 120)
        width = int(height * 0.66 * len(s.text))
        box = find_place(r, s, width, height)
        if box is None:
            s.text = ""
        else:
            s.things.append(Thing("text", r.choice(["black", "white"]), box))
    count = r.choice([0, 1]) if s.text else r.choice([1, 1, 2, 2, 3, 4])
    for _ in range(count):
        side = r.randint(72, 150)
        box = find_place(r, s, side, side)
        thing = Thing(r.choice(SHAPES), r.choice(NAMES), box)
        if box and all(thing.name() != o.name() for o in s.things):
            s.things.append(thing)
    return s if s.things else scene(r, grid)


def font(height):
    """A bold sans font whose digits are about `height` pixels tall."""
    return ImageFont.load_default(size=int(height * 1.15))


def paint(pen, s, t, fill, scale):
    """One thing, its box scaled to the canvas."""
    x0, y0, x1, y1 = (v * scale[i % 2] for i, v in enumerate(t.box))
    if t.kind == "circle":
        pen.ellipse((x0, y0, x1, y1), fill=fill)
    elif t.kind == "square":
        pen.rectangle((x0, y0, x1, y1), fill=fill)
    elif t.kind == "triangle":
        pen.polygon([((x0 + x1) / 2, y0), (x1, y1), (x0, y1)], fill=fill)
    else:
        face = font(y1 - y0)
        left, top, right, bottom = pen.textbbox((0, 0), s.text, font=face)
        at = (x0 - left + (x1 - x0 - right + left) / 2, y0 - top + (y1 - y0 - bottom + top) / 2)
        bold = max(1, round(2 * scale[0]))
        pen.text(at, s.text, font=face, fill=fill, stroke_width=bold, stroke_fill=fill)


def draw(s, size=None):
    """RGB pixels (height, width, 3), uint8, at the encoder's size or at `size`."""
    r = random.Random(s.seed)
    size = size or s.size()
    scale = size[0] / s.size()[0], size[1] / s.size()[1]
    base = r.randint(95, 190)
    back = tuple(max(0, min(255, base + r.randint(-18, 18))) for _ in range(3))
    image = Image.new("RGB", size, back)
    pen = ImageDraw.Draw(image)
    for t in s.things:
        fill = tuple(max(0, min(255, v + r.randint(-14, 14))) for v in COLORS[t.color])
        paint(pen, s, t, fill, scale)
    pixels = np.asarray(image)
    if s.noise:
        noise = np.random.default_rng(s.seed).normal(0, s.noise, pixels.shape)
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return pixels


def natural_size(r, s):
    """A common picture size that the 70-token budget turns into the scene's grid."""
    return r.choice(NATURAL[s.grid])


def seen(r, s):
    """Pixels as the encoder gets them: drawn at another size and scaled, half of the time."""
    if r.random() < 0.5:
        return draw(s)
    image = Image.fromarray(draw(s, natural_size(r, s)))
    return np.asarray(image.resize(s.size(), Image.Resampling.BICUBIC))


def shapes(s):
    """The shapes from left to right."""
    return sorted((t for t in s.things if t.kind != "text"), key=lambda t: t.middle()[0])


def caption(s):
    """One sentence: shapes from left to right, then the text."""
    parts = [("an " if t.color == "orange" else "a ") + t.name() for t in shapes(s)]
    if s.text:
        parts.append(f"the {'number' if s.text.isdigit() else 'word'} {s.text}")
    said = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return said[0].upper() + said[1:] + "."


def box(s, t):
    """The box in the convention of the model: [y0, x0, y1, x1] of a thousand."""
    w, h = s.size()
    x0, y0, x1, y1 = t.box
    return [round(1000 * v) for v in (y0 / h, x0 / w, y1 / h, x1 / w)]


def stepped(sides):
    """Sides at the middles of `STEPS` equal steps: what a soft token can tell of them."""
    width = 1000 // STEPS
    return [min(v // width, STEPS - 1) * width + width // 2 for v in sides]


def boxes_json(s, found, exact):
    """The detection answer."""
    sides = box if exact else lambda s, t: stepped(box(s, t))
    items = [f'{{"box_2d": {sides(s, t)}, "label": "{t.name()}"}}' for t in found]
    return "[" + ", ".join(items) + "]"


def side_of(s, t):
    """left, right, top or bottom, or nothing when it is near the middle."""
    w, h = s.size()
    x, y = t.middle()
    dx, dy = x / w - 0.5, y / h - 0.5
    if max(abs(dx), abs(dy)) < 0.12 or abs(abs(dx) - abs(dy)) < 0.1:
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "top" if dy < 0 else "bottom"


def asks(s):
    """Kinds of question that this scene can answer."""
    kinds = ["caption", "caption"]
    found = shapes(s)
    if s.text:
        kinds += ["read", "read", "read"]
    if found:
        kinds += ["count", "detect", "detect"]
        if any(sum(o.kind == t.kind for o in found) == 1 for t in found):
            kinds.append("color")
        if any(side_of(s, t) for t in found):
            kinds.append("place")
    return kinds


def question(r, s, kind=None, exact=False):
    """(question, answer) about the scene; boxes in steps unless they are to be exact."""
    found = shapes(s)
    kind = kind or r.choice(asks(s))
    if kind == "read":
        what = "number" if s.text.isdigit() else "word"
        return r.choice([f"What {what} is it?", f"Read the {what}.", "Read the text."]), s.text
    if kind == "count":
        return "How many shapes are there?", world.ONES[len(found)].capitalize() + "."
    if kind == "color":
        t = r.choice([t for t in found if sum(o.kind == t.kind for o in found) == 1])
        return f"What color is the {t.kind}?", t.color.capitalize() + "."
    if kind == "place":
        t = r.choice([t for t in found if side_of(s, t)])
        return f"Where is the {t.name()}?", f"On the {side_of(s, t)}."
    if kind == "detect":
        if len(found) < 3 and r.random() < 0.2:
            return "Detect all shapes.", boxes_json(s, found, exact)
        t = r.choice(found)
        return r.choice([f"Detect the {t.name()}.", t.name()]), boxes_json(s, [t], exact)
    return r.choice(["Describe the picture.", "Describe this image.", "What do you see?"]), caption(s)


def owners(s):
    """For every soft token, row by row: the number of the thing over its middle, from 1."""
    w, h = s.grid
    out = np.zeros((h, w), np.int64)
    for number, t in enumerate(s.things):
        x0, y0, x1, y1 = t.box
        for y in range(int(y0 // CELL), min(h, int(y1 // CELL) + 1)):
            for x in range(int(x0 // CELL), min(w, int(x1 // CELL) + 1)):
                if inside(t, CELL * x + CELL / 2, CELL * y + CELL / 2):
                    out[y, x] = number + 1
    return out.ravel()


def printed(s):
    """For every soft token: from 1 the entry of `PRINTED` over its middle, 0 where none is."""
    out = np.zeros(s.grid[0] * s.grid[1], np.int64)
    for number, t in enumerate(s.things):
        if t.kind == "text":
            mine = np.flatnonzero(owners(s) == number + 1)
            along = (mine % s.grid[0] + 0.5) * CELL - t.box[0]
            at = (along * len(s.text) / (t.box[2] - t.box[0])).astype(np.int64)
            digits = s.text.isdigit()
            out[mine] = [1 + PRINTED.index(s.text[i] if digits else s.text) for i in at]
    return out


def cells(s):
    """A class for every soft token: 0 nothing, 1..24 colour and shape, TEXT printed text."""
    kinds = [0]
    for t in s.things:
        text = t.kind == "text"
        kinds.append(TEXT if text else 1 + NAMES.index(t.color) * 3 + SHAPES.index(t.kind))
    return np.array(kinds)[owners(s)]


def inside(t, x, y):
    """Whether the thing covers the point."""
    x0, y0, x1, y1 = t.box
    if not (x0 <= x < x1 and y0 <= y < y1):
        return False
    if t.kind == "circle":
        return (x - (x0 + x1) / 2) ** 2 + (y - (y0 + y1) / 2) ** 2 < (x1 - x0) ** 2 / 4
    if t.kind == "triangle":
        return abs(x - (x0 + x1) / 2) <= (y - y0) / 2
    return True

