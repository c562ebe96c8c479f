"""Votes of the nearest pictures against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from mmray.joint import memory as module
from mmray.joint.memory import NEIGHBOURS, TEMPERATURE, Memory

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(120, 6)).astype(np.float32) + 3
TAGS = RNG.random((120, 4)) < 0.3
QUERIES = RNG.normal(size=(9, 6)).astype(np.float32) + 3


def by_hand(queries: np.ndarray, own: np.ndarray, count: int = len(VECTORS)) -> np.ndarray:
    centre = VECTORS[:count].mean(0)
    votes = np.zeros((len(queries), TAGS.shape[1]))
    for i, query in enumerate(queries - centre):
        cosines = {
            j: float(query @ v / np.linalg.norm(query) / np.linalg.norm(v))
            for j, v in enumerate(VECTORS[:count] - centre)
            if j != own[i]
        }
        nearest = sorted(cosines, key=lambda j: -cosines[j])[:NEIGHBOURS]
        weights = np.exp([(cosines[j] - cosines[nearest[0]]) / TEMPERATURE for j in nearest])
        votes[i] = weights @ TAGS[nearest] / weights.sum()
    return votes


@pytest.mark.parametrize("chunk", [4, 1024])
@pytest.mark.parametrize("count", [120, 30])  # more and fewer than vote
def test_votes_are_those_of_plain_loops(
    monkeypatch: pytest.MonkeyPatch, count: int, chunk: int
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    memory = Memory(VECTORS[:count], TAGS[:count])
    none = np.full(9, -1)
    expected = by_hand(QUERIES, none, count)
    np.testing.assert_allclose(memory.votes(QUERIES), expected, atol=5e-3)
    np.testing.assert_allclose(memory.votes(QUERIES, none), expected, atol=5e-3)
    own = np.array([0, -1, 5, 7, -1, 11, 29, 3, 3])
    known = VECTORS[np.maximum(own, 0)]
    expected = by_hand(known, own, count)
    np.testing.assert_allclose(memory.votes(known, own), expected, atol=5e-3)
    assert not np.allclose(memory.votes(known), expected, atol=5e-2)


def test_votes_are_shares() -> None:
    votes = Memory(VECTORS, np.ones((120, 2))).votes(100 * QUERIES)
    np.testing.assert_allclose(votes, 1, atol=1e-6)
    assert Memory(VECTORS, TAGS).votes(QUERIES[:0]).shape == (0, 4)


def test_what_is_stored_gives_the_same_votes() -> None:
    memory = Memory(VECTORS, scipy.sparse.csr_matrix(TAGS))
    again = Memory.from_tensors(memory.tensors(), 4)
    assert len(again) == 120
    assert np.array_equal(again.votes(QUERIES), memory.votes(QUERIES))
    assert memory.vectors.dtype == np.float16


def test_a_picture_that_is_alone_has_no_votes() -> None:
    votes = Memory(VECTORS[:1], TAGS[:1] | True).votes(VECTORS[:1], np.array([0]))
    assert votes.tolist() == [[0, 0, 0, 0]]
