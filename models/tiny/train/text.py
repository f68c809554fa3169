"""Stage 2: the decoder on typed conversations and imitated speech: `python -m train.text MINUTES`.

In:  WORK/tokenizer.json.
Out: WORK/text.pt; resumes from it.
Invariant: the token embedding stays as drawn, because the audio stage points its soft tokens at it.
"""

import math
import random
import sys

import torch

from net import lines
from net import shape
from net import sights
from synth import pictures
from synth import talk
from synth import tokens
from synth import world
from train import common
from train import vision

BUDGET = 2700
# Up to this share of the stage, examples are short: copying has to be learned first.
SHORT = 0.7
THOUGHT = "<|channel>thought\n<channel|>"


def imitate(r, g, frame, pieces, words):
    """Soft tokens as a good tower would make them: blanks, then the word for a token or two."""
    scale = math.sqrt(frame.shape[1])
    rows, blank = [], frame[pieces[0]] * scale
    every = list(pieces)
    for w in words.split():
        piece = frame[pieces[words_index[w]]] * scale
        rows += [blank] * r.randint(1, 6)
        if r.random() < 0.12:
            piece = 0.6 * piece + 0.5 * scale * frame[r.choice(every)]
        rows += [piece] * r.randint(1, 3)
    rows += [blank] * r.randint(1, 4)
    x = torch.stack(rows)
    level = torch.rand(len(rows), 1, generator=g) * 0.5 + 0.6
    return x * level + torch.randn(x.shape, generator=g) * r.uniform(0.05, 0.4)


words_index = {w: i + 1 for i, w in enumerate(tokens.spoken_words())}


def spoken(r, g, tokenizer, frame, pieces, most=6):
    """One imitated spoken turn."""
    if r.random() < 0.08:
        words, command = r.choice(world.SPOKEN_FACTS)[0], None
        if r.random() < 0.5:
            pairs = [("<bos>" + talk.prompt.user("<|audio|>"), dict(world.FACTS)[words] + talk.END)]
            return lines.line(tokenizer, pairs, imitate(r, g, frame, pieces, words))
    else:
        command = world.command(r)
        words = command.words
    pairs = talk.spoken(r, words, command, most)
    return lines.line(tokenizer, pairs, imitate(r, g, frame, pieces, words))


def picture_line(tokenizer, r, scene, soft, kind=None):
    """One question about a scene."""
    question, answer = pictures.question(r, scene, kind)
    wrapped = "\n\n<|image|>\n\n" if r.random() < 0.06 else "<|image|>"
    opening = "<bos>" + (talk.prompt.system(r.sample(talk.NAMES, 2)) if r.random() < 0.08 else "")
    return lines.line(
        tokenizer, [(opening + talk.prompt.user(wrapped + question), answer + talk.END)], soft
    )


def pictured(r, g, tokenizer, eyes):
    """Two questions about one imitated scene."""
    s = pictures.scene(r)
    soft = sights.imitate(eyes, g, s)
    return [picture_line(tokenizer, r, s, soft) for _ in range(2)]


def short(r, tokenizer):
    """Short typed turns: copying, numbers, commands with few tools declared, chat."""
    kind = r.random()
    if kind < 0.3:
        return lines.line(tokenizer, talk.words_and_numbers(r))
    return lines.line(tokenizer, talk.commands(r, r.randint(1, 3), 3) if kind < 0.88 else talk.chat(r))


def typed(r, tokenizer):
    """One typed conversation; now and then with the larger models' empty thought."""
    pairs = talk.conversation(r)
    if r.random() < 0.06:
        tail = "<|turn>model\n"
        pairs = [(p + THOUGHT if p.endswith(tail) else p, a) for p, a in pairs]
    return lines.line(tokenizer, pairs)


def checks(tokenizer, frame, pieces, eyes, count=48):
    """Held-out single commands, typed and imitated, chat, and imitated scenes."""
    r, g = random.Random(77), torch.Generator().manual_seed(77)
    out = {"typed": [], "refused": [], "read": [], "acted": [], "chat": [], "seen": []}
    for _ in range(count):
        c = world.command(r, True)
        names = r.sample(talk.NAMES, r.randint(1, 5))
        if c.tool not in names:
            names[0] = c.tool
        pairs = [(talk.prompt.full(names, talk.typed(r, c.words, c.tool)), talk.answer_to(c, names))]
        out["typed"].append(lines.line(tokenizer, pairs))
        names.remove(c.tool)
        pairs = [(talk.prompt.full(names, talk.typed(r, c.words, c.tool)), talk.answer_to(c, names))]
        out["refused"].append(lines.line(tokenizer, pairs))
        soft = imitate(r, g, frame, pieces, c.words)
        pairs = [("<bos>" + talk.prompt.user("<|audio|>Transcribe."), c.words + talk.END)]
        out["read"].append(lines.line(tokenizer, pairs, soft))
        names.append(c.tool)
        pairs = [(talk.prompt.full(names, "<|audio|>"), talk.answer_to(c, names))]
        out["acted"].append(lines.line(tokenizer, pairs, soft))
        out["chat"].append(lines.line(tokenizer, talk.chat(r)))
        s = pictures.scene(r)
        kind = r.choice([k for k in pictures.asks(s) if k != "detect"])
        out["seen"].append(picture_line(tokenizer, r, s, sights.imitate(eyes, g, s), kind))
    return out


def kind_of(b):
    return "pictures" if (b.ids == tokens.IMAGE).any() else "speech"


def report(lm, sets):
    done = {k: lines.exact(lm, v) for k, v in sets.items()}
    return " ".join(f"{k} {sum(v) / len(v):.3f}" for k, v in done.items())


def main():
    minutes, peak = float(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 4e-3
    torch.set_num_threads(1)
    tokenizer = tokens.Tokens(common.TOKENIZER)
    model = shape.fresh(tokenizer.size)
    lm, path, step = model.model.language_model, common.WORK / "text.pt", 0
    frame = shape.embedding(tokenizer.size)
    pieces = [tokens.PAD] + [tokenizer.word(w) for w in words_index]
    if path.exists():
        kept = torch.load(path)
        model.load_state_dict(kept["model"], strict=False)
        step = kept["step"]
    lm.embed_tokens.weight.requires_grad_(False)
    opt = common.optimiser([(list(lm.parameters()), 1.0)])
    clock, averages, first = common.Clock(minutes, peak), common.Averages(), step
    r, g = random.Random(step + 5), torch.Generator().manual_seed(step + 5)
    eyes = vision.heads_for(tokenizer)
    sets = checks(tokenizer, frame, pieces, eyes)
    save = lambda: common.save(path, model=common.part(model, "model.language_model"), step=step)
    while clock.share() < 1:
        if clock.share() < SHORT:
            budget, most = BUDGET * 2 // 3, 2
            pool = [short(r, tokenizer) for _ in range(300)]
        else:
            budget, most = BUDGET, 6
            pool = [typed(r, tokenizer) for _ in range(150)]
        pool += [spoken(r, g, tokenizer, frame, pieces, most) for _ in range(200)]
        for _ in range(80):
            pool += pictured(r, g, tokenizer, eyes)
        for b in lines.batches(pool, budget, r):
            loss = lines.loss(lm, b)
            common.update(opt, loss, clock.rate(step - first))
            averages.add({kind_of(b) if b.soft is not None else "typed": loss.detach()})
            step += 1
            if step % 50 == 0:
                print(step, f"{100 * clock.share():.0f} %", averages, flush=True)
            if step % 200 == 0:
                print("  ", report(lm, sets), flush=True)
                save()
    print("end", report(lm, sets), flush=True)
    save()


if __name__ == "__main__":
    main()
