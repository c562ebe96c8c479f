from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray import storage
from mmray.errors import UserError
from mmray.joint import index as index_module
from mmray.joint.index import Index

DIM = 24


def clustered(count: int, seed: int = 0) -> np.ndarray:
    """Unit vectors [count, DIM] around a few hundred centres that overlap."""
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((300, DIM))
    rng = np.random.default_rng(seed)
    points = centres[rng.integers(0, 300, count)] + 0.8 * rng.standard_normal((count, DIM))
    return unit(points)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def names(count: int) -> list[str]:
    return [f"blåbær-{i}.jpg" for i in range(count)]


def exact(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    similarities = queries @ vectors.T
    best = np.argpartition(-similarities, k, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(similarities, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1)


def recall(index: Index, vectors: np.ndarray, queries: np.ndarray) -> float:
    found = index.search(queries, 10).positions
    truth = exact(vectors, queries, 10)
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)]))


@pytest.fixture(scope="module")
def small() -> Index:
    return Index.build(clustered(500), names(500), model="abc")


@pytest.fixture(scope="module")
def large() -> Index:
    vectors = clustered(30_000)
    return Index.build((vectors[i : i + 7000] for i in range(0, 30_000, 7000)), names(30_000))


def test_a_small_index_is_exact(small: Index) -> None:
    queries = clustered(40, seed=1)
    hits = small.search(queries, 7)
    assert small.info.kind == "flat"
    assert np.array_equal(hits.positions, exact(clustered(500), queries, 7))
    expected = np.take_along_axis(queries @ clustered(500).T, hits.positions, axis=1)
    assert np.allclose(hits.similarities, expected, atol=1e-6)
    assert small.ids_of(hits.positions)[3][2] == f"blåbær-{hits.positions[3, 2]}.jpg"


def test_only_directions_count() -> None:
    vectors, queries = clustered(300), clustered(5, seed=1)
    lengths = np.random.default_rng(0).uniform(0.1, 9, (300, 1))
    index = Index.build((vectors * lengths).astype(np.float16), names(300))
    plain, scaled = index.search(queries), index.search(3 * queries)
    assert np.array_equal(plain.positions, scaled.positions)
    assert np.allclose(plain.similarities[:, 0], (queries @ vectors.T).max(axis=1), atol=1e-3)


def test_a_large_index_keeps_the_recall_it_promises(large: Index) -> None:
    vectors, queries = clustered(30_000), clustered(500, seed=1)
    assert large.info.kind == "ivf_sq8"
    assert large.info.recall >= 0.95
    assert 0 < large.info.nprobe < large.engine.nlist
    assert recall(large, vectors, queries) == pytest.approx(large.info.recall, abs=0.02)
    hits = large.search(queries)
    similarities = np.take_along_axis(queries @ vectors.T, hits.positions, axis=1)
    assert np.allclose(hits.similarities, similarities, atol=0.02)
    assert (np.diff(hits.similarities) <= 0).all()


def test_blocks_and_one_array_give_the_same_index(large: Index) -> None:
    whole = Index.build(clustered(30_000), pa.array(names(30_000)))
    queries = clustered(50, seed=2)
    assert whole.info == large.info
    assert np.array_equal(whole.search(queries).positions, large.search(queries).positions)
    assert whole.ids == large.ids


def test_queries_from_elsewhere_get_the_recall_too(large: Index) -> None:
    shift = np.random.default_rng(3).standard_normal(DIM)
    vectors, away = clustered(30_000), unit(0.3 * clustered(900, seed=4) + shift / DIM**0.5)
    index = Index.build(vectors, names(30_000), queries=away[:400])
    assert index.info.nprobe > large.info.nprobe
    assert index.info.num_queries == 400
    assert recall(index, vectors, away[400:]) >= 0.94


def test_copies_of_one_vector_are_as_good_as_each_other() -> None:
    vectors = np.repeat(clustered(1000), 25, axis=0)
    index = Index.build(vectors, names(25_000))
    assert index.info.recall >= 0.95
    assert (index.search(vectors[::1250]).similarities > 0.98).all()


def test_a_recall_out_of_reach_is_measured_and_told(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    vectors = np.ones((20_000, DIM)) + 0.01 * rng.standard_normal((20_000, DIM))
    with caplog.at_level(logging.WARNING):
        index = Index.build(vectors, names(20_000), min_recall=1.0)
    assert index.info.recall < 1
    assert "recall@10" in caplog.text


@pytest.mark.parametrize("k", [500, 10_000])
def test_more_than_all_gives_all(small: Index, k: int) -> None:
    hits = small.search(clustered(3, seed=1), k)
    assert hits.positions.shape == hits.similarities.shape == (3, 500)
    assert (np.sort(hits.positions) == np.arange(500)).all()


def test_a_long_list_of_a_large_index_is_whole(large: Index) -> None:
    hits = large.search(clustered(3, seed=1), 40_000)
    assert (np.sort(hits.positions) == np.arange(30_000)).all()


def test_no_queries_find_nothing(small: Index) -> None:
    hits = small.search(np.empty((0, DIM), np.float32), 4)
    assert hits.positions.shape == (0, 4)
    assert small.ids_of(hits.positions) == []


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_save_and_load(
    tmp_path: Path, scheme: str, size: str, request: pytest.FixtureRequest
) -> None:
    index = request.getfixturevalue(size)
    uri = f"{scheme}{tmp_path}/runs/index"
    index.save(uri)
    assert storage.list_files(uri) == ["ids.parquet", "index.faiss", "index.json"]
    loaded = Index.load(uri)
    queries = clustered(20, seed=1)
    before, after = index.search(queries), loaded.search(queries)
    assert np.array_equal(before.positions, after.positions)
    assert np.array_equal(before.similarities, after.similarities)
    assert loaded.info == index.info
    assert loaded.ids_of(after.positions) == index.ids_of(before.positions)
    assert loaded.ids.type == pa.large_string()


def test_saving_again_replaces_even_an_index_in_use(tmp_path: Path, small: Index) -> None:
    small.save(tmp_path)
    used = Index.load(tmp_path)
    Index.build(clustered(30), names(30)).save(tmp_path)
    assert len(Index.load(tmp_path)) == 30
    queries = clustered(5, seed=1)
    assert np.array_equal(used.search(queries).positions, small.search(queries).positions)


def test_an_index_of_another_model_is_refused(tmp_path: Path, small: Index) -> None:
    small.save(tmp_path)
    assert Index.load(tmp_path, model="abc").info.model == "abc"
    with pytest.raises(UserError, match=r"model 'abc', not of 'def'"):
        Index.load(tmp_path, model="def")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fewer_ids(path: Path) -> None:
    pq.write_table(pa.table({"id": names(499)}), path)


def numbers_for_ids(path: Path) -> None:
    pq.write_table(pa.table({"id": list(range(500))}), path)


def other_column(path: Path) -> None:
    pq.write_table(pa.table({"name": names(500)}), path)


def other_kind(path: Path) -> None:
    import faiss

    faiss.write_index(faiss.IndexFlatL2(DIM), str(path))


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("index.json", Path.unlink, r"is not an index \(no index\.json"),
        ("index.json", lambda p: p.write_text("[1]"), r"index\.json: does not describe"),
        ("index.json", lambda p: p.write_text("{}"), r"index\.json: does not describe"),
        ("index.json", lambda p: p.write_text("{"), r"index\.json: is not a JSON file"),
        ("index.json", lambda p: p.write_text(p.read_text().replace("flat", "x")), "does not"),
        ("index.json", lambda p: p.write_text(p.read_text().replace("500", "9")), "not of one"),
        ("index.faiss", Path.unlink, r"is not an index \(no index\.faiss"),
        ("index.faiss", lambda p: p.write_bytes(b""), r"index\.faiss: is not an index"),
        ("index.faiss", lambda p: p.write_text("hello " * 100), r"index\.faiss: is not an index"),
        ("index.faiss", cut, r"index\.faiss: is not an index, or cut off"),
        ("index.faiss", other_kind, r"index\.faiss: a faiss index of a kind"),
        ("ids.parquet", Path.unlink, r"is not an index \(no ids\.parquet"),
        ("ids.parquet", cut, r"ids\.parquet: is not a Parquet file"),
        ("ids.parquet", fewer_ids, r"files are not of one index.* 499 ids"),
        ("ids.parquet", numbers_for_ids, r"ids: expected text, got int64"),
        ("ids.parquet", other_column, r"ids\.parquet: is not a Parquet file of ids"),
    ],
)
def test_spoiled_files(
    tmp_path: Path, small: Index, name: str, spoil: Callable[[Path], object], message: str
) -> None:
    small.save(tmp_path)
    spoil(tmp_path / name)
    with pytest.raises(UserError, match=message):
        Index.load(tmp_path)


def test_a_large_index_cut_off_is_refused(tmp_path: Path, large: Index) -> None:
    large.save(tmp_path)
    cut(tmp_path / "index.faiss")
    with pytest.raises(UserError, match="cut off"):
        Index.load(tmp_path)


@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one(small: Index, k: int) -> None:
    with pytest.raises(UserError, match=rf"k {k}: expected 1 or more"):
        small.search(clustered(2), k)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        (np.ones((2, DIM + 1), np.float32), f"queries: expected dimension {DIM}, got {DIM + 1}"),
        (np.ones(DIM, np.float32), r"queries: expected floats \[N, d\]"),
        (np.ones((2, DIM), int), "queries: expected floats"),
        (np.array([[1.0] * DIM, [np.nan] * DIM]), "query 1: is not finite"),
        (np.array([[0.0] * DIM, [1.0] * DIM]), "query 0: is zero"),
    ],
)
def test_wrong_queries(small: Index, queries: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small.search(queries)


def test_wrong_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(50)
    with pytest.raises(UserError, match="50 vectors but 49 ids"):
        Index.build(vectors, names(49))
    with pytest.raises(UserError, match="no vectors"):
        Index.build(np.empty((0, DIM), np.float32), [])
    with pytest.raises(UserError, match="no vectors"):
        Index.build(iter([]), [])
    with pytest.raises(UserError, match=f"vectors: expected dimension {DIM}, got {DIM - 1}"):
        Index.build([vectors, vectors[:, 1:]], names(100))
    vectors[7, 3] = np.nan
    with pytest.raises(UserError, match="vector 7: is not finite"):
        Index.build(vectors, names(50))
    monkeypatch.setattr(index_module, "EXACT_BELOW", 2000)
    many = clustered(3000)
    many[2876] = np.inf
    with pytest.raises(UserError, match="vector 2876: is not finite"):
        Index.build([many[:1000], many[1000:]], names(3000))


@pytest.mark.parametrize("ids", [[1, 2], ["a", None], ["a", os.fsdecode(b"\xe9")]])
def test_ids_that_are_no_text(ids: list[str]) -> None:
    with pytest.raises(UserError, match="ids: expected text"):
        Index.build(clustered(2), ids)


def test_wrong_measuring() -> None:
    with pytest.raises(UserError, match="min_recall 0: expected more than 0"):
        Index.build(clustered(2), names(2), min_recall=0)
    with pytest.raises(UserError, match="queries: expected at least one"):
        Index.build(clustered(20_000), names(20_000), queries=np.empty((0, DIM), np.float32))
