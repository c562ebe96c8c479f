"""What a model remembers of its training pictures: their vectors and their tags.

A net generalises; a memory knows the rare. The tags of the nearest training pictures, in the space
that the net has learned, are votes for the tags of a new one (TagVote, Li, Snoek and Worring, TMM
2009, whose space was that of fixed features).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import scipy.sparse

NEIGHBOURS = 50
TEMPERATURE = 0.05
_CHUNK = 1024


class Memory:
    """Vectors and tags of pictures.

    Args:
        vectors: [M, H], of any length; kept in half precision at length 1, around their mean.
        tags: which tags they have, [M, V]; dense or sparse.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        tags: np.ndarray | scipy.sparse.csr_matrix,
        centre: np.ndarray | None = None,
    ) -> None:
        self.tags = scipy.sparse.csr_matrix(tags, dtype=np.float32)
        if centre is None:
            self.centre = np.asarray(vectors, np.float32).mean(axis=0)
            self.vectors = _unit(np.asarray(vectors, np.float32) - self.centre).astype(np.float16)
        else:
            self.centre, self.vectors = centre, vectors

    @classmethod
    def empty(cls) -> Memory:
        """Of no picture."""
        return cls(np.zeros((0, 1), np.float16), np.zeros((0, 1)), np.zeros(1, np.float32))

    @cached_property
    def _single(self) -> np.ndarray:
        """The vectors in single precision, which takes longer to make than to search."""
        return np.asarray(self.vectors, np.float32)

    def __len__(self) -> int:
        return len(self.vectors)

    def votes(self, queries: np.ndarray, leave_out: np.ndarray | None = None) -> np.ndarray:
        """Share of the votes of the nearest pictures for each tag.

        Args:
            queries: vectors [N, H] of pictures.
            leave_out: for each query the picture of the memory that it is itself, or -1.

        Returns:
            float32 [N, V], 0 to 1.
        """
        votes = np.zeros((len(queries), self.tags.shape[1]), np.float32)
        memory = self._single
        for start in range(0, len(queries), _CHUNK):
            rows = slice(start, start + _CHUNK)
            near = _unit(np.asarray(queries[rows], np.float32) - self.centre) @ memory.T
            if leave_out is not None:
                own = np.flatnonzero(leave_out[rows] >= 0)
                near[own, leave_out[rows][own]] = -np.inf
            votes[rows] = self._vote(near)
        return votes

    def _vote(self, near: np.ndarray) -> np.ndarray:
        k = min(NEIGHBOURS, near.shape[1])
        nearest = np.argpartition(-near, k - 1, axis=1)[:, :k]
        similarity = np.take_along_axis(near, nearest, axis=1)
        # One that is left out and has no other to vote for it: finite, so that its weight is 0.
        best = similarity.max(axis=1, keepdims=True, initial=-1.0)
        weights = np.exp((similarity - best) / TEMPERATURE)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)
        ends = np.arange(len(near) + 1) * k
        shape = (len(near), len(self))
        table = scipy.sparse.csr_matrix((weights.ravel(), nearest.ravel(), ends), shape)
        return np.asarray((table @ self.tags).todense(), np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """As it is stored beside the weights."""
        return {
            "memory.vectors": self.vectors,
            "memory.centre": self.centre,
            "memory.tags": self.tags.indices.astype(np.int32),
            "memory.ends": self.tags.indptr.astype(np.int64),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], num_tags: int) -> Memory:
        """What `tensors` gave."""
        numbers, ends = tensors["memory.tags"], tensors["memory.ends"]
        vectors = tensors["memory.vectors"]
        ones = np.ones(len(numbers), np.float32)
        tags = scipy.sparse.csr_matrix((ones, numbers, ends), (len(vectors), num_tags))
        return cls(vectors, tags, tensors["memory.centre"])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
