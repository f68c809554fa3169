"""Conversations as token batches.

In:  lists of (prompt, answer) text pairs; soft tokens for `<|audio|>` and `<|image|>`.
Out: `Batch` values: ids, asked positions, the tokens wanted there, places of soft tokens.
Invariant: every answer token is asked for exactly once; a batch holds about `budget` tokens.
"""

import math
from dataclasses import dataclass

import torch

from net import brain
from synth import tokens

OPEN = {"<|audio|>": ("<|audio>", "<audio|>"), "<|image|>": ("<|image>", "<image|>")}
SOFT = (tokens.AUDIO, tokens.IMAGE)


@dataclass
class Line:
    """One conversation: ids, positions of the answers' tokens, soft tokens in order."""

    ids: list
    answers: list
    soft: torch.Tensor = None


@dataclass
class Batch:
    ids: torch.Tensor
    at: torch.Tensor
    want: torch.Tensor
    places: torch.Tensor
    soft: torch.Tensor


def line(tokenizer, pairs, soft=None):
    """Tokens of a conversation, its answers marked."""
    ids, answers = [], []
    for text, answer in pairs:
        mark = next((m for m in OPEN if m in text), None)
        if mark is None:
            ids += tokenizer.encode(text)
        else:
            before, _, behind = text.partition(mark)
            ids += tokenizer.encode(before + OPEN[mark][0])
            ids += [tokens.ID[mark]] * len(soft)
            ids += tokenizer.encode(OPEN[mark][1] + behind)
        said = tokenizer.encode(answer)
        answers += range(len(ids), len(ids) + len(said))
        ids += said
    return Line(ids, answers, soft)


def batch(lines):
    """Pads lines of similar length."""
    length = max(len(l.ids) for l in lines)
    asked = max(len(l.answers) for l in lines)
    ids = torch.zeros(len(lines), length, dtype=torch.long)
    at = torch.zeros(len(lines), asked, dtype=torch.long)
    want = torch.full((len(lines), asked), -100)
    for i, l in enumerate(lines):
        ids[i, : len(l.ids)] = torch.tensor(l.ids)
        at[i, : len(l.answers)] = torch.tensor(l.answers) - 1
        want[i, : len(l.answers)] = ids[i, l.answers]
    places = (ids == SOFT[0]) | (ids == SOFT[1])
    soft = [l.soft for l in lines if l.soft is not None]
    return Batch(ids, at, want, places, torch.cat(soft) if soft else None)


def batches(lines, budget, r):
    """Groups of similar length and similar answers, shuffled."""
    step = lambda l: int(math.log(len(l.ids) * r.uniform(0.95, 1.05)) / math.log(1.25))
    lines = sorted(lines, key=lambda l: (step(l), len(l.answers)))
    out, some = [], []
    for l in lines:
        longest = max([len(l.ids)] + [len(o.ids) for o in some])
        if some and (len(some) + 1) * longest > budget:
            out.append(some)
            some = []
        some.append(l)
    if some:
        out.append(some)
    r.shuffle(out)
    return [batch(g) for g in out]


def hidden(lm, b):
    places = b.places if b.soft is not None else None
    embedded, plain = brain.embed(lm, b.ids, places, b.soft)
    return brain.forward(lm, embedded, plain, b.at)


def loss(lm, b, smoothing=0.02):
    """Mean cross entropy of the answers' tokens."""
    kept = b.want >= 0
    z = brain.scores(lm, hidden(lm, b)[kept])
    return torch.nn.functional.cross_entropy(z, b.want[kept], label_smoothing=smoothing)


@torch.no_grad()
def exact(lm, lines, budget=6000):
    """For every line: would greedy decoding write all its answers without a mistake?"""
    out = []
    for i in range(0, len(lines), 16):
        b = batch(lines[i : i + 16])
        z = brain.scores(lm, hidden(lm, b))
        z[..., tokens.AUDIO] = z[..., tokens.IMAGE] = -1e9
        out += ((z.argmax(-1) == b.want) | (b.want < 0)).all(1).tolist()
    return out
