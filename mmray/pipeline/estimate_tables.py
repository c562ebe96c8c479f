"""An estimate as its user reads it: what was measured, what is computed, what is assumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict

from rich.table import Table

from mmray.cli import console
from mmray.pipeline.budget import TB, Plan, Total
from mmray.pipeline.estimate import STAGES, Estimate, Sample

WAITED = 0.2
"""A larger share of waiting is worth a line."""
MOST_DECODE_NODES = 100
"""One driver does not keep more of them busy (docs/scale.md)."""
_ASSUMED = {
    "within_hours": "hours in which the job should be done",
    "decode_vcpus": "vCPUs of a decode node",
    "vcpu_speed": "work of a vCPU of a node at full load, for one of the CPU measured here: two "
    "vCPUs share a core and together do some 1.2 times the work of one",
    "gpu_rate": "frames a second that all teachers together do on one GPU",
    "decode_price": "USD an hour of a decode node, on demand",
    "gpu_price": "USD an hour of a GPU node, on demand",
    "head_price": "USD an hour of the head, on demand",
    "storage_price": "USD a TB and month of the dataset",
    "read_price": "USD a TB read",
}


def show(found: Estimate, max_error_ratio: float) -> None:
    """Print an estimate.

    Args:
        found: the estimate.
        max_error_ratio: of the job, which would stop above it.
    """
    for table in (_measured(found.sample), _computed(found), _cluster(found), _assumed(found)):
        console.print(table)
    plan = found.plan
    console.print("into cluster.yaml:")
    for group, (least, most) in {"decode": plan.decode_nodes, "gpu": plan.gpu_nodes}.items():
        console.print(f"  {group}:  min_workers: {least}  max_workers: {most}")
    console.print(f"  and for all: max_workers: {plan.decode_nodes[1] + plan.gpu_nodes[1]}")
    for line in notes(found, max_error_ratio):
        console.print(line)


def notes(found: Estimate, max_error_ratio: float) -> list[str]:
    """What the reader of the tables must know besides."""
    sample, lines = found.sample, []
    if found.nodes.gpu_rate:
        lines.append("GPU hours: by --gpu-rate, not measured")
    elif not sample.gpu:
        lines.append(
            "GPU hours: not measured, since there is no GPU here; the cluster above runs the "
            "teachers on the decode nodes. Run this on a machine with a GPU, or give --gpu-rate"
        )
    cpu, busy = sample.cpu_s(*STAGES), sample.busy_s(*STAGES)
    if not sample.gpu and busy * (1 - WAITED) > cpu:
        lines.append(
            f"workers waited for files {1 - cpu / busy:.0%} of their time, which hours and nodes "
            "include: measure near the data, on a machine that does nothing else"
        )
    if found.plan.decode_nodes[0] > MOST_DECODE_NODES:
        lines.append(
            f"beyond some {MOST_DECODE_NODES} decode nodes the driver is what limits: cut the list "
            "into several jobs, or give it more hours"
        )
    if sample.bad > max_error_ratio * len(sample.videos):
        lines.append(
            f"{sample.bad} of {len(sample.videos)} videos are bad, more than --max-error-ratio "
            f"{max_error_ratio:g} allows: the job would stop"
        )
    lines.append("what the words mean and how good the numbers are: docs/scale.md")
    return lines


def _measured(sample: Sample) -> Table:
    videos = sample.videos
    clips = sum(v.rows for v in videos)
    where = f"teachers on {sample.gpu}" if sample.gpu else "teachers on the CPU"
    table = Table(
        *("stage", "CPU s a video", "CPU s a clip", "s of a worker a clip"),
        title=f"measured: {len(videos)} of {sample.listed} videos, {where}",
        title_justify="left",
        caption=_facts(sample),
        caption_justify="left",
    )
    for name, stages in {**{s: (s,) for s in STAGES}, "all": STAGES}.items():
        cpu, busy = sample.cpu_s(*stages), sample.busy_s(*stages)
        table.add_row(name, f"{cpu / len(videos):.3f}", f"{cpu / clips:.4f}", f"{busy / clips:.4f}")
    return table


def _facts(sample: Sample) -> str:
    videos = sample.videos
    number, rows = len(videos), sum(v.rows for v in videos)
    return (
        f"a video: {rows / number:.2f} good clips, {size(sum(v.read for v in videos) / number)}, "
        f"read {sum(v.fetches for v in videos) / number:.1f} times\n"
        f"a clip: {size(sum(v.written for v in videos) / rows)} written\n"
        f"bad, all or in part: {sample.bad} of {number} videos\n"
        f"most memory: {size(sample.worker_bytes)} a process with teachers and a shard, "
        f"{size(sample.child_bytes)} a child that decodes"
    )


def _computed(found: Estimate) -> Table:
    table = Table(
        *("total", "estimate", "95% interval"),
        title=f"computed: {found.items:,} videos",
        title_justify="left",
    )
    names = {
        "clips": ("rows", _count),
        "bad videos": ("bad_videos", _count),
        "read": ("bytes_read", size),
        "dataset": ("bytes_written", size),
        "CPU hours": ("cpu_h", _hours),
        "GPU hours": ("gpu_h", _hours),
        "hours on this machine": ("hours_here", _hours),
    }
    for label, (name, text) in names.items():
        if name in found.totals:
            number = found.totals[name]
            table.add_row(label, text(number.value), _interval(number, text))
    return table


def _cluster(found: Estimate) -> Table:
    plan, nodes = found.plan, found.nodes
    table = Table(
        *("cluster", "estimate", "95% interval"),
        title=f"computed: the cluster to ask for, to be done in {nodes.within_hours:g} h",
        title_justify="left",
    )
    for group, (least, most), busy in (
        ("decode", plan.decode_nodes, plan.decode_busy),
        ("gpu", plan.gpu_nodes, plan.gpu_busy),
    ):
        works = f", working {busy:.0%} of the time" if least else ""
        table.add_row(f"{group} nodes", f"{least}{works}", f"up to {most}")
    table.add_row("hours on them", _hours(plan.hours.value), _interval(plan.hours, _hours))
    table.add_row("USD for nodes", _money(plan.cost.value), _interval(plan.cost, _money))
    for label, name, price in (
        ("USD a month for the dataset", "bytes_written", nodes.storage_price),
        ("USD for reading", "bytes_read", nodes.read_price),
    ):
        number = found.totals[name]
        cost = Total(*(getattr(number, e) * price / TB for e in ("value", "low", "high")))
        table.add_row(label, _money(cost.value), _interval(cost, _money))
    _add_balance(table, plan, nodes.decode_vcpus)
    return table


def _add_balance(table: Table, plan: Plan, vcpus: int) -> None:
    if plan.gpu_nodes[0]:
        text = f"{plan.vcpus_a_gpu:.0f} vCPUs, {plan.vcpus_a_gpu / vcpus:.1f} decode nodes"
        table.add_row("decoders that keep one GPU busy", text, "")


def _assumed(found: Estimate) -> Table:
    table = Table("flag", "value", "", title="assumed: check these", title_justify="left")
    for name, value in asdict(found.nodes).items():
        if value is not None:
            table.add_row(f"--{name.replace('_', '-')}", f"{value:g}", _ASSUMED[name])
    return table


def size(number: float) -> str:
    """Bytes in the unit that people use, to three digits."""
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= factor:
            return f"{number / factor:.{max(3, len(str(int(number / factor))))}g} {unit}"
    return f"{number / 1e3:.3g} kB"


def _interval(number: Total, text: Callable[[float], str]) -> str:
    return "?" if math.isnan(number.low) else f"{text(number.low)} to {text(number.high)}"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _hours(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _money(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2f}"
