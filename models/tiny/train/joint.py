"""Stage 5: every part end to end: `python -m train.joint MINUTES [RATE]`.

In:  WORK/{audio,text,vision}.pt, the utterances of stage 1.
Out: WORK/joint.pt (whole model and throw-away heads); resumes from it.
Invariant: the towers keep a share of their own losses, so that soft tokens stay readable.
"""

import random
import sys

import torch

from net import ears
from net import lines
from net import shape
from net import sights
from net import sounds
from synth import engines
from synth import pictures
from synth import prompt
from synth import talk
from synth import tokens
from synth import world
from train import common
from train import text
from train import vision

UTTERANCES, PICTURES, QUESTIONS = 12, 8, 2
FACTS = dict(world.FACTS)
TOWER_WEIGHT = 0.3
# How often a step hears, sees, reads.
SHARES = [0.42, 0.2, 0.38]


class Parts:
    """Model, heads and the optimiser of the joint stage."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.model = shape.fresh(tokenizer.size)
        self.words = sounds.Words(tokenizer)
        frame = shape.embedding(tokenizer.size)
        self.ears = ears.Heads(len(engines.PHONES), self.words.pieces, frame)
        self.eyes = vision.heads_for(tokenizer)
        self.step = 0
        if (common.WORK / "joint.pt").exists():
            kept = torch.load(common.WORK / "joint.pt")
            self.step = kept["step"]
            self.model.load_state_dict(kept["model"], strict=False)
            self.ears.load_state_dict(kept["ears"])
            self.eyes.load_state_dict(kept["eyes"])
        else:
            for stage, heads in (("text", None), ("audio", self.ears), ("vision", self.eyes)):
                kept = torch.load(common.WORK / f"{stage}.pt")
                self.model.load_state_dict(kept["model"], strict=False)
                if heads is not None:
                    heads.load_state_dict(kept["heads"])
        self.lm = self.model.model.language_model
        self.lm.embed_tokens.weight.requires_grad_(False)
        inner = self.model.model
        inner.audio_tower.subsample_conv_projection.layer0.requires_grad_(False)
        towers = [inner.audio_tower, inner.embed_audio, inner.vision_tower, inner.embed_vision]
        slow = [p for m in [*towers, self.ears, self.eyes] for p in m.parameters()]
        self.optimiser = common.optimiser([(list(self.lm.parameters()), 1.0), (slow, 0.4)])

    def save(self):
        state = {k: v for k, v in self.model.state_dict().items() if k != "lm_head.weight"}
        heads = {"ears": self.ears.state_dict(), "eyes": self.eyes.state_dict()}
        common.save(common.WORK / "joint.pt", model=state, step=self.step, **heads)


def spoken_pairs(r, u):
    """What is asked of one utterance: its words, and what to do about it."""
    ask = r.choice(talk.ASK_WORDS) + r.choice(talk.ASK_FORMAT)
    placed = "<|audio|>" + ask if r.random() < 0.7 else ask + "<|audio|>"
    out = [[("<bos>" + prompt.user(placed), u.words + talk.END)]]
    if u.words in FACTS:
        out.append([("<bos>" + prompt.user("<|audio|>"), FACTS[u.words] + talk.END)])
    elif u.command is None:
        out.append([("<bos>" + prompt.user("<|audio|>Transcribe."), u.words + talk.END)])
    else:
        names = talk.declare(r, u.command.tool, 14 if r.random() < 0.3 else 6)
        answer = talk.answer_to(u.command, names)
        out.append([(prompt.full(names, "<|audio|>"), answer)])
    return out


def hear(parts, items, r, g):
    """Loss of one batch of utterances."""
    batch = sounds.batch(items, parts.words, r, g)
    soft, h, kept = ears.soft_tokens(parts.model.model, batch["x"], batch["mask"])
    own = ears.losses(parts.ears, soft, h, kept, batch, True)
    chosen = []
    for i, u in enumerate(items):
        mine = soft[i][kept[i]]
        chosen += [lines.line(parts.tokenizer, p, mine) for p in spoken_pairs(r, u)]
    answers = sum(lines.loss(parts.lm, lines.batch(chosen[k::2])) for k in (0, 1)) / 2
    own = sum({"phone": 0.5, "word": 1.0, "ctc": 0.3}[k] * v for k, v in own.items())
    return answers + TOWER_WEIGHT * own, answers


def see(parts, r):
    """Loss of one batch of scenes, several questions each."""
    scenes, x, positions, grid = sights.batch(r, PICTURES)
    soft = sights.soft_tokens(parts.model.model, x, positions, grid)
    own = sights.losses(parts.eyes, soft, sights.labels(scenes))
    own = sum(vision.WEIGHTS[k] * v for k, v in own.items())
    chosen = [
        text.picture_line(parts.tokenizer, r, s, soft[i]) for i, s in enumerate(scenes) for _ in range(QUESTIONS)
    ]
    answers = lines.loss(parts.lm, lines.batch(chosen))
    return answers + TOWER_WEIGHT * own, answers


def overlap(a, b):
    """Intersection over union of two boxes."""
    high = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    wide = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area = lambda q: max(0, q[2] - q[0]) * max(0, q[3] - q[1])
    return high * wide / max(1e-9, area(a) + area(b) - high * wide)


@torch.no_grad()
def check_sounds(parts, items):
    """Exact transcripts, exact calls."""
    r, read, acted = random.Random(5), [], []
    for i in range(0, len(items), 16):
        some = sorted(items, key=lambda u: len(u.mel))[i : i + 16]
        batch = sounds.batch(some, parts.words)
        soft, _, kept = ears.soft_tokens(parts.model.model, batch["x"], batch["mask"])
        for j, u in enumerate(some):
            mine = soft[j][kept[j]]
            ask = "<bos>" + prompt.user("<|audio|>Transcribe.")
            read.append(lines.line(parts.tokenizer, [(ask, u.words + talk.END)], mine))
            names = sorted({u.command.tool, *r.sample(talk.NAMES, 3)})
            answer = talk.answer_to(u.command, names)
            acted.append(lines.line(parts.tokenizer, [(prompt.full(names, "<|audio|>"), answer)], mine))
    share = lambda l: sum(lines.exact(parts.lm, l)) / len(l)
    return f"words {share(read):.3f} calls {share(acted):.3f}"


@torch.no_grad()
def check_pictures(parts, count=3):
    """Exact answers by kind of question (boxes: exact digits, so only a lower bound)."""
    r, kinds = random.Random(31), {}
    for _ in range(count):
        scenes, x, positions, grid = sights.batch(r, 16)
        soft = sights.soft_tokens(parts.model.model, x, positions, grid)
        for i, s in enumerate(scenes):
            for kind in sorted(set(pictures.asks(s))):
                kinds.setdefault(kind, []).append(text.picture_line(parts.tokenizer, r, s, soft[i], kind))
    return " ".join(
        f"{k} {sum(lines.exact(parts.lm, v)) / len(v):.3f}" for k, v in sorted(kinds.items())
    )


def report(parts, sets, checks):
    print("   text:", text.report(parts.lm, sets))
    for name, items in checks.items():
        print(f"   {name}:", check_sounds(parts, items))
    print("   pictures:", check_pictures(parts), flush=True)


def main():
    minutes, peak = float(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 1.5e-3
    torch.set_num_threads(1)
    tokenizer = tokens.Tokens(common.TOKENIZER)
    parts = Parts(tokenizer)
    r, g = sounds.seeded(50 + parts.step)
    items = sounds.load(common.WORK / "tr*.pkl")
    checks = {n: sounds.load(common.WORK / f"{n}.pkl")[:64] for n in ("seen", "unseen")}
    frame = shape.embedding(tokenizer.size)
    sets = text.checks(tokenizer, frame, parts.words.pieces, parts.eyes, 48)
    clock, averages, first = common.Clock(minutes, peak), common.Averages(), parts.step
    waiting, typed = [], []
    while clock.share() < 1:
        kind = r.choices(["hear", "see", "type"], SHARES)[0]
        if kind == "hear":
            waiting = waiting or sounds.schedule(items, UTTERANCES, r)
            some = [items[i] for i in waiting.pop()]
            if r.random() < 0.1:
                some = [sounds.joined(*some[i : i + 2], r) for i in range(0, len(some), 2)]
            loss, shown = hear(parts, some, r, g)
        elif kind == "see":
            loss, shown = see(parts, r)
        else:
            if not typed:
                pool = [text.typed(r, tokenizer) for _ in range(200)]
                typed = lines.batches(pool, text.BUDGET, r)
            loss = shown = lines.loss(parts.lm, typed.pop())
        common.update(parts.optimiser, loss, clock.rate(parts.step - first))
        averages.add({kind: shown})
        parts.step += 1
        if parts.step % 50 == 0:
            print(parts.step, f"{100 * clock.share():.0f} %", averages, flush=True)
        if parts.step % 400 == 0:
            report(parts, sets, checks)
            parts.save()
    print("end")
    report(parts, sets, checks)
    parts.save()


if __name__ == "__main__":
    main()
