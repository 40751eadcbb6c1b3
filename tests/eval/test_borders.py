"""Jumps at borders are found where they were put, and nowhere else."""

import numpy as np

from cosyjax.eval import borders
from cosyjax.shapes import SAMPLE_RATE_HZ

SECONDS = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
EDGE = SAMPLE_RATE_HZ // 2


def buzz(f0_hz: np.ndarray | float) -> np.ndarray:
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(f0_hz, SECONDS.shape)) / SAMPLE_RATE_HZ
    return 0.2 * sum(np.sin(k * phase) / k for k in range(1, 6))


def test_a_sound_against_itself_jumps_nowhere() -> None:
    wav = buzz(120.0)
    found = borders.jumps(wav, wav, np.array([EDGE]))
    assert found == {"level_jump_db": 0.0, "pitch_jump_cents": 0.0}
    assert borders.snr_db(wav, wav) == 200.0 and borders.mel_distance_db(wav, wav) == 0.0


def test_a_louder_second_half_is_a_jump_of_level() -> None:
    wav = buzz(120.0)
    louder = np.where(SECONDS < 0.5, wav, 2.0 * wav)
    found = borders.jumps(louder, wav, np.array([EDGE]))
    assert abs(found["level_jump_db"] - 6.02) < 0.1 and found["pitch_jump_cents"] < 1.0


def test_a_higher_second_half_is_a_jump_of_pitch() -> None:
    higher = buzz(np.where(SECONDS < 0.5, 120.0, 120.0 * 2 ** (1 / 12)))
    found = borders.jumps(higher, buzz(120.0), np.array([EDGE]))
    assert abs(found["pitch_jump_cents"] - 100.0) < 20.0


def test_pitch_is_that_of_the_sound_and_noise_has_none() -> None:
    assert abs(borders.pitch_hz(buzz(200.0)[:960]) - 200.0) < 2.0
    noise = np.random.default_rng(0).standard_normal(960)
    assert borders.pitch_hz(noise) is None and borders.pitch_hz(np.zeros(960)) is None


def test_a_mel_is_blind_to_phase_and_sees_a_level() -> None:
    wav = 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE_HZ)  # sound in every bin
    assert borders.snr_db(-wav, wav) < 0.0
    assert borders.mel_distance_db(-wav, wav) < 1e-3
    assert abs(borders.mel_distance_db(2.0 * wav, wav) - 6.02) < 0.3
