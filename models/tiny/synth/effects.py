"""Rooms, microphones, noise and the exact log-mel front end of Gemma 4.

In:  samples at any rate.
Out: samples at 16 kHz, log-mel frames (frames, 128).
Invariant: `log_mel` equals transformers' feature extractor for one whole clip.
"""

import numpy as np
import scipy.fft
import scipy.signal as sg

RATE = 16000
WINDOW = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(320) / 320)).astype(np.float32)


def mel_filters():
    """128 triangular HTK filters from 0 to 8000 Hz over 257 bins."""
    hertz = lambda m: 700 * (10 ** (m / 2595) - 1)
    edges = hertz(np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 130))
    bins = np.linspace(0, 8000, 257)
    rise = (bins[:, None] - edges[None, :-2]) / np.diff(edges)[None, :-1]
    fall = (edges[None, 2:] - bins[:, None]) / np.diff(edges)[None, 1:]
    return np.maximum(0, np.minimum(rise, fall))


FILTERS = mel_filters().astype(np.float32)


def log_mel(samples):
    """Log-mel frames of one clip: 20 ms windows every 10 ms, half a window of zeros in front.

    Like the reference, only frames whose window (and one sample more) holds real samples are kept.
    """
    padded = np.pad(samples.astype(np.float32), (160, 0))
    count = max(0, (len(padded) - 321) // 160 + 1)
    frames = np.lib.stride_tricks.as_strided(
        padded, (count, 320), (padded.strides[0] * 160, padded.strides[0])
    )
    spectrum = np.abs(scipy.fft.rfft(frames * WINDOW, 512))
    return np.log(spectrum @ FILTERS + np.float32(1e-3))


def change_speed(samples, rate, factor):
    """To 16 kHz, faster (and higher) by `factor`."""
    count = int(len(samples) * RATE / rate / factor)
    if rate > RATE:
        low = sg.butter(6, 7600, fs=rate, output="sos")
        samples = sg.sosfiltfilt(low, samples)
    at = np.linspace(0, len(samples) - 1, count)
    return np.interp(at, np.arange(len(samples)), samples).astype(np.float32)


def room(samples, r, g):
    """An exponential tail of noise after the direct sound."""
    count = int(r.uniform(0.08, 0.35) * RATE)
    tail = g.standard_normal(count).astype(np.float32) * r.uniform(0.01, 0.06)
    tail *= np.exp(-6.9 * np.arange(count) / count)
    tail[0] = 1
    return sg.fftconvolve(samples, tail)[: len(samples) + count // 2].astype(np.float32)


def band(samples, r):
    """A cheap microphone: a band limit."""
    limits = [r.uniform(50, 250), r.uniform(3400, 7500)]
    return sg.sosfilt(sg.butter(2, limits, "band", fs=RATE, output="sos"), samples).astype(np.float32)


def noise(count, r, g):
    """White, pink or brown noise, or mains hum."""
    kind = r.choice(["white", "pink", "brown", "hum"])
    wave = g.standard_normal(count)
    if kind in ("pink", "brown"):
        spectrum = np.fft.rfft(wave)
        spectrum /= np.maximum(np.arange(len(spectrum)), 8) ** (0.5 if kind == "pink" else 1)
        return np.fft.irfft(spectrum, count)
    if kind == "hum":
        t, base = np.arange(count) / RATE, 50 * r.choice([1, 1.2])
        return 0.2 * wave + sum(np.sin(2 * np.pi * base * m * t) / m for m in (1, 2, 3, 5))
    return wave


def place(samples, r, g, lead, clean=False):
    """One utterance in one room before one microphone: `lead` seconds of silence first."""
    if not clean and r.random() < 0.3:
        samples = room(samples, r, g)
    if not clean and r.random() < 0.25:
        samples = band(samples, r)
    silence = [np.zeros(int(s * RATE), np.float32) for s in (lead, r.uniform(0.16, 0.4))]
    samples = np.concatenate([silence[0], samples, silence[1]])
    loud = samples[np.abs(samples) > 0.01]
    level = np.sqrt((loud**2).mean() + 1e-9) if len(loud) else 1.0
    samples = samples * (10 ** (r.uniform(-28, -14) / 20) / level)
    if not clean and r.random() < 0.5:
        extra = noise(len(samples), r, g)
        ratio = 10 ** (r.uniform(12, 35) / 10)
        extra *= np.sqrt((samples**2).mean() / (extra**2).mean() / ratio)
        samples = samples + extra.astype(np.float32)
    return np.clip(samples, -1, 1).astype(np.float32)
