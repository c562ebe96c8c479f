"""How each object looks: line art in a unit box that a `Pen` places, turns, mirrors and colours.

Coordinates run from -1 to 1, x to the right and y down; the object stands at y = 1.
"""

# fmt: off
# Coordinates read better in rows than one to a line.

from collections.abc import Callable, Sequence
from math import cos, pi, sin

import numpy as np
from PIL import ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]

COLOUR_RGB: dict[str, RGB] = {
    "black": (38, 38, 42),
    "blue": (45, 85, 210),
    "green": (40, 150, 60),
    "orange": (240, 130, 25),
    "purple": (135, 55, 165),
    "red": (210, 35, 40),
    "white": (240, 240, 236),
    "yellow": (245, 210, 40),
}
_INK: RGB = (24, 22, 26)
_CIRCLE = [(cos(2 * pi * k / 28), sin(2 * pi * k / 28)) for k in range(28)]


def shade(colour: RGB, factor: float) -> RGB:
    """Darken (factor < 1) or lighten towards white (factor > 1) a colour."""
    if factor <= 1:
        r, g, b = (int(c * factor) for c in colour)
    else:
        r, g, b = (int(c + (255 - c) * min(factor - 1, 1.0)) for c in colour)
    return r, g, b


def tone(rng: np.random.Generator, colour: RGB, spread: int = 14) -> RGB:
    """A colour near `colour`."""
    r, g, b = (int(np.clip(c + d, 0, 255)) for c, d in zip(
        colour, rng.integers(-spread, spread + 1, 3), strict=True))
    return r, g, b


class Pen:
    """Draws in an object's own coordinates onto a picture.

    The object's box is centred at `centre` (pixels), `radius` pixels from middle to edge, turned
    by `angle` radians, mirrored when `mirror`, and made wider or narrower by `stretch`.
    """

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        centre: Point,
        radius: float,
        colour: RGB,
        angle: float = 0.0,
        mirror: bool = False,
        stretch: float = 1.0,
    ) -> None:
        self._draw = draw
        self._centre = centre
        self._radius = radius
        self._cos, self._sin = cos(angle), sin(angle)
        self._x_scale = -stretch if mirror else stretch
        self._ink_width = max(1, round(radius * 0.05))
        self.body = colour
        self.dark = shade(colour, 0.68)
        self.light = shade(colour, 1.45)

    def _place(self, points: Sequence[Point]) -> list[Point]:
        cx, cy = self._centre
        out = []
        for x, y in points:
            x *= self._x_scale
            out.append((
                cx + self._radius * (x * self._cos - y * self._sin),
                cy + self._radius * (x * self._sin + y * self._cos),
            ))
        return out

    def polygon(self, points: Sequence[Point], fill: RGB, outline: bool = True) -> None:
        """A filled polygon, by default with a dark outline."""
        placed = self._place(points)
        self._draw.polygon(placed, fill=fill)
        if outline:
            self._draw.line([*placed, placed[0], placed[1]], fill=_INK, width=self._ink_width,
                            joint="curve")

    def oval(
        self, x: float, y: float, rx: float, ry: float, fill: RGB, outline: bool = True
    ) -> None:
        """A filled ellipse of half axes rx, ry."""
        self.polygon([(x + rx * c, y + ry * s) for c, s in _CIRCLE], fill, outline)

    def line(self, points: Sequence[Point], width: float, fill: RGB = _INK) -> None:
        """A polyline; `width` in units of the box."""
        self._draw.line(self._place(points), fill=fill, joint="curve",
                        width=max(1, round(width * self._radius)))

    def limb(self, points: Sequence[Point], width: float, fill: RGB) -> None:
        """A thick line with a dark outline, such as a leg or a tail."""
        self.line(points, width + 0.1)
        self.line(points, width, fill)


def _dog(pen: Pen, rng: np.random.Generator) -> None:
    wag = rng.uniform(-0.15, 0.15)
    pen.limb([(-0.6, 0.05), (-0.85, -0.2), (-0.92 + wag, -0.62)], 0.13, pen.body)
    for x in (-0.5, -0.22, 0.2, 0.42):
        stride = rng.uniform(-0.07, 0.07)
        pen.limb([(x, 0.3), (x + stride, 0.94)], 0.15, pen.dark if x in (-0.22, 0.2) else pen.body)
    pen.polygon([(-0.68, -0.05), (-0.55, -0.14), (0.35, -0.18), (0.58, 0.0), (0.52, 0.42),
                 (0.1, 0.5), (-0.4, 0.46), (-0.66, 0.38)], pen.body)
    pen.polygon([(0.3, -0.1), (0.35, -0.5), (0.7, -0.4), (0.6, 0.1)], pen.body)
    pen.oval(0.55, -0.5, 0.3, 0.28, pen.body)
    pen.polygon([(0.68, -0.62), (0.98, -0.5), (1.0, -0.34), (0.7, -0.27)], pen.light)
    pen.oval(0.96, -0.47, 0.08, 0.07, _INK, outline=False)
    pen.polygon([(0.32, -0.72), (0.5, -0.74), (0.48, -0.3), (0.34, -0.16), (0.24, -0.4)], pen.dark)
    pen.oval(0.66, -0.58, 0.055, 0.06, _INK, outline=False)
    pen.line([(0.32, -0.16), (0.62, -0.1)], 0.1, (200, 40, 40))


def _cat(pen: Pen, rng: np.random.Generator) -> None:
    curl = rng.uniform(-0.1, 0.1)
    pen.limb([(0.3, 0.85), (0.75, 0.85), (0.88, 0.5 + curl), (0.7, 0.2 + curl)], 0.13, pen.dark)
    pen.polygon([(-0.26, -0.2), (0.26, -0.2), (0.52, 0.45), (0.5, 0.95), (-0.5, 0.95),
                 (-0.52, 0.45)], pen.body)
    pen.oval(0, 0.5, 0.2, 0.36, pen.light, outline=False)
    pen.oval(-0.22, 0.9, 0.17, 0.1, pen.light)
    pen.oval(0.22, 0.9, 0.17, 0.1, pen.light)
    for side in (-1, 1):
        pen.polygon([(side * 0.12, -0.72), (side * 0.42, -1.0), (side * 0.46, -0.45)], pen.body)
        pen.polygon([(side * 0.2, -0.7), (side * 0.37, -0.85), (side * 0.38, -0.55)],
                    (235, 160, 165), outline=False)
    pen.oval(0, -0.42, 0.46, 0.36, pen.body)
    for side in (-1, 1):
        pen.oval(side * 0.19, -0.47, 0.11, 0.09, (190, 225, 80))
        pen.oval(side * 0.19, -0.47, 0.03, 0.09, _INK, outline=False)
        for y in (-0.32, -0.24):
            pen.line([(side * 0.12, -0.28), (side * 0.68, y - 0.02)], 0.025)
    pen.polygon([(-0.06, -0.34), (0.06, -0.34), (0, -0.26)], (225, 110, 120), outline=False)
    pen.line([(-0.1, -0.19), (0, -0.25), (0.1, -0.19)], 0.03)


def _bird(pen: Pen, rng: np.random.Generator) -> None:
    flap = rng.uniform(-0.75, 0.25)
    for x in (-0.08, 0.14):
        pen.line([(x, 0.5), (x, 0.9), (x + 0.14, 0.95)], 0.06, (215, 130, 30))
        pen.line([(x, 0.9), (x - 0.1, 0.95)], 0.05, (215, 130, 30))
    pen.polygon([(-0.5, 0.1), (-1.0, -0.12), (-0.95, 0.16), (-0.85, 0.3), (-0.45, 0.35)], pen.dark)
    pen.oval(0.0, 0.16, 0.58, 0.42, pen.body)
    pen.oval(0.12, 0.3, 0.38, 0.25, pen.light, outline=False)
    pen.oval(0.48, -0.32, 0.3, 0.29, pen.body)
    pen.polygon([(0.74, -0.42), (1.0, -0.28), (0.74, -0.2)], (245, 165, 30))
    pen.oval(0.56, -0.38, 0.07, 0.07, (250, 250, 250), outline=False)
    pen.oval(0.58, -0.38, 0.045, 0.045, _INK, outline=False)
    pen.polygon([(0.22, 0.02), (-0.1, -0.08), (-0.6, flap), (-0.55, flap + 0.32), (-0.05, 0.38)],
                pen.dark)


def _frog(pen: Pen, rng: np.random.Generator) -> None:
    squat = rng.uniform(0.0, 0.1)
    for side in (-1, 1):
        pen.polygon([(side * 0.45, 0.25), (side * 0.95, 0.1 + squat), (side * 0.98, 0.5),
                     (side * 0.6, 0.85), (side * 0.4, 0.75)], pen.dark)
        pen.polygon([(side * 0.5, 0.78), (side * 1.0, 0.82), (side * 1.0, 0.95),
                     (side * 0.35, 0.95)], pen.body)
    pen.oval(0, 0.35, 0.62, 0.58, pen.body)
    pen.oval(0, 0.55, 0.42, 0.36, pen.light, outline=False)
    pen.oval(0, -0.08, 0.68, 0.4, pen.body)
    for side in (-1, 1):
        pen.limb([(side * 0.28, 0.6), (side * 0.34, 0.92)], 0.13, pen.body)
        pen.oval(side * 0.4, -0.45, 0.23, 0.22, pen.body)
        pen.oval(side * 0.4, -0.47, 0.15, 0.15, (250, 245, 215))
        pen.oval(side * 0.4, -0.47, 0.1, 0.05, _INK, outline=False)
    pen.line([(-0.52, -0.02), (-0.25, 0.12), (0, 0.15), (0.25, 0.12), (0.52, -0.02)], 0.06)
    for x, y in ((-0.45, 0.25), (0.42, 0.3), (0.3, -0.2), (-0.2, -0.25)):
        pen.oval(x, y, 0.07, 0.05, pen.dark, outline=False)


def _car(pen: Pen, rng: np.random.Generator) -> None:
    roof = rng.uniform(-0.5, -0.36)
    glass = (175, 215, 235)
    pen.polygon([(-0.95, 0.5), (-0.98, 0.12), (-0.85, 0.02), (-0.58, -0.02), (-0.38, roof),
                 (0.28, roof), (0.52, 0.0), (0.9, 0.08), (1.0, 0.22), (0.98, 0.5)],
                pen.body)
    pen.polygon([(-0.46, -0.02), (-0.31, roof + 0.08), (-0.06, roof + 0.08), (-0.06, -0.02)], glass)
    pen.polygon([(0.02, -0.02), (0.02, roof + 0.08), (0.24, roof + 0.08), (0.41, -0.02)], glass)
    pen.line([(-0.02, roof + 0.05), (-0.02, 0.46)], 0.035, pen.dark)
    pen.line([(0.06, 0.12), (0.18, 0.12)], 0.05, pen.dark)
    pen.line([(-0.95, 0.42), (0.97, 0.42)], 0.07, pen.dark)
    pen.oval(0.94, 0.22, 0.06, 0.08, (255, 240, 160))
    pen.oval(-0.93, 0.2, 0.05, 0.08, (225, 60, 40))
    for x in (-0.56, 0.58):
        pen.oval(x, 0.52, 0.25, 0.25, (45, 45, 48))
        pen.oval(x, 0.52, 0.12, 0.12, (190, 190, 195))


def _train(pen: Pen, rng: np.random.Generator) -> None:
    puff = rng.uniform(0.9, 1.15)
    for x, y, r in ((0.5, -0.85, 0.13), (0.3, -0.95, 0.17), (0.05, -0.98, 0.2)):
        pen.oval(x, y * puff, r, r * 0.8, (215, 215, 218), outline=False)
    pen.polygon([(0.44, -0.28), (0.4, -0.72), (0.68, -0.72), (0.64, -0.28)], (55, 55, 60))
    pen.polygon([(-0.25, -0.3), (0.8, -0.3), (0.88, -0.05), (0.8, 0.3), (-0.25, 0.3)], pen.body)
    for x in (0.08, 0.34):
        pen.line([(x, -0.28), (x, 0.28)], 0.045, pen.light)
    pen.oval(0.14, -0.36, 0.13, 0.12, (225, 190, 70))
    pen.polygon([(-0.92, -0.72), (-0.22, -0.72), (-0.22, 0.42), (-0.92, 0.42)], pen.body)
    pen.polygon([(-1.0, -0.84), (-0.14, -0.84), (-0.14, -0.7), (-1.0, -0.7)], pen.dark)
    pen.polygon([(-0.76, -0.52), (-0.4, -0.52), (-0.4, -0.12), (-0.76, -0.12)], (185, 220, 235))
    pen.polygon([(-0.95, 0.28), (0.9, 0.28), (0.9, 0.5), (-0.95, 0.5)], pen.dark)
    pen.polygon([(0.86, 0.36), (1.0, 0.86), (0.68, 0.86)], (60, 60, 65))
    for x, r in ((-0.64, 0.31), (0.04, 0.22), (0.5, 0.22)):
        pen.oval(x, 0.95 - r, r, r, (70, 70, 75))
        pen.oval(x, 0.95 - r, r * 0.5, r * 0.5, (200, 60, 50))
    pen.line([(-0.64, 0.64), (0.5, 0.72)], 0.06, (210, 210, 215))


def _bell(pen: Pen, rng: np.random.Generator) -> None:
    swing = rng.uniform(-0.2, 0.2)
    pen.oval(0, -0.8, 0.17, 0.17, pen.dark)
    pen.oval(0, -0.8, 0.08, 0.08, (235, 235, 230))
    pen.oval(swing, 0.78, 0.19, 0.19, (70, 60, 55))
    pen.polygon([(-0.22, -0.66), (0.22, -0.66), (0.42, -0.38), (0.5, 0.1), (0.6, 0.4),
                 (0.86, 0.6), (0.86, 0.7), (-0.86, 0.7), (-0.86, 0.6), (-0.6, 0.4), (-0.5, 0.1),
                 (-0.42, -0.38)], pen.body)
    pen.polygon([(-0.3, -0.42), (-0.16, -0.46), (-0.24, 0.36), (-0.44, 0.38), (-0.36, 0.06)],
                pen.light, outline=False)
    pen.line([(-0.6, 0.42), (0.6, 0.42)], 0.07, pen.dark)
    pen.line([(-0.42, -0.3), (0.42, -0.3)], 0.05, pen.dark)


def _clock(pen: Pen, rng: np.random.Generator) -> None:
    for side in (-1, 1):
        pen.limb([(side * 0.45, 0.6), (side * 0.62, 0.95)], 0.14, pen.dark)
    pen.oval(0, 0.0, 0.86, 0.86, pen.body)
    pen.oval(0, 0.0, 0.66, 0.66, (252, 250, 240))
    for k in range(12):
        c, s = cos(k * pi / 6), sin(k * pi / 6)
        inner = 0.46 if k % 3 == 0 else 0.54
        pen.line([(inner * c, inner * s), (0.61 * c, 0.61 * s)], 0.06)
    hour, minute = rng.uniform(0, 2 * pi, 2)
    pen.line([(0, 0), (0.33 * cos(hour), 0.33 * sin(hour))], 0.1)
    pen.line([(0, 0), (0.52 * cos(minute), 0.52 * sin(minute))], 0.065)
    pen.oval(0, 0, 0.08, 0.08, pen.body)


def _phone(pen: Pen, rng: np.random.Generator) -> None:
    pen.polygon([(-0.5, -0.3), (0.5, -0.3), (0.92, 0.7), (0.92, 0.92), (-0.92, 0.92),
                 (-0.92, 0.7)], pen.body)
    pen.oval(0, 0.3, 0.42, 0.42, pen.light)
    turn = rng.uniform(0, 2 * pi)
    for k in range(9):
        a = turn + k * pi / 5
        pen.oval(0.29 * cos(a), 0.3 + 0.29 * sin(a), 0.085, 0.085, (40, 40, 44), outline=False)
    pen.oval(0, 0.3, 0.14, 0.14, (245, 245, 240))
    for side in (-1, 1):
        pen.polygon([(side * 0.2, -0.28), (side * 0.34, -0.28), (side * 0.3, -0.5),
                     (side * 0.22, -0.5)], pen.dark)
    pen.polygon([(-0.98, -0.36), (-0.94, -0.7), (-0.6, -0.86), (0, -0.92), (0.6, -0.86),
                 (0.94, -0.7), (0.98, -0.36), (0.62, -0.28), (0.5, -0.52), (0, -0.6),
                 (-0.5, -0.52), (-0.62, -0.28)], pen.dark)


def _drum(pen: Pen, rng: np.random.Generator) -> None:
    rim = (225, 205, 150)
    pen.polygon([(-0.78, -0.3), (0.78, -0.3), (0.74, 0.7), (0.4, 0.86), (0, 0.92), (-0.4, 0.86),
                 (-0.74, 0.7)], pen.body)
    zigzag = [(-0.76, -0.2), (-0.52, 0.74), (-0.26, -0.02), (0.0, 0.84), (0.26, -0.02),
              (0.52, 0.74), (0.76, -0.2)]
    pen.line(zigzag, 0.06, rim)
    pen.line([(-0.76, 0.64), (-0.4, 0.8), (0, 0.86), (0.4, 0.8), (0.76, 0.64)], 0.13, rim)
    pen.oval(0, -0.32, 0.8, 0.27, rim)
    pen.oval(0, -0.34, 0.7, 0.21, (250, 246, 235))
    wood = (170, 110, 60)
    left, right = rng.uniform(-0.18, 0.18, 2)
    pen.limb([(-0.82 + left, -0.98), (-0.12, -0.36)], 0.07, wood)
    pen.limb([(0.82 + right, -0.98), (0.14, -0.32)], 0.07, wood)
    pen.oval(-0.12, -0.36, 0.09, 0.08, wood)
    pen.oval(0.14, -0.32, 0.09, 0.08, wood)


DRAWINGS: dict[str, Callable[[Pen, np.random.Generator], None]] = {
    "bell": _bell,
    "bird": _bird,
    "car": _car,
    "cat": _cat,
    "clock": _clock,
    "dog": _dog,
    "drum": _drum,
    "frog": _frog,
    "phone": _phone,
    "train": _train,
}
