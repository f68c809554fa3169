"""Makes the held-out set: `python -m ship.heldout FOLDER`.

In:  WORK/seen.pkl and unseen.pkl (held-out sentences, known and new voices).
Out: FOLDER/manifest.jsonl, sounds/*.flac, pictures/*.png.
Invariant: fixed seeds; no sentence, voice split or picture of it is ever trained on.

Every manifest line has: id, task, group, system tools by name, the user's parts in order
(text, or a file of the folder), and the answer that is expected word for word.
"""

import json
import random
import sys
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from net import sounds
from synth import pictures
from synth import talk
from synth import world
from train import common

SOUNDS = {"seen": 30, "unseen": 20}
LONG, PICTURES, TEXTS = 6, 56, 56


def bare(answer):
    """The answer as the runtime shows it: without the token that ends the turn."""
    return answer.removesuffix(talk.END).removesuffix("<|tool_response>")


def entry(name, task, group, tools, parts, answer):
    return {
        "id": name,
        "task": task,
        "group": group,
        "tools": tools,
        "user": parts,
        "expect": bare(answer),
    }


def tools_for(r, tool, declared=True):
    """One to four declared tools, with or without the one that is needed."""
    names = [n for n in r.sample(talk.NAMES, r.randint(1, 4)) if n != tool]
    if declared:
        names.insert(r.randint(0, len(names)), tool)
    return names or [next(n for n in talk.NAMES if n != tool)]


def sound_lines(folder):
    """Every sound twice: written down, and acted on."""
    r, out = random.Random(11), []
    for group, count in SOUNDS.items():
        for i, u in enumerate(sounds.load(common.WORK / f"{group}.pkl")[-count:]):
            name = f"{group}{i:02d}"
            file = f"sounds/{name}.flac"
            soundfile.write(folder / file, u.samples, 16000)
            parts = [{"audio": file}, {"text": "Transcribe."}]
            line = entry(f"{name}-words", "transcribe", group, [], parts, u.words)
            out.append({**line, "voice": u.voice})
            names = tools_for(r, u.command.tool)
            answer = talk.answer_to(u.command, names)
            line = entry(f"{name}-call", "act", group, names, [{"audio": file}], answer)
            out.append({**line, "voice": u.voice})
    return out


def long_lines(folder):
    """Two sentences in one sound, with a pause."""
    out, spare = [], sounds.load(common.WORK / "seen.pkl")
    for i in range(LONG):
        a, b = spare[2 * i], spare[2 * i + 1]
        name = f"long{i:02d}"
        file = f"sounds/{name}.flac"
        samples = np.concatenate([a.samples, np.zeros(8000, np.int16), b.samples])
        soundfile.write(folder / file, samples, 16000)
        parts = [{"audio": file}, {"text": "Transcribe."}]
        line = entry(f"{name}-words", "transcribe", "long", [], parts, f"{a.words} {b.words}")
        out.append({**line, "voice": f"{a.voice}, {b.voice}"})
    return out


def picture_lines(folder):
    """One question for every picture, all kinds in turn."""
    r, out = random.Random(12), []
    kinds = ["caption", "count", "color", "place", "read", "detect", "detect"]
    while len(out) < PICTURES:
        kind, s = kinds[len(out) % len(kinds)], pictures.scene(r)
        if kind not in pictures.asks(s):
            continue
        name = f"picture{len(out):02d}"
        file = f"pictures/{name}.png"
        s.noise = s.noise if len(out) % 5 == 0 else 0.0
        pixels = pictures.draw(s, pictures.NATURAL[s.grid][r.randrange(2)])
        Image.fromarray(np.asarray(pixels)).save(folder / file, optimize=True)
        question, answer = pictures.question(r, s, kind, exact=True)
        parts = [{"image": file}, {"text": question}]
        out.append(entry(name, kind, "picture", [], parts, answer))
    return out


def text_lines():
    """Typed commands with their tool, without it, facts, and things outside the world."""
    r, out = random.Random(13), []
    for i in range(TEXTS):
        name, kind = f"text{i:02d}", ["act", "act", "refuse", "fact"][i % 4]
        if kind == "fact":
            question, answer = talk.fact(r)
            out.append(entry(name, "talk", "text", [], [{"text": question}], answer))
            continue
        c = world.command(r, True)
        names = tools_for(r, c.tool, kind == "act")
        parts = [{"text": talk.typed(r, c.words, c.tool)}]
        out.append(entry(name, kind, "text", names, parts, talk.answer_to(c, names)))
    return out


def main():
    folder = Path(sys.argv[1])
    for name in ("sounds", "pictures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = sound_lines(folder) + long_lines(folder) + picture_lines(folder) + text_lines()
    with open(folder / "manifest.jsonl", "w") as f:
        for line in lines:
            f.write(json.dumps(line) + "\n")
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    print(len(lines), "lines", round(size / 1e6, 2), "MB")


if __name__ == "__main__":
    main()
