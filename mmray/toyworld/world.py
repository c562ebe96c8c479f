"""What a scene of the toy world is, and how scenes are drawn by lot.

A `Scene` is the meaning shared by every medium: `draw` turns it into a picture, `words` into
tags and captions, `sound` into ambience and events. Everything that does not change the meaning
(viewpoint, lighting, clutter, voice) comes from `Scene.seed`.
"""

from dataclasses import dataclass, replace

import numpy as np

PLACES: list[str] = [
    "beach", "forest", "kitchen", "meadow", "mountain", "office", "station", "street",
]  # fmt: skip
OBJECTS: list[str] = [
    "bell", "bird", "car", "cat", "clock", "dog", "drum", "frog", "phone", "train",
]  # fmt: skip
COLOURS: list[str] = ["black", "blue", "green", "orange", "purple", "red", "white", "yellow"]
SIZES: list[str] = ["small", "medium", "large"]
WEATHERS: list[str] = ["sunny", "cloudy", "rain", "fog", "snow", "night"]

INDOORS = frozenset({"kitchen", "office"})

# Where each object is met a little more often than chance. The pull is weak (see _AFFINITY) so
# that the place alone says little about the object, and a net has to look at both.
_USUAL_PLACES: dict[str, tuple[str, ...]] = {
    "bell": ("station", "mountain"),
    "bird": ("forest", "beach"),
    "car": ("street",),
    "cat": ("kitchen", "street"),
    "clock": ("office", "kitchen"),
    "dog": ("beach", "meadow"),
    "drum": ("street", "meadow"),
    "frog": ("forest", "meadow"),
    "phone": ("office",),
    "train": ("station", "mountain"),
}
_AFFINITY = 2.0
_COUNT_WEIGHTS = (0.7, 0.18, 0.12)  # one, two, three
_OTHERS_WEIGHTS = (0.5, 0.33, 0.17)  # none, one, two small objects beside the main one


@dataclass(frozen=True)
class Scene:
    """One scene: `count` objects of one kind, colour and size in a place and a weather.

    `others` are the kinds of the small distracting objects that also stand there, all different
    from `object`. `seed` settles everything a label does not name.
    """

    place: str
    object: str
    colour: str
    size: str
    count: int
    weather: str
    others: tuple[str, ...]
    seed: int

    def from_another_angle(self, seed: int) -> "Scene":
        """The same scene with another viewpoint, lighting and clutter."""
        return replace(self, seed=seed)


def weathers_of(place: str) -> list[str]:
    """The weathers that can be seen in a place: indoors only daylight, dull light and night."""
    if place in INDOORS:
        return ["sunny", "cloudy", "night"]
    if place == "beach":
        return [weather for weather in WEATHERS if weather != "snow"]
    return WEATHERS


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw one scene by lot; objects, colours, sizes and weathers are uniform."""
    thing = OBJECTS[rng.integers(len(OBJECTS))]
    weights = np.array([_AFFINITY if p in _USUAL_PLACES[thing] else 1.0 for p in PLACES])
    place = PLACES[rng.choice(len(PLACES), p=weights / weights.sum())]
    weathers = weathers_of(place)
    candidates = [name for name in OBJECTS if name != thing]
    num_others = rng.choice(len(_OTHERS_WEIGHTS), p=_OTHERS_WEIGHTS)
    return Scene(
        place=place,
        object=thing,
        colour=COLOURS[rng.integers(len(COLOURS))],
        size=SIZES[rng.integers(len(SIZES))],
        count=1 + int(rng.choice(len(_COUNT_WEIGHTS), p=_COUNT_WEIGHTS)),
        weather=weathers[rng.integers(len(weathers))],
        others=tuple(str(name) for name in rng.choice(candidates, num_others, replace=False)),
        seed=int(rng.integers(2**31)),
    )
