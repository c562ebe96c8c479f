"""Scene -> words: tags such as people give to their pictures, and five captions.

Tags are what social tagging sites hold: many pictures have none, those that have some name only
a part of what can be seen, in English or Spanish, with synonyms, plurals, now and then a wrong
one, and much that nobody can see (cameras, years, groups).
"""

import numpy as np

from mmray.toyworld.world import INDOORS, OBJECTS, PLACES, Scene

UNTAGGED_SHARE = 0.25
_WRONG_SHARE = 0.04

# For every meaning, its English words (the usual one first) and its Spanish words.
_OBJECT_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "bell": (("bell", "handbell"), ("campana",)),
    "bird": (("bird", "birdie"), ("pájaro", "ave")),
    "car": (("car", "automobile", "auto"), ("coche", "carro")),
    "cat": (("cat", "kitty"), ("gato",)),
    "clock": (("clock", "timepiece"), ("reloj",)),
    "dog": (("dog", "puppy", "hound"), ("perro",)),
    "drum": (("drum", "percussion"), ("tambor",)),
    "frog": (("frog", "toad"), ("rana",)),
    "phone": (("phone", "telephone"), ("teléfono",)),
    "train": (("train", "locomotive", "railway engine"), ("tren",)),
}
_PLACE_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "beach": (("beach", "seaside", "shore"), ("playa",)),
    "forest": (("forest", "woods"), ("bosque",)),
    "kitchen": (("kitchen",), ("cocina",)),
    "meadow": (("meadow", "field", "grassland"), ("prado",)),
    "mountain": (("mountain", "mountains", "alps"), ("montaña",)),
    "office": (("office", "workplace"), ("oficina",)),
    "station": (("station", "railway station", "platform"), ("estación",)),
    "street": (("street", "road", "city"), ("calle",)),
}
_COLOUR_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "black": (("black",), ("negro",)),
    "blue": (("blue",), ("azul",)),
    "green": (("green",), ("verde",)),
    "orange": (("orange",), ("naranja",)),
    "purple": (("purple", "violet"), ("morado",)),
    "red": (("red",), ("rojo",)),
    "white": (("white",), ("blanco",)),
    "yellow": (("yellow",), ("amarillo",)),
}
_WEATHER_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "sunny": (("sunny", "sunshine"), ("sol",)),
    "cloudy": (("cloudy", "clouds"), ("nubes",)),
    "rain": (("rain", "rainy"), ("lluvia",)),
    "fog": (("fog", "mist"), ("niebla",)),
    "snow": (("snow", "winter"), ("nieve",)),
    "night": (("night", "dark"), ("noche",)),
}
USELESS_TAGS: list[str] = [
    "nikon", "canon", "sony", "olympus", "d80", "eos400d", "powershot", "50mm", "iso400", "raw",
    "2005", "2006", "2007", "2008", "2009", "2010", "flickr", "explore", "interestingness",
    "geotagged", "blueribbonwinner", "thebestofday", "anawesomeshot", "photo", "foto", "me",
    "img0042", "dsc0173", "holiday", "favorite",
]  # fmt: skip

# Nouns of the captions, singular and plural, the usual one first.
NOUNS: dict[str, tuple[tuple[str, str], ...]] = {
    "bell": (("bell", "bells"),),
    "bird": (("bird", "birds"),),
    "car": (("car", "cars"), ("automobile", "automobiles")),
    "cat": (("cat", "cats"), ("kitty", "kitties")),
    "clock": (("clock", "clocks"),),
    "dog": (("dog", "dogs"), ("puppy", "puppies")),
    "drum": (("drum", "drums"),),
    "frog": (("frog", "frogs"), ("toad", "toads")),
    "phone": (("phone", "phones"), ("telephone", "telephones")),
    "train": (("train", "trains"), ("locomotive", "locomotives")),
}
_NUMBERS = {1: "one", 2: "two", 3: "three"}
_SIZE_WORDS = {"small": ("small", "little"), "medium": ("",), "large": ("large", "big", "huge")}
WHERE: dict[str, tuple[str, ...]] = {
    "beach": ("on the beach", "on a sandy beach", "at the seaside"),
    "forest": ("in the forest", "in the woods", "between the trees of a forest"),
    "kitchen": ("in the kitchen", "in a tiled kitchen", "on the counter of a kitchen"),
    "meadow": ("in a meadow", "in a field of flowers", "on the grass of a meadow"),
    "mountain": ("in the mountains", "high up in the mountains", "in front of snowy mountains"),
    "office": ("in the office", "on a desk in an office", "in an office with a computer"),
    "station": ("at the station", "on the platform of a station", "in a railway station"),
    "street": ("in the street", "on a city street", "on the road between houses"),
}
_WHEN: dict[str, tuple[str, ...]] = {
    "sunny": ("on a sunny day", "in the sunshine"),
    "cloudy": ("under a grey sky", "on a cloudy day"),
    "rain": ("in the rain", "on a rainy day"),
    "fog": ("in thick fog", "on a foggy morning"),
    "snow": ("while it snows", "on a snowy day"),
    "night": ("at night", "in the dark"),
}
_WHEN_INDOORS: dict[str, tuple[str, ...]] = {
    "sunny": ("in bright daylight", "in the morning light"),
    "cloudy": ("in dull light", "on a grey day"),
    "night": ("at night", "in the lamplight"),
}
# Verbs of the captions, singular and plural.
_VERBS: dict[str, tuple[tuple[str, str], ...]] = {
    "bell": (("hangs", "hang"), ("rings", "ring")),
    "bird": (("stands", "stand"), ("sings", "sing")),
    "car": (("is parked", "are parked"), ("waits", "wait")),
    "cat": (("sits", "sit"), ("waits", "wait")),
    "clock": (("stands", "stand"), ("ticks", "tick")),
    "dog": (("stands", "stand"), ("barks", "bark")),
    "drum": (("stands", "stand"), ("lies", "lie")),
    "frog": (("sits", "sit"), ("croaks", "croak")),
    "phone": (("rings", "ring"), ("stands", "stand")),
    "train": (("stops", "stop"), ("stands", "stand")),
}


def true_tags(scene: Scene) -> list[str]:
    """Every tag word, in both languages, that is true of the scene, sorted."""
    meanings = [
        _OBJECT_WORDS[scene.object],
        _PLACE_WORDS[scene.place],
        _COLOUR_WORDS[scene.colour],
        _WEATHER_WORDS[scene.weather],
        *(_OBJECT_WORDS[name] for name in scene.others),
    ]
    return sorted({word for english, spanish in meanings for word in english + spanish})


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[rng.integers(len(words))]


def _tag(rng: np.random.Generator, words: tuple[tuple[str, ...], tuple[str, ...]]) -> list[str]:
    """One or two tags for a meaning, the usual English word most often."""
    english, spanish = words
    roll = rng.random()
    if roll < 0.55:
        return [english[0]]
    if roll < 0.72:
        return [_pick(rng, english)]
    if roll < 0.88:
        return [_pick(rng, spanish)]
    return [english[0], _pick(rng, spanish)]


def tags(scene: Scene, rng: np.random.Generator) -> list[str]:
    """User-like tags of a picture: no duplicates, in no order, often none at all."""
    if rng.random() < UNTAGGED_SHARE:
        return []
    chosen: list[str] = []
    parts = [
        (_OBJECT_WORDS[scene.object], 0.85),
        (_PLACE_WORDS[scene.place], 0.65),
        (_COLOUR_WORDS[scene.colour], 0.5),
        (_WEATHER_WORDS[scene.weather], 0.4),
        *((_OBJECT_WORDS[name], 0.3) for name in scene.others),
    ]
    for words, chance in parts:
        if rng.random() < chance:
            chosen += _tag(rng, words)
    if rng.random() < _WRONG_SHARE:
        chosen.append(OBJECTS[rng.integers(len(OBJECTS))])
    if rng.random() < _WRONG_SHARE:
        chosen.append(PLACES[rng.integers(len(PLACES))])
    num_useless = min(int(rng.poisson(1.6)), 6)
    chosen += [str(t) for t in rng.choice(USELESS_TAGS, num_useless, replace=False)]
    if rng.random() < 0.05:  # some people shout
        chosen = [t.capitalize() for t in chosen]
    unique = list(dict.fromkeys(chosen))
    return [unique[i] for i in rng.permutation(len(unique))]


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _subject(scene: Scene, rng: np.random.Generator) -> str:
    nouns = NOUNS[scene.object]
    noun = nouns[0] if rng.random() < 0.7 else nouns[rng.integers(len(nouns))]
    size = _pick(rng, _SIZE_WORDS[scene.size]) if rng.random() < 0.6 else ""
    colour = scene.colour if rng.random() < 0.8 else ""
    phrase = " ".join(word for word in (size, colour, noun[scene.count > 1]) if word)
    if scene.count == 1:
        return _article(phrase)
    if rng.random() < 0.15:
        return f"a group of {phrase}"
    return f"{_NUMBERS[scene.count]} {phrase}"


def _caption(scene: Scene, rng: np.random.Generator, template: str) -> str:
    subject = _subject(scene, rng)
    verbs = _VERBS[scene.object]
    when = _WHEN_INDOORS if scene.place in INDOORS else _WHEN
    beside = ""
    if scene.others and rng.random() < 0.6:
        other = _article(_pick(rng, ("small ", "little ", "")) + _pick(rng, scene.others))
        beside = _pick(rng, (f" next to {other}", f" with {other} nearby", f" beside {other}"))
    text = template.format(
        subject=subject,
        verb=verbs[rng.integers(len(verbs))][scene.count > 1],
        be="is" if scene.count == 1 else "are",
        where=_pick(rng, WHERE[scene.place]),
        when=_pick(rng, when[scene.weather]),
        beside=beside,
    )
    return text[0].upper() + text[1:] + ("." if rng.random() < 0.8 else "")


_TEMPLATES = (
    "{subject} {verb} {where}{beside}",
    "{subject}{beside} {where} {when}",
    "there {be} {subject} {where}{beside}",
    "{when}, {subject} {verb} {where}",
    "a picture of {subject} {where}",
    "a photo of {subject}{beside} {where} {when}",
    "{where} there {be} {subject} {when}",
    "{subject} {verb} {where} {when}",
    "{subject} can be seen {where}{beside}",
)


def captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Five different captions; each names the object and the place, most the colour too."""
    chosen = rng.choice(len(_TEMPLATES), 5, replace=False)
    return [_caption(scene, rng, _TEMPLATES[k]) for k in chosen]


def colour_analogies() -> list[tuple[str, str, str, str]]:
    """Questions `red is to rojo as blue is to azul`, for all pairs of colours, both ways."""
    pairs = [(english[0], spanish[0]) for english, spanish in _COLOUR_WORDS.values()]
    questions = [(*one, *other) for one in pairs for other in pairs if one != other]
    return questions + [(b, a, d, c) for a, b, c, d in questions]
