"""What every training stage shares: optimiser, learning-rate curve, checkpoints, a clock.

In:  parameters, minutes.
Out: AdamW with decay on matrices only; a `Clock` that says how far the stage is.
Invariant: a stage that is cut off resumes from its last checkpoint.
"""

import math
import os
import time
from pathlib import Path

import torch

WORK = Path(os.environ.get("TINY_WORK", "work"))
TOKENIZER = WORK / "tokenizer.json"


class Clock:
    """Share of the stage that has passed, by wall time, and the rate that belongs to it."""

    def __init__(self, minutes, peak, warm=100, floor=0.03):
        self.start, self.seconds = time.time(), minutes * 60
        self.peak, self.warm, self.floor = peak, warm, floor

    def share(self):
        return min(1.0, (time.time() - self.start) / self.seconds)

    def rate(self, step):
        cosine = 0.5 * (1 + math.cos(math.pi * self.share()))
        return self.peak * min(1, (step + 1) / self.warm) * (self.floor + (1 - self.floor) * cosine)


def optimiser(groups):
    """AdamW; `groups` is a list of (parameters, factor of the rate)."""
    out = []
    for parameters, factor in groups:
        for matrix in (True, False):
            chosen = [p for p in parameters if p.requires_grad and (p.ndim > 1) == matrix]
            if chosen:
                decay = 0.02 if matrix else 0.0
                out.append({"params": chosen, "weight_decay": decay, "factor": factor})
    return torch.optim.AdamW(out, lr=1e-3, betas=(0.9, 0.98))


def update(opt, loss, rate, clip=1.0):
    """One step; returns the gradient's norm."""
    for group in opt.param_groups:
        group["lr"] = rate * group["factor"]
    opt.zero_grad()
    loss.backward()
    parameters = [p for g in opt.param_groups for p in g["params"] if p.grad is not None]
    size = torch.nn.utils.clip_grad_norm_(parameters, clip)
    opt.step()
    return float(size)


class Averages:
    """Running means for the log."""

    def __init__(self):
        self.values = {}

    def add(self, losses):
        for k, v in losses.items():
            v = float(v.detach())
            self.values[k] = v if k not in self.values else 0.97 * self.values[k] + 0.03 * v

    def __str__(self):
        return " ".join(f"{k} {v:.3f}" for k, v in self.values.items())


def save(path, **parts):
    """Writes a checkpoint whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(parts, f"{path}.new")
    os.replace(f"{path}.new", path)


def part(model, prefix):
    """The state of the sub-modules whose names begin with any of the prefixes."""
    return {k: v for k, v in model.state_dict().items() if k.startswith(prefix)}
