"""Nearest neighbours among unit vectors: exact for few, approximate for millions.

It is faiss, IVF with 8 bits a number: ready in a quarter of the CPU time and in about half the
memory of the best graph (HNSW of faiss, usearch, hnswlib); 2 to 4 ms for one search of a million.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mmray import parquet, storage
from mmray.errors import UserError

EXACT_BELOW = 20_000  # a search of so many takes about a millisecond
RECALL_AT = 10
NUM_HELD_OUT = 1000
TRAIN_PER_LIST = 32  # vectors a centroid; more takes longer and finds no more
BLOCK = 50_000
INDEX_FILE, IDS_FILE, INFO_FILE = "index.faiss", "ids.parquet", "index.json"
Floats = npt.NDArray[np.floating[Any]]
log = logging.getLogger(__name__)


class Hits(NamedTuple):
    """What a search found, best first.

    Args:
        positions: int64 [Q, k]; places of the found vectors in the order they were indexed.
        similarities: float32 [Q, k]; cosines, -1 to 1. Of an approximate index they are those of
            the vectors at 8 bits a number, off by some thousandths.
    """

    positions: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float32]


@dataclass(frozen=True)
class IndexInfo:
    """What `index.json` holds.

    Args:
        kind: `flat` (exact) or `ivf_sq8`.
        dim: numbers a vector.
        count: number of vectors.
        model: hash of the model that made the vectors, as the caller gave it.
        nprobe: lists that a search looks into; 0 for `flat`.
        recall: recall@10 against exact search on `num_queries` queries, 0 to 1.
        num_queries: queries it was measured on; 0 for `flat`, which is exact.
    """

    kind: str
    dim: int
    count: int
    model: str
    nprobe: int = 0
    recall: float = 1.0
    num_queries: int = 0


class Index:
    """Finds the vectors most similar to a query, by cosine.

    Made by `Index.build` or `Index.load`. Searches may run in several threads at once.

    Args:
        engine: the faiss index.
        ids: one id a vector, in the order of the vectors.
        info: what is known of it.
    """

    def __init__(self, engine: Any, ids: pa.LargeStringArray, info: IndexInfo) -> None:
        self.engine = engine
        self.ids = ids
        self.info = info

    def __len__(self) -> int:
        return self.info.count

    @classmethod
    def build(
        cls,
        vectors: Floats | Iterable[Floats],
        ids: Sequence[str] | pa.Array | pa.ChunkedArray,
        *,
        queries: Floats | None = None,
        min_recall: float = 0.95,
        model: str = "",
        seed: int = 0,
    ) -> Index:
        """Index vectors; below 20,000 of them the index is exact.

        How many lists a search looks into is the least that reaches `min_recall` of the ten
        nearest, with a margin of two standard errors. A warning is logged where none does.

        Args:
            vectors: [N, d], or blocks [n, d] of it, which wait on the disk, not in memory. Only
                their directions count.
            ids: one a vector.
            queries: [Q, d], a few hundred like those that will be asked. By default some of the
                vectors themselves, each asked for its neighbours; that promises too much where
                queries lie elsewhere, as texts do that look for pictures.
            min_recall: wanted recall@10, 0 to 1.
            model: hash of the model that made the vectors.
            seed: of the choice of vectors to train and measure on.

        Raises:
            UserError: no vectors, not one id for each, ids that are no text, vectors of several
                lengths, or ones that are zero or not finite.
        """
        if not 0 < min_recall <= 1:
            raise UserError(f"min_recall {min_recall}: expected more than 0 and at most 1")
        names = _id_column(ids)
        with _stored(vectors) as store:
            if not store.size:
                raise UserError("no vectors: expected at least one to index")
            if len(store) != len(names):
                raise UserError(f"{len(store)} vectors but {len(names)} ids; expected one for each")
            info = IndexInfo("flat", store.shape[1], len(store), model)
            if len(store) < EXACT_BELOW:
                engine = faiss.IndexFlatIP(info.dim)
                engine.add(_unit(store, "vector"))
                return cls(engine, names, info)
            engine, found = _build_ivf(store, queries, min_recall, np.random.default_rng(seed))
        return cls(engine, names, dataclasses.replace(info, kind="ivf_sq8", **found))

    def search(self, queries: Floats, k: int = RECALL_AT) -> Hits:
        """The `k` nearest of each query; all N where `k` is more.

        Args:
            queries: [Q, d], of any length but zero.
            k: number of vectors to find for each, 1 or more.

        Raises:
            UserError: `k` below 1, or queries of another dimension, zero or not finite.
        """
        if k < 1:
            raise UserError(f"k {k}: expected 1 or more")
        asked = _unit(_matrix(queries, "queries", self.info.dim), "query")
        return _search(self.engine, asked, min(k, len(self)), self.info.nprobe)

    def ids_of(self, positions: npt.NDArray[np.int64]) -> list[list[str]]:
        """The ids at `positions` [Q, k]."""
        flat = self.ids.take(pa.array(positions.ravel())).to_pylist()
        k = positions.shape[1]
        return [flat[i * k : (i + 1) * k] for i in range(len(positions))]

    def save(self, uri: str | Path) -> None:
        """Write the index into a folder; one that was there is replaced."""
        # The description goes first and comes last: with it, the other two belong together.
        storage.remove(storage.join(uri, INFO_FILE))
        with storage.atomic_path(storage.join(uri, IDS_FILE)) as path:
            pq.write_table(pa.table({"id": self.ids}), path, compression="zstd")
        with storage.atomic_path(storage.join(uri, INDEX_FILE)) as path:
            faiss.write_index(self.engine, os.fspath(path))
        storage.write_json(storage.join(uri, INFO_FILE), dataclasses.asdict(self.info))

    @classmethod
    def load(cls, uri: str | Path, *, model: str | None = None) -> Index:
        """Read an index from its folder; a local one stays on the disk until it is searched.

        Args:
            uri: the folder that `save` wrote.
            model: hash of the model that will make the queries, to be compared.

        Raises:
            UserError: not an index, files of several indexes, or an index of another model.
        """
        info = _read_info(uri)
        if model is not None and model != info.model:
            raise UserError(
                f"{uri}: its vectors are of model {info.model!r}, not of {model!r}; "
                "index them again with this model"
            )
        engine = _read_engine(uri)
        kind = "flat" if isinstance(engine, faiss.IndexFlat) else "ivf_sq8"
        ids = _read_ids(uri)
        found = (kind, engine.d, engine.ntotal, len(ids))
        if found != (info.kind, info.dim, info.count, info.count):
            raise UserError(
                f"{uri}: its files are not of one index: {INFO_FILE} says {info.kind}, dimension "
                f"{info.dim}, {info.count} vectors; {INDEX_FILE} is {kind}, dimension {engine.d}, "
                f"{engine.ntotal} vectors; {IDS_FILE} holds {len(ids)} ids; build it again"
            )
        return cls(engine, ids, info)


def _search(engine: Any, queries: npt.NDArray[np.float32], k: int, nprobe: int) -> Hits:
    """Search; where the lists looked into hold less than `k` vectors, look into more."""
    if not nprobe:
        similarities, positions = engine.search(queries, k)
        return Hits(positions, similarities)
    options: Any = faiss.SearchParametersIVF()
    options.nprobe = nprobe
    similarities, positions = engine.search(queries, k, params=options)
    short = np.flatnonzero(positions[:, -1] < 0)
    if len(short) and nprobe < engine.nlist:
        more = _search(engine, queries[short], k, min(2 * nprobe, engine.nlist))
        positions[short], similarities[short] = more
    return Hits(positions, similarities)


def _build_ivf(
    store: Floats, queries: Floats | None, min_recall: float, rng: np.random.Generator
) -> tuple[Any, dict[str, Any]]:
    """A filled faiss index and its `nprobe`, `recall` and `num_queries`."""
    count, dim = store.shape
    own = None  # the queries' own places, if they are vectors of the index
    if queries is None:
        own = np.sort(rng.choice(count, NUM_HELD_OUT, replace=False))
        queries = store[own]
    asked = _unit(_matrix(queries, "queries", dim), "query")
    if not len(asked):
        raise UserError("queries: expected at least one to measure recall with")
    num_lists = 2 ** round(math.log2(4 * math.sqrt(count)))
    engine: Any = faiss.index_factory(dim, f"IVF{num_lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    engine.cp.min_points_per_centroid = 1  # no warnings: the number is chosen here
    chosen = np.sort(rng.choice(count, min(count, TRAIN_PER_LIST * num_lists), replace=False))
    engine.train(_unit(store[chosen], "vector", chosen))
    tenth = _fill(engine, store, asked, RECALL_AT + (own is not None))
    nprobe, recall = _tune(engine, store, asked, own, tenth, min_recall)
    return engine, {"nprobe": nprobe, "recall": recall, "num_queries": len(asked)}


def _fill(
    engine: Any, store: Floats, queries: npt.NDArray[np.float32], k: int
) -> npt.NDArray[np.float32]:
    """Add all vectors; returns the exact similarity [Q] of each query's `k`-th nearest."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(store), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(store)))
        block = _unit(store[start : start + BLOCK], "vector", rows)
        engine.add(block)
        near, _ = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        best = np.sort(np.hstack([best, near]), axis=1)[:, -k:]
    return best[:, 0]


def _tune(
    engine: Any,
    store: Floats,
    queries: npt.NDArray[np.float32],
    own: npt.NDArray[np.int64] | None,
    tenth: npt.NDArray[np.float32],
    min_recall: float,
) -> tuple[int, float]:
    """The least number of lists that is enough, and the recall measured with it."""
    nprobe, recall = engine.nlist, 0.0
    for nprobe in _steps(engine.nlist):
        right = _right(engine, store, queries, own, tenth, nprobe)
        recall = float(right.mean())
        if recall - 2 * right.std() / math.sqrt(len(right)) >= min_recall:
            return nprobe, recall
    if recall < min_recall:
        log.warning("recall@%d is %.3f, wanted %.3f", RECALL_AT, recall, min_recall)
    return nprobe, recall


def _right(
    engine: Any,
    store: Floats,
    queries: npt.NDArray[np.float32],
    own: npt.NDArray[np.int64] | None,
    tenth: npt.NDArray[np.float32],
    nprobe: int,
) -> npt.NDArray[np.float64]:
    """Share [Q] of the ten nearest that a search finds, 0 to 1."""
    found = _search(engine, queries, RECALL_AT + (own is not None), nprobe).positions
    exact = _unit(store[found.ravel()], "vector").reshape(*found.shape, -1)
    similarities = np.einsum("qd,qkd->qk", queries, exact)
    # As near as the tenth is near enough: among copies of one vector, none is the right one. The
    # slack is the rounding of sums.
    near = similarities >= tenth[:, None] - 1e-6
    if own is not None:
        near &= found != own[:, None]
    return np.minimum(near.sum(axis=1), RECALL_AT) / RECALL_AT


def _steps(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, ... and at last `most`."""
    step = 1
    while step < most:
        yield step
        if step > 1 and step * 3 // 2 < most:
            yield step * 3 // 2
        step *= 2
    yield most


@contextlib.contextmanager
def _stored(vectors: Floats | Iterable[Floats]) -> Iterator[Floats]:
    """The vectors as one array [N, d]; blocks are gathered in a file for the duration."""
    if isinstance(vectors, np.ndarray):
        yield _matrix(vectors, "vectors")
        return
    count, dim = 0, None
    with tempfile.TemporaryFile(prefix="mmray-") as file:
        for block in vectors:
            rows = _matrix(block, "vectors", dim)
            dim = rows.shape[1]
            file.write(np.ascontiguousarray(rows, np.float32).data)
            count += len(rows)
        file.flush()
        if count and dim:
            yield np.memmap(file, np.float32, "r", shape=(count, dim))
        else:
            yield np.empty((0, 0), np.float32)


def _matrix(vectors: Floats, what: str, dim: int | None = None) -> Floats:
    array = np.asarray(vectors)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"{what}: expected floats [N, d], got {array.dtype} of shape {list(array.shape)}"
        )
    if dim is not None and array.shape[1] != dim:
        raise UserError(f"{what}: expected dimension {dim}, got {array.shape[1]}")
    return array


def _unit(
    vectors: Floats, what: str, rows: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.float32]:
    """Copies of length 1; `rows` are the numbers by which an error calls them."""
    unit = np.array(vectors, np.float32, order="C")
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.sqrt(np.einsum("nd,nd->n", unit, unit))
    wrong = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if len(wrong):
        row = wrong[0] if rows is None else rows[wrong[0]]
        why = "is zero" if lengths[wrong[0]] == 0 else "is not finite"
        raise UserError(f"{what} {row}: {why}, so it has no direction")
    unit /= lengths[:, None]
    return unit


def _id_column(ids: Sequence[str] | pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
    try:
        if not isinstance(ids, pa.Array | pa.ChunkedArray):
            ids = pa.array(ids, pa.large_string())
        elif not (pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)):
            raise UserError(f"ids: expected text, got {ids.type}")
        else:
            ids = ids.cast(pa.large_string())
    except (pa.ArrowException, UnicodeEncodeError) as e:
        raise UserError(f"ids: expected text ({e})") from e
    if ids.null_count:
        raise UserError("ids: expected text, got null")
    return ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids


def _read_info(uri: str | Path) -> IndexInfo:
    path = storage.join(uri, INFO_FILE)
    if not storage.exists(path):
        raise UserError(
            f"{uri}: is not an index (no {INFO_FILE}); expected the folder "
            "OUT/index that `python jobs/predict.py tags --index` writes"
        )
    known = storage.read_json(path)
    try:
        info = IndexInfo(**known)
        numbers = (info.dim, info.count, info.nprobe)
        if all(type(n) is int for n in numbers) and min(info.dim, info.count) > 0:
            right_probe = info.nprobe == 0 if info.kind == "flat" else info.nprobe > 0
            if right_probe and info.kind in ("flat", "ivf_sq8"):
                return info
    except TypeError as e:
        raise UserError(f"{path}: does not describe an index ({e})") from e
    raise UserError(f"{path}: does not describe an index that this mmray knows: {known}")


def _read_engine(uri: str | Path) -> Any:
    path = storage.join(uri, INDEX_FILE)
    if not storage.exists(path):
        raise UserError(f"{uri}: is not an index (no {INDEX_FILE})")
    # What is mapped stays readable after a remote file's local copy has been removed.
    with storage.localized(path) as local:
        try:
            engine = faiss.read_index(os.fspath(local), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as e:
            raise UserError(f"{path}: is not an index, or cut off ({_last_line(e)})") from e
    known = isinstance(engine, faiss.IndexFlat | faiss.IndexIVFScalarQuantizer)
    if not known or engine.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise UserError(f"{path}: a faiss index of a kind that mmray does not write")
    return engine


def _read_ids(uri: str | Path) -> pa.LargeStringArray:
    path = storage.join(uri, IDS_FILE)
    if not storage.exists(path):
        raise UserError(f"{uri}: is not an index (no {IDS_FILE})")
    with storage.localized(path) as local:
        try:
            file = pq.ParquetFile(local)
            parquet.check(file.schema_arrow, path, ["id"])
            column = file.read(columns=["id"])["id"]
        except (pa.ArrowException, OSError, *parquet.TYPE_ERRORS) as e:
            if isinstance(e, UserError):
                raise
            raise UserError(f"{path}: is not a Parquet file of ids ({_last_line(e)})") from e
    return _id_column(column)


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1][-200:]
