"""Hearing any number of files: sounds and videos in, a dataset of answers out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mmray.errors import UserError
from mmray.models import absolute, load_predictor
from mmray.pipeline import shards
from mmray.pipeline.clips import with_ids
from mmray.pipeline.job import DatasetJob, Prepared
from mmray.pipeline.placement import decode_and_ask

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class HearOptions:
    """What determines the answers; the flags of `jobs/predict.py sounds`.

    Args:
        model: anything that `mmray.load` takes.
        input: where the files are, as `mmray.sources.media_files` reads it.
        layer: also give the features of this layer; None for none.
        top: how many of the likeliest classes to name.
        part_s: a longer file is heard in parts of at most so many seconds.
        limit: use only the first files.
    """

    model: str
    input: str
    layer: str | None = None
    top: int = 5
    part_s: float = 120.0
    limit: int | None = None

    def check(self) -> None:
        """Raise a `UserError` that names the flag when a value cannot work."""
        if self.top < 1:
            raise UserError(f"--top {self.top}: expected 1 or more")
        if self.part_s <= 0:
            raise UserError(f"--part-s {self.part_s:g}: expected more than 0")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit}: expected 1 or more")


def hear_files(
    options: HearOptions,
    out: str,
    *,
    decoders: int | None = None,
    nets: int | None = None,
    timeout_s: float = 60.0,
    max_error_ratio: float = 0.2,
    overwrite: bool = False,
) -> Prepared:
    """Ask a SoundNet about every file; the same call again goes on where it stopped.

    Writes a dataset of kind `sounds`, one row a part: `id, uri, start_s, duration_s, times_s`,
    and for each head `objects, top_objects, scenes, top_scenes`, with a layer also `features,
    feature_times_s`; see `HearSounds` for their types.

    Raises:
        UserError: bad options, no such model or input, or `out` holds something else.
        JobFailed: more than `max_error_ratio` of the files are bad; what is done is kept.
    """
    from mmray.soundnet.predict import SoundNet
    from mmray.soundnet.stages import SOUND_SCHEMA, HearSounds, ReadSounds, SplitSounds

    options.check()
    if not 0 < timeout_s < float("inf"):
        raise UserError(f"--timeout-s {timeout_s:g}: expected seconds above 0")
    options = replace(options, model=absolute(options.model))
    net = load_predictor(options.model, device="cpu")
    if not isinstance(net, SoundNet):
        raise UserError(
            f"{options.model}: is no model of sounds; expected one of jobs/distill_soundnet.py, or "
            "official:FILE"
        )
    if options.layer is not None and options.layer not in net.layers:
        raise UserError(f"--layer {options.layer}: the model has {', '.join(net.layers)}")
    described = {"sounds": {"weights_sha256": net.fingerprint, "classes": net.classes}}
    job = DatasetJob(
        out,
        kind="sounds",
        options=asdict(options),
        nets=described,
        items="files",
        parts="parts",
        max_error_ratio=max_error_ratio,
        net_key="models",
        part_bytes=round(4 * options.part_s * net.config.sample_rate),
    )
    if finished := job.claim(overwrite):
        return finished
    job.list_items(_rows(options), SOUND_SCHEMA, options.input)
    job.split(SplitSounds(options.part_s, timeout_s), SOUND_SCHEMA, decoders)
    heads = [column for head in net.classes for column in (head, f"top_{head}")]
    columns = [*SOUND_SCHEMA.names, *(["times_s", *heads] if heads else [])]
    columns += ["features", "feature_times_s"] if options.layer else []
    read = ReadSounds(net.config.sample_rate, timeout_s)
    hear = HearSounds(options.model, options.layer, options.top)
    pools = decode_and_ask(
        [shards.ReadShard(job.part_list), read],
        [hear, shards.WriteShard(job.out, columns, job.errors)],
        decoders=decoders,
        nets=nets,
    )
    job.main(pools)
    return job.finish(options.input)


def _rows(options: HearOptions) -> Iterator[pa.Table]:
    from mmray.soundnet.stages import SOUND_SCHEMA
    from mmray.sources import media_files

    items = with_ids(itertools.islice(media_files(options.input), options.limit), options.input)
    while batch := list(itertools.islice(items, 1024)):
        rows: list[dict[str, Any]] = [
            {
                "id": name,
                "uri": item.uri,
                "start_s": item.start_s,
                "duration_s": item.duration_s,
            }
            for name, item in batch
        ]
        yield pa.Table.from_pylist(rows, schema=SOUND_SCHEMA)
