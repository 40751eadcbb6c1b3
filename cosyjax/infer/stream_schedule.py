"""How many tokens each chunk of a stream speaks: a small first one, then up to a full one.

`mask_chunk` decides what attention sees and thereby the sound; the sizes here decide the delay and
nothing else, so they may differ from request to request.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from cosyjax.errors import InputError
from cosyjax.infer.acoustic_state import AcousticModels


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """Sizes of chunks in tokens, 25 a second; multiples of the model's `mask_chunk`."""

    first_chunk: int = 25  # least tokens of the first sound, which fills a mask chunk up
    chunk: int = 50  # tokens of a chunk once the stream runs
    growth: int = 2  # factor from one chunk to the next, the first two being alike

    def __post_init__(self) -> None:
        if not 1 <= self.first_chunk <= self.chunk or self.growth < 1:
            raise InputError(
                f"first_chunk={self.first_chunk}, chunk={self.chunk}, growth={self.growth}: "
                "1 <= first_chunk <= chunk and growth >= 1 are needed"
            )

    def check(self, mask_chunk: int) -> None:
        """Raises InputError where a size is no multiple of `mask_chunk`."""
        for name in ("first_chunk", "chunk"):
            size = getattr(self, name)
            if size % mask_chunk:
                below = max(size // mask_chunk, 1) * mask_chunk
                raise InputError(
                    f"{name}={size} must be a multiple of mask_chunk={mask_chunk}; "
                    f"use {below} or {below + mask_chunk}"
                )

    def sizes(self, models: AcousticModels, num_tail: int = 0) -> Iterator[int]:
        """Yields the size of each chunk, without end.

        Args:
          models: whose `mask_chunk` the sizes are multiples of.
          num_tail: tokens of the prompt that the first chunk speaks before the generated ones.

        Raises:
          InputError: see `check`.
        """
        mask_chunk = models.mask_chunk
        self.check(mask_chunk)
        yield self.first_chunk + -(-num_tail // mask_chunk) * mask_chunk
        size = self.first_chunk
        while True:
            yield size  # twice: the first one's sound is shorter by what the vocoder holds back
            size = min(size * self.growth, self.chunk)

    def all_sizes(self, models: AcousticModels, num_tail: int = 0) -> list[int]:
        """Every size that `sizes` yields."""
        found: list[int] = []
        for size in self.sizes(models, num_tail):
            if size not in found:
                found.append(size)
            if size == self.chunk or (self.growth == 1 and size == self.first_chunk):
                return found
        return found

    def window(self, models: AcousticModels) -> int:
        """Most tokens that a step takes, those peeked at included, whatever the prompt."""
        longest_tail = -(-models.tail // models.mask_chunk) * models.mask_chunk
        return max(self.chunk, self.first_chunk + longest_tail) + models.lookahead
