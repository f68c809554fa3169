"""Spoken utterances with a phone and a word label for every soft token.

In:  a split (train, seen, unseen), a count and a seed.
Out: `Utterance` values.
Invariant: `seen` and `unseen` say held-out sentences only; `unseen` uses voices that the other
splits never use.
"""

import pickle
import random
import sys
from dataclasses import dataclass

import numpy as np

from synth import effects
from synth import engines
from synth import world

ACCENTS = ["en-us"] * 4 + ["en", "en", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-us-nyc"]
VARIANTS = (
    "m1 m2 m3 m4 m5 m7 m8 f1 f2 f3 f5 Alicia Andrea Andy Annie Gene Hugo Jacky Lee Marco Mike adam "
    "anika belinda benjamin boris caleb david ed edward michel max rob robert shelby steph victor"
).split()
NEW_VARIANTS = ["f4", "m6", "linda", "travis", "zac"]
FLITE = ["slt"] * 2 + ["awb"] * 2 + ["kal16"]
NEW_FLITE = "rms"
TOKEN = 0.04
# Tokens after a word's end at which its label begins, and how many carry it.
WORD_DELAY, WORD_TOKENS = 1, 2
IGNORE = -1


@dataclass
class Utterance:
    """Log-mel frames (f16), words, tool and arguments, voice, labels of every soft token."""

    mel: np.ndarray
    words: str
    command: object
    voice: str
    phones: np.ndarray
    spoken: np.ndarray
    samples: np.ndarray = None


def say(r, speakers, words, split):
    """One sentence by a random voice of the split."""
    espeak, flite = speakers
    if r.random() < 0.62:
        variants = NEW_VARIANTS if split == "unseen" else VARIANTS
        voice = f"{r.choice(ACCENTS)}+{r.choice(variants)}"
        s = espeak.say(words, voice, r.randint(25, 75), r.randint(135, 185), r.choice([0, 0, 0, 1]))
        return s, "espeak-ng " + voice
    voice = NEW_FLITE if split == "unseen" else r.choice(FLITE)
    return flite.say(words, voice, r.uniform(0.85, 1.2), r.uniform(85, 145)), "flite " + voice


def labels(speech, count, start, lead, factor):
    """Phones and words for `count` soft tokens."""
    phones = np.zeros(count, np.int8)
    words = np.zeros(count, np.int16)
    times = start + (np.arange(count) * TOKEN + 0.01 - lead) * factor
    starts = np.array([t for t, _ in speech.phones])
    kinds = np.array([p for _, p in speech.phones])
    at = np.searchsorted(starts, times, "right") - 1
    inside = (at >= 0) & (times >= 0) & (times < len(speech.samples) / speech.rate)
    phones[inside] = kinds[at[inside]]
    token = lambda t: int(np.ceil(((t - start) / factor + lead) / TOKEN))
    before = None
    for i, end in enumerate(speech.word_ends):
        if end is None:
            after = next((e for e in speech.word_ends[i + 1 :] if e is not None), None)
            first = 0 if before is None else before
            last = count if after is None else token(after) + WORD_DELAY + WORD_TOKENS
            words[first:last][words[first:last] == 0] = IGNORE
            continue
        k = token(end) + WORD_DELAY
        words[k : k + WORD_TOKENS] = i + 1
        before = k + WORD_TOKENS
    return phones, words


def sentence(r, split):
    """Words and the command that they mean (None for chat and for two sentences)."""
    if split == "train" and r.random() < 0.06:
        return r.choice(world.SPOKEN_FACTS)[0], None
    c = world.command(r, split != "train")
    return c.words, c


def utterance(r, g, speakers, split, keep=False):
    """One finished utterance, or None when the engine said next to nothing."""
    words, command = sentence(r, split)
    speech, voice = say(r, speakers, words, split)
    if len(speech.samples) < speech.rate * 0.25 or np.abs(speech.samples).max() < 0.01:
        return None
    loud = np.abs(speech.samples) > 0.01
    first = max(0, int(np.argmax(loud)) - speech.rate // 50)
    last = len(loud) - int(np.argmax(loud[::-1]))
    factor, lead = r.uniform(0.9, 1.12), r.uniform(0.05, 0.4)
    samples = effects.change_speed(speech.samples[first:last], speech.rate, factor)
    clean = split != "train" and r.random() < 0.3
    samples = effects.place(samples, r, g, lead, clean)
    mel = effects.log_mel(samples)
    count = -(-(-(-len(mel) // 2)) // 2)
    phones, spoken = labels(speech, count, first / speech.rate, lead, factor)
    kept = (samples * 32767).astype(np.int16) if keep else None
    return Utterance(mel.astype(np.float16), words, command, voice, phones, spoken, kept)


def make(count, seed, split, keep=False):
    """`count` utterances of a split."""
    r, g = random.Random(seed), np.random.default_rng(seed)
    speakers, out = (engines.Espeak(), engines.Flite()), []
    while len(out) < count:
        u = utterance(r, g, speakers, split, keep)
        if u is not None:
            out.append(u)
    return out
