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
from functools import partial
from typing import Any

import pyarrow as pa
from rich.table import Table

from mmray import storage
from mmray.cli import JobFailed, console
from mmray.errors import UserError
from mmray.pipeline import dataset, placement, run, shards
from mmray.pipeline.progress import ProgressLine
from mmray.pipeline.shards import WorkList
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
        part_bytes: of a part once it is decoded; settles how many a shard has.
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
    part_bytes: int = 1 << 20
    derived: tuple[str, ...] = ()
    errors: str = field(init=False)
    item_list: WorkList = field(init=False)
    part_list: WorkList = field(init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.max_error_ratio <= 1:
            raise UserError(f"--max-error-ratio {self.max_error_ratio:g}: expected 0 to 1")
        self.out = storage.absolute(self.out)
        self.errors = storage.join(self.out, "errors")
        self.item_list = WorkList(storage.join(self.out, ".work", "items"))
        self.part_list = WorkList(storage.join(self.out, ".work", "parts"))
        self._split_out = storage.join(self.out, ".work", "split")
        self._claim = storage.join(self.out, ".work", "options.json")

    def claim(self, overwrite: bool = False) -> Prepared | None:
        """Make `out` this job's own; the counts when it is complete already.

        Raises:
            UserError: it holds something else, or was made with other options.
            JobFailed: it is complete, with too many errors.
        """
        manifest = storage.join(self.out, "manifest.json")
        claim = self._claim
        wanted = {"options": self.options, self.net_key: self.nets, "shard_rows": None}
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
            # Some are lost, or were being removed: they are made again, cut as they were.
            storage.write_json(claim, wanted | {"shard_rows": found.get("shard_rows")})
            storage.remove(manifest)
            return None
        storage.remove(storage.join(self.out, ".work"))  # killed after the manifest was written
        self._check_errors(counts["rows"], counts["errors"])
        console.print(
            f"{self.out} is complete: {counts[self.items]} {self.items}; the source was not looked "
            "at again (--overwrite makes all of it anew)"
        )
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
            if "--source" in named:  # which is no flag, and may be named from another folder
                named["SOURCE"] = _absolute(named.pop("--source"))
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
        if not self.item_list.is_written:
            self._list(self.item_list, tables, schema, source, LISTING_SHARD)

    def list_parts(self, tables: Iterable[pa.Table], schema: pa.Schema, source: str) -> None:
        """As `list_items`, where every item is one part and needs no look into it."""
        if not self.part_list.is_written:
            size = self._shard_rows() or shards.rows_within(self.part_bytes)
            self._list(self.part_list, tables, schema, source, size)
        self.item_list = self.part_list

    def _list(
        self, work: WorkList, tables: Iterable[pa.Table], schema: pa.Schema, source: str, size: int
    ) -> None:
        work.write(tables, schema, size)
        if not work.is_written:
            raise UserError(f"{source}: holds no {self.items}")
        console.print(f"{source}: {work.num_rows} {self.items}")

    def _shard_rows(self) -> int | None:
        """Parts of a shard in what is here of an earlier list of the same parts."""
        rows: int | None = storage.read_json(self._claim)["shard_rows"]
        if rows is None and dataset.part_names(self.out):
            raise UserError(
                f"{self.out}: the list of what is to be done is lost, so the shards here cannot be "
                "told apart; give --overwrite to make all again, or another --out"
            )
        return rows

    def split(self, stage: Stage, schema: pa.Schema, decoders: int | None = None) -> None:
        """Look into every item; write the list of parts, with columns as in `schema`."""
        if self.part_list.is_written:
            return
        size = self._shard_rows()
        write = shards.WriteShard(self._split_out, schema.names, self.errors, "item")
        stages = [shards.ReadShard(self.item_list), stage, write]
        pools = [placement.decode_only(stages, decoders)]
        self._run(self.item_list, self._split_out, pools, self.items, "item")
        paths = [storage.join(self._split_out, p) for p in dataset.part_names(self._split_out)]
        total = sum(dataset.map_files(dataset.num_rows, paths))
        # Small enough that all workers have work to the end, large enough to batch the nets.
        size = size or max(
            4, min(shards.rows_within(self.part_bytes), total // (8 * pools[0].size))
        )
        self.part_list.write(dataset.map_files(dataset.read_table, paths), schema, size)

    def main(self, pools: Sequence[Pool]) -> None:
        """Make the rows: the last stage of the last pool writes them (see `WriteShard`)."""
        self._run(self.part_list, self.out, pools, self.parts, "part", self.part_bytes)

    def _run(
        self,
        work: WorkList,
        out: str,
        pools: Sequence[Pool],
        what: str,
        name: str,
        row_bytes: int = 0,
    ) -> None:
        """Run the shards of the work list `work` that are not in `out` yet."""
        todo = work.pending(out)
        if not todo:
            return
        console.print(f"workers: {placement.describe(pools, run.resources())}")
        total = work.num_rows
        done = total - sum(map(work.size, todo))
        bad = shards.count_errors(out, self.errors, name)
        if done:
            console.print(f"resuming: {done} of {total} {what} are done")
        with ProgressLine(console, what, total, done, bad) as progress:
            is_done, shard_bytes = partial(shards.is_written, out), work.rows_per_shard * row_bytes
            for shard in run.run(todo, pools, is_done, shard_bytes):
                progress.add(work.size(shard["shard"]), shard["errors"])
                if progress.errors > self.max_error_ratio * total:
                    break  # nothing that comes can bring the share down again
        self._check_errors(total - progress.errors, progress.errors)
        if lost := len(work.pending(out)):
            raise JobFailed(f"{out}: {lost} shards were lost; the same command goes on with them")

    def finish(self, source: str) -> Prepared:
        """Write the manifest, which makes the dataset complete, and say what came out."""
        bad_parts = shards.count_errors(self.out, self.errors)
        bad_items = shards.count_errors(self._split_out, self.errors, "item")
        rows = self.part_list.num_rows - bad_parts
        counts = {
            self.items: self.item_list.num_rows,
            "rows": rows,
            "shards": self.part_list.num_shards,
            "errors": bad_parts + bad_items,
        }
        manifest = {
            "kind": self.kind,
            "schema_version": dataset.SCHEMA_VERSION,
            "source": source,
            "options": self.options,
            self.net_key: self.nets,
            "counts": counts,
            "shard_rows": self.part_list.rows_per_shard,
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
                f"{self.errors}; what is done is kept, and the same command goes on when more are "
                "allowed"
            )

    def _print_summary(self, counts: dict[str, int]) -> None:
        table = Table(self.items, self.parts, "quarantined", title=self.out, title_justify="left")
        table.add_row(*(str(counts[key]) for key in (self.items, "rows", "errors")))
        console.print(table)
        if counts["errors"]:
            title = f"quarantined, each in {self.errors}"
            why = Table("count", "why", title=title, title_justify="left")
            for text, count in shards.reasons(self.errors).most_common(10):
                why.add_row(str(count), text)
            console.print(why)


def _absolute(source: str) -> str:
    kind, colon, where = source.partition(":")
    return f"{kind}:{storage.absolute(where)}" if colon else source
