"""Beam search of the captioner: with a cache, without one, and by the library transformers.

    python benchmarks/captions.py [--batch 16] [--beam 5] [--words 20]

Random weights of the default sizes, 49 places and 10,000 words; no caption ends before its last
word, so that all do the same work. transformers (its GPT-2 with cross-attention, which has the
same layers) gets the same weights and is used as it comes; it is not a dependency of mmray:
`pip install transformers` to have it in the table. The captions of all three must be the same.
The ways take turns, so that other load on the machine hits all alike.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from mmray import cli
from mmray.captioner.decode import END, PAD, START, UNKNOWN, State, beam
from mmray.captioner.model import CaptionConfig, TransformerNet

DIM, PLACES, TOKENS = 1280, 49, 10_000
NEVER = -1e4
"""Added to the score of words that must not come."""


@dataclass(kw_only=True)
class Args:
    """Flags of this benchmark."""

    batch: int = 16
    """Pictures at a time."""
    beam: int = 5
    """Hypotheses of each."""
    words: int = 20
    """Length of the captions."""
    rounds: int = 5
    """How often each way is timed."""
    threads: int = 1
    """CPU threads."""


class Uncached:
    """The same net, which reads all words again before each new one."""

    def __init__(self, net: TransformerNet) -> None:
        self.net = net

    def start(self, picture: Tensor) -> State:
        """Keep the picture, and no word."""
        empty = torch.zeros(len(picture), 0, dtype=torch.long)
        return State({"picture": picture}, {"words": empty})

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Read all words."""
        words = torch.cat([state.own["words"], tokens[:, None]], 1)
        rows = len(state.shared["picture"])
        logits, _ = self.net(state.shared["picture"], words.view(rows, -1, words.shape[1]))
        return logits[:, :, -1].flatten(0, 1), State(state.shared, {"words": words})


def main() -> None:
    """Time all ways, and print them."""
    args = cli.parse(Args, None, __doc__)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    net = TransformerNet(CaptionConfig("transformer", DIM, PLACES, TOKENS, args.words)).eval()
    with torch.no_grad():
        net.embed.weight.mul_(4)  # words that differ in likelihood
        net.bias[[PAD, START, END, UNKNOWN]] = NEVER
    picture = torch.randn(args.batch, PLACES, DIM)
    ways: dict[str, Callable[[], Tensor]] = {
        "mmray, with a cache": lambda: written(net, picture, args),
        "mmray, without": lambda: written(Uncached(net), picture, args),
    }
    if importlib.util.find_spec("transformers"):
        theirs = as_gpt2(net, args.words)
        ways["transformers, with a cache"] = lambda: generated(theirs, net, picture, args)
    else:
        cli.console.print("transformers is not installed: `pip install transformers` compares it")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    outputs = {name: run() for name, run in ways.items()}  # warms up
    for _ in range(args.rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    first = next(iter(ways))
    table = Table("captions", "captions/s", "cache is faster by", "captions that agree")
    for name, times in seconds.items():
        ratio = statistics.median(t / c for t, c in zip(times, seconds[first], strict=True))
        same = (outputs[name] == outputs[first]).all(-1).float().mean().item()
        speed = args.batch / statistics.median(times)
        table.add_row(name, f"{speed:.1f}", f"{ratio:.2f}", f"{same:.0%}")
    cli.console.print(table)


def written(decoder: Any, picture: Tensor, args: Args) -> Tensor:
    """The best captions by our beam search, [B, words]."""
    return beam(decoder, picture, args.words, args.beam).tokens[:, 0, : args.words]


def as_gpt2(net: TransformerNet, words: int) -> Any:
    """The library's net with our weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    c = net.config
    config = GPT2Config(
        vocab_size=c.num_tokens,
        n_positions=words + 1,
        n_embd=c.dim,
        n_layer=c.layers,
        n_head=c.heads,
        activation_function="gelu",
        add_cross_attention=True,
        tie_word_embeddings=False,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    model = GPT2LMHeadModel(config).eval()
    theirs = model.transformer
    with torch.no_grad():
        theirs.wte.weight.copy_(net.embed.weight * c.dim**0.5)
        theirs.wpe.weight.copy_(net.position)
        model.lm_head.weight.copy_(net.embed.weight)
        _copy(theirs.ln_f, net.norm)
        for block, ours in zip(theirs.h, net.layers, strict=True):
            norms = (block.ln_1, block.ln_cross_attn, block.ln_2)
            for norm, source in zip(norms, ours.norms, strict=True):
                _copy(norm, source)
            pairs = [
                (block.attn.c_attn, ours.words),
                (block.attn.c_proj, ours.words_out),
                (block.crossattention.q_attn, ours.query),
                (block.crossattention.c_attn, ours.picture),
                (block.crossattention.c_proj, ours.picture_out),
                (block.mlp.c_fc, ours.wide[0]),
                (block.mlp.c_proj, ours.wide[2]),
            ]
            for linear, source in pairs:
                _copy(linear, source, transposed=True)
    return model


def _copy(target: Any, source: Any, transposed: bool = False) -> None:
    target.weight.copy_(source.weight.T if transposed else source.weight)
    target.bias.copy_(source.bias)


@torch.inference_mode()
def generated(model: Any, net: TransformerNet, picture: Tensor, args: Args) -> Tensor:
    """The best captions by the library's `generate`, [B, words]."""
    found = model.generate(
        torch.full((len(picture), 1), START),
        encoder_hidden_states=net.look(picture),
        num_beams=args.beam,
        max_new_tokens=args.words,
        do_sample=False,
        length_penalty=0.0,
        bad_words_ids=[[PAD], [END], [UNKNOWN]],
        suppress_tokens=[START],
        use_cache=True,
    )
    return found[:, 1:]


if __name__ == "__main__":
    main()
