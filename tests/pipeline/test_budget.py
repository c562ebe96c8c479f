"""From seconds to nodes, hours and money."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.errors import UserError
from mmray.pipeline.budget import HOUR_S, Nodes, plan, resample, share, total

SECONDS = st.floats(1e-3, 1e10)
NODES = st.builds(
    Nodes,
    within_hours=st.floats(0.1, 1000),
    decode_vcpus=st.integers(1, 192),
    vcpu_speed=st.floats(0.1, 2),
)


def certain(number: float) -> np.ndarray:
    """A number without spread."""
    return np.full(3, number)


@settings(deadline=None)
@given(SECONDS, st.none() | SECONDS, NODES)
def test_the_cluster_is_done_in_time_and_no_node_is_too_many(
    decode_s: float, gpu_s: float | None, nodes: Nodes
) -> None:
    found = plan(certain(decode_s), None if gpu_s is None else certain(gpu_s), nodes)
    assert found.hours.value <= nodes.within_hours * (1 + 1e-9)
    assert max(found.decode_busy, found.gpu_busy) == pytest.approx(1)
    fewer = (found.decode_nodes[0] - 1) * nodes.decode_speed * nodes.within_hours * HOUR_S
    assert fewer < decode_s * (1 + 1e-9)
    if gpu_s is None:
        assert found.gpu_nodes == (0, 0)
        assert math.isnan(found.vcpus_a_gpu)
    else:
        assert (found.gpu_nodes[0] - 1) * nodes.within_hours * HOUR_S < gpu_s * (1 + 1e-9)


@settings(deadline=None)
@given(SECONDS, SECONDS, st.floats(1, 1e3), NODES)
def test_more_work_never_takes_fewer_nodes(
    decode_s: float, gpu_s: float, more: float, nodes: Nodes
) -> None:
    few = plan(certain(decode_s), certain(gpu_s), nodes)
    many = plan(certain(decode_s * more), certain(gpu_s * more), nodes)
    assert many.decode_nodes >= few.decode_nodes
    assert many.gpu_nodes >= few.gpu_nodes
    # Of what is paid, the part that works; nodes that wait for others cost besides.
    for found, factor in ((few, 1.0), (many, more)):
        working = found.decode_nodes[0] * found.hours.value * found.decode_busy
        assert working * nodes.decode_speed * HOUR_S == pytest.approx(decode_s * factor)


@settings(deadline=None)
@given(st.integers(1, 8), st.floats(0.1, 50), NODES)
def test_the_vcpus_named_keep_that_many_gpus_busy(
    gpus: int, decode_a_gpu: float, nodes: Nodes
) -> None:
    gpu_s = gpus * nodes.within_hours * HOUR_S * (1 - 1e-9)
    found = plan(certain(decode_a_gpu * gpu_s), certain(gpu_s), nodes)
    assert found.gpu_nodes[0] == gpus
    wanted = gpus * found.vcpus_a_gpu
    assert wanted * nodes.vcpu_speed == pytest.approx(decode_a_gpu * gpus)
    assert found.decode_nodes[0] == pytest.approx(wanted / nodes.decode_vcpus, abs=1)


def test_hours_and_money_by_hand() -> None:
    nodes = Nodes(
        within_hours=10, decode_vcpus=10, vcpu_speed=0.5, decode_price=2, gpu_price=3, head_price=1
    )
    # 100 node hours of decoding on 10 nodes, 15 GPU hours on 2: 10 h and 7.5 h.
    found = plan(certain(100 * 5 * 3600.0), certain(15 * 3600.0), nodes)
    assert (found.decode_nodes, found.gpu_nodes) == ((10, 10), (2, 2))
    assert (found.hours.value, found.gpu_busy) == (10, 0.75)
    assert found.cost.value == pytest.approx(10 * (1 + 10 * 2 + 2 * 3))
    assert found.vcpus_a_gpu == pytest.approx(500 / 15 / 0.5)


def test_uncertain_work_gives_room_above_but_not_below() -> None:
    spread = np.array([50.0, *np.linspace(20, 80, 101)]) * 19.2 * 24 * 3600
    found = plan(spread, None, Nodes())
    assert found.decode_nodes == (50, 79)
    assert found.hours.value == pytest.approx(24)
    assert found.hours.low < 24 < found.hours.high


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=30), st.integers(1, 10**9))
def test_totals_are_the_mean_times_the_items(costs: list[float], items: int) -> None:
    found = total(resample(np.array(costs)[:, None], seed=0)[0] * items)
    assert found.value == pytest.approx(np.mean(costs) * items)
    slack = 1e-9 * (1 + found.value)
    assert min(costs) * items - slack <= found.low <= found.high <= max(costs) * items + slack


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for i in range(300):
        found = total(resample(rng.normal(10, 2, (32, 1)), seed=i)[0])
        held += found.low <= 10 <= found.high
    assert 0.9 < held / 300 <= 0.98


def test_of_one_video_the_spread_is_unknown() -> None:
    found = total(resample(np.array([[3.0]]), seed=0)[0])
    assert found.value == 3
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert plan(resample(np.array([[3.0]]), seed=0)[0], None, Nodes()).decode_nodes == (1, 1)


@settings(deadline=None)
@given(st.data(), st.integers(1, 100), st.integers(1, 10**9))
def test_a_share_lies_in_its_interval(data: st.DataObject, of: int, items: int) -> None:
    count = data.draw(st.integers(0, of))
    found = share(count, of, items)
    assert found.value == pytest.approx(items * count / of)
    slack = 1e-9 * items
    assert -slack <= found.low <= found.value + slack
    assert found.value - slack <= found.high <= items + slack
    assert found.high > 0, "that none of a sample is bad does not mean that none is"


@pytest.mark.parametrize(
    "wrong",
    [
        {"within_hours": 0.0},
        {"decode_vcpus": 0},
        {"vcpu_speed": math.nan},
        {"gpu_rate": 0.0},
        {"gpu_price": -1.0},
        {"storage_price": math.inf},
    ],
)
def test_impossible_nodes_are_refused_by_their_flag(wrong: dict[str, float]) -> None:
    Nodes().check()
    with pytest.raises(UserError, match=f"--{next(iter(wrong)).replace('_', '-')} .*expected"):
        replace(Nodes(), **wrong).check()
