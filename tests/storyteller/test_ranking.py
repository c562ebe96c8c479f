"""Which passages are told."""

from __future__ import annotations

import numpy as np

from mmray.storyteller import ranking
from mmray.storyteller.styles import Style


def style(*shares: float) -> Style:
    preference = np.log(np.array([0.01] * 4 + list(shares), np.float32))
    return Style("x", np.zeros(2, np.float32), preference, frozenset(), 1)


def test_loops_and_cut_passages_are_faults() -> None:
    tokens = np.array([[[5, 6, 7, 8, 5, 6, 7, 8, 2], [5, 6, 7, 8, 9, 10, 2, 0, 0]]])
    assert ranking.faults(tokens).tolist() == [[1, 0]]
    assert ranking.faults(np.array([[[5, 6, 7, 8, 9], [2, 0, 0, 0, 0]]])).tolist() == [[1, 1]]


def test_log_odds_are_of_pieces() -> None:
    book, plain = style(0.8, 0.1), style(0.1, 0.8)
    odds = ranking.log_odds([[[4, 4], [4, 5]], [[4]], [[]], []], book, plain)
    np.testing.assert_allclose(odds, np.log(8) * np.array([1 / 2, 1, 0, 0]), rtol=1e-5)


def test_strange_words() -> None:
    found = ranking.strange_words(["A dog, 5 dogs!", "blarg it're", ""], {"a", "dog", "it"})
    assert found.tolist() == [1, 2, 0]


def test_a_fault_is_worse_than_all_else() -> None:
    worst = ranking.values(
        *(np.array([[x]]) for x in (-1.0, -9.0, -99.0, 1.0, 99.0, 0.0)), strength=1
    )
    faulty = ranking.values(*(np.array([[x]]) for x in (1.0, 9.0, 0.0, 99.0, 0.0, 1.0)), strength=1)
    assert faulty < worst


def test_style_counts_by_strength() -> None:
    odds = np.array([[2.0, -2.0]])
    none = np.zeros((1, 2))
    plain, half, full = (
        ranking.values(none, odds, none, none, none, none, strength)[0]
        for strength in (0.0, 0.5, 1.0)
    )
    assert plain[0] < plain[1]
    assert half[0] == half[1]
    assert full[0] > full[1]
