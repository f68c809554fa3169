"""Puts the stages' checkpoints together into one model with finite clip ranges.

In:  WORK/{audio,text,vision,joint}.pt, whichever exist (later stages win), WORK/tokenizer.json.
Out: a `Gemma4ForConditionalGeneration` in evaluation mode; its folder for transformers.
Invariant: a clipped linear's range is 1.5 times what it met on training data.
"""

import random

import numpy as np
import torch

from net import shape
from net import sights
from net import sounds
from synth import pictures
from synth import tokens
from train import common

MARGIN = 1.5


def model(stages=("text", "audio", "vision", "tune", "joint")):
    """The newest weights of every part."""
    m = shape.fresh(tokens.Tokens(common.TOKENIZER).size)
    for stage in stages:
        path = common.WORK / f"{stage}.pt"
        if path.exists():
            m.load_state_dict(torch.load(path)["model"], strict=False)
            print("weights of", path)
    m.tie_weights()
    set_clips(m)
    return m.eval()


class Ranges:
    """Largest absolute input and output of every clipped linear."""

    def __init__(self, m):
        self.seen, self.hooks = {}, []
        for name, module in m.named_modules():
            if hasattr(module, "use_clipped_linears"):
                module.use_clipped_linears = False
                self.hooks.append(module.register_forward_hook(self.note(name)))

    def note(self, name):
        def hook(_, inputs, output):
            old = self.seen.get(name, (0.0, 0.0))
            new = inputs[0].abs().max().item(), output.abs().max().item()
            self.seen[name] = max(old[0], new[0]), max(old[1], new[1])

        return hook


@torch.no_grad()
def set_clips(m):
    """Measures the ranges on training utterances and fresh pictures, and stores them."""
    ranges = Ranges(m)
    items = sounds.load(common.WORK / "tr0.pkl")[:48]
    r, g = sounds.seeded(3)
    for i in range(0, len(items), 12):
        batch = sounds.batch(items[i : i + 12], sounds.Words(tokens.Tokens(common.TOKENIZER)), r, g)
        m.model.audio_tower(batch["x"], batch["mask"])
    r = random.Random(4)
    for _ in range(24):
        s = pictures.scene(r)
        patches, positions = sights.patches(np.asarray(pictures.draw(s)))
        m.model.vision_tower(patches[None], positions[None])
    for hook in ranges.hooks:
        hook.remove()
    for name, module in m.named_modules():
        if hasattr(module, "use_clipped_linears"):
            module.use_clipped_linears = True
            into, out = (MARGIN * v for v in ranges.seen[name])
            for buffer, value in (
                ("input_min", -into),
                ("input_max", into),
                ("output_min", -out),
                ("output_max", out),
            ):
                getattr(module, buffer).fill_(value)
