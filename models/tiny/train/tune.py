"""Stage 4: the decoder on real soft tokens, towers at rest: `python -m train.tune MINUTES [RATE]`,
or `torchrun --nproc-per-node 2 -m train.tune MINUTES`: gradients of all processes are averaged.

In:  WORK/{audio,text,vision}.pt, the utterances of stage 1.
Out: WORK/tune.pt; resumes from it.
Invariant: soft tokens are computed once and kept; a few new ones join before every pool.
"""

import random
import sys

import torch

from net import ears
from net import lines
from net import sights
from net import sounds
from synth import prompt
from synth import talk
from synth import tokens
from train import common
from train import joint
from train import text

# Utterances of one growth, scenes that share a grid, and how many such batches.
HEARD, SEEN, GRIDS = 32, 16, 10
BUDGET = 2000
# Share of the sounds that are two utterances one after the other.
JOINED = 0.1


class Store:
    """Soft tokens of utterances and scenes, growing."""

    def __init__(self, parts, items):
        self.parts, self.items = parts, items
        self.heard, self.seen = [], []

    @torch.no_grad()
    def grow(self, r, g):
        model, parts = self.parts.model.model, self.parts
        chosen = sorted(r.sample(self.items, HEARD), key=lambda u: len(u.mel))
        for i in range(0, HEARD, 16):
            some = chosen[i : i + 16]
            batch = sounds.batch(some, parts.words, r, g, 0.5)
            soft, _, kept = ears.soft_tokens(model, batch["x"], batch["mask"])
            self.heard += [(u, soft[j][kept[j]].clone()) for j, u in enumerate(some)]
        for _ in range(GRIDS):
            scenes, x, positions, grid = sights.batch(r, SEEN)
            soft = sights.soft_tokens(model, x, positions, grid)
            self.seen += [(s, soft[j].clone()) for j, s in enumerate(scenes)]

    def draw(self, r, count):
        """Lines about stored sounds and pictures."""
        out, parts = [], self.parts
        for _ in range(int(count * JOINED)):
            (a, before), (b, behind) = r.sample(self.heard, 2)
            ask = "<bos>" + prompt.user("<|audio|>" + r.choice(talk.ASK_WORDS))
            pairs = [(ask, f"{a.words} {b.words}{talk.END}")]
            out.append(lines.line(parts.tokenizer, pairs, torch.cat([before, behind])))
        for u, soft in r.sample(self.heard, min(count // 2, len(self.heard))):
            pairs = r.choice(joint.spoken_pairs(r, u))
            if len(pairs[0][0]) < 1500:
                out.append(lines.line(parts.tokenizer, pairs, soft))
        for s, soft in r.sample(self.seen, min(count * 5 // 2, len(self.seen))):
            out.append(text.picture_line(parts.tokenizer, r, s, soft))
        return out


def stream(parts, store, r, g):
    """Batches without end, from pools that mix what is heard, seen and read."""
    while True:
        store.grow(r, g)
        pool = store.draw(r, 180) + [text.short(r, parts.tokenizer) for _ in range(70)]
        pool += [text.typed(r, parts.tokenizer) for _ in range(10)]
        yield from lines.batches(pool, BUDGET, r)


def main():
    minutes, peak = float(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 2e-3
    torch.set_num_threads(1)
    rank = common.join()
    tokenizer = tokens.Tokens(common.TOKENIZER)
    parts = joint.Parts(tokenizer)
    path, step = common.WORK / "tune.pt", 0
    if path.exists():
        kept = torch.load(path)
        parts.model.load_state_dict(kept["model"], strict=False)
        step = kept["step"]
    # What the pieces mean was learned from text; here layers learn to read soft tokens.
    for table in (parts.lm.embed_tokens, parts.lm.embed_tokens_per_layer):
        table.weight.requires_grad_(False)
    opt = common.optimiser([(list(parts.lm.parameters()), 1.0)])
    clock, averages, first = common.Clock(minutes, peak, warm=30), common.Averages(), step
    r, g = sounds.seeded(90 + step + 5000 * rank)
    store = Store(parts, sounds.load(common.WORK / "tr*.pkl"))
    for _ in range(4):
        store.grow(r, g)
    checks = {n: sounds.load(common.WORK / f"{n}.pkl")[:48] for n in ("seen", "unseen")}
    frame = parts.lm.embed_tokens.weight.detach()
    sets = text.checks(tokenizer, frame, parts.words.pieces, parts.eyes, 32)
    save = lambda: common.save(path, model=common.part(parts.model, "model.language_model"), step=step)
    batches = stream(parts, store, r, g)
    while clock.share() < 1:
        b = next(batches)
        loss = lines.loss(parts.lm, b)
        common.update(opt, loss, clock.rate(step - first))
        averages.add({text.kind_of(b): loss})
        step += 1
        if step % 25 == 0 and not rank:
            print(step, f"{100 * clock.last:.0f} %", averages, flush=True)
        if step % 150 == 0 and not rank:
            save()
    if rank:
        return
    save()
    print("end", flush=True)
    joint.report(parts, sets, checks)


if __name__ == "__main__":
    main()
