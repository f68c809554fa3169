"""Batches of utterances: cheap new speakers made from the stored log-mel frames.

In:  `Utterance` files of synth.record.
Out: padded batches with labels.
Invariant: labels are stretched with the sound; evaluation batches are untouched.
"""

import glob
import math
import pickle
import random
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from synth import tokens

FLOOR = 1e-3
# The tower sees no future, so a phone is asked for two tokens later.
PHONE_DELAY = 2


class Words:
    """Word classes: 0 is blank (the padding piece), then every spoken word."""

    def __init__(self, tokenizer):
        self.names = tokens.spoken_words()
        self.index = {w: i + 1 for i, w in enumerate(self.names)}
        self.pieces = [tokens.PAD] + [tokenizer.word(w) for w in self.names]

    def ids(self, text):
        return [self.index[w] for w in text.split()]

    def text(self, ids):
        return " ".join(self.names[i - 1] for i in ids)


def load(pattern):
    """All utterances of the files that match."""
    out = []
    for path in sorted(glob.glob(str(pattern))):
        with open(path, "rb") as f:
            out += pickle.load(f)
    return out


def warp(mel, r, g):
    """Another speed, vocal tract, level, colour and noise; then masks."""
    t = max(12, int(len(mel) * r.uniform(0.87, 1.15)))
    bins = int(round(128 * r.uniform(0.9, 1.11)))
    x = torch.from_numpy(mel.astype(np.float32))
    x = F.interpolate(x[None, None], size=(t, bins), mode="bilinear", align_corners=False)[0, 0]
    x = x[:, :128] if bins >= 128 else F.pad(x[None], (0, 128 - bins), mode="replicate")[0]
    linear = (x.exp() - FLOOR).clamp_min(0)
    smooth = lambda n, size: F.interpolate(
        torch.randn(1, 1, n, generator=g) * size, size=128, mode="linear", align_corners=True
    )[0, 0].exp()
    linear = linear * (smooth(6, 0.3) * math.exp(r.uniform(-1.2, 1.0)))
    if r.random() < 0.35:
        level = smooth(5, 0.7) * math.exp(r.uniform(-6, -2.6))
        linear = torch.hypot(linear, level * torch.rand(t, 128, generator=g))
    x = torch.log(linear + FLOOR)
    mean = x.mean()
    for _ in range(r.randint(0, 2)):
        width = r.randint(1, 12)
        first = r.randint(0, 128 - width)
        x[:, first : first + width] = mean
    if r.random() < 0.5:
        width = r.randint(1, 10)
        first = r.randint(0, t - width)
        x[first : first + width] = mean
    return x


def joined(a, b, r):
    """Two sentences with a pause between them, as one utterance."""
    frames = len(a.mel) // 4 * 4
    pause = 4 * r.randint(3, 12)
    quiet = np.repeat(a.mel[-4:].mean(0, keepdims=True), pause, 0)
    mel = np.concatenate([a.mel[:frames], quiet, b.mel])
    count = len(a.words.split())
    phones = np.concatenate([a.phones[: frames // 4], np.zeros(pause // 4, np.int8), b.phones])
    later = np.where(b.spoken > 0, b.spoken + count, b.spoken)
    spoken = np.concatenate([a.spoken[: frames // 4], np.zeros(pause // 4, np.int16), later])
    words = f"{a.words} {b.words}"
    return replace(a, mel=mel, words=words, command=None, phones=phones, spoken=spoken)


def stretched(labels, count):
    """Labels at another number of tokens."""
    at = (np.arange(count) * len(labels) / count).astype(int)
    return labels[np.minimum(at, len(labels) - 1)]


def batch(items, words, r=None, g=None, clean=0.15):
    """One padded batch; with a random source, augmented."""
    sounds = []
    for u in items:
        if r is None or r.random() < clean:
            sounds.append(torch.from_numpy(u.mel.astype(np.float32)))
        else:
            sounds.append(warp(u.mel, r, g))
    length = -(-max(len(s) for s in sounds) // 48) * 48
    x = torch.zeros(len(items), length, 128)
    mask = torch.zeros(len(items), length, dtype=torch.bool)
    phones = torch.full((len(items), length // 4), -100)
    spoken = torch.full((len(items), length // 4), -100)
    targets = []
    for i, (u, s) in enumerate(zip(items, sounds)):
        x[i, : len(s)] = s
        mask[i, : len(s)] = True
        count = int(mask[i, ::4].sum())
        ids = np.array([0] + words.ids(u.words))
        p = torch.from_numpy(stretched(u.phones, count).astype(np.int64))
        w = stretched(u.spoken, count)
        w = np.where(w >= 0, ids[np.maximum(w, 0)], -100)
        phones[i, PHONE_DELAY:count] = p[: count - PHONE_DELAY]
        spoken[i, :count] = torch.from_numpy(w)
        targets.append(torch.tensor(ids[1:]))
    return {"x": x, "mask": mask, "phones": phones, "spoken": spoken, "targets": targets}


def schedule(items, size, r):
    """One epoch of batches of similar length, shuffled."""
    order = sorted(range(len(items)), key=lambda i: len(items[i].mel) * r.uniform(0.92, 1.08))
    batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    r.shuffle(batches)
    return batches


def seeded(seed):
    return random.Random(seed), torch.Generator().manual_seed(seed)
