"""The stages that make clips, where they need a process of their own."""

from __future__ import annotations

from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from mmray.pipeline.clips import VIDEO_SCHEMA, DecodeClips, ProbeVideos
from mmray.pipeline.stages import failed


class DecodeActor:
    """The stages of a decoder, as the pipeline holds them in an actor."""

    def __init__(self) -> None:
        self.probe = ProbeVideos(4.0, 2.0, None, 60.0)
        self.decode = DecodeClips(4, 224, "exact", "pcm16", 60.0)
        for stage in (self.probe, self.decode):
            stage.setup()

    def clips(self, paths: list[str]) -> int:
        """Decode all clips of some videos; how many came out well."""
        rows = [{"id": path, "uri": path} for path in paths]
        table = pa.Table.from_pylist(rows, schema=VIDEO_SCHEMA)
        found = self.probe(table.append_column("shard", pa.array([0] * len(rows), pa.int64())))
        good = found.filter(pa.array([not bad for bad in failed(found)]))
        good = good.select([*VIDEO_SCHEMA.names, "shard"])
        return failed(self.decode(good)).count(False)

    def resident_mb(self) -> float:
        """Memory of the actor and its children."""
        me = psutil.Process()
        return sum(p.memory_info().rss for p in (me, *me.children(recursive=True))) / 2**20


@pytest.mark.slow
@pytest.mark.cluster
def test_a_decode_actor_stays_flat_over_3000_clips(small_world: Path, ray_cluster: None) -> None:
    import ray

    paths = [str(p) for p in sorted((small_world / "videos").glob("*.mp4"))]
    actor = ray.remote(DecodeActor).remote()
    done, at_500 = 0, 0.0
    while done < 3000:
        done += ray.get(actor.clips.remote(paths))
        if not at_500 and done >= 500:
            at_500 = ray.get(actor.resident_mb.remote())
    at_3000 = ray.get(actor.resident_mb.remote())
    print(f"{at_500:.1f} MB at clip 500, {at_3000:.1f} MB at clip {done}")
    ray.kill(actor)
    assert at_3000 - at_500 < 50
