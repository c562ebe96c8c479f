"""Scene -> picture: a place with clutter, the objects in it, then light, weather and grain.

Pictures of the still collection and frames of the videos come from the same `draw`, so a net
trained on the stills knows what it sees in the videos.
"""

import numpy as np
from PIL import Image, ImageDraw

from mmray.toyworld.draw_objects import COLOUR_RGB, DRAWINGS, Pen, tone
from mmray.toyworld.draw_places import PAINTERS, Canvas
from mmray.toyworld.world import COLOURS, INDOORS, Scene

_OVERSAMPLING = 2  # shapes are drawn this much larger and averaged, which smooths their edges
# Half the height of an object's box as a fraction of the picture's shorter side. Distractors
# are always smaller than the smallest main object, which is what makes the main one the label.
_RADIUS = {"small": 0.19, "medium": 0.25, "large": 0.32}
_OTHER_RADIUS = (0.075, 0.105)
_CROWD_SCALE = {1: 1.0, 2: 0.84, 3: 0.72}


def draw(scene: Scene, size: int | tuple[int, int], lift: float = 0.0) -> np.ndarray:
    """Draw a scene.

    Args:
        scene: what to draw; the same scene and size always give the same picture.
        size: side of a square, or (height, width), in pixels.
        lift: how far the main objects are raised, as a fraction of their size; nothing else
            changes, so that pictures with and without lift make a small movement.

    Returns:
        uint8[H, W, 3], RGB.
    """
    height, width = (size, size) if isinstance(size, int) else size
    # A stream of chance for every layer: a scene that differs in one property from another
    # gives a picture that differs in that property alone.
    place, main, others, litter, light, weather, camera = np.random.default_rng(
        [scene.seed, 1]
    ).spawn(7)
    canvas = Canvas(height * _OVERSAMPLING, width * _OVERSAMPLING)
    PAINTERS[scene.place](canvas, place, scene.weather)
    _draw_main(canvas, scene, main, lift)
    _draw_others(canvas, scene, others)  # in front, or a crowd could hide them
    _draw_litter(canvas, litter)
    picture = np.asarray(canvas.image.reduce(_OVERSAMPLING), dtype=np.float32)
    picture = _light(picture, scene, light)
    picture = _weather(picture, scene, weather)
    picture = _camera(picture, camera)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _stand(
    canvas: Canvas,
    name: str,
    x: float,
    y: float,
    radius: float,
    colour: str,
    rng: np.random.Generator,
    lift: float = 0.0,
) -> None:
    """Put one object at (x, y), in fractions of the height, with a shadow under it."""
    h = canvas.height
    shadow = canvas.image.crop(
        (int((x - radius) * h), int((y + radius * 0.8) * h),
         int((x + radius) * h), int((y + radius * 1.1) * h))
    )  # fmt: skip
    if shadow.width and shadow.height:
        mask = Image.new("L", shadow.size)
        ImageDraw.Draw(mask).ellipse((0, 0, shadow.width - 1, shadow.height - 1), fill=110)
        dark = Image.new("RGB", shadow.size, (20, 20, 25))
        canvas.image.paste(dark, (int((x - radius) * h), int((y + radius * 0.8) * h)), mask)
    pen = Pen(
        canvas.draw,
        (x * h, (y - lift * radius) * h),
        radius * h,
        tone(rng, COLOUR_RGB[colour], 16),
        angle=rng.normal(0, 0.07),
        mirror=bool(rng.random() < 0.5),
        stretch=rng.uniform(0.88, 1.12),
    )
    DRAWINGS[name](pen, rng)


def _draw_others(canvas: Canvas, scene: Scene, rng: np.random.Generator) -> None:
    unit = min(1.0, canvas.aspect)
    for k, name in enumerate(scene.others):
        side = -1 if (k + scene.seed) % 2 else 1
        x = canvas.aspect / 2 + side * rng.uniform(0.3, 0.42) * unit
        radius = rng.uniform(*_OTHER_RADIUS) * unit
        colour = COLOURS[rng.integers(len(COLOURS))]
        _stand(canvas, name, x, rng.uniform(0.5, 0.88), radius, colour, rng)


def _draw_main(canvas: Canvas, scene: Scene, rng: np.random.Generator, lift: float) -> None:
    unit = min(1.0, canvas.aspect)
    radius = _RADIUS[scene.size] * rng.uniform(0.9, 1.1) * unit * _CROWD_SCALE[scene.count]
    # Near the middle, so that a centre crop keeps it whole or nearly so.
    x0 = canvas.aspect / 2 + rng.uniform(-0.12, 0.12) * unit
    y0 = rng.uniform(0.5, 0.92 - radius)
    spread = radius * rng.uniform(1.15, 1.6)
    for k in range(scene.count):
        dx = (k - (scene.count - 1) / 2) * spread
        dy = rng.uniform(-0.25, 0.25) * radius if scene.count > 1 else 0.0
        _stand(canvas, scene.object, x0 + dx, y0 + dy, radius, scene.colour, rng, lift)


def _draw_litter(canvas: Canvas, rng: np.random.Generator) -> None:
    """Small meaningless things near the lower edge, sometimes in front of an object's feet."""
    for _ in range(rng.integers(0, 5)):
        x, y = rng.uniform(0, canvas.aspect), rng.uniform(0.8, 0.99)
        r = rng.uniform(0.012, 0.035)
        fill = tone(rng, (128, 120, 110), 90)
        if rng.random() < 0.5:
            canvas.oval(x, y, r, r * 0.7, fill)
        else:
            canvas.polygon([(x - r, y), (x, y - r), (x + r, y + r * 0.4)], fill)


def _soft_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Smooth random field float32[H, W] of about unit spread with `cells` cells a side."""
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _light(picture: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, colour cast, and broad patches of light and shade."""
    height, width, _ = picture.shape
    gain = rng.uniform(0.85, 1.12)
    cast = rng.uniform(0.94, 1.06, 3)
    if scene.weather == "night":
        gain, cast = gain * 0.52, cast * np.array([0.88, 0.94, 1.22])
        if scene.place in INDOORS:  # lamplight
            gain, cast = gain * 1.25, np.array([1.18, 1.0, 0.78])
    elif scene.weather in ("cloudy", "rain", "snow"):
        grey = picture.mean(axis=2, keepdims=True)
        picture = picture + 0.25 * (grey - picture)
        gain *= 0.92
    elif scene.weather == "sunny":
        cast = cast * np.array([1.05, 1.02, 0.94])
        gain *= 1.05
    patches = 1 + 0.07 * _soft_noise(rng, height, width, 4)
    texture = 5.0 * _soft_noise(rng, height, width, max(8, height // 4))
    field = (gain * patches)[:, :, None] * cast.astype(np.float32)
    return picture * field + texture[:, :, None]


def _weather(picture: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    height, width, _ = picture.shape
    if scene.place in INDOORS:
        return picture
    if scene.weather == "fog":
        depth = np.linspace(0.75, 0.25, height, dtype=np.float32)[:, None]
        density = np.clip(depth * (1 + 0.15 * _soft_noise(rng, height, width, 5)), 0, 0.8)
        return picture + density[:, :, None] * (203 - picture)
    if scene.weather not in ("rain", "snow"):
        return picture
    layer = Image.new("L", (width, height))
    pencil = ImageDraw.Draw(layer)
    x, y = rng.uniform(0, width, 90), rng.uniform(-0.1 * height, height, 90)
    if scene.weather == "rain":
        length, slant = rng.uniform(0.05, 0.11) * height, rng.uniform(-0.3, 0.3)
        for px, py in zip(x, y, strict=True):
            pencil.line((px, py, px + slant * length, py + length), fill=120, width=1)
    else:
        for px, py in zip(x, y, strict=True):
            r = rng.uniform(0.003, 0.009) * height
            pencil.ellipse((px - r, py - r, px + r, py + r), fill=230)
    cover = np.asarray(layer, dtype=np.float32)[:, :, None] / 255
    return picture + cover * (228 - picture)


def _camera(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vignette and sensor grain."""
    height, width, _ = picture.shape
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    vignette = 1 - rng.uniform(0, 0.16) * (x * x + y * y)
    grain = rng.standard_normal((height, width), dtype=np.float32) * np.float32(rng.uniform(2, 6))
    return picture * vignette[:, :, None] + grain[:, :, None]
