"""Scenes: what is drawn by lot, and how it comes out as pictures."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mmray.toyworld.draw import draw
from mmray.toyworld.draw_objects import DRAWINGS
from mmray.toyworld.draw_places import PAINTERS
from mmray.toyworld.world import (
    COLOURS,
    INDOORS,
    OBJECTS,
    PLACES,
    SIZES,
    Scene,
    sample_scene,
    weathers_of,
)


def scene(**changes):
    values = {
        "place": "beach", "object": "dog", "colour": "red", "size": "large", "count": 1,
        "weather": "cloudy", "others": (), "seed": 5,
    }  # fmt: skip
    return Scene(**{**values, **changes})


@pytest.fixture(scope="module")
def sampled():
    rng = np.random.default_rng(0)
    return [sample_scene(rng) for _ in range(4000)]


def test_every_value_occurs(sampled):
    for field, values in (("object", OBJECTS), ("place", PLACES), ("colour", COLOURS),
                          ("size", SIZES), ("count", [1, 2, 3])):  # fmt: skip
        seen = {getattr(s, field) for s in sampled}
        assert seen == set(values)


def test_classes_are_balanced(sampled):
    for field, values in (("object", OBJECTS), ("place", PLACES)):
        counts = [sum(getattr(s, field) == v for s in sampled) for v in values]
        assert min(counts) > 0.6 * len(sampled) / len(values)


def test_place_says_little_about_the_object(sampled):
    """Guessing the commonest object of each place must stay far from right."""
    right = 0
    for place in PLACES:
        here = [s.object for s in sampled if s.place == place]
        right += max(here.count(name) for name in OBJECTS)
    assert right / len(sampled) < 0.25


def test_others_differ_from_the_main_object(sampled):
    assert all(s.object not in s.others and len(set(s.others)) == len(s.others) for s in sampled)
    assert {len(s.others) for s in sampled} == {0, 1, 2}


def test_weather_fits_the_place(sampled):
    assert all(s.weather in weathers_of(s.place) for s in sampled)
    assert not {s.weather for s in sampled if s.place in INDOORS} & {"rain", "snow", "fog"}


def test_same_scene_gives_the_same_picture():
    first, second = draw(scene(), 64), draw(scene(), 64)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)


def test_another_angle_is_another_picture():
    a, b = draw(scene(), 64), draw(scene().from_another_angle(6), 64)
    assert np.abs(a.astype(int) - b).mean() > 8


@pytest.mark.parametrize("size", [(90, 160), (128, 128), (144, 176)])
def test_size_is_height_and_width(size):
    assert draw(scene(), size).shape == (*size, 3)


def test_every_object_and_place_can_be_drawn_and_differs():
    assert set(DRAWINGS) == set(OBJECTS)
    assert set(PAINTERS) == set(PLACES)
    for field, values in (("object", OBJECTS), ("place", PLACES)):
        pictures = [draw(scene(**{field: v}), 48).astype(int) for v in values]
        for i, a in enumerate(pictures):
            assert all(np.abs(a - b).mean() > 2 for b in pictures[:i]), (field, values[i])


def test_colour_of_the_object_shows():
    """Changing red to blue moves the picture towards blue where the object is."""
    red, blue = (draw(scene(colour=c), 96).astype(int) for c in ("red", "blue"))
    changed = np.abs(red - blue).sum(axis=2) > 60
    assert 0.02 < changed.mean() < 0.5
    assert (blue - red)[changed][:, 2].mean() > 40
    assert (red - blue)[changed][:, 0].mean() > 40


def test_main_object_is_larger_than_the_others():
    def area(before, after):
        difference = draw(after, 160).astype(int) - draw(before, 160)
        return (np.abs(difference).sum(axis=2) > 12).mean()

    for seed in range(5):
        small = scene(size="small", object="phone", seed=seed)
        main = area(small, replace(small, colour="white"))
        other = area(small, replace(small, others=("drum",)))
        assert 0 < 1.5 * other < main


def test_lift_moves_the_object_alone():
    still, lifted = draw(scene(), 96).astype(int), draw(scene(), 96, lift=0.12).astype(int)
    moved = np.abs(still - lifted).sum(axis=2) > 0
    assert 0.01 < moved.mean() < 0.5
    assert not moved[:8].any()


def test_weather_changes_the_picture():
    night = draw(scene(weather="night"), 64).mean()
    sunny = draw(scene(weather="sunny"), 64).mean()
    fog = draw(scene(weather="fog"), 64)
    assert night < 0.6 * sunny
    assert fog.std() < draw(scene(weather="sunny"), 64).std()


def test_pictures_have_texture():
    """Neighbouring pixels differ nearly everywhere: no flat cartoon areas."""
    grey = np.asarray(Image.fromarray(draw(scene(), 96)).convert("L")).astype(int)
    assert (np.abs(np.diff(grey, axis=1)) > 0).mean() > 0.7
