"""Building a toy world on disk.

    world.json            version, arguments, counts, classes; written last, so it marks completion
    images/000000.jpg     pictures (every tenth a PNG)
    images.parquet        key, tags, captions: what a user of such a collection has
    videos/000000.mp4     videos with sound; a few have odd names, some are broken on purpose
    truth/images.parquet  what the pictures show, and every tag that is true of them
    truth/videos.parquet  what the videos show between which seconds, what disturbs their sound,
                          and how they are broken

`truth/` is for evaluation and for training the toy teachers; nothing else may look at it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from joblib.externals.loky import get_reusable_executor
from PIL import Image

from mmray import storage
from mmray.cli import console
from mmray.errors import UserError
from mmray.toyworld.broken import BROKEN_KINDS, PLAYABLE, write_broken
from mmray.toyworld.draw import draw
from mmray.toyworld.video import VideoPlan, plan_video, render_video
from mmray.toyworld.words import captions, tags, true_tags
from mmray.toyworld.world import OBJECTS, PLACES, Scene, sample_scene

VERSION = 1  # raise it whenever the same seed gives another world

Progress = Callable[[int, int], None]  # files done, files in all

_IMAGE_SIZES = [(128, 128), (120, 160), (160, 120)]  # height, width
_IMAGE_SIZE_WEIGHTS = [0.6, 0.25, 0.15]
_IMAGES_PER_TASK, _VIDEOS_PER_TASK = 100, 4


@dataclass(frozen=True)
class Arguments:
    """What settles the content of a world."""

    num_videos: int
    num_images: int
    broken: float
    seed: int


@dataclass(frozen=True)
class ImagePlan:
    """Everything about one picture; `key` is its path below the world's folder."""

    key: str
    scene: Scene
    size: tuple[int, int]
    tags: list[str]
    captions: list[str]


def plan_image(seed: int, index: int) -> ImagePlan:
    """The plan of picture number `index` of the world of a seed."""
    rng = np.random.default_rng([seed, 0, index])
    scene = sample_scene(rng)
    return ImagePlan(
        key=f"images/{index:06d}.{'png' if index % 10 == 9 else 'jpg'}",
        scene=scene,
        size=_IMAGE_SIZES[rng.choice(len(_IMAGE_SIZES), p=_IMAGE_SIZE_WEIGHTS)],
        tags=tags(scene, rng),
        captions=captions(scene, rng),
    )


def broken_videos(arguments: Arguments) -> dict[int, str]:
    """Which videos are broken, and how; kinds take turns, so that all occur when there is room."""
    count = round(arguments.num_videos * arguments.broken)
    chosen = np.random.default_rng([arguments.seed, 6]).permutation(arguments.num_videos)[:count]
    return {int(i): BROKEN_KINDS[k % len(BROKEN_KINDS)] for k, i in enumerate(chosen)}


def make_world(
    out: str | Path,
    *,
    num_videos: int = 360,
    num_images: int = 2000,
    broken: float = 0.05,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make a toy world, or finish one that was interrupted, or find it complete and do nothing.

    Args:
        out: a local folder.
        num_videos: videos, broken ones included.
        num_images: pictures.
        broken: share of the videos that is broken on purpose, 0 to 1.
        seed: not negative; the same arguments give the same pictures, words and sounds.
        workers: processes; default one a CPU. With 1 nothing is started.
        progress: called with (files done, files in all); without it a bar shows on a terminal.

    Returns:
        The folder.

    Raises:
        UserError: an argument is out of range, or the folder holds something else.
    """
    arguments = Arguments(num_videos, num_images, broken, seed)
    _check(arguments, workers)
    root = _claim(out, arguments)
    if (root / "world.json").exists():
        return root
    if progress is not None:
        _render_all(root, arguments, workers, progress)
    else:
        with _bar() as bar:
            _render_all(root, arguments, workers, bar)
    _write_tables(root, arguments)
    storage.write_json(root / "world.json", {
        "kind": "toyworld",
        "version": VERSION,
        "arguments": asdict(arguments),
        "counts": {"videos": num_videos, "images": num_images,
                   "broken": len(broken_videos(arguments))},
        "classes": {"objects": OBJECTS, "places": PLACES},
    })  # fmt: skip
    (root / "world.partial.json").unlink(missing_ok=True)
    return root


def default_world(num_videos: int = 360, num_images: int = 2000, seed: int = 0) -> Path:
    """The toy world of these arguments in the cache folder, made when it is not there yet."""
    broken = 0.05
    what = json.dumps([VERSION, asdict(Arguments(num_videos, num_images, broken, seed))])
    folder = storage.cache_dir() / "toyworld" / hashlib.sha256(what.encode()).hexdigest()[:16]
    if not (folder / "world.json").exists():
        console.print(f"making the toy world: {num_videos} videos, {num_images} pictures: {folder}")
    return make_world(
        folder, num_videos=num_videos, num_images=num_images, broken=broken, seed=seed
    )


def labelled_images(
    root: str | Path, what: Literal["objects", "scenes"] = "objects"
) -> tuple[list[Path], list[str]]:
    """Paths and labels of the pictures of a world, for training the toy teachers.

    Raises:
        UserError: `what` is neither, or the folder is no complete toy world.
    """
    columns = {"objects": "object", "scenes": "place"}
    if what not in columns:
        raise UserError(f"{what!r}: expected one of {', '.join(columns)}")
    root = Path(root)
    if storage.read_json(root / "world.json").get("kind") != "toyworld":
        raise UserError(f"{root}: is not a toy world")
    table = pq.read_table(root / "truth" / "images.parquet", columns=["key", columns[what]])
    paths = [root / key for key in table["key"].to_pylist()]
    return paths, table[columns[what]].to_pylist()


def _check(arguments: Arguments, workers: int | None) -> None:
    for name in ("num_videos", "num_images", "seed"):
        if getattr(arguments, name) < 0:
            raise UserError(f"{name} is {getattr(arguments, name)}: it cannot be negative")
    if not 0 <= arguments.broken <= 1:
        raise UserError(f"broken is {arguments.broken}: it is a share, from 0 to 1")
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}: there must be at least one")


def _claim(out: str | Path, arguments: Arguments) -> Path:
    """Make the folder, or make sure that it holds this world or the beginning of it."""
    if storage.is_remote(out):
        raise UserError(f"{out}: the toy world is made in a local folder; give a local path")
    root = storage.local_path(out).expanduser()
    for name in ("world.json", "world.partial.json"):
        if (root / name).exists():
            found = storage.read_json(root / name)
            if (found.get("version"), found.get("arguments")) != (VERSION, asdict(arguments)):
                raise UserError(
                    f"{root}: holds another toy world ({found.get('arguments')}); "
                    "give an empty folder or remove this one"
                )
            return root
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root}: is not an empty folder; the toy world needs one of its own")
    try:
        for name in ("images", "videos", "truth"):
            (root / name).mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"{root}: cannot be made ({e.strerror})") from e
    storage.write_json(
        root / "world.partial.json", {"version": VERSION, "arguments": asdict(arguments)}
    )
    return root


@contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar on the terminal; silent where there is none."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Making the toy world", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _num_cpus() -> int:
    """CPUs this process may use, which in containers is often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _render_all(root: Path, arguments: Arguments, workers: int | None, progress: Progress) -> None:
    tasks: list[tuple[Callable[..., int], tuple[Any, ...]]] = []
    faults = broken_videos(arguments)
    # Videos first: they take longest, and the short tasks then fill the gap at the end.
    for start in range(0, arguments.num_videos, _VIDEOS_PER_TASK):
        indices = range(start, min(start + _VIDEOS_PER_TASK, arguments.num_videos))
        kinds = [faults.get(i) for i in indices]
        tasks.append((_render_videos, (root, arguments.seed, indices, kinds)))
    for start in range(0, arguments.num_images, _IMAGES_PER_TASK):
        indices = range(start, min(start + _IMAGES_PER_TASK, arguments.num_images))
        tasks.append((_render_images, (root, arguments.seed, indices)))
    total, done = arguments.num_videos + arguments.num_images, 0
    workers = min(workers or _num_cpus(), len(tasks))
    if workers <= 1:
        for function, args in tasks:
            done += function(*args)
            progress(done, total)
        return
    # joblib's processes are not forked, as the caller may have threads (Ray, torch) that a fork
    # would break, and unlike plain spawned ones they never run the caller's script again.
    pool = get_reusable_executor(max_workers=workers)
    futures = [pool.submit(function, *args) for function, args in tasks]
    try:
        for future in as_completed(futures):
            done += future.result()
            progress(done, total)
    finally:
        for future in futures:
            future.cancel()
        pool.shutdown(wait=True)


def _render_images(root: Path, seed: int, indices: range) -> int:
    for index in indices:
        plan = plan_image(seed, index)
        path = root / plan.key
        if path.exists():
            continue
        image = Image.fromarray(draw(plan.scene, plan.size))
        with storage.atomic_path(path) as temporary:
            if path.suffix == ".png":
                image.save(temporary, "PNG", compress_level=1)
            else:
                image.save(temporary, "JPEG", quality=90)
    return len(indices)


def _render_videos(root: Path, seed: int, indices: range, kinds: list[str | None]) -> int:
    for index, kind in zip(indices, kinds, strict=True):
        plan = plan_video(seed, index)
        path = root / plan.key
        if path.exists():
            continue
        with storage.atomic_path(path) as temporary:
            if kind is None:
                render_video(plan, temporary)
            else:
                write_broken(kind, plan, temporary)
    return len(indices)


_SEGMENT = pa.struct([
    ("start_s", pa.float64()), ("end_s", pa.float64()), ("place", pa.string()),
    ("object", pa.string()), ("others", pa.list_(pa.string())),
])  # fmt: skip
_VIDEO_TRUTH = pa.schema([
    ("key", pa.string()), ("broken", pa.string()), ("duration_s", pa.float64()),
    ("width", pa.int32()), ("height", pa.int32()), ("fps", pa.float64()),
    ("sample_rate", pa.int32()), ("channels", pa.int32()), ("quiet", pa.bool_()),
    ("noisy", pa.bool_()), ("offscreen", pa.string()), ("segments", pa.list_(_SEGMENT)),
])  # fmt: skip
_IMAGE_TRUTH = pa.schema([
    ("key", pa.string()), ("place", pa.string()), ("object", pa.string()),
    ("others", pa.list_(pa.string())), ("colour", pa.string()), ("size", pa.string()),
    ("count", pa.int32()), ("weather", pa.string()), ("useful_tags", pa.list_(pa.string())),
])  # fmt: skip
_IMAGES = pa.schema([
    ("key", pa.string()), ("tags", pa.list_(pa.string())), ("captions", pa.list_(pa.string())),
])  # fmt: skip


def _write_tables(root: Path, arguments: Arguments) -> None:
    images = [plan_image(arguments.seed, i) for i in range(arguments.num_images)]
    faults = broken_videos(arguments)
    videos = [
        _video_truth(plan_video(arguments.seed, i), faults.get(i))
        for i in range(arguments.num_videos)
    ]
    shown = [{"key": p.key, "tags": p.tags, "captions": p.captions} for p in images]
    for name, rows, schema in (
        ("images.parquet", shown, _IMAGES),
        ("truth/images.parquet", [_image_truth(p) for p in images], _IMAGE_TRUTH),
        ("truth/videos.parquet", videos, _VIDEO_TRUTH),
    ):
        with storage.atomic_path(root / name) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


def _image_truth(plan: ImagePlan) -> dict[str, Any]:
    scene = plan.scene
    return {
        "key": plan.key, "place": scene.place, "object": scene.object,
        "others": list(scene.others), "colour": scene.colour, "size": scene.size,
        "count": scene.count, "weather": scene.weather, "useful_tags": true_tags(scene),
    }  # fmt: skip


def _video_truth(plan: VideoPlan, broken: str | None) -> dict[str, Any]:
    """One row of truth/videos.parquet: a value is null where the file has no such thing."""
    plays = broken is None or broken in PLAYABLE
    picture = plays and broken != "no_picture"
    sound = plays and broken != "no_sound"
    disturbance = plan.disturbance
    segments = [
        {"start_s": shot.start_s, "end_s": shot.end_s, "place": shot.scene.place,
         "object": shot.scene.object, "others": list(shot.scene.others)}
        for shot in plan.shots
    ]  # fmt: skip
    return {
        "key": plan.key,
        "broken": broken,
        "duration_s": plan.duration_s if plays else None,
        "width": plan.width if picture else None,
        "height": plan.height if picture else None,
        "fps": float(plan.fps) if picture else None,
        "sample_rate": plan.sample_rate if sound else None,
        "channels": plan.channels if sound else None,
        "quiet": disturbance.quiet,
        "noisy": disturbance.noisy,
        "offscreen": disturbance.offscreen,
        "segments": segments if plays else [],
    }
