"""How much faster the folded and fused trunk is than the plain one, on this machine's CPU.

    python benchmarks/soundnet_inference.py

Prints milliseconds for one 20 s clip as far as pool5 (features) and to the heads (predictions),
with one thread, and the largest difference between both nets' outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from mmray.soundnet.config import SoundNetConfig
from mmray.soundnet.folded import fold_trunk
from mmray.soundnet.model import SoundNetModel

CLIPS, SAMPLES, REPEATS = 2, 441_000, 7


def best_ms(run: Callable[[], object]) -> float:
    """Milliseconds a clip of the fastest of some runs, after a warm-up."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * min(times) / CLIPS


@torch.inference_mode()
def main() -> None:
    """Measure both architectures and print a line each."""
    torch.set_num_threads(1)
    for arch in ("soundnet8", "soundnet5"):
        names = [f"class {i}" for i in range(1000)]
        config = SoundNetConfig(arch, objects=names, scenes=names[:401], aligned=False)
        model = SoundNetModel(config).eval()
        folded = fold_trunk(model)
        wave = torch.rand(CLIPS, SAMPLES) * 2 - 1
        plain = model.layers(wave)
        fast = dict(model.walk(wave, trunk=folded))
        difference = max(float((fast[n] - plain[n]).abs().max()) for n in fast)
        del plain, fast
        for what, last in (("features", config.trunk[-3].name), ("predictions", None)):
            slow_ms = best_ms(partial(_run, model, wave, last, None))
            fast_ms = best_ms(partial(_run, model, wave, last, folded))
            print(
                f"{arch} {what}: plain {slow_ms:.1f} ms, folded and fused {fast_ms:.1f} ms a clip, "
                f"{slow_ms / fast_ms:.2f}x; largest difference {difference:.1e}"
            )


def _run(
    model: SoundNetModel, wave: torch.Tensor, last: str | None, trunk: torch.nn.ModuleDict | None
) -> None:
    """Walk as far as `last` and drop every layer once the next one has it, as prediction does."""
    for _ in model.walk(wave, last, trunk):
        pass


if __name__ == "__main__":
    main()
