"""Starts training from the shipped files: `python -m ship.restore TEXT.gguf MMPROJ.gguf`.

In:  a GGUF pair that ship.export wrote.
Out: WORK/{text,audio,vision}.pt without throw-away heads' memory; the tokenizer must be there.
Invariant: every tensor of the files lands in the model tensor that it was made from.
"""

import sys

import torch
from gguf import GGUFReader
from gguf import dequantize

from net import ears
from net import shape
from ship import export
from synth import engines
from synth import tokens
from train import common
from train import vision
from net import sounds


class Reading(export.convert.Plan):
    """A plan that takes tensors from a file instead of writing them."""

    stored = {}

    def add(self, name, origin, change=None, *, exact=False):
        del change, exact
        data = torch.from_numpy(dequantize(*self.stored[name]).copy()).float()
        target = self.source.load(origin)
        if name == "v.patch_embd.weight":
            data = data.permute(0, 2, 3, 1)
        if name.endswith("per_dim_scale.weight"):
            data = torch.log(torch.expm1(data))
        target.copy_(data.reshape(target.shape))

    def write(self, path, arch, fill):
        del path, arch, fill


def read(m, paths):
    """Fills the model in place."""
    for path in paths:
        tensors = GGUFReader(path).tensors
        Reading.stored |= {t.name: (t.data, t.tensor_type) for t in tensors}
    plan = export.convert.Plan
    export.convert.Plan = Reading
    try:
        with torch.no_grad():
            export.write_plans(m, "q4_0", "q8_0")
    finally:
        export.convert.Plan = plan
    m.tie_weights()


def main():
    tokenizer = tokens.Tokens(common.TOKENIZER)
    m = shape.fresh(tokenizer.size)
    read(m, sys.argv[1:3])
    frame = shape.embedding(tokenizer.size)
    heads = ears.Heads(len(engines.PHONES), sounds.Words(tokenizer).pieces, frame)
    eyes = vision.heads_for(tokenizer)
    for stage, names, throw_away in (
        ("text", "model.language_model", None),
        ("audio", ("model.audio_tower", "model.embed_audio"), heads),
        ("vision", ("model.vision_tower", "model.embed_vision"), eyes),
    ):
        kept = {"heads": throw_away.state_dict()} if throw_away else {}
        common.save(common.WORK / f"{stage}.pt", model=common.part(m, names), step=0, **kept)


if __name__ == "__main__":
    main()
