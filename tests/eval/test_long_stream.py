"""A long stream is measured part by part: what drifts, falls behind or grows is found."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from cosyjax.eval import long_stream
from cosyjax.eval.long_stream import Part, drifts, listen
from cosyjax.shapes import SAMPLE_RATE_HZ as RATE

PARTS = 8


class Singer:
    """Holds a tone for each sentence; the world's clock goes on while it does."""

    def __init__(self, fall_db: float = 0.0, pitch_hz: float = 120.0, slow_at: int = -1) -> None:
        self.fall_db, self.pitch_hz, self.slow_at = fall_db, pitch_hz, slow_at
        self.now_s = 0.0
        self.sentences: list[str] = []

    def speak(self, text: Iterable[str]) -> Iterator[np.ndarray]:
        for index, sentence in enumerate(text):
            self.sentences.append(sentence)
            self.now_s += 3.0 if index == self.slow_at else 0.25
            level = 10.0 ** (-self.fall_db * index / (PARTS * 20.0))
            angle = 2 * np.pi * self.pitch_hz * np.arange(RATE) / RATE
            yield np.float32(0.1 * level * (np.sin(angle) + np.sin(2 * angle)))

    def parts(self, seconds: int = PARTS) -> list[Part]:
        return list(listen(self.speak, seconds, part_s=1.0, clock=lambda: self.now_s))


def test_a_stream_that_stays_as_it_is_drifts_nowhere() -> None:
    singer = Singer()
    parts = singer.parts()
    assert len(parts) == PARTS and [part.start_s for part in parts] == list(range(PARTS))
    assert all(part.rtf == pytest.approx(0.25) for part in parts)
    assert all(part.pitch_hz == pytest.approx(120.0, rel=0.01) for part in parts)
    for name in ("level_db", "pitch_hz", "timbre_db", "rtf"):
        assert drifts(parts)[name].change == pytest.approx(0.0, abs=1e-4)
    assert parts[1].memory_mb > 1


def test_a_voice_that_fades_is_told_by_level_and_timbre() -> None:
    found = drifts(Singer(fall_db=6.0).parts())
    assert found["level_db"].change == pytest.approx(-6.0 * (PARTS - 2) / PARTS, abs=0.01)
    assert found["level_db"].error < 0.01
    assert found["timbre_db"].change > 1.0
    assert abs(found["pitch_hz"].change) < 1.0


def test_a_chunk_that_comes_too_late_is_a_gap_of_its_part_alone() -> None:
    # The listener has 2.5 s of sound left when the fourth second is begun, which takes 3 s.
    margins = [part.least_margin_ms for part in Singer(slow_at=3).parts()]
    assert margins[3] == pytest.approx(-500.0)
    assert all(margin > 0 for margin in margins[1:3] + margins[4:])


def test_the_text_goes_round_until_enough_has_been_said() -> None:
    singer = Singer()
    singer.parts(seconds=12)
    wanted = itertools.islice(itertools.cycle(long_stream.SENTENCES), 12)
    assert [sentence.strip() for sentence in singer.sentences] == list(wanted)


def test_too_few_parts_have_no_drift() -> None:
    assert not drifts(Singer().parts(3))


def test_the_course_of_a_stream_is_drawn(tmp_path) -> None:
    long_stream.plot(Singer().parts(), tmp_path / "long.png")
    assert (tmp_path / "long.png").stat().st_size > 1000
