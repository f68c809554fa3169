"""Stage 3: the vision tower on what every soft token shows: `python -m train.vision MINUTES`.

In:  WORK/tokenizer.json; scenes are drawn on the way.
Out: WORK/vision.pt; resumes from it.
"""

import random
import sys

import torch

from net import shape
from net import sights
from synth import pictures
from synth import tokens
from train import common

SIZE = 6
WEIGHTS = {"color": 1.0, "shape": 1.0, "box": 0.5, "sign": 1.0}


def heads_for(tokenizer):
    """Colours, shapes and print by the pieces that the answers write."""
    colors = [tokenizer.word(c) for c in pictures.NAMES]
    kinds = [tokenizer.word(k) for k in [*pictures.SHAPES, "text"]]
    signs = [tokenizer.encode(s)[0] for s in pictures.PRINTED]
    steps = [tokenizer.inner.token_to_id(f"<0x{i:02X}>") for i in range(128, 128 + 4 * pictures.STEPS)]
    return sights.Heads(colors, kinds, signs, steps, shape.embedding(tokenizer.size))


@torch.no_grad()
def evaluate(model, heads, count=12):
    """Share of covered soft tokens whose colour and shape are right; box error; digits and words."""
    r, right, total, off, signs, read = random.Random(99), 0, 0, 0.0, 0, 0
    for _ in range(count):
        scenes, x, positions, grid = sights.batch(r, SIZE)
        soft = sights.soft_tokens(model.model, x, positions, grid)
        wanted = sights.labels(scenes)
        inside = wanted["shape"] > 0
        color = heads.read(soft, heads.colors, 0).argmax(-1) == wanted["color"]
        kind = heads.read(soft, heads.shapes, 1).argmax(-1) == wanted["shape"]
        text = wanted["shape"] == 4
        right += (kind & (color | text))[inside].sum().item()
        total += inside.sum().item()
        guess = (heads.sides(soft[inside]).exp() * sights.MIDDLES).sum(-1)
        off += (guess - wanted["box"][inside]).abs().sum().item() / 4
        sign = heads.read(soft, heads.signs, 2).argmax(-1)
        signs += (sign == wanted["sign"])[text].sum().item()
        read += text.sum().item()
    return f"cells {right / total:.3f} box off {off / total:.3f} texts {signs / max(1, read):.3f}"


def main():
    minutes, peak = float(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 4e-3
    torch.set_num_threads(1)
    tokenizer = tokens.Tokens(common.TOKENIZER)
    model, heads = shape.fresh(tokenizer.size), heads_for(tokenizer)
    path, step = common.WORK / "vision.pt", 0
    if path.exists():
        kept = torch.load(path)
        model.load_state_dict(kept["model"], strict=False)
        heads.load_state_dict(kept["heads"])
        step = kept["step"]
    trained = [*model.model.vision_tower.parameters(), *model.model.embed_vision.parameters()]
    opt = common.optimiser([(trained + list(heads.parameters()), 1.0)])
    clock, averages, first = common.Clock(minutes, peak), common.Averages(), step
    r = random.Random(7000 + step)

    def save():
        state = common.part(model, ("model.vision_tower", "model.embed_vision"))
        common.save(path, model=state, heads=heads.state_dict(), step=step)

    while clock.share() < 1:
        scenes, x, positions, grid = sights.batch(r, SIZE)
        soft = sights.soft_tokens(model.model, x, positions, grid)
        losses = sights.losses(heads, soft, sights.labels(scenes))
        loss = sum(WEIGHTS[k] * v for k, v in losses.items())
        common.update(opt, loss, clock.rate(step - first))
        averages.add(losses)
        step += 1
        if step % 50 == 0:
            print(step, f"{100 * clock.share():.0f} %", averages, flush=True)
        if step % 300 == 0:
            print("  ", evaluate(model, heads), flush=True)
            save()
    print("end", evaluate(model, heads), flush=True)
    save()


if __name__ == "__main__":
    main()
