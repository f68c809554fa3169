"""Stage 1: the audio tower on phones and words: `python -m train.audio MINUTES [RATE]`.

In:  WORK/tr*.pkl, seen.pkl, unseen.pkl (synth.record), WORK/tokenizer.json.
Out: WORK/audio.pt; resumes from it.
"""

import sys

import torch

from net import ears
from net import shape
from net import sounds
from synth import engines
from synth import tokens
from train import common

SIZE = 16


def distance(a, b):
    """Edit distance of two lists."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        before, row[0] = row[0], i + 1
        for j, y in enumerate(b):
            before, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, before + (x != y))
    return row[-1]


@torch.no_grad()
def evaluate(model, heads, words, items):
    """Exact share and word error rate of the greedy reading."""
    exact = errors = total = 0
    items = sorted(items, key=lambda u: len(u.mel))
    for i in range(0, len(items), 16):
        some = items[i : i + 16]
        batch = sounds.batch(some, words)
        soft, _, kept = ears.soft_tokens(model.model, batch["x"], batch["mask"])
        for got, u in zip(ears.greedy(heads.words(soft), kept), some):
            want = words.ids(u.words)
            exact += got == want
            errors += distance(want, got)
            total += len(want)
    return f"exact {exact / len(items):.3f} words wrong {errors / total:.3f}"


def main():
    minutes, peak = float(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 1.5e-3
    torch.set_num_threads(1)
    tokenizer = tokens.Tokens(common.TOKENIZER)
    model = shape.fresh(tokenizer.size)
    words = sounds.Words(tokenizer)
    heads = ears.Heads(len(engines.PHONES), words.pieces, shape.embedding(tokenizer.size))
    path, step = common.WORK / "audio.pt", 0
    if path.exists():
        kept = torch.load(path)
        model.load_state_dict(kept["model"], strict=False)
        heads.load_state_dict(kept["heads"])
        step = kept["step"]
    model.model.audio_tower.subsample_conv_projection.layer0.requires_grad_(False)
    trained = [*model.model.audio_tower.parameters(), *model.model.embed_audio.parameters()]
    opt = common.optimiser([(trained + list(heads.parameters()), 1.0)])
    clock, averages, first = common.Clock(minutes, peak), common.Averages(), step
    r, g = sounds.seeded(1000 + step)
    checks = [sounds.load(common.WORK / f"{n}.pkl")[:96] for n in ("seen", "unseen")]

    def save():
        state = common.part(model, ("model.audio_tower", "model.embed_audio"))
        common.save(path, model=state, heads=heads.state_dict(), step=step)

    while clock.share() < 1:
        items = sounds.load(common.WORK / "tr*.pkl")
        for chosen in sounds.schedule(items, SIZE, r):
            clean = 0.6 if step < 300 else 0.15
            batch = sounds.batch([items[i] for i in chosen], words, r, g, clean)
            soft, h, kept = ears.soft_tokens(model.model, batch["x"], batch["mask"])
            losses = ears.losses(heads, soft, h, kept, batch, step > 300)
            weights = {"phone": 1.0, "word": 2.0, "ctc": 0.5}
            loss = sum(weights[k] * v for k, v in losses.items())
            common.update(opt, loss, clock.rate(step - first))
            averages.add(losses)
            step += 1
            if step % 50 == 0:
                spent = (step - first) * SIZE
                print(step, f"{100 * clock.share():.0f} %", averages, f"{spent} utterances", flush=True)
            if step % 400 == 0:
                for name, check in zip(("seen", "unseen"), checks):
                    print("  ", name, evaluate(model, heads, words, check), flush=True)
                save()
            if clock.share() >= 1:
                break
    for name, check in zip(("seen", "unseen"), checks):
        print("end", name, evaluate(model, heads, words, check), flush=True)
    save()


if __name__ == "__main__":
    main()
