"""A job over any number of files: resumable passes, a quarantine, a dataset at the end.

    listing   the source's items, streamed to a work list
    split     a look into every item gives its parts (the clips of a video), a second work list
    main      the parts become the rows of the dataset

Split and main run shard by shard (see `run.py`), so a job that was killed at any moment goes on
with the shards that are missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from rich.table import Table

from mmray import storage
from mmray.cli import JobFailed, console
from mmray.errors import UserError
from mmray.pipeline import dataset, run, shards
from mmray.pipeline.progress import ProgressLine
from mmray.pipeline.stages import Pool, Stage

LISTING_SHARD = 64


@dataclass(frozen=True)
class Prepared:
    """What a job made.

    Args:
        path: the dataset's folder.
        rows: rows of the dataset.
        errors: items and parts in its quarantine.
    """

    path: str
    rows: int
    errors: int


@dataclass
class DatasetJob:
    """One job over the items of a source.

    Args:
        out: folder (or URI) of the dataset.
        kind: of the dataset, as in its manifest.
        options: what determines its rows; a folder made with others is refused.
        nets: description of the nets that look at the items, with `weights_sha256`.
        items: what an item is called, for example `videos`.
        parts: what its parts are called, for example `clips`.
        max_error_ratio: largest share of bad items and parts.
        net_key: name of `nets` in the manifest.
        max_shard: most parts in a shard, which is in memory as a whole.
        derived: folders in `out` that are made from its rows, and go with them.
    """

    out: str
    kind: str
    options: dict[str, Any]
    nets: dict[str, dict[str, Any]]
    items: str
    parts: str
    max_error_ratio: float = 0.2
    net_key: str = "teachers"
    max_shard: int = 64
    derived: tuple[str, ...] = ()
    errors: str = field(init=False)
    item_list: str = field(init=False)
    part_list: str = field(init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.max_error_ratio <= 1:
            raise UserError(f"--max-error-ratio {self.max_error_ratio:g}: expected 0 to 1")
        self.out = storage.absolute(self.out)
        self.errors = storage.join(self.out, "errors")
        self.item_list = storage.join(self.out, ".work", "items.parquet")
        self.part_list = storage.join(self.out, ".work", "parts.parquet")
        self._split_out = storage.join(self.out, ".work", "split")

    def claim(self, overwrite: bool = False) -> Prepared | None:
        """Make `out` this job's own; the counts when it is complete already.

        Raises:
            UserError: it holds something else, or was made with other options.
            JobFailed: it is complete, with too many errors.
        """
        manifest = storage.join(self.out, "manifest.json")
        claim = storage.join(self.out, ".work", "options.json")
        wanted = {"options": self.options, self.net_key: self.nets}
        found = next((storage.read_json(p) for p in (manifest, claim) if storage.exists(p)), None)
        # A job that was killed before it could name its options leaves an empty `.work`.
        others = {*storage.list_files(self.out), *storage.list_folders(self.out)} - {".work"}
        if (found is None and others) or not isinstance(found, dict | None):
            raise UserError(f"{self.out}: is not empty and not a dataset; choose another --out")
        if overwrite:
            self._remove()
            found = None
        if found is None:
            storage.write_json(claim, wanted)
            return None
        if differs := self._differences(found):
            raise UserError(
                f"{self.out}: was made with other options ({differs}); give --overwrite to make "
                "it again, or another --out"
            )
        if "counts" not in found:
            return None
        counts = found["counts"]
        if len(dataset.part_names(self.out)) != counts.get("shards"):
            storage.remove(manifest)  # some are lost, or were being removed: they are made again
            storage.write_json(claim, wanted)
            return None
        storage.remove(storage.join(self.out, ".work"))  # killed after the manifest was written
        console.print(
            f"{self.out} is complete: {counts[self.items]} {self.items}, as they were when it was "
            "made; --overwrite makes it again"
        )
        self._check_errors(counts["rows"], counts["errors"])
        return Prepared(self.out, counts["rows"], counts["errors"])

    def _remove(self) -> None:
        """Remove the dataset, and nothing else that is in its folder."""
        for name in dataset.part_names(self.out):
            storage.remove(storage.join(self.out, name))
        for name in (*self.derived, "errors", ".work", "manifest.json"):
            storage.remove(storage.join(self.out, name))

    def _differences(self, found: dict[str, Any]) -> str:
        def flat(options: dict[str, Any], nets: dict[str, Any]) -> dict[str, str]:
            # A net may have moved: its weights count, and they are compared below.
            options = {k: v for k, v in options.items() if k not in (*self.nets, "model")}
            named = {f"--{name.replace('_', '-')}": str(v) for name, v in options.items()}
            return named | {f"weights of {k}": v["weights_sha256"][:12] for k, v in nets.items()}

        try:
            old = flat(found["options"], found[self.net_key])
        except (KeyError, TypeError, AttributeError) as e:
            raise UserError(f"{self.out}: holds something else than a dataset ({e!r})") from e
        new = flat(self.options, self.nets)
        return ", ".join(
            f"{name} was {old.get(name)}, is {new.get(name)}"
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        )

    def list_items(self, tables: Iterable[pa.Table], schema: pa.Schema, source: str) -> None:
        """Write the list of items, streaming: millions never sit in memory at once."""
        if storage.exists(self.item_list):
            return
        count = shards.write_list(self.item_list, tables, schema, LISTING_SHARD)
        if not count:
            storage.remove(self.item_list)
            raise UserError(f"{source}: holds no {self.items}")
        console.print(f"{source}: {count} {self.items}")

    def list_parts(self, tables: Iterable[pa.Table], schema: pa.Schema, source: str) -> None:
        """As `list_items`, where every item is one part and needs no look into it."""
        if not storage.exists(self.part_list):
            count = shards.write_list(self.part_list, tables, schema, self.max_shard)
            if not count:
                storage.remove(self.part_list)
                raise UserError(f"{source}: holds no {self.items}")
            console.print(f"{source}: {count} {self.items}")
        self.item_list = self.part_list

    def split(self, stage: Stage, schema: pa.Schema) -> None:
        """Look into every item; write the list of parts, with columns as in `schema`."""
        if storage.exists(self.part_list):
            return
        write = shards.WriteShard(self._split_out, schema.names, self.errors, "item")
        cpus, _ = run.cluster_resources()
        pools = [Pool("split", [shards.ReadShard(self.item_list), stage, write], size=cpus)]
        self._run(self.item_list, self._split_out, pools, self.items, "item")
        paths = [storage.join(self._split_out, p) for p in dataset.part_names(self._split_out)]
        total = sum(dataset.num_rows(path) for path in paths)
        # Small enough that all workers have work to the end, large enough to batch the nets.
        size = max(4, min(self.max_shard, total // (8 * cpus)))
        shards.write_list(self.part_list, map(dataset.read_table, paths), schema, size)

    def main(self, pools: Sequence[Pool]) -> None:
        """Make the rows: the last stage of the last pool writes them (see `WriteShard`)."""
        workers = " and ".join(f"{pool.size} x {pool.name}" for pool in pools)
        cpus, gpus = run.cluster_resources()
        console.print(f"workers: {workers}, on {cpus} CPUs and {gpus} GPUs")
        self._run(self.part_list, self.out, pools, self.parts, "part")

    def _run(self, work: str, out: str, pools: Sequence[Pool], what: str, name: str) -> None:
        """Run the shards of the work list `work` that are not in `out` yet."""
        todo = shards.pending(work, out)
        if not todo:
            return
        sizes = shards.sizes(work)
        total = sum(sizes)
        done = total - sum(sizes[i] for i in todo)
        _, bad = shards.count_done(out, self.errors, name)
        if done:
            console.print(f"resuming: {done} of {total} {what} are done")
        with ProgressLine(console, what, total, done, bad) as progress:
            for shard in run.run(todo, pools):
                progress.add(sizes[shard["shard"]], shard["errors"])
                if progress.errors > self.max_error_ratio * total:
                    break  # nothing that comes can bring the share down again
        self._check_errors(total - progress.errors, progress.errors)

    def finish(self, source: str) -> Prepared:
        """Write the manifest, which makes the dataset complete, and say what came out."""
        rows, bad_parts = shards.count_done(self.out, self.errors)
        _, bad_items = shards.count_done(self._split_out, self.errors, "item")
        counts = {
            self.items: dataset.num_rows(self.item_list),
            "rows": rows,
            "shards": len(dataset.part_names(self.out)),
            "errors": bad_parts + bad_items,
        }
        manifest = {
            "kind": self.kind,
            "schema_version": dataset.SCHEMA_VERSION,
            "source": source,
            "options": self.options,
            self.net_key: self.nets,
            "counts": counts,
        }
        for folder in (self.out, self.errors):
            storage.remove_temporaries(folder)
        storage.write_json(storage.join(self.out, "manifest.json"), manifest)
        storage.remove(storage.join(self.out, ".work"))
        self._print_summary(counts)
        self._check_errors(rows, counts["errors"])
        return Prepared(self.out, rows, counts["errors"])

    def _check_errors(self, good: int, bad: int) -> None:
        if bad > self.max_error_ratio * (good + bad):
            common = shards.reasons(self.errors).most_common(3)
            why = "; ".join(f"{count} x {text}" for text, count in common)
            raise JobFailed(
                f"{bad} of {good + bad} items are bad, more than --max-error-ratio "
                f"{self.max_error_ratio:g} allows. Most common: {why}. All reasons are in "
                f"{self.errors}; what is done is kept"
            )

    def _print_summary(self, counts: dict[str, int]) -> None:
        table = Table(self.items, self.parts, "quarantined", title=self.out, title_justify="left")
        table.add_row(*(str(counts[key]) for key in (self.items, "rows", "errors")))
        console.print(table)
        if counts["errors"]:
            why = Table("count", "why", title="quarantined", title_justify="left")
            for text, count in shards.reasons(self.errors).most_common(10):
                why.add_row(str(count), text)
            console.print(why)


def decode_and_ask(
    decode: Sequence[Stage],
    ask: Sequence[Stage],
    *,
    decoders: int | None = None,
    nets: int | None = None,
) -> list[Pool]:
    """Two pools: decoders on all CPUs; nets on the GPUs, else beside the decoders.

    Args:
        decode: stages of a decoder.
        ask: stages of a worker that holds a net.
        decoders: number of decoders; None for one a CPU.
        nets: number of workers with a net; None for one a GPU, else one for two CPUs.

    Raises:
        UserError: a number of workers is below 1.
    """
    for flag, number in (("--decoders", decoders), ("--nets", nets)):
        if number is not None and number < 1:
            raise UserError(f"{flag} {number}: expected 1 or more")
    cpus, gpus = run.cluster_resources()
    decoders = decoders or cpus
    nets = nets or max(1, gpus or cpus // 2)
    return [
        Pool("decoder", decode, decoders, num_cpus=min(1.0, cpus / decoders)),
        # Reserves no CPU: decoders may hold all of them, and it would wait for ever.
        Pool("net", ask, nets, num_cpus=0, num_gpus=min(1.0, gpus / nets)),
    ]
