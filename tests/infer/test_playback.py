"""A listener without a buffer: when the first sound came, and whether there was a gap."""

from cosyjax.infer.playback import Playback


def test_chunks_in_time_leave_no_gap_and_late_ones_do() -> None:
    heard = Playback(started_s=10.0)
    heard.hear(12_000, 10.1)  # half a second of sound
    heard.hear(24_000, 10.4)
    assert abs(heard.first_audio_s - 0.1) < 1e-9
    assert heard.gap_free and abs(heard.least_margin_s - 0.2) < 1e-9
    assert abs(heard.margin_s - 1.2) < 1e-9 and abs(heard.rtf - 0.4 / 1.5) < 1e-9
    heard.hear(24_000, 11.7)  # all was played at 11.6
    assert not heard.gap_free and abs(heard.least_margin_s + 0.1) < 1e-9


def test_silence_has_no_figures() -> None:
    heard = Playback(started_s=3.0)
    assert heard.first_audio_s == heard.rtf == 0.0 and heard.gap_free
