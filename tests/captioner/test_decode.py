"""Decoding, with a decoder small enough to write out everything that it could say."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from mmray.captioner.decode import (
    END,
    PAD,
    START,
    UNKNOWN,
    State,
    beam,
    greedy,
    log_probabilities,
    sample,
)
from mmray.errors import UserError

ROWS = 1009  # a prime, of tables


class Table:
    """Logits of a table's row, which all tokens so far and the picture's number choose.

    The tokens so far are the cache, empty at first; nothing else says what was written.
    """

    def __init__(self, seed=0, num_tokens=7, spread=1.5, end=0.0):
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(ROWS, num_tokens, generator=generator) * spread
        self.table[:, END] += end
        self.steps = 0

    def start(self, picture):
        number = picture[:, 0, 0].long()
        return State({"number": number}, {"past": number.new_zeros(len(number), 0)})

    def step(self, state, tokens):
        self.steps += 1
        number, past = state.shared["number"], state.own["past"]
        past = torch.cat([past, tokens[:, None]], 1)
        row = number[:, None].expand(-1, len(past) // max(1, len(number))).reshape(-1)
        for token in past.unbind(1):
            row = (row * 31 + token * 7 + 3) % ROWS
        return self.table[row].clone(), State(state.shared, {"past": past})

    def teacher_forced(self, number, tokens):
        """The sum of log-probabilities of the tokens up to the first PAD."""
        row, total = int(number), 0.0
        for before, token in itertools.pairwise([START, *tokens]):
            if token == PAD:
                break
            row = (row * 31 + before * 7 + 3) % ROWS
            total += float(log_probabilities(self.table[row])[token])
        return total

    def everything(self, number, max_length):
        """All captions that end and their scores, and all that are cut."""
        words = range(UNKNOWN + 1, self.table.shape[1])
        ended, cut = {}, {}
        for length in range(max_length + 1):
            for text in itertools.product(words, repeat=length):
                ended[(*text, END)] = self.teacher_forced(number, (*text, END))
                if length == max_length:
                    cut[text] = self.teacher_forced(number, text)
        return ended, cut


class Constant:
    """The same logits always."""

    def __init__(self, logits):
        self.logits = torch.as_tensor(logits)
        self.steps = 0

    def start(self, picture):
        return State({}, {"nothing": picture.new_zeros(len(picture), 0)})

    def step(self, state, tokens):
        self.steps += 1
        return self.logits.expand(len(tokens), -1).clone(), state


class Gru:
    """A net with numbers for a cache, whose results depend on rounding."""

    def __init__(self, num_tokens=8, dim=12):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.embed = torch.nn.Embedding(num_tokens, dim)
            self.cell = torch.nn.GRUCell(dim, dim)
            self.out = torch.nn.Linear(dim, num_tokens)
            self.out.weight.data *= 5

    def start(self, picture):
        return State({"seen": picture.mean(1)}, {"hidden": picture.mean(1)})

    def step(self, state, tokens):
        seen, hidden = state.shared["seen"], state.own["hidden"]
        again = seen[:, None].expand(-1, len(hidden) // len(seen), -1).reshape(len(hidden), -1)
        hidden = self.cell(self.embed(tokens) + again, hidden)
        return self.out(hidden), State(state.shared, {"hidden": hidden})


def _pictures(*numbers):
    return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1)


def _uniforms(b, n, max_length, seed=0):
    return torch.rand(b, n, max_length + 1, generator=torch.Generator().manual_seed(seed))


def _text(tokens):
    return tuple(token for token in tokens.tolist() if token != PAD)


def _same(a, b, tolerance=0.0):
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.ended, b.ended)
    assert torch.allclose(a.scores, b.scores, rtol=0, atol=tolerance)


def _all(decoder, picture, max_length):
    """What each way of decoding finds."""
    yield greedy(decoder, picture, max_length)
    for options in (
        {"width": 2},
        {"width": 5, "n": 5},
        {"width": 4, "n": 3, "length_penalty": 0.7},
        {"width": 4, "n": 4, "length_penalty": -1.0},
        {"width": 6, "n": 5, "groups": 3, "diversity": 0.8},
        {"width": 4, "n": 4, "groups": 2},
    ):
        yield beam(decoder, picture, max_length, **options)
    uniforms = _uniforms(len(picture), 3, max_length)
    yield sample(decoder, picture, uniforms, max_length)
    yield sample(decoder, picture, uniforms, max_length, temperature=3.0, top_p=0.8)


def _check(found, max_length):
    """What holds of every result."""
    b, n = found.scores.shape
    assert found.tokens.shape == (b, n, max_length + 1)
    assert found.tokens.dtype == torch.int64
    assert found.ended.shape == (b, n)
    assert not found.scores.isnan().any()
    assert (found.scores[:, 0] > -math.inf).all()
    for tokens, score, ended in zip(
        found.tokens.flatten(0, 1), found.scores.flatten(), found.ended.flatten(), strict=True
    ):
        text = _text(tokens)
        assert tokens.tolist() == [*text] + [PAD] * (max_length + 1 - len(text))
        assert not {START, UNKNOWN} & {*text}
        assert text.count(END) == int(ended)
        if ended:
            assert text[-1] == END
        else:
            assert len(text) == (max_length if score > -math.inf else 0)


def test_greedy_by_hand():
    decoder = Table(seed=1, end=0.5)
    found = greedy(decoder, _pictures(3), 6)
    past = [START]
    while len(past) <= 6 and past[-1] != END:
        tries = {token: decoder.teacher_forced(3, [*past[1:], token]) for token in (2, 4, 5, 6)}
        past.append(max(tries, key=tries.get))
    assert 3 < len(past) < 7, "too easy"
    assert _text(found.tokens[0, 0]) == tuple(past[1:])
    assert found.scores[0, 0] == pytest.approx(decoder.teacher_forced(3, past[1:]), abs=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_beam_of_width_1_is_greedy(length_penalty):
    for seed in range(5):
        decoder, picture = Table(seed), _pictures(*range(8))
        narrow = beam(decoder, picture, 5, width=1, length_penalty=length_penalty)
        _same(narrow, greedy(decoder, picture, 5))


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0, -1.0])
def test_wide_beam_finds_the_best_of_all(length_penalty):
    decoder, picture = Table(seed=2, num_tokens=6, end=1.0), _pictures(*range(12))
    found = beam(decoder, picture, 3, width=16, n=6, length_penalty=length_penalty)
    first = greedy(decoder, picture, 3)
    for b in range(len(picture)):
        every, _ = decoder.everything(b, 3)
        assert first.ended[b, 0], "a cut one would come first"

        def rank(text, every=every):
            return every[text] / ((4 + len(text)) / 6) ** length_penalty

        expected = sorted(every, key=rank, reverse=True)[:6]
        assert [_text(tokens) for tokens in found.tokens[b]] == expected
        scores = [every[text] for text in expected]
        assert found.scores[b].tolist() == pytest.approx(scores, abs=1e-5)


def test_the_length_penalty_lengthens():
    decoder, picture = Table(seed=1, num_tokens=6, end=0.5), _pictures(*range(20))
    few, some, more, most = (
        (beam(decoder, picture, 5, width=40, length_penalty=x).tokens != PAD).sum()
        for x in (-1.0, 0.1, 1.0, 3.0)
    )
    assert few < some < more < most


@pytest.mark.parametrize("width", [2, 3, 5])
def test_never_below_greedy(width):
    better = ended = 0
    for seed in range(25):
        decoder, picture = Table(seed, end=-0.5 + seed % 3), _pictures(*range(30))
        for n in (1, width):
            found = beam(decoder, picture, 6, width=width, n=n)
            gain = (found.scores - greedy(decoder, picture, 6).scores)[:, 0]
            assert (gain >= 0).all()
            better += int((gain > 0).sum())
            ended += int(found.ended[:, 0].sum())
    assert better > 200
    assert ended > 200


def test_beam_loses_the_greedy_path():
    """A beam of 2 leaves the path of token 4, which alone ends well; greedy search stays on it."""

    class Lure(Constant):
        def start(self, picture):
            return State({}, {"past": picture.new_zeros(len(picture), 0).long()})

        def step(self, state, tokens):
            past = torch.cat([state.own["past"], tokens[:, None]], 1)
            shares = {  # of END, 4, 5, 6 after the tokens so far
                (): (0, 0.40, 0.35, 0.25), (4,): (0, 0.40, 0.30, 0.30),
                (5,): (0, 0.01, 0.50, 0.49), (4, 4): (1, 0, 0, 0),
            }  # fmt: skip
            rows = [shares.get(tuple(row[1:]), (0.01, 0.33, 0.33, 0.33)) for row in past.tolist()]
            share = torch.tensor(rows)
            logits = F.pad(share[:, 1:], (4, 0))
            logits[:, END] = share[:, 0]
            return logits.log(), State({}, {"past": past})

    found = beam(Lure([]), _pictures(0), 3, width=2, n=2)
    assert _text(found.tokens[0, 0]) == (4, 4, END)
    assert found.scores[0, 0] == pytest.approx(math.log(0.16), abs=1e-5)


def test_only_greedy_s_cut_caption_may_displace_ended_ones():
    displaced = 0
    for seed in range(10):
        decoder, picture = Table(seed, end=-1.0), _pictures(*range(20))
        first, one = greedy(decoder, picture, 3), beam(decoder, picture, 3, width=3)
        many = beam(decoder, picture, 3, width=3, n=3)
        for b in range(20):
            words = [tuple(t for t in _text(x) if t != END) for x in many.tokens[b]]
            assert len({*words}) == 3
            if many.ended[b].any() and not one.ended[b, 0]:
                displaced += 1
                assert torch.equal(one.tokens[b], first.tokens[b])
                assert (one.scores[b] >= many.scores[b][many.ended[b]]).all()
    assert displaced > 10
    # As wide as this all captions end somewhere: one that was cut is the first, or not there.
    wide = beam(decoder, picture, 3, width=64, n=3)
    assert wide.ended[:, 1:].all()
    assert 0 < wide.ended[:, 0].sum() < 20


def test_ended_captions_are_preferred_to_cut_ones():
    # With a penalty no greedy path competes. A caption ends with 1 %, and goes on with 99.
    logits = torch.tensor([0, 0, 0.01, 0, 0.97, 0.01, 0.01]).log()
    found = beam(Constant(logits), _pictures(0), 4, width=5, n=1, length_penalty=0.1)
    assert found.ended.all()
    found = beam(Constant(logits), _pictures(0), 4, width=5, n=1)
    assert not found.ended.any()


def test_a_batch_is_its_pictures_one_by_one():
    picture = _pictures(*range(7))
    together = [*_all(Table(4), picture, 5)]
    uniforms = _uniforms(7, 3, 5)
    for b in range(7):
        alone = [*_all(Table(4), picture[b : b + 1], 5)]
        alone[-2] = sample(Table(4), picture[b : b + 1], uniforms[b : b + 1], 5)
        alone[-1] = sample(Table(4), picture[b : b + 1], uniforms[b : b + 1], 5, 3.0, 0.8)
        for many, one in zip(together, alone, strict=True):
            assert torch.equal(many.tokens[b : b + 1], one.tokens)
            assert torch.equal(many.scores[b : b + 1], one.scores)
            assert torch.equal(many.ended[b : b + 1], one.ended)


def test_a_batch_of_a_net():
    picture = torch.randn(5, 3, 12, generator=torch.Generator().manual_seed(0))
    together = beam(Gru(), picture, 6, width=4, n=3, length_penalty=0.5)
    for b in range(5):
        alone = beam(Gru(), picture[b : b + 1], 6, width=4, n=3, length_penalty=0.5)
        assert torch.equal(together.tokens[b], alone.tokens[0])
        assert torch.allclose(together.scores[b], alone.scores[0], atol=1e-5)


def test_n_best_are_sorted_different_and_scored_as_a_teacher_would():
    decoder, picture = Table(5, num_tokens=8), _pictures(*range(12))
    for found in _all(decoder, picture, 5):
        _check(found, 5)
        for b in range(12):
            for tokens, score in zip(found.tokens[b].tolist(), found.scores[b], strict=True):
                if score > -math.inf:
                    assert score == pytest.approx(decoder.teacher_forced(b, tokens), abs=1e-5)
    for options in ({}, {"groups": 2}, {"groups": 4, "diversity": 2.0}):
        found = beam(decoder, picture, 5, width=4, n=4, **options)
        there = (found.scores > -math.inf).sum(1)
        assert (there == 4).all() or options == {"groups": 2}
        for scores, texts, count in zip(found.scores, found.tokens, there, strict=True):
            assert scores.tolist() == sorted(scores.tolist(), reverse=True)
            assert len({_text(x) for x in texts[:count]}) == count


ODD = {
    "never ends": [0, 0, -math.inf, 0, 1, 0.5, 0.3],
    "hardly ends": [0, 0, -1e30, 0, 1, 0.5, 0.3],
    "ends at once": [0, 0, 1e30, 0, 1, 0.5, 0.3],
    "wants what is forbidden": [9e9, 9e9, 0, 9e9, 0.1, 0.2, -0.1],
    "NaN": [math.nan] * 7,
    "some NaN": [math.nan, 0, math.nan, 0, 1, math.nan, 0.5],
    "all impossible": [-math.inf] * 7,
    "infinite": [math.inf, 0, math.inf, 0, math.inf, 0, -math.inf],
    "one word": [0, 0, -math.inf, 0, 1, -math.inf, -math.inf],
    "no words": [0.0, 0, 0, 0],
    "only END": [0.0, 0, 0],
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("max_length", [1, 4])
def test_always_returns(name, max_length):
    for found in _all(Constant(ODD[name]), _pictures(0, 1), max_length):
        _check(found, max_length)
        if name in ("never ends", "one word", "some NaN"):
            assert not found.ended.any()
        if name in ("ends at once", "NaN", "all impossible", "no words", "only END"):
            assert found.ended[:, 0].all()
            assert (found.tokens[:, 0, 0] == END).all()
            assert found.scores[:, 0].tolist() == [0, 0]


def test_no_picture():
    for found in _all(Table(), _pictures(), 3):
        assert found.tokens.shape[::2] == (0, 4)


def test_fewer_captions_than_asked_for():
    found = beam(Constant(ODD["one word"]), _pictures(0), 2, width=3, n=3)
    assert found.tokens[0].tolist() == [[4, 4, PAD], [PAD] * 3, [PAD] * 3]
    assert found.scores[0].tolist() == [0, -math.inf, -math.inf]


def test_stops_when_all_is_decided():
    logits = [0, 0, 5, 0, 1, 0.5, 0.3]
    for length_penalty, most in ((0.0, 2), (0.5, 4)):
        decoder = Constant(logits)
        beam(decoder, _pictures(0, 1), 30, width=3, length_penalty=length_penalty)
        assert decoder.steps <= most
    decoder = Constant(logits)
    greedy(decoder, _pictures(0, 1), 30)
    assert decoder.steps == 1


def test_stopping_early_loses_nothing():
    # As wide as this nothing is lost but by stopping. (6 tokens: two words.)
    for seed, length_penalty in itertools.product(range(4), (0.5, 1.5, 5.0)):
        decoder = Table(seed, num_tokens=6, end=1.5)
        found = beam(decoder, _pictures(1), 5, width=64, length_penalty=length_penalty)
        every, _ = decoder.everything(1, 5)
        best = max(every, key=lambda x: every[x] / ((4 + len(x)) / 6) ** length_penalty)
        assert _text(found.tokens[0, 0]) == best


def test_diverse_groups_differ():
    decoder, picture = Table(6, num_tokens=8, end=0.5), _pictures(*range(20))

    def firsts(diversity):
        found = beam(decoder, picture, 4, width=4, n=2, groups=2, diversity=diversity)
        return found, (found.tokens[:, 0, 0] != found.tokens[:, 1, 0]).float().mean()

    _, few = firsts(0.0)
    apart, all_differ = firsts(50.0)
    assert few < 0.8
    assert all_differ == 1
    # The first group is told nothing; scores are without what the second lost.
    for b in range(20):
        one = beam(decoder, picture[b : b + 1], 4, width=2, length_penalty=1e-9)
        assert _text(one.tokens[0, 0]) in {_text(x) for x in apart.tokens[b]}
        for tokens, score in zip(apart.tokens[b].tolist(), apart.scores[b], strict=True):
            assert score == pytest.approx(decoder.teacher_forced(b, tokens), abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_draws_are_as_frequent_as_they_are_probable(temperature):
    decoder, n = Table(7, num_tokens=6, spread=1.0), 4000
    found = sample(decoder, _pictures(5), _uniforms(1, n, 2, seed=3), 2, temperature)
    texts = [_text(tokens) for tokens in found.tokens[0]]
    hotter = Table(7, num_tokens=6, spread=1.0)
    hotter.table /= temperature
    every, _ = hotter.everything(5, 2)
    # A caption of two words is cut where it does not end.
    shares = {text: math.exp(score) for text, score in every.items()}
    for text in itertools.product((4, 5), repeat=2):
        shares[text] = math.exp(hotter.teacher_forced(5, text)) - shares[(*text, END)]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    chi2 = sum((texts.count(text) - n * p) ** 2 / (n * p) for text, p in shares.items())
    assert chi2 < 27.9  # 10 degrees of freedom, p = 0.002
    _check(found, 2)
    for text, score in list(zip(texts, found.scores[0], strict=True))[:50]:
        assert score == pytest.approx(decoder.teacher_forced(5, text), abs=1e-5)


def test_nucleus():
    logits = torch.tensor([0, 0, 0.3, 0, 0.05, 0.4, 0.25]).log()  # of END, 4, 5, 6
    for top_p, expected in ((0.39, {5}), (0.41, {5, END}), (0.8, {5, END, 6}), (1.0, None)):
        found = sample(Constant(logits), _pictures(0), _uniforms(1, 500, 1), 1, top_p=top_p)
        assert {*found.tokens[0, :, 0].tolist()} == (expected or {END, 4, 5, 6})


def test_hardly_any_choice_is_greedy():
    decoder, picture = Table(8), _pictures(*range(10))
    expected, uniforms = greedy(decoder, picture, 5), _uniforms(10, 1, 5)
    _same(sample(decoder, picture, uniforms, 5, top_p=1e-9), expected)
    _same(sample(decoder, picture, uniforms, 5, temperature=1e-300), expected)


def test_draws_do_not_depend_on_the_batch():
    decoder, picture, uniforms = Table(9), _pictures(*range(10)), _uniforms(10, 3, 5)
    found = sample(decoder, picture, uniforms, 5, 1.3, 0.9)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    again = sample(decoder, picture[order], uniforms[order], 5, 1.3, 0.9)
    assert torch.equal(again.tokens, found.tokens[order])
    assert torch.equal(again.scores, found.scores[order])


def test_the_ends_of_the_numbers():
    last = torch.full((1, 1, 3), 1 - 2**-24)
    logits = [0, 0, 0, 0, 1, 2, -math.inf]
    assert sample(Constant(logits), _pictures(0), last, 2).tokens.tolist() == [[[5, 5, PAD]]]
    assert sample(Constant(logits), _pictures(0), last * 0, 2).tokens[0, 0, 0] == END


def test_captions_can_be_learned_from():
    layer = torch.nn.Embedding(7, 2)
    for found in _all(Table(), _pictures(0, 1), 3):
        (layer(found.tokens).sum(-1).sum(-1) * found.scores.clamp(-9)).sum().backward()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("max_length", {"max_length": 0}),
        ("width", {"width": 0}),
        ("n ", {"n": 0}),
        ("n ", {"n": 6}),
        ("groups", {"groups": 0}),
        ("width", {"groups": 2}),
        ("length_penalty", {"length_penalty": math.nan}),
        ("length_penalty", {"length_penalty": 11}),
        ("diversity", {"diversity": -1}),
        ("diversity", {"diversity": math.inf}),
    ],
)
def test_errors_of_beam(name, options):
    with pytest.raises(UserError, match=f"^{name}"):
        beam(Table(), _pictures(0), **{"max_length": 3, **options})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("max_length", {"max_length": 0}),
        ("temperature", {"temperature": 0}),
        ("temperature", {"temperature": -1}),
        ("temperature", {"temperature": math.inf}),
        ("temperature", {"temperature": math.nan}),
        ("top_p", {"top_p": 0}),
        ("top_p", {"top_p": 1.1}),
        ("top_p", {"top_p": math.nan}),
        ("n ", {"uniforms": torch.zeros(1, 0, 4)}),
        ("uniforms", {"uniforms": torch.zeros(1, 1, 3)}),
        ("uniforms", {"uniforms": torch.zeros(2, 1, 4)}),
        ("uniforms", {"uniforms": torch.zeros(1, 4)}),
        ("uniforms", {"uniforms": torch.zeros(1, 1, 4).double()}),
        ("uniforms", {"uniforms": torch.ones(1, 1, 4)}),
        ("uniforms", {"uniforms": torch.full((1, 1, 4), math.nan)}),
    ],
)
def test_errors_of_sample(name, options):
    with pytest.raises(UserError, match=f"^{name}"):
        sample(
            Table(), _pictures(0), **{"uniforms": torch.zeros(1, 1, 4), "max_length": 3, **options}
        )


def test_errors_of_greedy():
    with pytest.raises(UserError, match=r"^max_length 0"):
        greedy(Table(), _pictures(0), 0)
