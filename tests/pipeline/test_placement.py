"""Numbers of workers: what the cluster has is shared out, and nobody starves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmray.errors import UserError
from mmray.pipeline import placement, run
from mmray.pipeline.placement import DECODER_BYTES, NET_BYTES, Resources, sizes

GB = 1 << 30
wanted = st.one_of(st.none(), st.integers(1, 100))


@given(st.integers(1, 500), st.integers(0, 64), st.integers(0, 4000), wanted, wanted)
def test_no_more_is_reserved_than_there_is(
    cpus: int, gpus: int, memory: int, decoders: int | None, nets: int | None
) -> None:
    got = sizes(Resources(cpus, gpus, memory * GB), decoders, nets)
    assert got.decoders == decoders or (decoders is None and got.decoders >= 1)
    assert got.nets == nets or (nets is None and got.nets >= 1)
    assert got.decoders * got.decoder_cpus + got.nets * got.net_cpus <= cpus + 1e-6
    assert got.nets * got.net_gpus <= gpus + 1e-6
    assert got.decoder_cpus > 0


def test_a_net_on_a_gpu_is_left_a_cpu_to_be_fed_by_and_waits_for_none() -> None:
    got = sizes(Resources(16, 2, 200 * GB))
    assert (got.decoders, got.nets) == (14, 2)
    assert (got.net_cpus, got.net_gpus) == (0, 1)


def test_nets_on_cpus_share_them_with_the_decoders() -> None:
    got = sizes(Resources(8, 0, 200 * GB))
    assert (got.decoders, got.nets) == (8, 4)
    assert 0 < got.net_cpus < 0.1, "or they would run on a head without CPUs"


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 4), wanted, wanted)
def test_workers_fit_on_nodes_however_they_are_spread(
    nodes: int, cpus: int, gpus: int, decoders: int | None, nets: int | None
) -> None:
    got = sizes(Resources(nodes * cpus, nodes * gpus), decoders, nets)
    per_node = int(cpus * (1 - placement.NET_CPUS) / got.decoder_cpus + 1e-6)
    assert nodes * per_node >= got.decoders
    if gpus:
        assert nodes * int(gpus / got.net_gpus + 1e-6) >= got.nets


def test_nets_wait_for_gpus_that_are_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "resources", lambda: Resources(4))
    monkeypatch.setattr(run, "resources_at_most", lambda: Resources(72, 4))
    decoders, nets = placement.decode_and_ask([], [])
    assert (nets.size, nets.num_gpus, nets.most) == (1, 1, 4)
    assert (decoders.size, decoders.most) == (3, 68)


def test_memory_bounds_the_decoders() -> None:
    got = sizes(Resources(64, 0, 32 * NET_BYTES + 5 * DECODER_BYTES))
    assert got.decoders == 5
    assert "memory" in got.why[0]
    assert sizes(Resources(64, 0, GB)).decoders == 1, "a job must be able to run at all"


def test_the_line_says_what_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    have = Resources(16, 2, 64 * GB)
    monkeypatch.setattr(run, "resources", lambda: have)
    monkeypatch.setattr(run, "resources_at_most", lambda: Resources(64, 8, 256 * GB))
    line = placement.describe(placement.decode_and_ask([], [], decoders=5), have)
    assert line == (
        "5 x decoder (as told) and 2 x net (one for each GPU, up to 8 as the cluster grows), on "
        "16 CPUs, 2 GPUs, 69 GB of memory"
    )


@pytest.mark.parametrize(("flag", "numbers"), [("--decoders", (0, 1)), ("--nets", (1, -2))])
@pytest.mark.usefixtures("local_mode")
def test_wrong_numbers_name_their_flag(flag: str, numbers: tuple[int, int]) -> None:
    decoders, nets = numbers
    with pytest.raises(UserError, match=f"{flag} .*: expected 1 or more"):
        placement.decode_and_ask([], [], decoders=decoders, nets=nets)


def test_what_an_autoscaler_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.state import state

    monkeypatch.setattr(run, "resources", lambda: Resources(4, 0, 8 * GB))
    told = {"CPU": 72, "GPU": 4}
    monkeypatch.setattr(state, "get_max_resources_from_cluster_config", lambda: told)
    assert run.resources_at_most() == Resources(72, 4), "memory of nodes to come is not known"
    told["memory"] = 100 * GB
    assert run.resources_at_most() == Resources(72, 4, 100 * GB)


@pytest.mark.cluster
def test_a_real_cluster_tells(ray_cluster: None) -> None:
    have = run.resources()
    assert have.cpus == 4
    assert have.memory > GB
    assert run.resources_at_most() == have, "no autoscaler"
