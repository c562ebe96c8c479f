from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.errors import UserError
from mmray.pipeline import dataset


def make(folder: Path, kind: str = "clips", version: int = 1) -> np.ndarray:
    values = np.random.default_rng(0).random((10, 2, 3)).astype(np.float16)
    for part in range(2):
        rows = slice(part * 5, part * 5 + 5)
        table = pa.table(
            {
                "id": [f"r{i}" for i in range(rows.start, rows.stop)],
                "split": ["train" if i % 3 else "test" for i in range(rows.start, rows.stop)],
                "objects": dataset.tensor_column(values[rows], [2, 3], "float16"),
            }
        )
        dataset.write_table(str(folder / f"part-{part:05d}.parquet"), table, row_group_size=2)
    manifest = {
        "kind": kind,
        "schema_version": version,
        "teachers": {"objects": {"classes": ["a", "b", "c"]}},
        "counts": {"rows": 10, "errors": 0},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return values


def test_reads_what_was_written(tmp_path: Path) -> None:
    values = make(tmp_path)
    data = dataset.Dataset(str(tmp_path))
    table = data.read(["id", "objects"])
    assert table["id"].to_pylist() == [f"r{i}" for i in range(10)]
    np.testing.assert_array_equal(dataset.tensor(table["objects"]), values)
    assert data.classes == {"objects": ["a", "b", "c"]}
    assert data.read(["id"], split="test")["id"].to_pylist() == ["r0", "r3", "r6", "r9"]
    assert data.read(["id"], limit=7).num_rows == 7
    assert [b.num_rows for b in data.batches(["id"], batch_size=3)] == [3, 2, 3, 2]


def test_row_groups_are_random_access(tmp_path: Path) -> None:
    make(tmp_path)
    data = dataset.Dataset(str(tmp_path))
    groups = data.row_groups()
    assert [g.num_rows for g in groups] == [2, 2, 1, 2, 2, 1]
    assert data.read_row_group(groups[4], ["id"])["id"].to_pylist() == ["r7", "r8"]


def test_shards_are_plain_parquet(tmp_path: Path) -> None:
    values = make(tmp_path)
    table = pq.read_table(tmp_path / "part-00000.parquet")
    assert table.schema.field("objects").type == pa.fixed_shape_tensor(pa.float16(), [2, 3])
    np.testing.assert_array_equal(table["objects"].combine_chunks().to_numpy_ndarray(), values[:5])


def test_empty_split_keeps_its_columns(tmp_path: Path) -> None:
    make(tmp_path)
    table = dataset.Dataset(str(tmp_path)).read(["id", "objects"], split="val")
    assert table.num_rows == 0
    assert table.column_names == ["id", "objects"]


def test_wrong_folders_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a finished dataset"):
        dataset.Dataset(str(tmp_path / "missing"))
    make(tmp_path, kind="images")
    with pytest.raises(UserError, match="holds 'images', expected a dataset of clips"):
        dataset.Dataset(str(tmp_path))
    make(tmp_path, version=99)
    with pytest.raises(UserError, match="schema version 99"):
        dataset.Dataset(str(tmp_path))
    make(tmp_path)
    (tmp_path / "part-00001.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"part-00001\.parquet"):
        dataset.Dataset(str(tmp_path)).read(["id"])


def test_the_hash_follows_the_manifest(tmp_path: Path) -> None:
    make(tmp_path)
    before = dataset.Dataset(str(tmp_path)).sha256
    assert dataset.Dataset(str(tmp_path)).sha256 == before
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["source"] = "folder:other"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert dataset.Dataset(str(tmp_path)).sha256 != before
