"""Would a listener have heard a gap? Times of chunks against the sound that they hold."""

from __future__ import annotations

import dataclasses

from cosyjax.shapes import SAMPLE_RATE_HZ


@dataclasses.dataclass
class Playback:
    """A listener who plays each chunk as soon as it is there, without a buffer before."""

    started_s: float  # when the text was given
    first_s: float | None = None  # when the first chunk came
    last_s: float = 0.0  # when the last one came
    audio_s: float = 0.0  # that has come
    margin_s: float = 0.0  # of sound not yet played, now
    least_margin_s: float = float("inf")  # just before a chunk came; below 0 there was a gap

    def hear(self, num_samples: int, now_s: float) -> None:
        """Notes a chunk that came."""
        if self.first_s is None:
            self.first_s = now_s
        else:
            waited = self.first_s + self.audio_s - now_s
            self.least_margin_s = min(self.least_margin_s, waited)
        self.audio_s += num_samples / SAMPLE_RATE_HZ
        self.last_s = now_s
        self.margin_s = self.first_s + self.audio_s - now_s

    @property
    def first_audio_s(self) -> float:
        """From the text to the first sound; 0 where there was none."""
        return 0.0 if self.first_s is None else self.first_s - self.started_s

    @property
    def rtf(self) -> float:
        """Time taken for a second of sound; 0 where there was none."""
        return (self.last_s - self.started_s) / self.audio_s if self.audio_s else 0.0

    @property
    def gap_free(self) -> bool:
        """No chunk came after the one before it had been played."""
        return self.least_margin_s >= 0.0
