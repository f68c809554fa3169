"""Stage 4: the decoder on real soft tokens, towers at rest: `python -m train.tune MINUTES [RATE]`.

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
from synth import tokens
from train import common
from train import joint
from train import text

HEARD, SEEN = 48, 16
BUDGET = 3200


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
        scenes, x, positions, grid = sights.batch(r, SEEN)
        soft, _ = sights.soft_tokens(model, x, positions, grid)
        self.seen += [(s, soft[j].clone()) for j, s in enumerate(scenes)]

    def draw(self, r, count):
        """Lines about stored sounds and pictures."""
        out, parts = [], self.parts
        for u, soft in r.sample(self.heard, min(count, len(self.heard))):
            pairs = r.choice(joint.spoken_pairs(r, u))
            if len(pairs[0][0]) < 1500:
                out.append(lines.line(parts.tokenizer, pairs, soft))
        for s, soft in r.sample(self.seen, min(count * 2 // 3, len(self.seen))):
            out.append(joint.picture_line(parts, r, s, soft))
        return out


def main():
    minutes, peak = float(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 2e-3
    torch.set_num_threads(1)
    tokenizer = tokens.Tokens(common.TOKENIZER)
    parts = joint.Parts(tokenizer)
    path, step = common.WORK / "tune.pt", 0
    if path.exists():
        kept = torch.load(path)
        parts.model.load_state_dict(kept["model"], strict=False)
        step = kept["step"]
    opt = common.optimiser([(list(parts.lm.parameters()), 1.0)])
    clock, averages, first = common.Clock(minutes, peak, warm=30), common.Averages(), step
    r, g = sounds.seeded(90 + step)
    store = Store(parts, sounds.load(common.WORK / "tr*.pkl"))
    for _ in range(6):
        store.grow(r, g)
    checks = {n: sounds.load(common.WORK / f"{n}.pkl")[:48] for n in ("seen", "unseen")}
    frame = parts.lm.embed_tokens.weight.detach()
    sets = text.checks(tokenizer, frame, parts.words.pieces, 32)
    save = lambda: common.save(path, model=common.part(parts.model, "model.language_model"), step=step)
    while clock.share() < 1:
        store.grow(r, g)
        pool = store.draw(r, 180) + [text.short(r, tokenizer) for _ in range(120)]
        pool += [text.typed(r, tokenizer) for _ in range(20)]
        for b in lines.batches(pool, BUDGET, r):
            loss = lines.loss(parts.lm, b)
            common.update(opt, loss, clock.rate(step - first))
            averages.add({"media" if b.soft is not None else "typed": loss})
            step += 1
            if step % 25 == 0:
                print(step, f"{100 * clock.share():.0f} %", averages, flush=True)
            if step % 250 == 0:
                save()
    save()
    print("end", flush=True)
    joint.report(parts, sets, checks)


if __name__ == "__main__":
    main()
