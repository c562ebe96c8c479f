"""Plans of videos, and the files rendered from them."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import decord
import numpy as np
import pytest

from mmray.toyworld.video import plan_frames, plan_soundtrack, plan_video, render_video


@pytest.fixture(scope="module")
def plans():
    return [plan_video(0, i) for i in range(300)]


def short(plan, seconds=1.5):
    """The same video, but only its beginning."""
    frames = round(seconds * plan.fps)
    shot = replace(plan.shots[0], start_s=0.0, end_s=float(frames / plan.fps))
    return replace(plan, num_frames=frames, shots=(shot,))


def test_plans_depend_on_seed_and_index_alone():
    assert plan_video(3, 7) == plan_video(3, 7)
    assert len({plan_video(s, i).shots for s in (3, 4) for i in (7, 8)}) == 4


def test_shots_cover_the_video_without_gaps(plans):
    for plan in plans:
        assert 10 - 0.1 <= plan.duration_s <= 20 + 0.1
        assert 2 <= len(plan.shots) <= 4
        assert plan.shots[0].start_s == 0
        assert plan.shots[-1].end_s == pytest.approx(plan.duration_s)
        for before, after in pairwise(plan.shots):
            assert before.end_s == after.start_s
        assert all(3.8 <= shot.end_s - shot.start_s <= 8.2 for shot in plan.shots)


def test_some_cuts_keep_the_scene_and_others_change_it(plans):
    kept = Counter()
    for plan in plans:
        for before, after in pairwise(plan.shots):
            assert before.scene.seed != after.scene.seed
            kept[before.scene.from_another_angle(0) == after.scene.from_another_angle(0)] += 1
    assert 0.3 < kept[True] / kept.total() < 0.7


def test_files_come_in_many_forms(plans):
    assert len({p.fps for p in plans}) == 6
    assert Fraction(24000, 1001) in {p.fps for p in plans}
    assert {p.sample_rate for p in plans} == {16_000, 22_050, 32_000, 44_100, 48_000}
    assert {p.channels for p in plans} == {1, 2}
    assert {p.b_frames for p in plans} == {0, 2}
    assert len({(p.width, p.height) for p in plans}) == 5
    assert sum(p.fps == 30 for p in plans) < 0.1 * len(plans)


def test_disturbances_have_their_shares(plans):
    assert 0.08 < np.mean([p.disturbance.quiet for p in plans]) < 0.25
    assert 0.15 < np.mean([p.disturbance.noisy for p in plans]) < 0.35
    strays = [p for p in plans if p.disturbance.offscreen]
    assert 0.15 < len(strays) / len(plans) < 0.35
    for plan in strays:
        shown = {n for s in plan.shots for n in (s.scene.object, *s.scene.others)}
        assert plan.disturbance.offscreen not in shown


def test_names_are_unique_and_a_few_are_odd(plans):
    keys = [p.key for p in plans]
    assert len(set(keys)) == len(keys)
    assert any(" " in k for k in keys)
    assert any(not k.isascii() for k in keys)


def test_sound_goes_on_across_a_cut_to_another_angle(plans):
    plan = next(p for p in plans if len({s.scene.place for s in p.shots}) == 1
                and len({s.scene.object for s in p.shots}) == 1)  # fmt: skip
    wave = plan_soundtrack(plan).wave[0]
    cut = round(plan.shots[0].end_s * plan.sample_rate)
    assert np.abs(wave[cut - 200 : cut + 200]).min() >= 0
    assert np.sqrt(np.mean(wave[cut - 100 : cut + 100] ** 2)) > 1e-3


def test_frames_move_and_jump_at_cuts(plans):
    plan = next(p for p in plans if p.fps == 8)
    frames = list(plan_frames(plan, plan_soundtrack(plan).events))
    assert len(frames) == plan.num_frames
    assert all(f.shape == (plan.height, plan.width, 3) and f.dtype == np.uint8 for f in frames)
    change = np.array([np.abs(a.astype(int) - b).mean() for a, b in pairwise(frames)])
    cuts = [round(s.start_s * plan.fps) - 1 for s in plan.shots[1:]]
    assert change[cuts].min() > 2 * np.delete(change, cuts).mean()
    assert np.delete(change, cuts).max() > 0


@pytest.mark.parametrize("wanted", [
    {"fps": Fraction(24000, 1001)}, {"fps": Fraction(25, 2)}, {"b_frames": 2, "channels": 2},
    {"channels": 1, "sample_rate": 16_000}, {"fast_start": True, "sample_rate": 48_000},
])  # fmt: skip
def test_rendered_file_is_what_the_plan_says(plans, tmp_path, wanted):
    plan = short(next(p for p in plans if all(getattr(p, k) == v for k, v in wanted.items())))
    path = tmp_path / "clip.mp4"
    render_video(plan, path)
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert video.average_rate == plan.fps
        assert (video.width, video.height) == (plan.width, plan.height)
        assert (audio.rate, audio.channels) == (plan.sample_rate, plan.channels)
        assert container.duration / 1e6 == pytest.approx(plan.duration_s, abs=0.1)
        samples = sum(f.samples for f in container.decode(audio=0))
        assert samples / plan.sample_rate == pytest.approx(plan.duration_s, abs=0.1)
    reader = decord.VideoReader(str(path))
    assert len(reader) == plan.num_frames
    assert reader.get_avg_fps() == pytest.approx(float(plan.fps))
    expected = list(plan_frames(plan, plan_soundtrack(plan).events))
    last = reader[plan.num_frames - 1].asnumpy().astype(int)
    assert np.abs(last - expected[-1]).mean() < 12


def test_sound_of_the_file_is_the_planned_sound_in_time(plans, tmp_path):
    plan = short(next(p for p in plans if p.channels == 1 and not p.disturbance.quiet))
    path = tmp_path / "clip.mp4"
    render_video(plan, path)
    with av.open(str(path)) as container:
        heard = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)[0]
    planned = plan_soundtrack(plan).wave[0]
    n = min(len(heard), len(planned))
    assert np.corrcoef(heard[:n], planned[:n])[0, 1] > 0.9
