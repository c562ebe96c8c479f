"""Words from a decoder: the likeliest by greedy or beam search, or drawn by given random numbers.

Any autoregressive decoder with a cache will do (`Decoder`). Everything is done for all pictures
and all their hypotheses at once, and always returns, whatever the decoder says: a NaN is an
impossible token, and where every token is impossible the caption ends.

PAD, START and UNKNOWN are never written; probabilities are shared out among the other tokens.
A caption that has `max_length` words and does not end there is cut, and is not `ended`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mmray.errors import UserError

PAD, START, END, UNKNOWN = 0, 1, 2, 3
_NUCLEUS = 128
"""Tokens among which a nucleus is looked for first."""

# Log-probabilities [R, V] of step t, of hypotheses of these numbers [R] -> tokens [R].
_Choose = Callable[[Tensor, int, Tensor], Tensor]
_NEVER = -math.inf


@dataclass
class State:
    """What a decoder keeps while it writes K captions for each of B pictures.

    Args:
        shared: of the pictures, B rows each; the same at every step and for all K.
        own: of the hypotheses, R = B K rows each, row b K + k of hypothesis k of picture b.
    """

    shared: dict[str, Tensor]
    own: dict[str, Tensor]

    def repeat(self, times: int) -> State:
        """So many hypotheses of each one."""
        own = {name: x.repeat_interleave(times, 0) for name, x in self.own.items()}
        return State(self.shared, own)

    def select(self, rows: Tensor) -> State:
        """Hypotheses that go on from those of the given rows, int64 [R]."""
        return State(self.shared, {name: x.index_select(0, rows) for name, x in self.own.items()})


class Decoder(Protocol):
    """What writes captions word by word; in evaluation mode, if it has modes."""

    def start(self, picture: Tensor) -> State:
        """Pictures [B, N, D] before the first word; `own` has B rows."""

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """One more token of each hypothesis, int64 [R] -> logits [R, V] of the next."""


@dataclass
class Decoded:
    """n captions of each of B pictures, the best first; drawn ones in the order of the draws.

    Args:
        tokens: int64 [B, n, max_length + 1], without START; END where it ended, then PAD.
        scores: float32 [B, n], sums of log-probabilities, that of the END among them. Where beam
            search found fewer different captions than n (few words, or groups of little
            diversity), the others are empty, with -inf.
        ended: bool [B, n].
    """

    tokens: Tensor
    scores: Tensor
    ended: Tensor

    def _usable(self) -> Decoded:
        # Training takes no tensors of inference mode, and learns from drawn captions too.
        return Decoded(self.tokens.clone(), self.scores.clone(), self.ended.clone())


def greedy(decoder: Decoder, picture: Tensor, max_length: int) -> Decoded:
    """The likeliest token at each step.

    Args:
        decoder: what writes.
        picture: what it writes about, [B, N, D].
        max_length: most words, without START and END.

    Returns:
        One caption a picture, n = 1.

    Raises:
        UserError: `max_length` is below 1.
    """
    _at_least_one(max_length=max_length)
    return _follow(decoder, picture, 1, max_length, lambda log_p, *_: log_p.argmax(-1))


def sample(
    decoder: Decoder,
    picture: Tensor,
    uniforms: Tensor,
    max_length: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Decoded:
    """Captions drawn at random, by random numbers that the caller gives.

    Each number decides one token, by the inverse of the cumulative distribution: a picture's
    captions do not depend on the batch it is in.

    Args:
        decoder: what writes.
        picture: what it writes about, [B, N, D].
        uniforms: float32 [B, n, max_length + 1], from 0 to below 1.
        max_length: most words, without START and END.
        temperature: logits are divided by it; above 0.
        top_p: draw from the likeliest tokens that together have this probability (nucleus
            sampling: Holtzman et al., ICLR 2020); above 0, and 1 for all tokens.

    Returns:
        n captions a picture in the order of `uniforms`, the same one perhaps more than once.
        Scores are of the decoder's own distribution: without `temperature` and `top_p`.

    Raises:
        UserError: a value out of its range, or `uniforms` of another shape or kind.
    """
    _at_least_one(max_length=max_length)
    if not 0 < temperature < math.inf:
        raise UserError(f"temperature {temperature}: expected a number above 0")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p {top_p}: expected above 0 and at most 1")
    shape, b, steps = [*uniforms.shape], len(picture), max_length + 1
    if len(shape) != 3 or shape[::2] != [b, steps] or uniforms.dtype != torch.float32:
        raise UserError(f"uniforms {uniforms.dtype} {shape}: expected float32 [{b}, n, {steps}]")
    _at_least_one(n=shape[1])
    if not bool(((uniforms >= 0) & (uniforms < 1)).all()):
        raise UserError("uniforms: expected numbers from 0 to below 1")
    numbers = uniforms.to(picture.device).flatten(0, 1)

    def choose(log_p: Tensor, t: int, rows: Tensor) -> Tensor:
        return _draw(log_p, numbers[rows, t], temperature, top_p)

    return _follow(decoder, picture, shape[1], max_length, choose)


def beam(
    decoder: Decoder,
    picture: Tensor,
    max_length: int,
    width: int = 5,
    n: int = 1,
    length_penalty: float = 0.0,
    groups: int = 1,
    diversity: float = 0.0,
) -> Decoded:
    """The best captions that beam search finds.

    Captions are ranked by score / ((5 + words) / 6) ** length_penalty (Wu et al., 2016), words
    without START and END. Cut ones are returned only where fewer than n ended; but for greedy
    search's, where it was cut and has a better score than all that ended.

    With `length_penalty` 0 and one group, the best one's score is never below greedy search's.
    A beam of width 1 is greedy search.

    Args:
        decoder: what writes.
        picture: what it writes about, [B, N, D].
        max_length: most words, without START and END.
        width: living hypotheses of each picture, of all groups together.
        n: captions of each picture, at most `width`; they differ from each other.
        length_penalty: from -10 to 10; above 0 longer captions rank higher.
        groups: that search one after the other at each step (diverse beam search: Vijayakumar et
            al., AAAI 2018), each for ceil(n / groups) of the captions; divides `width`.
        diversity: what a token loses for each hypothesis of earlier groups that takes it at the
            same step (Hamming diversity), in log-probability; chooses, and is not in the scores.

    Raises:
        UserError: a value out of its range.
    """
    _at_least_one(max_length=max_length, width=width, n=n, groups=groups)
    if n > width:
        raise UserError(f"n {n}: expected at most the width of the beam, {width}")
    if width % groups:
        raise UserError(f"width {width}: expected a multiple of groups, {groups}")
    if not abs(length_penalty) <= 10:  # far steeper ones leave the range of numbers
        raise UserError(f"length_penalty {length_penalty}: expected from -10 to 10")
    if not 0 <= diversity < math.inf:
        raise UserError(f"diversity {diversity}: expected a number of at least 0")
    if width == 1:  # with a penalty, it would go on after an END
        return greedy(decoder, picture, max_length)
    with torch.inference_mode():
        search = _Search(picture, max_length, width, n, length_penalty, groups)
        state = decoder.start(picture).repeat(search.rows)
        tokens = torch.full_like(search.live, START, dtype=torch.int64)
        for t in range(max_length + 1):
            logits, state = decoder.step(state, tokens.flatten())
            found = search.candidates(log_probabilities(logits), diversity)
            search.end(found.ends, t)
            if t == max_length:
                break
            search.go_on(found, t)
            if not bool((search.live > _NEVER).any()):
                break
            first = torch.arange(len(picture), device=picture.device) * search.rows
            state = state.select((first[:, None] + found.parents).flatten())
            tokens = found.tokens
        best = search.best(n)
    return best._usable()


def log_probabilities(logits: Tensor) -> Tensor:
    """Of the tokens that may be written, the others' -inf: [..., V] -> float32 [..., V]."""
    # An infinite logit would make a NaN; the largest number says the same.
    largest = torch.finfo(torch.float32).max
    x = logits.float().nan_to_num(nan=_NEVER, posinf=largest, neginf=_NEVER)
    for token in (PAD, START, UNKNOWN):
        x[..., token : token + 1] = _NEVER  # a slice: of V = 3 UNKNOWN is missing
    nothing = (x == _NEVER).all(-1)
    x[..., END] = x[..., END].masked_fill(nothing, 0)
    return x.log_softmax(-1)


def _at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} {count}: expected at least 1")


def _follow(decoder: Decoder, picture: Tensor, n: int, max_length: int, choose: _Choose) -> Decoded:
    """n paths a picture, of tokens as `choose` says."""
    rows, device = len(picture) * n, picture.device
    with torch.inference_mode():
        state = decoder.start(picture).repeat(n)
        tokens = torch.full((rows, max_length + 1), PAD, device=device)
        scores = torch.zeros(rows, device=device)
        ended = torch.zeros(rows, dtype=torch.bool, device=device)
        token = torch.full((rows,), START, device=device)
        for t in range(max_length + 1):
            logits, state = decoder.step(state, token)
            alive = (~ended).nonzero()[:, 0]  # most end long before the last
            log_p = log_probabilities(logits[alive])
            chosen = choose(log_p, t, alive)
            # At the last step only an END counts: a word would be one too many.
            taken = (chosen == END) | (t < max_length)
            scores[alive] += log_p.gather(1, chosen[:, None])[:, 0].where(taken, 0)
            tokens[alive, t] = chosen.where(taken, PAD)
            token = tokens[:, t]
            ended |= token == END
            if bool(ended.all()):
                break
        tokens = tokens.view(-1, n, max_length + 1)
        found = Decoded(tokens, scores.view(-1, n), ended.view(-1, n))
    return found._usable()


def _draw(log_p: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """Tokens int64 [R] of log-probabilities [R, V] by numbers [R]."""
    # Doubles: sums over large vocabularies, and a number below 1 times a sum stays below the sum.
    x = log_p.double()
    p = ((x - x.amax(-1, keepdim=True)) / temperature).softmax(-1)
    if top_p < 1:
        p = p * (p >= _least(p, top_p))
    cumulative = p.cumsum(-1)
    beyond = cumulative > uniform.double()[:, None] * cumulative[:, -1:]
    # Sums of a GPU may fall by a rounding error, so that a token of no probability could be hit.
    return (beyond & (p > 0)).to(torch.uint8).argmax(-1)


def _least(p: Tensor, top_p: float) -> Tensor:
    """The least probability in the nucleus: [R, V] -> [R, 1]; what is as likely is in it too."""
    # The nucleus is nearly always small, and sorting a large vocabulary slow.
    for k in (min(_NUCLEUS, p.shape[-1]), p.shape[-1]):
        ordered = p.topk(k, dim=-1).values
        sums = ordered.cumsum(-1)
        if bool((sums[:, -1] >= top_p).all()):
            break
    inside = sums - ordered < top_p
    return ordered.where(inside, 1).amin(-1, keepdim=True)


class _Candidates(NamedTuple):
    """Of one step of K hypotheses of each picture, all [B, K]."""

    ends: Tensor  # score with END, -inf where it does not end
    scores: Tensor  # of the hypotheses that go on, -inf where there is none
    parents: Tensor  # which ones they come from
    tokens: Tensor  # and the word that they add


class _Search:
    """Living and ended hypotheses of beam search: K rows a picture, and n ended ones a group.

    Of a group's n its share of ceil(n / groups) is wanted, the others are for want of better.
    """

    def __init__(
        self, picture: Tensor, max_length: int, width: int, n: int, penalty: float, groups: int
    ) -> None:
        # Beam search can lose the greedy path and then find nothing as good. So that path is
        # one more hypothesis of each picture, its last row: a group of one that shares the pool.
        self.greedy = penalty == 0 and groups == 1
        self.sizes = [width // groups] * groups + [1] * self.greedy
        self.rows = width + self.greedy
        self.max_length, self.penalty, self.share = max_length, penalty, -(-n // groups)
        b, length, device = len(picture), max_length + 1, picture.device
        self.tokens = torch.full((b, self.rows, length), PAD, device=device)
        # All start alike, so that only the first of each group lives.
        self.live = torch.full((b, self.rows), _NEVER, device=device)
        self.live[:, :: width // groups] = 0
        self.pool = torch.full((b, groups, n, length), PAD, device=device)
        self.pool_scores = torch.full((b, groups, n), _NEVER, device=device)
        self.pool_ranks = self.pool_scores.clone()

    def rank(self, scores: Tensor, words: int) -> Tensor:
        return scores / ((5 + words) / 6) ** self.penalty

    def candidates(self, log_p: Tensor, diversity: float) -> _Candidates:
        """Of the next tokens' log-probabilities [R, V]: each group's best among its own."""
        total = self.live[..., None] + log_p.view(*self.live.shape, log_p.shape[-1])
        taken = total.new_zeros(total.shape[0], total.shape[2])
        found, first = [], 0
        for part, size in zip(total.split(self.sizes, 1), self.sizes, strict=True):
            value = part if self.greedy else part - diversity * taken[:, None]
            ends, value = value[..., END], value.clone()
            value[..., END] = _NEVER
            best, places = value.flatten(1).topk(size)
            # The 2 size best candidates are among these words and ENDs. An END takes no living
            # place, and counts only if it is one of the `size` best: not every start is a caption.
            least = torch.cat([best, ends], 1).topk(size).values[:, -1:]
            ends = ends.masked_fill(ends < least, _NEVER)
            scores = part.flatten(1).gather(1, places)
            tokens = places % total.shape[2]
            taken = taken.scatter_add(1, tokens, (scores > _NEVER).float())
            found.append((ends, scores, first + places // total.shape[2], tokens))
            first += size
        return _Candidates(*(torch.cat(x, 1) for x in zip(*found, strict=True)))

    def end(self, ends: Tensor, t: int) -> None:
        """Keeps hypotheses of t words that end with scores [B, K], -inf for those that do not."""
        whole = ends > _NEVER
        if t == self.max_length:
            self.live = self.live.masked_fill(whole, _NEVER)
        groups, kept = self.pool_ranks.shape[1:]
        # Equal captions are equally long: other groups can find them at this step only.
        scores = ends.masked_fill(_doubles(self.tokens, whole), _NEVER).unflatten(1, (groups, -1))
        tokens = self.tokens.clone()
        tokens[..., t] = END
        ranks = torch.cat([self.pool_ranks, self.rank(scores, t)], 2)
        self.pool_ranks, order = ranks.topk(kept)
        self.pool_scores = torch.cat([self.pool_scores, scores], 2).gather(2, order)
        tokens = torch.cat([self.pool, tokens.unflatten(1, (groups, -1))], 2)
        self.pool = tokens.take_along_dim(order[..., None], 2)

    def go_on(self, found: _Candidates, t: int) -> None:
        """Gives hypotheses of t words one more, and drops those that cannot be kept any more."""
        self.tokens = self.tokens.take_along_dim(found.parents[..., None], 1)
        self.tokens[..., t] = found.tokens
        live = found.scores.clone()
        if self.greedy:
            live[:, -1].masked_fill_(found.ends[:, -1] > _NEVER, _NEVER)
        # Scores only fall. So the best rank to hope for is today's score, at the length that
        # the penalty likes best: the next or the last.
        hope = torch.maximum(self.rank(live, t + 1), self.rank(live, self.max_length))
        groups = self.pool_ranks.shape[1]
        beaten = hope.unflatten(1, (groups, -1)) <= self.pool_ranks[..., self.share - 1, None]
        self.live = live.masked_fill(beaten.flatten(1), _NEVER)

    def best(self, n: int) -> Decoded:
        """The n best, at the end of the search: who still lives has been cut."""
        pool, cut = self.pool_ranks.flatten(1), self.rank(self.live, self.max_length)
        ranks = torch.cat([pool, cut], 1)
        scores = torch.cat([self.pool_scores.flatten(1), self.live], 1)
        tokens = torch.cat([self.pool.flatten(1, 2), self.tokens], 1)
        ended = torch.zeros_like(ranks, dtype=torch.bool)
        ended[:, : pool.shape[1]] = pool > _NEVER
        favour = ended.int()  # 0 for cut ones
        favour[:, : pool.shape[1]].unflatten(1, (-1, n))[..., : self.share] *= 2
        if self.greedy:  # the last becomes the first, or is dropped
            leads = cut[:, -1] > pool.amax(1)
            ranks[:, -1] = cut[:, -1].where(leads, _NEVER)
            favour[:, -1] = 2
            ranks, scores, tokens, ended, favour = (
                x.roll(1, 1) for x in (ranks, scores, tokens, ended, favour)
            )
        # The same words, once ended and once cut, are no two captions.
        words = tokens.masked_fill(tokens == END, PAD)
        ranks = ranks.masked_fill(_doubles(words, ranks > _NEVER), _NEVER)
        favour = favour.where(ranks > _NEVER, -1)
        order = _falling(ranks)
        order = order.gather(1, _falling(favour.gather(1, order))[:, :n])
        order = order.gather(1, _falling(ranks.gather(1, order)))
        there = ranks.gather(1, order) > _NEVER
        return Decoded(
            tokens.take_along_dim(order[..., None], 1).where(there[..., None], PAD),
            scores.gather(1, order).where(there, _NEVER),
            ended.gather(1, order) & there,
        )


def _falling(x: Tensor) -> Tensor:
    """The order of [B, M] from the largest to the smallest, equal ones as they stand."""
    return x.argsort(dim=1, descending=True, stable=True)


def _doubles(tokens: Tensor, there: Tensor) -> Tensor:
    """Which of [B, M, L] equal an earlier one of those that are there, bool [B, M]."""
    same = (tokens[:, :, None] == tokens[:, None]).all(-1)
    return (same & there[:, :, None]).triu(1).any(1)
