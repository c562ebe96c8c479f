"""Running stages over shards: on Ray Data, or in this process. Nothing else talks to Ray Data.

The unit of work is the shard: a fixed run of rows of a manifest. A shard's rows travel through
all pools together and end in one call of the last stage, which writes them in one atomic step.
So a shard is done or not done, whatever is killed when, and running the shards that are not done
yields exactly the rows of an undisturbed run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mmray import runtime
from mmray.errors import UserError
from mmray.pipeline.stages import Pool, Stage

if TYPE_CHECKING:
    from ray.data import ActorPoolStrategy, Dataset

ENVELOPE = pa.schema({"shard": pa.int64(), "rows": pa.large_binary(), "refusal": pa.string()})
"""What travels between pools: one row a shard, with all its rows packed into one value, so that
Ray Data, which cuts and joins tables as it likes, keeps it whole. Without rows the shard was done
already; a refusal is the text of a `UserError`, of which Ray Data would bring only a traceback."""
MOST_RUNS = 4096


def run(
    shards: Sequence[int],
    pools: Sequence[Pool],
    is_done: Callable[[int], bool] | None = None,
    shard_bytes: int = 0,
) -> Iterator[dict[str, Any]]:
    """Send shards through pools of workers; yield what the last stage says of each.

    Args:
        shards: numbers of the shards to run. The first stage gets a table with the one column
            `shard` and the one row of that number, and reads the shard's rows itself.
        pools: the workers, first to last.
        is_done: whether a shard has been written. What a lost worker was given is given to
            another one as a whole, which passes over the shards of it that are done; of these
            nothing may be yielded.
        shard_bytes: of a shard between two pools; where it is known, no pool runs far ahead of
            the next one, or the object store would fill with what waits.

    Yields:
        The rows of the last stage's tables, in the order in which shards end.

    Raises:
        UserError: a stage raised it.
    """
    if runtime.is_local():
        yield from _run_here(shards, pools)
        return
    for letter in _run_on_ray(shards, pools, is_done, shard_bytes):
        if letter["refusal"] is not None:
            raise UserError(letter["refusal"])
        if letter["rows"] is not None:
            yield from _unpacked(pa.py_buffer(letter["rows"])).to_pylist()


def _run_here(shards: Sequence[int], pools: Sequence[Pool]) -> Iterator[dict[str, Any]]:
    stages = [stage for pool in pools for stage in pool.stages]
    for stage in stages:
        stage.setup()
    for shard in shards:
        rows = _number(shard)
        for stage in stages:
            rows = stage(rows)
        yield from rows.to_pylist()


def _run_on_ray(
    shards: Sequence[int],
    pools: Sequence[Pool],
    is_done: Callable[[int], bool] | None,
    shard_bytes: int,
) -> Iterator[dict[str, Any]]:
    import ray
    from ray.data.context import DataContext

    # Its lines are about blocks and operators; what the user wants to know the caller says.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    theirs = DataContext.get_current()
    context = theirs.copy()
    DataContext._set_current(context)
    context.enable_progress_bars = False  # the caller shows progress in clips, not in blocks
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # each row, which is a shard, is a block of its own
    if shard_bytes:  # a task holds two shards that are done, another two may wait for each worker
        most = 4 * shard_bytes * sum(pool.most for pool in pools)
        context.execution_options.resource_limits = ray.data.ExecutionResources(
            object_store_memory=most
        )
    try:
        yield from _dataset(shards, pools, is_done).iter_rows()
    finally:
        DataContext._set_current(theirs)


def _dataset(
    shards: Sequence[int], pools: Sequence[Pool], is_done: Callable[[int], bool] | None
) -> Dataset:
    import ray

    # Blocks made here: a read task would wait for a CPU that the workers hold.
    runs = [pa.table({"shard": pa.array(run, pa.int64())}) for run in _runs(shards, pools[0].size)]
    dataset: Dataset = ray.data.from_arrow(runs)
    for i, pool in enumerate(pools):
        dataset = dataset.map_batches(
            _Worker,
            fn_constructor_args=(pool.stages, is_done if i == 0 else None),
            batch_size=None,  # the whole block
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=_strategy(pool, len(shards)),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus or None,
        )
    return dataset


def _strategy(pool: Pool, shards: int) -> ActorPoolStrategy:
    from ray.data import ActorPoolStrategy

    size, most = min(pool.size, shards), min(pool.most, shards)
    return ActorPoolStrategy(min_size=size, max_size=most, initial_size=size)


def _runs(shards: Sequence[int], workers: int) -> Iterator[Sequence[int]]:
    """Shards in runs that are given out one by one: first long ones, at the end single shards.

    The driver keeps some 50 KB for each run, so a million shards must not be a million runs; long
    ones at the end would leave workers idle. The rule is guided self-scheduling (Polychronopoulos
    and Kuck, 1987): a share of what is left.
    """
    start, most = 0, max(1, len(shards) // MOST_RUNS)
    while start < len(shards):
        size = max(1, min(most, (len(shards) - start) // (2 * workers)))
        yield shards[start : start + size]
        start += size


class _Worker:
    """The stages of one pool, set up on first use, called one after another."""

    def __init__(
        self, stages: Sequence[Stage], is_done: Callable[[int], bool] | None = None
    ) -> None:
        self.stages = stages
        self._is_done = is_done
        self._refusal: str | None = None
        try:
            for stage in stages:
                stage.setup()
        except UserError as e:
            self._refusal = str(e)

    def __call__(self, letters: pa.Table) -> Iterator[pa.Table]:
        for letter in range(letters.num_rows):
            yield self._answer(letters.slice(letter, 1))

    def _answer(self, letter: pa.Table) -> pa.Table:
        shard = letter["shard"][0].as_py()
        if self._refusal is not None:
            return _letter(shard, refusal=self._refusal)
        if "rows" in letter.column_names:
            if letter["rows"][0].as_buffer() is None:  # refused by a pool before, or done
                return letter
            rows = _unpacked(letter["rows"][0].as_buffer())
        elif self._is_done is not None and self._is_done(shard):
            return _letter(shard)
        else:
            rows = _number(shard)
        try:
            for stage in self.stages:
                rows = stage(rows)
        except UserError as e:
            return _letter(shard, refusal=str(e))
        except OSError as e:  # of a disk that is full, or gone
            return _letter(shard, refusal=f"{e}; what is done is kept, the same command goes on")
        return _letter(shard, rows)


def _number(shard: int) -> pa.Table:
    return pa.table({"shard": pa.array([shard], pa.int64())})


def _letter(shard: int, rows: pa.Table | None = None, refusal: str | None = None) -> pa.Table:
    packed = pa.nulls(1, pa.large_binary())
    if rows is not None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        data = sink.getvalue()  # from here on not copied
        ends = pa.array([0, data.size], pa.int64()).buffers()[1]
        packed = pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, data])
    columns = [pa.array([shard], pa.int64()), packed, pa.array([refusal], pa.string())]
    return pa.table(columns, schema=ENVELOPE)


def _unpacked(data: pa.Buffer) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


@dataclass(frozen=True)
class Resources:
    """What a cluster has for work.

    Args:
        cpus: logical CPUs.
        gpus: number of GPUs.
        memory: for workers, in bytes, the object store not counted; 0 where it is not known.
    """

    cpus: int
    gpus: int = 0
    memory: int = 0


def resources() -> Resources:
    """What the cluster has now; in local mode one CPU."""
    if runtime.is_local():
        return Resources(1)
    import ray

    return _resources(ray.cluster_resources())


def resources_at_most() -> Resources:
    """What the cluster may grow to, where an autoscaler tells; else what it has now."""
    if runtime.is_local():
        return Resources(1)
    from ray._private.state import state

    now, told = resources(), state.get_max_resources_from_cluster_config()
    if not told:
        return now
    most = _resources(told)
    memory = max(now.memory, most.memory) if most.memory else 0  # of nodes to come, often untold
    return Resources(max(now.cpus, most.cpus), max(now.gpus, most.gpus), memory)


def _resources(named: Mapping[str, float]) -> Resources:
    memory = int(named.get("memory", 0))
    return Resources(max(1, int(named.get("CPU", 1))), int(named.get("GPU", 0)), memory)
