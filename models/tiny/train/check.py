"""Compares the fast training forwards with transformers on random weights: `python -m train.check`."""

import random
import sys

import torch

from net import brain
from net import ears
from net import shape
from net import sights
from synth import tokens


def audio(model):
    x = torch.randn(2, 336, 128)
    mask = torch.ones(2, 336, dtype=torch.bool)
    mask[1, 250:] = False
    x[1, 250:] = 0
    with torch.no_grad():
        want = model.model.audio_tower(x, mask)
        got, kept = ears.tower(model.model.audio_tower, x, mask)
    assert torch.equal(want.attention_mask, kept)
    difference = (ears.norm(want.last_hidden_state) - got)[kept].abs().max().item()
    print("audio: largest difference", difference)
    assert difference < 1e-3


def vision(model):
    scenes, x, positions, grid = sights.batch(random.Random(1), 2)
    with torch.no_grad():
        want = model.model.vision_tower(x, positions[None].expand(2, -1, -1)).last_hidden_state
        got = sights.tower(model.model.vision_tower, x, positions, grid)
    difference = (ears.norm(want).view_as(got) - got).abs().max().item()
    print("vision: largest difference", difference)
    assert difference < 1e-3


def text(model):
    ids = torch.randint(30, 700, (2, 320))
    ids[:, 5:89] = tokens.AUDIO
    x, mask = torch.randn(2, 336, 128), torch.ones(2, 336, dtype=torch.bool)
    at = torch.arange(100, 319)[None].expand(2, -1)
    with torch.no_grad():
        want = model(input_ids=ids, input_features=x, input_features_mask=mask).logits[:, 100:319]
        soft, _, kept = ears.soft_tokens(model.model, x, mask)
        lm = model.model.language_model
        embedded, plain = brain.embed(lm, ids, ids == tokens.AUDIO, soft[kept])
        got = brain.scores(lm, brain.forward(lm, embedded, plain, at))
    difference = (want - got).abs().max().item()
    print("text with sound: largest difference", difference, "of", want.abs().max().item())
    assert difference < 1e-2


def main():
    torch.set_num_threads(1)
    model = shape.fresh(tokens.Tokens(sys.argv[1]).size).eval()
    for name in ("language_model", "audio_tower", "vision_tower", "embed_audio", "embed_vision"):
        print(name, sum(p.numel() for p in getattr(model.model, name).parameters()))
    audio(model)
    vision(model)
    text(model)


if __name__ == "__main__":
    main()
