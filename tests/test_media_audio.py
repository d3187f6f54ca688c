"""Sound: one channel at one rate, with the level and the pitch that went in."""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from scipy.signal import resample_poly

from harness.errors import UsageError
from harness.media import VERSION, DamagedMediaError, Waveform, read_audio
from tests.media_files import media, plain, sine, write_sound, write_video

KINDS = [
    ("aac.m4a", "aac", "fltp"),
    ("aac.mp4", "aac", "fltp"),
    ("opus.webm", "libopus", "s16"),
    ("mp3.mp3", "libmp3lame", "fltp"),
    ("flac.flac", "flac", "s16"),
    ("u8.wav", "pcm_u8", "u8"),
    ("s16.wav", "pcm_s16le", "s16"),
    ("s32.wav", "pcm_s32le", "s32"),
    ("float.wav", "pcm_f32le", "flt"),
]


def pitch(wave_: Waveform) -> float:
    """The loudest frequency, Hz."""
    power = np.abs(np.fft.rfft(wave_.samples * np.hanning(len(wave_.samples))))
    return float(power.argmax() * wave_.rate / len(wave_.samples))


def middle(wave_: Waveform) -> np.ndarray:
    """The sound without its ends, where coders fade."""
    cut = wave_.rate // 5
    return wave_.samples[cut:-cut]


@pytest.mark.parametrize(("name", "codec", "kind"), KINDS, ids=[kind[0] for kind in KINDS])
def test_pitch_and_level(tmp_path: Path, name: str, codec: str, kind: str) -> None:
    rate = 48_000
    # The left channel sounds, the right is silent: the mean is half as loud.
    both = np.stack([sine(1000, rate, 2, 0.5), np.zeros(2 * rate, np.float32)])
    path = write_sound(tmp_path / name, both, rate, codec, kind, "stereo")
    heard = read_audio(media(path))
    assert (heard.rate, heard.samples.dtype, heard.samples.ndim) == (16_000, np.float32, 1)
    assert heard.seconds == pytest.approx(2, abs=0.06)
    assert pitch(heard) == pytest.approx(1000, abs=1)
    # mp3 takes some from a side that sounds alone; a sum scaled by sqrt(1/2) would be 41% louder.
    tolerance = 0.1 if codec == "libmp3lame" else 0.02
    level = np.sqrt(np.mean(middle(heard) ** 2))
    assert level == pytest.approx(0.25 / np.sqrt(2), rel=tolerance)
    assert not heard.silent


def test_the_mean_of_the_channels_exactly(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    six = random.integers(-20_000, 20_000, (6, 4000)).astype(np.int16)
    path = write_sound(
        tmp_path / "v.wav", (six / 32767).astype(np.float32), 16_000, "pcm_s16le", "s16", "5.1"
    )
    expected = six.astype(np.float64).mean(axis=0) / 32768
    np.testing.assert_allclose(read_audio(media(path)).samples, expected, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_resampling_agrees_with_another_resampler(tmp_path: Path, rate: int) -> None:
    tones = sum(sine(f, rate, 1.5, 0.2) for f in (220, 990, 2500)).astype(np.float32)
    path = write_sound(tmp_path / "v.wav", tones[None], rate, "pcm_f32le", "flt", "mono")
    heard = read_audio(media(path))
    other = resample_poly(tones.astype(np.float64), 160, rate // 100) if rate != 22_050 else (
        resample_poly(tones.astype(np.float64), 320, 441)
    )  # fmt: skip
    assert len(heard.samples) == pytest.approx(24_000, abs=1)
    n = min(len(other), len(heard.samples)) - 800
    assert np.abs(heard.samples[800:n] - other[800:n]).max() < 2e-3


def test_what_is_above_the_band_is_gone(tmp_path: Path) -> None:
    high = sine(12_000, 48_000, 1, 0.5)[None]  # would be heard at 4 kHz if it were not filtered
    path = write_sound(tmp_path / "v.wav", high, 48_000, "pcm_f32le", "flt", "mono")
    assert np.abs(middle(read_audio(media(path)))).max() < 1e-4


def test_only_the_start_is_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 44_100 * 6)).astype(np.float32)
    path = write_sound(tmp_path / "v.wav", noise, 44_100, "pcm_f32le", "flt", "mono")
    whole = read_audio(media(path), max_seconds=None)
    assert whole.seconds == pytest.approx(6, abs=1e-3)
    for seconds in (0.001, 1, 2.5):
        part = read_audio(media(path), max_seconds=seconds)
        assert len(part.samples) == round(seconds * 16_000)
        # The samples kept do not depend on where reading stopped.
        np.testing.assert_allclose(part.samples, whole.samples[: len(part.samples)], atol=1e-6)


def test_silence_is_sound(tmp_path: Path) -> None:
    path = write_sound(
        tmp_path / "v.m4a", np.zeros((1, 16_000), np.float32), 16_000, "aac", "fltp", "mono"
    )
    heard = read_audio(media(path))
    assert heard.silent
    assert heard.seconds >= 1


def test_no_stream_is_not_silence(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", plain(3))
    with pytest.raises(DamagedMediaError, match="no audio stream") as caught:
        read_audio(media(path))
    assert caught.value.kind == "no-stream"


def test_no_samples(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "v.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
    with pytest.raises(DamagedMediaError) as caught:
        read_audio(media(tmp_path / "v.wav"))
    assert caught.value.kind in ("no-content", "corrupt")


def test_samples_that_are_not_numbers(tmp_path: Path) -> None:
    samples = sine(100, 16_000, 1)[None].copy()
    samples[0, 500] = np.nan
    path = write_sound(tmp_path / "v.wav", samples, 16_000, "pcm_f32le", "flt", "mono")
    with pytest.raises(DamagedMediaError, match="not numbers"):
        read_audio(media(path))


def test_soxr_is_asked_for_by_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    path = write_sound(
        tmp_path / "v.wav", sine(100, 8000, 1)[None], 8000, "pcm_f32le", "flt", "mono"
    )
    assert len(read_audio(media(path), rate=8000).samples) == 8000  # nothing to resample
    with pytest.raises(UsageError, match=r"clamr-bench\[models\]"):
        read_audio(media(path))


def test_a_gap_in_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_sound(
        tmp_path / "v.mp3", sine(500, 44_100, 4)[None], 44_100, "libmp3lame", "fltp", "mono"
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(content)
    heard = read_audio(media(path))
    assert 2 < heard.seconds < 4.2
    assert np.isfinite(heard.samples).all()


def test_the_version_is_raised_when_output_changes(tmp_path: Path) -> None:
    """If this fails, the same file gives other samples: raise VERSION, then store the new ones."""
    rate = 44_100
    both = np.stack([sine(440, rate, 0.3, 0.6), sine(3000, rate, 0.3, 0.2)])
    path = write_sound(tmp_path / "v.wav", both, rate, "pcm_s16le", "s16", "stereo")
    heard = read_audio(media(path), max_seconds=0.2)
    assert (VERSION, len(heard.samples)) == (1, 3200)
    # Resamplers differ in the last bits between machines, not in the fifth decimal.
    stored = [0.0, -0.28283, 0.39999, -0.28283, 0.0, 0.28283, -0.39999, 0.28283]
    np.testing.assert_allclose(heard.samples[1000:1400:50], stored, atol=2e-5)


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    from harness.media import FrameSampling, read_frames

    path = tmp_path / "v.m4a"
    picture = write_video(tmp_path / "cover.avi", plain(1, 16, 16), "mjpeg", "yuvj420p")
    with av.open(str(path), "w", format="mp4") as container, av.open(str(picture)) as cover:
        sound = container.add_stream("aac", rate=16_000)
        sound.layout = "mono"
        image = container.add_stream_from_template(cover.streams.video[0])
        image.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(sine(300, 16_000, 1)[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
        for packet in cover.demux(video=0):
            if packet.size:
                packet.stream = image
                container.mux(packet)
    assert pitch(read_audio(media(path))) == pytest.approx(300, abs=1)
    with pytest.raises(DamagedMediaError, match="no video stream"):
        read_frames([media(path)], FrameSampling())
