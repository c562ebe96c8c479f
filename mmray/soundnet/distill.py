"""From a clip dataset and a few choices to a training job of a SoundNet."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mmray.errors import UserError
from mmray.models import absolute
from mmray.pipeline.dataset import Dataset
from mmray.soundnet.augment import AugmentConfig
from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.data import SoundExamples, heads_of
from mmray.soundnet.task import SoundNetTask
from mmray.training.config import TrainConfig
from mmray.training.train import Job

DEFAULT_CROP_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Student:
    """What is open about the student and its loss; see `SoundNetConfig` and `SoundNetTask`.

    Args:
        crop_s: seconds of sound in each example; None for 5, or for whole clips in the published
            geometry, which hears nothing in less than 10 s.
    """

    arch: str = "soundnet8"
    init: str = "random"
    aligned: bool = True
    head_kernel: int = 1
    crop_s: float | None = None
    objects_weight: float = 1.0
    scenes_weight: float = 1.0
    sparse_heads: float = 0.0


def soundnet_job(
    data: str,
    out: str,
    student: Student,
    config: TrainConfig,
    augment: AugmentConfig | None = None,
    *,
    limit: int | None = None,
) -> Job:
    """The job that trains a student on a clip dataset.

    Raises:
        UserError: the dataset or the choices do not allow it; names the flag.
    """
    dataset = Dataset(data, "clips")
    options = dataset.manifest.get("options", {})
    try:
        frame_s, clip_s = float(options["frame_s"]), float(options["clip_s"])
    except (KeyError, TypeError, ValueError) as e:
        raise UserError(f"{data}: its manifest does not tell frame_s and clip_s ({e})") from e
    classes = dataset.classes
    heads = heads_of(classes)
    if not heads:
        raise UserError(f"{data}: holds no teacher's posteriors, so there is nothing to learn")
    model = SoundNetConfig(
        arch=student.arch,
        objects=classes.get("objects", []),
        scenes=classes.get("scenes", []),
        aligned=student.aligned,
        head_kernel=student.head_kernel,
        frame_s=frame_s,
    )
    crop_s = student.crop_s
    if crop_s is None:
        crop_s = min(DEFAULT_CROP_S, clip_s) if student.aligned else clip_s
    _check(model, heads, crop_s)
    for name in ("objects_weight", "scenes_weight", "sparse_heads"):
        if getattr(student, name) < 0:
            raise UserError(f"--{name.replace('_', '-')}: expected 0 or more")
    if augment is not None:
        augment.check()
    init = student.init if student.init == "random" else absolute(student.init)
    task = SoundNetTask(
        model,
        augment,
        crop_s,
        init,
        student.objects_weight,
        student.scenes_weight,
        student.sparse_heads,
    )
    whole = SoundExamples(
        heads=heads,
        crop_s=max(crop_s, clip_s),
        sample_rate=model.sample_rate,
        encoding=options.get("audio", "pcm16"),
        aligned=student.aligned,
        frame_s=frame_s,
    )
    crops = replace(whole, crop_s=crop_s, augment=augment)
    return Job(task, crops, whole, data, "clips", out, config, limit)


def _check(model: SoundNetConfig, heads: tuple[str, ...], crop_s: float) -> None:
    shortest = max(model.min_samples(head) for head in heads) / model.sample_rate
    if not shortest <= crop_s < float("inf"):
        raise UserError(
            f"--crop-s {crop_s:g}: this {model.arch} needs at least {shortest:.2f} s of sound "
            "for one output"
        )
