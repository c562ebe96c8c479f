from types import SimpleNamespace

from mmray.media.container import MediaFile
from mmray.media.cuts import CodedFrame, Cut, exact_cuts, key_cuts


def test_only_what_is_needed_is_cut(tmp_path, make):
    path = make.video(tmp_path / "a.mp4", 200, group=50, b_frames=0)
    with MediaFile(path) as file:
        cuts = list(exact_cuts(file, [0.1, 0.3, 4.05]))
    # From the key frames at 0 s and 4 s to frames 7 and 101.
    assert [len(cut.coded) for cut in cuts] == [8, 2]
    assert [cut.places() for cut in cuts] == [[2, 7], [1]]
    assert [[round(t * 25) for t in cut.times] for cut in cuts] == [[2, 7], [101]]


def test_frames_that_need_the_group_before_are_left_out(tmp_path, make):
    options = {"x264-params": "open-gop=1:keyint=25:min-keyint=25:scenecut=0:bframes=3"}
    path = make.video(tmp_path / "a.mp4", 200, options=options)
    with MediaFile(path) as file:
        (cut,) = exact_cuts(file, [3.3])
    assert cut.coded[0].is_key
    assert min(coded.time for coded in cut.coded) == cut.coded[0].time


def test_a_key_frame_needs_one_packet(tmp_path, make):
    path = make.video(tmp_path / "a.mp4", 200, group=50)
    with MediaFile(path) as file:
        cuts = key_cuts(file, [0.1, 2.2, 2.9, 5.9], None)
    assert [len(cut.coded) for cut in cuts] == [1, 1, 1]
    assert [[round(t * 25) for t in cut.times] for cut in cuts] == [[0], [50, 50], [150]]


def test_hidden_frames_of_vp8_are_not_counted():
    # The fifth bit of a VP8 frame says whether it is shown (RFC 6386, 9.1).
    stream = SimpleNamespace(codec_context=SimpleNamespace(name="vp8"))
    packets = [b"\x00hidden" if i == 2 else b"\x10shown" for i in range(6)]
    coded = [CodedFrame(i / 25, 0.04, p, stream, i == 0) for i, p in enumerate(packets)]
    assert Cut(coded, [0.04, 0.2]).places() == [1, 4]
