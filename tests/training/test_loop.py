"""The loop: going on is exact, workers do not change the losses, errors say what happened."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from mmray import storage
from mmray.errors import UserError
from mmray.pipeline.dataset import Dataset
from mmray.training.checkpoint import Checkpoints, State
from mmray.training.config import TrainConfig, learning_rate
from mmray.training.loader import Loader, Share
from mmray.training.loop import Diverged, Progress, fit
from mmray.training.tracking import NullTracker, Tracker
from tests.training.processes import run
from tests.training.tiny import TinyExamples, TinyTask, job, write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data"))


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


def train(
    data: str,
    out: Path,
    *,
    kill_at: int | None = None,
    share: Share | None = None,
    task: TinyTask | None = None,
    reports: list[Progress] | None = None,
    tracker: Tracker | None = None,
    wanted: threading.Event | None = None,
    **config: Any,
) -> State:
    share = share or Share()
    settings = job(data, out, task, **config).config
    rows = {
        split: Loader(
            Dataset(data),
            TinyExamples(),
            split=split,
            batch_size=settings.batch_size,
            share=share,
            seed=settings.seed,
        )
        for split in ("train", "val")
    }

    def report(progress: Progress) -> None:
        if progress.step == kill_at:
            raise Killed
        if reports is not None:
            reports.append(progress)

    return fit(
        task or TinyTask(),
        rows["train"],
        rows["val"],
        settings,
        Checkpoints(str(out), settings.keep_checkpoints),
        rank=share.rank,
        world_size=share.world_size,
        tracker=tracker,
        report=report,
        settings=settings.defining(),
        wanted=wanted,
    )


def weights(out: Path, step: int) -> dict[str, torch.Tensor]:
    model = TinyTask().build()
    Checkpoints(str(out)).load_model(step, model)
    return dict(model.state_dict())


def test_learns(data: str, tmp_path: Path) -> None:
    state = train(data, tmp_path, steps=60)
    assert state.evaluations[-1]["accuracy"] > 0.8
    assert sum(state.losses[-5:]) < 0.6 * sum(state.losses[:5])


@pytest.mark.parametrize(
    ("kill_at", "optimizer"),
    [(1, "adamw"), (5, "adamw"), (6, "adamw"), (13, "adamw"), (20, "adamw"), (13, "muon")],
)
def test_a_killed_run_ends_exactly_as_one_that_was_not(
    data: str, tmp_path: Path, kill_at: int, optimizer: str
) -> None:
    options: dict[str, Any] = {"task": TinyTask(dropout=0.3), "schedule": "cosine", "warmup": 3}
    options["optimizer"] = optimizer
    whole = train(data, tmp_path / "whole", **options)
    with pytest.raises(Killed):
        train(data, tmp_path / "killed", kill_at=kill_at, **options)
    reports: list[Progress] = []
    resumed = train(data, tmp_path / "killed", reports=reports, **options)
    first = min(r.step for r in reports)
    assert first == (kill_at - 1) // 5 * 5 + 1  # from the last checkpoint, not from the start
    assert resumed == whole
    expected = weights(tmp_path / "whole", 20)
    for name, tensor in weights(tmp_path / "killed", 20).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_finished_run_is_left_alone(data: str, tmp_path: Path) -> None:
    state = train(data, tmp_path)
    reports: list[Progress] = []
    assert train(data, tmp_path, reports=reports) == state
    assert reports == []


def test_more_steps_go_on(data: str, tmp_path: Path) -> None:
    train(data, tmp_path, steps=10)
    state = train(data, tmp_path, steps=15)
    assert len(state.losses) == 15
    assert state.losses == train(data, tmp_path / "other", steps=15).losses


def several_workers(rank: int, world_size: int, folder: Path, data: str) -> None:
    options: dict[str, Any] = {"clip_norm": 0.5, "share": Share(rank, world_size)}
    state = train(data, folder / "new", **options)
    resumed = train(data, folder / "resumed", **options)
    both = {"new": dataclasses.asdict(state), "resumed": dataclasses.asdict(resumed)}
    storage.write_json(folder / f"{rank}.json", both)
    try:
        train(str(folder / "nan"), folder / "bad", share=Share(rank, world_size))
    except Diverged as e:
        storage.write_json(folder / f"diverged{rank}.json", str(e))


@pytest.mark.parametrize("workers", [2, 3])  # three have 5, 5 and 6 of 16 examples
def test_any_number_of_workers_has_the_same_losses(data: str, tmp_path: Path, workers: int) -> None:
    one = train(data, tmp_path / "one", clip_norm=0.5)
    with pytest.raises(Killed):
        train(data, tmp_path / "resumed", clip_norm=0.5, kill_at=12)
    write_dataset(tmp_path / "nan", bad=40)
    run(several_workers, tmp_path, data, processes=workers)
    files = [storage.read_json(tmp_path / f"{rank}.json") for rank in range(workers)]
    assert all(file == files[0] for file in files)
    assert len(one.losses) == 20
    # From the start, and from a checkpoint that one worker wrote.
    for state in (State(**files[0][name]) for name in ("new", "resumed")):
        assert state.losses == pytest.approx(one.losses, abs=1e-4)
        for here, there in zip(one.evaluations, state.evaluations, strict=True):
            assert here == pytest.approx(there, abs=1e-4)
    # One worker had the bad row; all of them stop, and all name it.
    for rank in range(workers):
        assert "row040" in storage.read_json(tmp_path / f"diverged{rank}.json")
    # What several workers left, one goes on from.
    state = train(data, tmp_path / "new", clip_norm=0.5, steps=30)
    whole = train(data, tmp_path / "one", clip_norm=0.5, steps=30)
    assert state.losses == pytest.approx(whole.losses, abs=1e-4)


def asked(rank: int, world_size: int, folder: Path, data: str) -> None:
    wanted = threading.Event()
    if rank == 1:
        wanted.set()  # one of them is enough
    options: dict[str, Any] = {"checkpoint_every": 0, "eval_every": 0, "log_every": 4}
    options |= {"share": Share(rank, world_size), "wanted": wanted, "keep_checkpoints": 9}
    train(data, folder / "out", **options)
    assert not wanted.is_set()


def test_a_checkpoint_that_is_wanted_is_written_at_the_end_of_the_window(
    data: str, tmp_path: Path
) -> None:
    run(asked, tmp_path, data)
    assert storage.list_folders(tmp_path / "out" / "checkpoints") == [
        "step_00000004",
        "step_00000020",
    ]


def test_other_settings_are_refused(data: str, tmp_path: Path) -> None:
    train(data, tmp_path, steps=5)
    with pytest.raises(UserError, match=r"other settings \(lr: 0\.01 there, 0\.1 here\).*--overwr"):
        train(data, tmp_path, lr=0.1)


def test_a_loss_that_is_not_finite_names_step_and_examples(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "nan", bad=40)
    with pytest.raises(Diverged, match=r"loss of step \d+ is not finite.*row040"):
        train(data, tmp_path / "out", log_every=4, checkpoint_every=1)
    state = Checkpoints(str(tmp_path / "out")).newest()
    assert state is None or all(loss == loss for loss in state.losses)


def test_the_best_checkpoint_is_kept(data: str, tmp_path: Path) -> None:
    state = train(data, tmp_path, steps=40, lr=0.3, eval_every=2, checkpoint_every=10)
    losses = {int(e["step"]): e["loss"] for e in state.evaluations}
    assert state.best_step == min(losses, key=lambda step: losses[step])
    assert state.best == losses[state.best_step]
    assert weights(tmp_path, state.best_step)


def test_reports_and_window(data: str, tmp_path: Path) -> None:
    reports: list[Progress] = []
    state = train(data, tmp_path, reports=reports, steps=10, log_every=4, eval_every=0)
    training = [r for r in reports if not r.evaluation]
    assert [r.step for r in training] == [4, 8, 10]
    assert training[0].values["loss"] == pytest.approx(sum(state.losses[:4]) / 4)
    assert all(r.samples_per_s > 0 and 0 <= r.waiting <= 1 for r in training)
    assert [r.step for r in reports if r.evaluation] == [10]


class Shown(NullTracker):
    def __init__(self) -> None:
        self.pictures_at: dict[int, dict[str, bytes]] = {}

    def pictures(self, step: int, pictures: Mapping[str, bytes]) -> None:
        if pictures:
            self.pictures_at[step] = dict(pictures)


def test_pictures_are_shown_at_each_evaluation(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def pictures(task: TinyTask, model: torch.nn.Module) -> dict[str, bytes]:
        assert not model.training
        if len(shown.pictures_at) == 1:
            raise OSError("no room")
        return {"a.png": b"png"}

    shown = Shown()
    whole = train(data, tmp_path / "whole", steps=15, eval_every=5)
    monkeypatch.setattr(TinyTask, "pictures", pictures)
    state = train(data, tmp_path / "shown", steps=15, eval_every=5, tracker=shown)
    assert shown.pictures_at == {5: {"a.png": b"png"}}
    assert "step 10: no pictures of what was learned (no room)" in caplog.text
    assert state.losses == whole.losses


def test_learning_rate() -> None:
    config = TrainConfig(lr=1.0, warmup=4, schedule="cosine")
    rates = [learning_rate(config, step, 20) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[12] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    assert learning_rate(TrainConfig(lr=0.3), 1000, 20) == 0.3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"elastic": (0, 2)}, r"--elastic is 0 2"),
        ({"elastic": (3, 2)}, r"--elastic is 3 2, expected 1 <= MIN <= MAX"),
        ({"elastic": (1, 2), "num_workers": 2}, r"--num-workers 2 and --elastic 1 2"),
    ],
)
def test_elastic_is_checked(config: dict[str, Any], message: str) -> None:
    TrainConfig(elastic=(1, 4)).check()
    with pytest.raises(UserError, match=message):
        TrainConfig(**config).check()


def test_bf16_trains_close_to_fp32(data: str, tmp_path: Path) -> None:
    half = train(data, tmp_path / "half", precision="bf16")
    whole = train(data, tmp_path / "whole", precision="fp32")
    assert half.losses == pytest.approx(whole.losses, abs=0.05)
    assert half.losses != whole.losses


@pytest.mark.parametrize(
    ("flag", "value"),
    [("steps", 0), ("batch_size", 0), ("lr", -1.0), ("num_workers", -1), ("betas", (0.9, 1.0))],
)
def test_config_names_the_flag(flag: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"--{flag.replace('_', '-')}"):
        dataclasses.replace(TrainConfig(), **{flag: value}).check()
