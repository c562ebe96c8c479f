"""How many workers of each kind a job gets, and why: from what the cluster has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmray.errors import UserError
from mmray.pipeline import run
from mmray.pipeline.run import Resources
from mmray.pipeline.stages import Pool, Stage

DECODER_BYTES, NET_BYTES = 700 << 20, 1500 << 20
"""Memory of a worker with its child process and two shards, and of one with a net."""

NET_CPUS = 0.01
"""Of a CPU, for the nets on it; its decoders reserve the rest."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of workers.

    Args:
        decoders: number of decoders.
        nets: number of workers that hold nets.
        decoder_cpus: CPUs that a decoder reserves.
        net_cpus: CPUs that a worker with a net reserves.
        net_gpus: GPUs that it reserves.
        why: for each of the two numbers the reason.
    """

    decoders: int
    nets: int
    decoder_cpus: float
    net_cpus: float
    net_gpus: float
    why: tuple[str, str]


def sizes(have: Resources, decoders: int | None = None, nets: int | None = None) -> Sizes:
    """Numbers of workers such that decoders and nets leave each other what they need.

    On GPUs there is a net for each, and for each net a decoder less than there are CPUs: else
    decoders would take them all, and the GPU would wait for the thread that feeds it. On CPUs the
    nets, of one thread each, share the CPUs with the decoders: who is behind gets the CPU, since
    decoders stop when what they made waits (see `run.run`). Nets reserve no more than keeps them
    from a head without CPUs, since Ray might fill a node with decoders first, and they would wait
    for ever. Fractions are such that workers fill nodes, however small the nodes are.

    Args:
        have: the cluster.
        decoders: as the user wants it; None to choose.
        nets: as the user wants it; None to choose.
    """
    why_nets = "as told" if nets else "one for each GPU" if have.gpus else "one for two CPUs"
    nets = nets or max(1, have.gpus or have.cpus // 2)
    left = have.cpus - nets if have.gpus and have.cpus > nets else have.cpus
    why = "as told" if decoders else "one for each CPU that no net reserves"
    if decoders is None:
        decoders = left
        room = max(1, (have.memory - nets * NET_BYTES) // DECODER_BYTES)
        if have.memory and room < decoders:
            decoders = room
            why = f"as memory allows, with {DECODER_BYTES / 1e9:.1f} GB for each"
    return Sizes(
        decoders,
        nets,
        decoder_cpus=(1 - NET_CPUS) / math.ceil(decoders / left),
        net_cpus=0.0 if have.gpus else max(1e-4, NET_CPUS / math.ceil(nets / have.cpus)),
        net_gpus=1 / math.ceil(nets / have.gpus) if have.gpus else 0.0,
        why=(why, why_nets),
    )


def decode_and_ask(
    decode: Sequence[Stage],
    ask: Sequence[Stage],
    *,
    decoders: int | None = None,
    nets: int | None = None,
) -> list[Pool]:
    """Two pools: decoders, and workers that hold nets; see `sizes`.

    Where an autoscaler may bring more nodes, the pools grow with the cluster.

    Args:
        decode: stages of a decoder.
        ask: stages of a worker that holds a net.
        decoders: number of decoders; None to choose.
        nets: number of workers with a net; None to choose.

    Raises:
        UserError: a number of workers is below 1.
    """
    for flag, number in (("--decoders", decoders), ("--nets", nets)):
        if number is not None and number < 1:
            raise UserError(f"{flag} {number}: expected 1 or more")
    most_resources = run.resources_at_most()
    now = sizes(_with_gpu(run.resources(), most_resources), decoders, nets)
    most = sizes(most_resources, decoders, nets)
    why_decoders, why_nets = now.why
    return [
        Pool(
            *("decoder", decode, now.decoders, now.decoder_cpus),
            may_grow_to=most.decoders,
            why=why_decoders,
        ),
        Pool(
            *("net", ask, now.nets, now.net_cpus, now.net_gpus),
            may_grow_to=most.nets,
            why=why_nets,
        ),
    ]


def _with_gpu(now: Resources, most: Resources) -> Resources:
    """Of a cluster whose GPUs are still to come, one is asked for: nets must not begin on CPUs."""
    return replace(now, gpus=1) if most.gpus and not now.gpus else now


def decode_only(stages: Sequence[Stage], decoders: int | None = None) -> Pool:
    """One pool of decoders, as many as a job without nets can have.

    Args:
        stages: of a decoder.
        decoders: their number; None to choose.
    """
    now, most = (
        sizes(replace(have, gpus=0), decoders, nets=1)
        for have in (run.resources(), run.resources_at_most())
    )
    why = now.why[0].replace(" that no net reserves", "")
    pool = ("decoder", stages, now.decoders, now.decoder_cpus)
    return Pool(*pool, may_grow_to=most.decoders, why=why)


def describe(pools: Sequence[Pool], have: Resources) -> str:
    """The pools in one line, with the reasons."""
    parts = []
    for pool in pools:
        more = f", up to {pool.most} as the cluster grows" if pool.most > pool.size else ""
        parts.append(f"{pool.size} x {pool.name} ({pool.why}{more})")
    memory = f", {have.memory / 1e9:.0f} GB of memory" if have.memory else ""
    return f"{' and '.join(parts)}, on {have.cpus} CPUs, {have.gpus} GPUs{memory}"
