"""From seconds of work to nodes, hours and money: the arithmetic behind `--estimate`.

Numbers that come from a sample are arrays [1 + B]: first the estimate, then the same of B resampled
samples. Whatever is computed of them keeps that form, so that every result has its spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mmray.errors import UserError

HOUR_S = 3600.0
TB = 1e12
INTERVAL = (2.5, 97.5)
"""Percentiles of the resampled totals that bound what is printed as the 95% interval."""


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The cluster that `--estimate` computes with: groups and prices as in cluster.yaml.

    Prices are on-demand list prices in USD, AWS us-west-2, of the types in cluster.yaml; check
    yours. Spot nodes cost less, and come back later when they are taken.
    """

    within_hours: float = 24.0
    """Time in which the job should be done, with --estimate."""
    decode_vcpus: int = 32
    """vCPUs of a decode node (c6id.8xlarge)."""
    vcpu_speed: float = 0.6
    """Work of a vCPU, of which two share a core when all are busy, for one of the CPU that is
    measured, where one worker runs alone."""
    gpu_rate: float | None = None
    """Frames a second that all teachers together do on one GPU (default: as measured here)."""
    decode_price: float = 1.61
    """USD an hour of a decode node (c6id.8xlarge)."""
    gpu_price: float = 1.21
    """USD an hour of a node with one GPU (g5.2xlarge)."""
    head_price: float = 0.38
    """USD an hour of the head (m6i.2xlarge)."""
    storage_price: float = 23.0
    """USD a TB and month of the dataset (S3 standard)."""
    read_price: float = 0.0
    """USD a TB that is read (0: a bucket in the region of the cluster)."""

    def check(self) -> None:
        """Raise a `UserError` that names the flag when a value cannot work."""
        for name in ("within_hours", "decode_vcpus", "vcpu_speed", "gpu_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{_flag(name)} {value:g}: expected a number above 0")
        for name in ("decode_price", "gpu_price", "head_price", "storage_price", "read_price"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{_flag(name)} {getattr(self, name):g}: expected 0 or more")

    @property
    def decode_speed(self) -> float:
        """Seconds of work, as measured, that a decode node does in one."""
        return self.decode_vcpus * self.vcpu_speed


@dataclass(frozen=True)
class Total:
    """A number for all items, with its 95% interval (NaN where the sample is a single video)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Plan:
    """The smallest cluster that is done in time.

    Attributes:
        decode_nodes: `min_workers` of the group decode, by the estimate, and `max_workers`, by the
            upper end of the interval.
        gpu_nodes: the same of the group gpu; 0 where teachers run on the decode nodes.
        hours: time of the job on the `min_workers`, without the start of the nodes.
        cost: USD of the nodes in that time.
        decode_busy: share of the time that decode nodes work, 0 to 1; the others wait.
        gpu_busy: the same of GPUs.
        vcpus_a_gpu: vCPUs of decoders that keep one GPU busy; NaN without GPUs.
    """

    decode_nodes: tuple[int, int]
    gpu_nodes: tuple[int, int]
    hours: Total
    cost: Total
    decode_busy: float
    gpu_busy: float
    vcpus_a_gpu: float


def resample(costs: np.ndarray, seed: int, rounds: int = 2000) -> np.ndarray:
    """Mean of the rows and, by the bootstrap, how far it might be off.

    Args:
        costs: [n, K]: K costs of n videos.
        seed: of the resampling.
        rounds: B.

    Returns:
        [K, 1 + B]: the mean over the videos, then those of n videos drawn with replacement.
    """
    n = len(costs)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), rounds)
    drawn = times @ costs / n
    if n < 2:  # nothing is known of the spread
        drawn = np.full_like(drawn, np.nan)
    return np.concatenate([costs.mean(0)[None], drawn]).T


def total(numbers: np.ndarray) -> Total:
    """The estimate and the interval of an array [1 + B]."""
    low, high = np.percentile(numbers[1:], INTERVAL).tolist()
    return Total(float(numbers[0]), low, high)


def share(count: int, of: int, items: int) -> Total:
    """How many of `items` are like `count` of the `of` in a sample (Wilson's interval)."""
    from scipy.stats import binomtest

    found = binomtest(count, of).proportion_ci(method="wilson")
    return Total(items * count / of, items * float(found.low), items * float(found.high))


def plan(decode_s: np.ndarray, gpu_s: np.ndarray | None, nodes: Nodes) -> Plan:
    """The cluster to ask for.

    Args:
        decode_s: [1 + B]: seconds that workers on CPUs take for all items, as measured.
        gpu_s: [1 + B]: seconds that workers on a GPU take; None where there are none.
        nodes: what a node does and costs.
    """
    decoders = _count(decode_s / nodes.decode_speed, nodes.within_hours)
    on_decoders = decode_s / (decoders[0] * nodes.decode_speed)
    if gpu_s is None:
        gpus, on_gpus = (0, 0), np.zeros_like(decode_s)
    else:
        gpus = _count(gpu_s, nodes.within_hours)
        on_gpus = gpu_s / gpus[0]
    # Both work at the same time: the slower ones settle when the job ends.
    hours = np.maximum(on_decoders, on_gpus) / HOUR_S
    an_hour = nodes.head_price + decoders[0] * nodes.decode_price + gpus[0] * nodes.gpu_price
    feed = math.nan if gpu_s is None else float(decode_s[0] / gpu_s[0] / nodes.vcpu_speed)
    return Plan(
        decode_nodes=decoders,
        gpu_nodes=gpus,
        hours=total(hours),
        cost=total(hours * an_hour),
        decode_busy=float(on_decoders[0] / (hours[0] * HOUR_S)),
        gpu_busy=float(on_gpus[0] / (hours[0] * HOUR_S)),
        vcpus_a_gpu=feed,
    )


def _count(node_s: np.ndarray, within_hours: float) -> tuple[int, int]:
    """Nodes that do so many seconds of a node's work in time: by the estimate, and at most."""
    found = total(node_s / (within_hours * HOUR_S))
    least = max(1, math.ceil(found.value))
    return least, least if math.isnan(found.high) else max(least, math.ceil(found.high))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
