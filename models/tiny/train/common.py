"""What every training stage shares: optimiser, learning-rate curve, checkpoints, a clock.

In:  parameters, minutes.
Out: an optimiser with decay on matrices only; a `Clock` that says how far the stage is.
Invariant: a stage that is cut off resumes from its last checkpoint.
"""

import math
import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as workers

WORK = Path(os.environ.get("TINY_WORK", "work"))
TOKENIZER = WORK / "tokenizer.json"


def join():
    """Joins the processes that torchrun started; returns this one's number, 0 when alone."""
    if "RANK" not in os.environ:
        return 0
    workers.init_process_group("gloo")
    return workers.get_rank()


class Clock:
    """Share of the stage that has passed, and the rate that belongs to it.

    Time is this process's own CPU time, so that a busy machine does not use the stage up. SIGTERM
    ends the stage: it reports, saves and returns. SIGUSR1 lets the rest pass in five minutes.
    """

    def __init__(self, minutes, peak, warm=100, floor=0.03):
        self.last, self.passed, self.start, self.seconds = 0.0, 0.0, time.process_time(), minutes * 60
        self.peak, self.warm, self.floor = peak, warm, floor
        signal.signal(signal.SIGTERM, lambda *_: self.hasten(0))
        signal.signal(signal.SIGUSR1, lambda *_: self.hasten(300))

    def hasten(self, seconds):
        """Lets what is left pass in so many seconds."""
        self.passed, self.start, self.seconds = self.last, time.process_time(), seconds

    def share(self):
        """The same value in every process that calls it at the same point."""
        spent = (time.process_time() - self.start) / max(self.seconds, 1e-9)
        share = torch.tensor(min(1.0, self.passed + (1 - self.passed) * spent))
        if workers.is_initialized():
            workers.all_reduce(share, workers.ReduceOp.MAX)
        self.last = share.item()
        return self.last

    def rate(self, step):
        cosine = 0.5 * (1 + math.cos(math.pi * self.share()))
        return self.peak * min(1, (step + 1) / self.warm) * (self.floor + (1 - self.floor) * cosine)


class Both:
    """Muon for the layers' matrices and AdamW for the rest, as one optimiser."""

    def __init__(self, *parts):
        self.parts = parts
        self.param_groups = [g for p in parts for g in p.param_groups]

    def zero_grad(self):
        for p in self.parts:
            p.zero_grad()

    def step(self):
        for p in self.parts:
            p.step()


def square(p):
    """Whether a parameter is a layer's matrix rather than a table, a vector or a filter."""
    return p.ndim == 2 and min(p.shape) >= 32 and max(p.shape) <= 1024


def optimiser(groups):
    """`groups` is a list of (parameters, factor of the rate); AdamW goes at half the rate."""
    matrices, rest = [], []
    for parameters, factor in groups:
        wanted = [p for p in parameters if p.requires_grad]
        matrices.append({"params": [p for p in wanted if square(p)], "factor": factor})
        for decay in (0.02, 0.0):
            some = [p for p in wanted if not square(p) and (p.ndim > 1) == (decay > 0)]
            rest.append({"params": some, "factor": 0.5 * factor, "weight_decay": decay})
    muon = torch.optim.Muon(
        [g for g in matrices if g["params"]], weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
    )
    return Both(muon, torch.optim.AdamW([g for g in rest if g["params"]], betas=(0.9, 0.98)))


def update(opt, loss, rate, clip=1.0):
    """One step; returns the gradient's norm."""
    for group in opt.param_groups:
        group["lr"] = rate * group["factor"]
    opt.zero_grad()
    loss.backward()
    parameters = [p for g in opt.param_groups for p in g["params"] if p.grad is not None]
    if workers.is_initialized():
        every = torch.cat([p.grad.flatten() for p in parameters])
        workers.all_reduce(every)
        parts = every.div_(workers.get_world_size()).split([p.numel() for p in parameters])
        for p, part in zip(parameters, parts):
            p.grad.copy_(part.view_as(p))
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
