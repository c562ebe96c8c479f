"""What docs/security.md claims: its tests are there, and hostile tables run nothing."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.data.extensions import ArrowPythonObjectType  # Ray Data is there, as in every worker

from mmray import parquet
from mmray.errors import UserError
from mmray.pipeline.dataset import read_table
from mmray.sources import manifest

ROOT = Path(__file__).parent.parent


def test_the_tests_that_the_document_names_are_there() -> None:
    named = re.findall(r"`(tests/\S+\.py)(?:::(\w+))?`", (ROOT / "docs/security.md").read_text())
    assert len(named) > 10
    missing = [
        f"{path}::{test}"
        for path, test in named
        if (f"def {test}(" if test else "def test") not in (ROOT / path).read_text()
    ]
    assert not missing


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def hostile(folder: Path, kind: pa.DataType, values: list[object], name: bytes) -> str:
    """A Parquet file whose column `tags` pretends to be of the extension type `name`."""
    pretence = {
        b"ARROW:extension:name": name,
        b"ARROW:extension:metadata": pickle.dumps(Runs(folder / "ran")),
    }
    tags = pa.field("tags", kind, metadata=pretence)
    schema = pa.schema([pa.field("uri", pa.string()), tags])
    table = pa.table([pa.array(["a.jpg"]), pa.array(values, kind)], schema=schema)
    path = str(folder / "hostile.parquet")
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize(
    "name",
    [
        b"ray.data.arrow_tensor",
        b"ray.data.arrow_tensor_v2",
        b"ray.data.arrow_variable_shaped_tensor",
        b"arrow.py_extension_type",
    ],
)
def test_types_of_a_parquet_file_run_nothing(name: bytes, tmp_path: Path) -> None:
    path = hostile(tmp_path, pa.list_(pa.float32()), [[1.0]], name)
    for read in (read_table, lambda where: list(manifest.images(where))):
        with contextlib.suppress(UserError, pa.ArrowException, ValueError):
            read(path)  # or refuses it, which is as good
        assert not (tmp_path / "ran").exists()


def test_values_of_a_parquet_file_run_nothing(tmp_path: Path) -> None:
    value = pickle.dumps(Runs(tmp_path / "ran"))
    path = hostile(tmp_path, pa.large_binary(), [value], b"ray.data.arrow_pickled_object")
    with pytest.raises(UserError, match=r"column tags is of the type ray\.data\.arrow_pickled"):
        read_table(path)
    with pytest.raises(UserError, match=r"column tags is of the type ray\.data\.arrow_pickled"):
        list(manifest.images(path))
    assert not (tmp_path / "ran").exists()
    # Where nobody reads the column, it does no harm.
    assert [item.uri for item in manifest.videos(path)] == [str(tmp_path / "a.jpg")]


PICKLES = ArrowPythonObjectType()


@pytest.mark.parametrize(
    "kind",
    [
        PICKLES,
        pa.list_(PICKLES),
        pa.struct({"a": pa.map_(pa.string(), PICKLES)}),
        pa.dictionary(pa.int8(), PICKLES),
        pa.fixed_shape_tensor(pa.float16(), [2]),
        pa.list_(pa.struct({"a": pa.string(), "b": pa.large_binary()})),
    ],
)
def test_types_are_looked_through(kind: pa.DataType) -> None:
    schema = pa.schema({"a": kind, "b": pa.int8()})
    parquet.check(schema, "t.parquet", ["b"])
    if "ArrowPython" not in str(kind):
        parquet.check(schema, "t.parquet")
        return
    with pytest.raises(UserError, match=r"t\.parquet: column a is of the type ray\.data\."):
        parquet.check(schema, "t.parquet")
