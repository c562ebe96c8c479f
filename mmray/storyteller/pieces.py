"""Pieces of words, learned from captions and styles (byte-pair encoding by SentencePiece)."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mmray.captioner.decode import END, PAD, START, UNKNOWN
from mmray.errors import UserError

_SENTENCES = 500_000
"""That pieces are learned from, the first ones."""


@dataclass(frozen=True)
class Pieces:
    """A vocabulary of pieces.

    Args:
        model: SentencePiece's own file.
    """

    model: bytes

    @classmethod
    def of(cls, sentences: Iterable[str], size: int) -> Pieces:
        """Learn pieces.

        Args:
            sentences: may be a generator.
            size: pieces at most, the special ones among them; a text of few different words has
                fewer.

        Raises:
            UserError: the text has too many letters for so few.
        """
        known = list(itertools.islice(sentences, _SENTENCES))
        try:
            return cls._of(known, size)
        except RuntimeError as e:
            if most := re.search(r"too high .* value <= (\d+)", str(e)):
                return cls._of(known, int(most[1]))
            raise UserError(
                f"--vocabulary {size}: does not fit the text ({str(e).split(') ')[-1]})"
            ) from e

    @classmethod
    def _of(cls, sentences: list[str], size: int) -> Pieces:
        import sentencepiece

        written = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=written,
            model_type="bpe",
            vocab_size=size,
            pad_id=PAD,
            bos_id=START,
            eos_id=END,
            unk_id=UNKNOWN,
            byte_fallback=False,
            character_coverage=0.9999,
            normalization_rule_name="nmt_nfkc",
            num_threads=1,
            minloglevel=2,
        )
        return cls(written.getvalue())

    def __len__(self) -> int:
        """Pieces, the special ones among them: V."""
        return int(self._processor.get_piece_size())

    def encode(self, text: str) -> list[int]:
        """The pieces of a text."""
        found: list[int] = self._processor.encode(text)
        return found

    def decode(self, pieces: Sequence[int]) -> str:
        """The text of pieces up to the END."""
        known = list(pieces)
        if END in known:
            known = known[: known.index(END)]
        return str(self._processor.decode([p for p in known if p > UNKNOWN]))

    @cached_property
    def _processor(self) -> Any:
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    def __getstate__(self) -> dict[str, bytes]:
        """Without SentencePiece's own object, which does not pickle."""
        return {"model": self.model}
