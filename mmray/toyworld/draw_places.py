"""How each place looks: a painter fills a `Canvas` with ground, sky or walls, and clutter.

No painter draws anything that is also an object of the world (no birds in the sky, no cars in
the street), so that the objects of a picture are exactly those its truth names.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from mmray.toyworld.draw_objects import RGB, Point, shade, tone

# Sky at the top and at the horizon.
_SKY: dict[str, tuple[RGB, RGB]] = {
    "sunny": ((80, 150, 230), (190, 222, 245)),
    "cloudy": ((150, 160, 172), (205, 208, 212)),
    "rain": ((105, 115, 128), (160, 168, 176)),
    "fog": ((185, 188, 190), (205, 206, 206)),
    "snow": ((170, 178, 190), (222, 226, 232)),
    "night": ((12, 16, 44), (50, 56, 100)),
}


class Canvas:
    """A picture addressed in fractions of its height: x from 0 to `aspect`, y from 0 to 1."""

    def __init__(self, height: int, width: int) -> None:
        self.image = Image.new("RGB", (width, height))
        self.draw = ImageDraw.Draw(self.image)
        self.height, self.width = height, width
        self.aspect = width / height

    def polygon(self, points: list[Point], fill: RGB) -> None:
        """A filled polygon."""
        self.draw.polygon([(x * self.height, y * self.height) for x, y in points], fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: RGB) -> None:
        """A filled rectangle."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: RGB) -> None:
        """A filled ellipse of half axes rx, ry."""
        h = self.height
        self.draw.ellipse([(x - rx) * h, (y - ry) * h, (x + rx) * h, (y + ry) * h], fill=fill)

    def line(self, points: list[Point], fill: RGB, width: float) -> None:
        """A polyline; `width` as a fraction of the height, at least one pixel."""
        self.draw.line([(x * self.height, y * self.height) for x, y in points], fill=fill,
                       width=max(1, round(width * self.height)))  # fmt: skip

    def gradient(self, y0: float, y1: float, top: RGB, bottom: RGB) -> None:
        """Fill the rows from y0 to y1 with a vertical gradient."""
        first, last = round(y0 * self.height), round(y1 * self.height)
        if last <= first:
            return
        ramp = np.linspace(0, 1, last - first)[:, None, None]
        rows = (np.array(top) * (1 - ramp) + np.array(bottom) * ramp).astype(np.uint8)
        strip = Image.fromarray(rows, "RGB").resize((self.width, last - first))
        self.image.paste(strip, (0, first))

    def specks(
        self, rng: np.random.Generator, count: int, y0: float, y1: float, colour: RGB
    ) -> None:
        """Scatter single points of a colour over the rows from y0 to y1."""
        x = rng.uniform(0, self.width, count)
        y = rng.uniform(y0, y1, count) * self.height
        self.draw.point(np.stack([x, y], 1).astype(int).ravel().tolist(), fill=colour)


def _sky(canvas: Canvas, rng: np.random.Generator, weather: str, horizon: float) -> None:
    top, low = _SKY[weather]
    canvas.gradient(0, horizon, tone(rng, top), tone(rng, low))
    if weather == "night":
        canvas.specks(rng, 40, 0, horizon, (230, 230, 210))
        canvas.oval(rng.uniform(0.1, canvas.aspect - 0.1), 0.1, 0.045, 0.045, (245, 240, 210))
    elif weather == "sunny":
        canvas.oval(rng.uniform(0.1, canvas.aspect - 0.1), 0.1, 0.06, 0.06, (255, 240, 170))
    if weather in ("sunny", "cloudy", "rain"):
        colour = (240, 243, 248) if weather == "sunny" else (175, 180, 186)
        for _ in range(rng.integers(2, 5)):
            x, y = rng.uniform(0, canvas.aspect), rng.uniform(0.03, horizon * 0.6)
            for dx in rng.uniform(-0.1, 0.1, 4):
                canvas.oval(x + dx, y, 0.07, 0.03, colour)


def _scatter(rng: np.random.Generator, canvas: Canvas, low: int, high: int) -> list[float]:
    """X positions of some pieces of clutter."""
    return rng.uniform(0, canvas.aspect, rng.integers(low, high + 1)).tolist()


def _beach(canvas: Canvas, rng: np.random.Generator, weather: str) -> None:
    horizon, shore = rng.uniform(0.3, 0.4), rng.uniform(0.54, 0.64)
    _sky(canvas, rng, weather, horizon)
    sea = tone(rng, (30, 120, 165))
    canvas.gradient(horizon, shore, sea, shade(sea, 1.25))
    for y in np.arange(horizon + 0.03, shore, 0.045):
        x = rng.uniform(0, 0.2)
        while x < canvas.aspect:
            canvas.line([(x, y), (x + 0.1, y)], shade(sea, 1.5), 0.008)
            x += rng.uniform(0.15, 0.35)
    sand = tone(rng, (226, 200, 142))
    canvas.gradient(shore, 1, sand, shade(sand, 0.88))
    edge = np.linspace(0, canvas.aspect, 12)
    foam = [(float(x), shore + 0.015 * float(np.sin(9 * x + horizon * 50))) for x in edge]
    canvas.line(foam, (245, 248, 248), 0.025)
    canvas.specks(rng, 500, shore + 0.03, 1, shade(sand, 0.75))
    canvas.specks(rng, 300, shore + 0.03, 1, shade(sand, 1.5))
    if rng.random() < 0.7:  # palm
        x = rng.choice([rng.uniform(0.02, 0.15), canvas.aspect - rng.uniform(0.02, 0.15)])
        canvas.line([(x, 0.75), (x + 0.04, 0.3)], (120, 85, 50), 0.035)
        for a in np.linspace(-0.3, 3.4, 6):
            tip = (x + 0.04 + 0.2 * float(np.cos(a)), 0.3 - 0.1 * float(np.sin(a)) + 0.05)
            canvas.line([(x + 0.04, 0.3), tip], tone(rng, (40, 130, 55)), 0.028)
    for x in _scatter(rng, canvas, 0, 2):  # parasols
        y = rng.uniform(shore, shore + 0.08)
        canvas.line([(x, y), (x, y - 0.14)], (235, 235, 230), 0.01)
        canvas.polygon([(x - 0.09, y - 0.12), (x, y - 0.18), (x + 0.09, y - 0.12)],
                       tone(rng, (225, 90, 90), 60))  # fmt: skip
    for x in _scatter(rng, canvas, 2, 6):  # shells
        canvas.oval(x, rng.uniform(shore + 0.1, 0.98), 0.013, 0.01, tone(rng, (235, 215, 205), 20))


def _forest(canvas: Canvas, rng: np.random.Generator, weather: str) -> None:
    ground = rng.uniform(0.6, 0.7)
    green = tone(rng, (36, 82, 40))
    canvas.gradient(0, ground, shade(_SKY[weather][1], 0.6), shade(green, 1.15))
    canvas.gradient(ground, 1, tone(rng, (74, 66, 38)), tone(rng, (50, 58, 28)))
    for depth in (0.45, 0.7, 1.0):
        bark = shade(tone(rng, (92, 66, 44)), 1.3 - 0.5 * depth)
        for x in _scatter(rng, canvas, 4, 6):
            width = rng.uniform(0.018, 0.04) * (0.5 + depth)
            foot = ground - 0.06 + 0.14 * depth
            canvas.polygon([(x - width, foot), (x - width * 0.7, 0), (x + width * 0.7, 0),
                            (x + width, foot)], bark)  # fmt: skip
            canvas.line([(x - width * 0.3, 0), (x - width * 0.4, foot)], shade(bark, 0.7), 0.008)
    for _ in range(40):
        x, y = rng.uniform(0, canvas.aspect), rng.uniform(0, 0.24) ** 1.2
        canvas.oval(x, y, 0.08, 0.05, tone(rng, (38, 98, 44), 26))
    for x in _scatter(rng, canvas, 9, 14):  # ferns
        y = rng.uniform(ground, 1)
        for dx in (-0.05, -0.025, 0.0, 0.025, 0.05):
            canvas.line([(x, y), (x + dx, y - 0.07 + abs(dx) * 0.6)], tone(rng, (62, 120, 48), 22),
                        0.012)  # fmt: skip
    canvas.specks(rng, 400, ground, 1, (120, 96, 50))
    canvas.specks(rng, 300, 0, ground, (88, 140, 70))


def _kitchen(canvas: Canvas, rng: np.random.Generator, weather: str) -> None:
    counter = rng.uniform(0.56, 0.66)
    tile = tone(rng, (232, 226, 208), 12)
    canvas.gradient(0, counter, tile, shade(tile, 0.92))
    step = rng.uniform(0.075, 0.1)
    for y in np.arange(0.0, counter, step):
        canvas.line([(0, y), (canvas.aspect, y)], shade(tile, 0.78), 0.007)
    for x in np.arange(rng.uniform(0, step), canvas.aspect, step):
        canvas.line([(x, 0), (x, counter)], shade(tile, 0.78), 0.007)
    cupboard = tone(rng, (168, 112, 66), 24)
    x = rng.uniform(-0.2, 0.0)
    while x < canvas.aspect:
        canvas.box(x, 0, x + 0.26, 0.2, cupboard)
        canvas.box(x + 0.02, 0.02, x + 0.24, 0.18, shade(cupboard, 1.15))
        canvas.oval(x + 0.22, 0.15, 0.012, 0.012, (60, 60, 60))
        x += 0.28
    for x in _scatter(rng, canvas, 2, 4):  # pans on a rail
        steel = tone(rng, (120, 122, 128), 30)
        canvas.line([(x, 0.22), (x, 0.3)], steel, 0.012)
        canvas.oval(x, 0.35, 0.055, 0.055, steel)
        canvas.oval(x, 0.35, 0.04, 0.04, shade(steel, 0.7))
    top = tone(rng, (96, 78, 66))
    canvas.gradient(counter, counter + 0.22, shade(top, 1.25), top)
    canvas.box(0, counter + 0.2, canvas.aspect, counter + 0.23, shade(top, 0.6))
    canvas.box(0, counter + 0.23, canvas.aspect, 1, shade(cupboard, 0.85))
    for x in np.arange(rng.uniform(0, 0.2), canvas.aspect, 0.3):
        canvas.line([(x, counter + 0.24), (x, 1)], shade(cupboard, 0.6), 0.012)
    for x in _scatter(rng, canvas, 2, 5):  # cups and jars on the counter
        height = rng.uniform(0.05, 0.12)
        canvas.box(x, counter + 0.04 - height, x + 0.06, counter + 0.05,
                   tone(rng, (190, 170, 150), 50))  # fmt: skip


def _meadow(canvas: Canvas, rng: np.random.Generator, weather: str) -> None:
    horizon = rng.uniform(0.38, 0.5)
    _sky(canvas, rng, weather, horizon + 0.06)  # down to the valleys between the hills
    base = (222, 228, 232) if weather == "snow" else (104, 172, 62)
    grass = tone(rng, base, 12)
    xs = np.linspace(0, canvas.aspect, 9)
    for k, factor in enumerate((0.8, 0.92)):
        phase = rng.uniform(0, 6)
        ridge = [(float(x), horizon + 0.05 * k + 0.04 * float(np.sin(3 * x + phase))) for x in xs]
        canvas.polygon([*ridge, (canvas.aspect, 1), (0, 1)], shade(grass, factor))
    canvas.gradient(horizon + 0.12, 1, grass, shade(grass, 0.82))
    if rng.random() < 0.6:  # fence
        y = horizon + 0.07
        for x in np.arange(rng.uniform(0, 0.1), canvas.aspect, 0.13):
            canvas.line([(x, y - 0.06), (x, y + 0.06)], (130, 96, 62), 0.018)
        canvas.line([(0, y - 0.02), (canvas.aspect, y - 0.02)], (140, 104, 68), 0.012)
    for x in _scatter(rng, canvas, 45, 60):
        y = rng.uniform(horizon + 0.12, 1)
        canvas.line([(x, y), (x + rng.uniform(-0.02, 0.02), y - 0.045)], shade(grass, 0.65), 0.008)
    petals = [(235, 70, 80), (250, 225, 70), (245, 245, 245), (190, 110, 215), (250, 150, 60)]
    for x in _scatter(rng, canvas, 14, 26):
        y = rng.uniform(horizon + 0.14, 0.99)
        canvas.oval(x, y, 0.014, 0.014, petals[rng.integers(len(petals))])
        canvas.oval(x, y, 0.005, 0.005, (240, 200, 60))


def _mountain(canvas: Canvas, rng: np.random.Generator, weather: str) -> None:
    horizon = rng.uniform(0.5, 0.6)
    _sky(canvas, rng, weather, horizon)
    for depth in range(2):
        rock = shade(tone(rng, (112, 108, 122)), 1.2 - 0.3 * depth)
        for x in np.arange(rng.uniform(-0.2, 0.1), canvas.aspect + 0.2, 0.42):
            peak = (x + rng.uniform(-0.06, 0.06), rng.uniform(0.06, 0.22) + 0.1 * depth)
            half = rng.uniform(0.28, 0.4)
            foot = horizon + 0.08
            canvas.polygon([peak, (x + half, foot), (x - half, foot)], rock)
            canvas.polygon([peak, (x + half, foot), (x + half * 0.15, foot)], shade(rock, 0.8))
            cap = 0.36
            left = (peak[0] + (x - half - peak[0]) * cap, peak[1] + (foot - peak[1]) * cap)
            right = (peak[0] + (x + half - peak[0]) * cap, peak[1] + (foot - peak[1]) * cap)
            dent = (peak[0], peak[1] + (foot - peak[1]) * cap * 0.65)
            canvas.polygon([peak, right, dent, left], (244, 246, 250))
    scree = tone(rng, (150, 146, 142))
    canvas.gradient(horizon, 1, scree, shade(scree, 0.75))
    for x in _scatter(rng, canvas, 18, 28):  # stones
        y = rng.uniform(horizon + 0.05, 1)
        r = 0.01 + 0.035 * (y - horizon) * rng.uniform(0.5, 1.5)
        stone = tone(rng, (128, 124, 124), 22)
        canvas.polygon([(x - r, y), (x - r * 0.5, y - r), (x + r * 0.6, y - r * 0.8), (x + r, y)],
                       stone)  # fmt: skip
    for x in _scatter(rng, canvas, 2, 5):  # firs
        y = horizon + rng.uniform(0.04, 0.14)
        fir = tone(rng, (28, 70, 52))
        for k in range(3):
            r = 0.045 - 0.01 * k
            canvas.polygon([(x - r, y - 0.045 * k), (x, y - 0.08 - 0.045 * k),
                            (x + r, y - 0.045 * k)], fir)  # fmt: skip
    canvas.specks(rng, 250, horizon, 1, (90, 88, 90))


def _office(canvas: Canvas, rng: np.random.Generator, weather: str) -> None:
    desk = rng.uniform(0.64, 0.72)
    wall = tone(rng, (186, 194, 206), 12)
    canvas.gradient(0, desk, wall, shade(wall, 0.9))
    x0 = rng.uniform(0.05, max(0.06, canvas.aspect - 0.6))
    top, low = _SKY[weather]
    canvas.box(x0 - 0.02, 0.06, x0 + 0.52, 0.4, (238, 238, 238))
    canvas.box(x0, 0.08, x0 + 0.5, 0.38, shade(top, 0.9))
    canvas.box(x0, 0.24, x0 + 0.5, 0.38, low)
    for y in np.arange(0.09, 0.38, 0.035):  # blinds
        canvas.line([(x0, y), (x0 + 0.5, y)], (225, 228, 226), 0.012)
    for side in (-0.04, canvas.aspect - 0.2):  # shelves with binders
        canvas.box(side, 0.12, side + 0.24, 0.6, (88, 74, 66))
        for y in (0.16, 0.38):
            x = side + 0.015
            while x < side + 0.21:
                width = rng.uniform(0.022, 0.035)
                canvas.box(x, y, x + width, y + 0.18, tone(rng, (120, 120, 140), 70))
                x += width + 0.004
    canvas.gradient(desk, desk + 0.2, tone(rng, (206, 178, 140)), tone(rng, (186, 156, 118)))
    canvas.box(0, desk + 0.2, canvas.aspect, desk + 0.23, (110, 92, 74))
    carpet = tone(rng, (84, 92, 108))
    canvas.box(0, desk + 0.23, canvas.aspect, 1, carpet)
    canvas.specks(rng, 300, desk + 0.23, 1, shade(carpet, 1.3))
    screen = rng.uniform(0.1, canvas.aspect - 0.35)
    canvas.box(screen, desk - 0.22, screen + 0.28, desk - 0.03, (40, 42, 46))
    canvas.box(screen + 0.015, desk - 0.205, screen + 0.265, desk - 0.05, (95, 140, 175))
    for y in np.arange(desk - 0.19, desk - 0.06, 0.03):
        canvas.line([(screen + 0.03, y), (screen + rng.uniform(0.1, 0.24), y)], (200, 220, 230),
                    0.008)  # fmt: skip
    canvas.box(screen + 0.12, desk - 0.03, screen + 0.16, desk + 0.01, (40, 42, 46))
    for x in _scatter(rng, canvas, 2, 4):  # sheets of paper
        y = desk + rng.uniform(0.03, 0.12)
        canvas.polygon([(x, y), (x + 0.1, y - 0.01), (x + 0.12, y + 0.045), (x + 0.01, y + 0.05)],
                       (248, 248, 244))  # fmt: skip


def _station(canvas: Canvas, rng: np.random.Generator, weather: str) -> None:
    floor = rng.uniform(0.56, 0.64)
    top, low = _SKY[weather]
    canvas.gradient(0, floor, shade(top, 0.85), low)
    vanish = (rng.uniform(0.35, 0.65) * canvas.aspect, floor - 0.14)
    steel = tone(rng, (70, 84, 92))
    for k in range(5):  # arches of the hall, nearer ones larger
        scale = 0.3 + 0.22 * k
        arch = [
            (
                vanish[0] + 0.75 * scale * float(np.cos(a)),
                floor - 0.62 * scale * float(np.sin(a)),
            )
            for a in np.linspace(0, np.pi, 14)
        ]
        canvas.line(arch, shade(steel, 1.5 - 0.15 * k), 0.012 + 0.006 * k)
    for dx in (-0.9, -0.45, 0.0, 0.45, 0.9):
        canvas.line([vanish, (vanish[0] + dx * 1.3, -0.1)], steel, 0.01)
    for x in np.arange(rng.uniform(0, 0.2), canvas.aspect, 0.38):  # brick piers
        brick = tone(rng, (150, 80, 62))
        canvas.box(x, 0.2, x + 0.09, floor, brick)
        for y in np.arange(0.22, floor, 0.04):
            canvas.line([(x, y), (x + 0.09, y)], shade(brick, 0.7), 0.006)
        canvas.box(x - 0.015, 0.18, x + 0.105, 0.22, shade(brick, 0.7))
    concrete = tone(rng, (158, 156, 150))
    canvas.gradient(floor, 1, shade(concrete, 0.85), concrete)
    edge = floor + 0.1
    canvas.box(0, edge, canvas.aspect, edge + 0.035, tone(rng, (240, 205, 50)))
    canvas.box(0, edge - 0.1, canvas.aspect, edge, (62, 58, 56))
    for x in np.arange(0, canvas.aspect, 0.07):  # sleepers
        canvas.box(x, edge - 0.09, x + 0.03, edge - 0.015, (96, 76, 60))
    for y in (edge - 0.075, edge - 0.03):
        canvas.line([(0, y), (canvas.aspect, y)], (190, 192, 196), 0.014)
    for x in np.arange(rng.uniform(0, 0.2), canvas.aspect, 0.24):
        canvas.line(
            [(x, edge + 0.04), (x + 0.5 * (x - vanish[0]), 1)], shade(concrete, 0.75), 0.008
        )
    if rng.random() < 0.7:  # a sign
        x = rng.uniform(0.05, canvas.aspect - 0.35)
        canvas.box(x, 0.3, x + 0.3, 0.38, (30, 60, 120))
        canvas.line([(x + 0.04, 0.34), (x + 0.26, 0.34)], (245, 245, 245), 0.02)


def _street(canvas: Canvas, rng: np.random.Generator, weather: str) -> None:
    pavement = rng.uniform(0.56, 0.64)
    _sky(canvas, rng, weather, pavement)
    x = rng.uniform(-0.15, 0.0)
    while x < canvas.aspect:
        width, roof = rng.uniform(0.2, 0.34), rng.uniform(0.04, 0.26)
        facade = tone(rng, (168, 120, 102), 50)
        canvas.box(x, roof, x + width, pavement, facade)
        canvas.box(x, roof, x + width, roof + 0.025, shade(facade, 0.6))
        for wy in np.arange(roof + 0.06, pavement - 0.12, 0.105):
            for wx in np.arange(x + 0.03, x + width - 0.05, 0.075):
                lit = weather == "night" and rng.random() < 0.6
                canvas.box(wx, wy, wx + 0.042, wy + 0.065,
                           (255, 222, 120) if lit else (72, 88, 108))  # fmt: skip
        door = x + rng.uniform(0.02, width - 0.08)
        canvas.box(door, pavement - 0.1, door + 0.06, pavement, shade(facade, 0.45))
        x += width + 0.008
    stone = tone(rng, (172, 168, 162))
    canvas.gradient(pavement, pavement + 0.1, stone, shade(stone, 0.9))
    for x in np.arange(rng.uniform(0, 0.1), canvas.aspect, 0.11):
        canvas.line([(x, pavement), (x - 0.03, pavement + 0.1)], shade(stone, 0.75), 0.007)
    asphalt = tone(rng, (72, 72, 78))
    canvas.gradient(pavement + 0.1, 1, asphalt, shade(asphalt, 0.85))
    canvas.box(0, pavement + 0.1, canvas.aspect, pavement + 0.115, shade(stone, 0.6))
    mid = rng.uniform(pavement + 0.2, 0.9)
    for x in np.arange(rng.uniform(-0.2, 0.0), canvas.aspect, 0.26):
        low = mid + 0.028
        canvas.polygon([(x, mid), (x + 0.14, mid), (x + 0.15, low), (x + 0.01, low)],
                       (232, 230, 220))  # fmt: skip
    canvas.specks(rng, 400, pavement + 0.11, 1, shade(asphalt, 1.3))
    for x in _scatter(rng, canvas, 1, 2):  # lamp posts
        canvas.line([(x, pavement + 0.07), (x, 0.14), (x + 0.08, 0.12)], (46, 50, 54), 0.016)
        glow = (255, 235, 150) if weather == "night" else (225, 225, 215)
        canvas.oval(x + 0.09, 0.135, 0.03, 0.02, glow)


PAINTERS: dict[str, Callable[[Canvas, np.random.Generator, str], None]] = {
    "beach": _beach,
    "forest": _forest,
    "kitchen": _kitchen,
    "meadow": _meadow,
    "mountain": _mountain,
    "office": _office,
    "station": _station,
    "street": _street,
}
