"""Running stages over shards: on Ray Data, or in this process. Nothing else talks to Ray Data.

The unit of work is the shard: a fixed run of rows of a manifest. A shard's rows travel through
all pools together and end in one call of the last stage, which writes them in one atomic step.
So a shard is done or not done, whatever is killed when, and running the shards that are not done
yields exactly the rows of an undisturbed run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from mmray import runtime
from mmray.errors import UserError
from mmray.pipeline.stages import Pool, Stage

USER_ERROR = "user_error"


def run(shards: Sequence[int], pools: Sequence[Pool]) -> Iterator[dict[str, Any]]:
    """Send shards through pools of workers; yield what the last stage says of each.

    Args:
        shards: numbers of the shards to run. The first stage gets a table with the one column
            `shard` and the one row of that number, and reads the shard's rows itself.
        pools: the workers, first to last.

    Yields:
        The rows of the last stage's tables, in the order in which shards end.

    Raises:
        UserError: a stage raised it.
    """
    for row in _run_here(shards, pools) if runtime.is_local() else _run_on_ray(shards, pools):
        if USER_ERROR in row:
            raise UserError(row[USER_ERROR])
        yield row


def _run_here(shards: Sequence[int], pools: Sequence[Pool]) -> Iterator[dict[str, Any]]:
    workers = [_Worker(pool.stages) for pool in pools]
    for shard in shards:
        rows = pa.table({"shard": pa.array([shard], pa.int64())})
        for worker in workers:
            rows = worker(rows)
        yield from rows.to_pylist()


def _run_on_ray(shards: Sequence[int], pools: Sequence[Pool]) -> Iterator[dict[str, Any]]:
    import ray
    from ray.data.context import DataContext

    # Its lines are about blocks and operators; what the user wants to know the caller says.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False  # the caller shows progress in clips, not in blocks
    context.print_on_execution_start = False
    # A shard must stay one block from stage to stage; its size is set by its number of rows.
    context.target_max_block_size = 1 << 31
    # One block a shard, made here: a read task would wait for a CPU that the workers hold.
    blocks = [pa.table({"shard": pa.array([shard], pa.int64())}) for shard in shards]
    dataset: ray.data.Dataset = ray.data.from_arrow(blocks)
    for pool in pools:
        dataset = dataset.map_batches(
            _Worker,
            fn_constructor_args=(pool.stages,),
            batch_size=None,  # the whole block
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(size=min(pool.size, len(shards))),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus or None,
        )
    yield from dataset.iter_rows()


class _Worker:
    """The stages of one pool, set up on first use, called one after another.

    A `UserError` of theirs travels to the driver as a row: of an exception that crosses Ray Data
    only the text arrives, in the middle of a traceback.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = stages
        self._refusal: UserError | None = None
        try:
            for stage in stages:
                stage.setup()
        except UserError as e:
            self._refusal = e

    def __call__(self, rows: pa.Table) -> pa.Table:
        if USER_ERROR in rows.column_names:  # of a pool before
            return rows
        try:
            if self._refusal is not None:
                raise self._refusal
            for stage in self.stages:
                rows = stage(rows)
        except UserError as e:
            return pa.table({USER_ERROR: [str(e)]})
        return rows


def cluster_resources() -> tuple[int, int]:
    """CPUs and GPUs of the cluster, or of this process in local mode."""
    if runtime.is_local():
        return 1, 0
    import ray

    have = ray.cluster_resources()
    return max(1, int(have.get("CPU", 1))), int(have.get("GPU", 0))
