"""Scores the held-out set through transformers: `python -m ship.evaluate FOLDER [TYPE ...]`.

In:  the stages' checkpoints (ship.gather) and the held-out FOLDER; types f16, q8_0, q4_0, 3bit.
Out: a table of scores by task with 95 % intervals; WORK/answers-TYPE.jsonl.
Invariant: weights are rounded exactly as in the GGUF files (the repository's converter decides
which tensors), prompts come from chat_template.jinja, media go through transformers' processors.
"""

import copy
import json
import re
import sys
from pathlib import Path

import jinja2
import numpy as np
import soundfile
import torch
from PIL import Image
from transformers.models.gemma4.feature_extraction_gemma4 import Gemma4AudioFeatureExtractor
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

from ship import export
from ship import gather
from synth import prompt
from synth import tokens
from train import audio
from train import common
from train import joint

TOOLS = {t["function"]["name"]: t for t in prompt.TOOLS}
STOPS = {tokens.EOS, tokens.END, tokens.WAIT}
LONGEST = 64


def three_bits(w):
    """Blocks of 32 rounded to seven levels with one f16 scale: a simple three-bit type."""
    blocks = w.reshape(-1, 32)
    scale = (np.abs(blocks).max(1, keepdims=True) / 3).astype(np.float16).astype(np.float32)
    levels = np.clip(np.round(blocks / np.maximum(scale, 1e-12)), -3, 3)
    return (levels * scale).reshape(w.shape)


class Rounding(export.convert.Plan):
    """A plan that writes nothing but rounds the model's own tensors in place."""

    three = False

    def add(self, name, origin, change=None, *, exact=False):
        w = self.source.load(origin)
        kind = self.type_of(name, tuple(w.shape), exact)
        if kind == export.convert.GGMLQuantizationType.F32 or exact:
            return
        data = w.float().numpy()
        if self.three and kind == export.convert.GGMLQuantizationType.Q4_0:
            data = three_bits(data)
        else:
            packed = export.convert.quants.quantize(np.ascontiguousarray(data), kind)
            data = export.convert.quants.dequantize(packed, kind)
        w.copy_(torch.from_numpy(data.reshape(w.shape).astype(np.float32)))

    def write(self, path, arch, fill):
        del path, arch, fill


def rounded(m, kind):
    """A copy of the model with the weights that a file of this type holds."""
    m = copy.deepcopy(m)
    if kind == "f32":
        return m
    text = "q4_0" if kind == "3bit" else kind
    plan, Rounding.three = export.convert.Plan, kind == "3bit"
    export.convert.Plan = Rounding
    try:
        export.write_plans(m, text, "f16" if kind == "f16" else "q8_0")
    finally:
        export.convert.Plan = plan
    m.tie_weights()
    return m


class Reader:
    """Prompts, media and greedy answers."""

    def __init__(self, m, folder):
        self.model, self.folder = m, folder
        self.tokens = tokens.Tokens(common.TOKENIZER)
        self.template = jinja2.Environment().from_string(
            (export.HERE / "chat_template.jinja").read_text()
        )
        self.hear = Gemma4AudioFeatureExtractor()
        self.see = Gemma4ImageProcessorPil(max_soft_tokens=70)

    def text(self, line):
        content = []
        for part in line["user"]:
            kind, value = next(iter(part.items()))
            content.append({"type": kind, "text": value})
        return self.template.render(
            messages=[{"role": "user", "content": content}],
            tools=[TOOLS[n] for n in line["tools"]] or None,
            bos_token="<bos>",
            add_generation_prompt=True,
        )

    def inputs(self, line):
        """Ids with soft-token places, and the media."""
        text, more = self.text(line), {}
        for part in line["user"]:
            if "audio" in part:
                samples, _ = soundfile.read(self.folder / part["audio"], dtype="float32")
                out = self.hear([samples], sampling_rate=16000)
                x, mask = (torch.tensor(out[f"input_features{s}"]) for s in ("", "_mask"))
                more |= {"input_features": x.float(), "input_features_mask": mask}
                count = -(-(-(-int(mask.sum()) // 2)) // 2)
                text = text.replace("<|audio|>", "<|audio>" + "<|audio|>" * count + "<audio|>")
            if "image" in part:
                picture = Image.open(self.folder / part["image"]).convert("RGB")
                out = self.see([picture], return_tensors="pt")
                more["pixel_values"] = out["pixel_values"]
                more["image_position_ids"] = out["image_position_ids"]
                count = int(out["num_soft_tokens_per_image"][0])
                text = text.replace("<|image|>", "<|image>" + "<|image|>" * count + "<image|>")
        return torch.tensor([self.tokens.encode(text)]), more

    @torch.no_grad()
    def answer(self, line):
        """Greedy decoding up to a stop token."""
        ids, more = self.inputs(line)
        out, cache = [], None
        while len(out) < LONGEST:
            step = {"input_ids": ids, "past_key_values": cache, "use_cache": True}
            made = self.model(**step, **(more if cache is None else {}))
            cache, z = made.past_key_values, made.logits[0, -1]
            z[[tokens.AUDIO, tokens.IMAGE]] = -1e9
            token = int(z.argmax())
            if token in STOPS:
                break
            out.append(token)
            ids = torch.tensor([[token]])
        return self.tokens.decode(out)


def boxes(text):
    return [list(map(int, b)) for b in re.findall(r"\[(\d+), (\d+), (\d+), (\d+)\]", text)]


def right(line, said):
    """Exact; for boxes: the same labels in order, every overlap at least one half."""
    if line["task"] != "detect":
        return said == line["expect"]
    wanted, got = boxes(line["expect"]), boxes(said)
    labels = [re.findall(r'"label": "([^"]*)"', t) for t in (line["expect"], said)]
    close = all(joint.overlap(a, b) >= 0.5 for a, b in zip(wanted, got))
    return labels[0] == labels[1] and len(wanted) == len(got) and close


def interval(good, count):
    """Wilson's 95 % interval in per cent."""
    z, p = 1.96, good / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * ((p * (1 - p) + z * z / (4 * count)) / count) ** 0.5 / (1 + z * z / count)
    return f"{100 * (middle - half):.0f}..{100 * (middle + half):.0f}"


def groups(line):
    """Rows of the table that a line counts in."""
    if line["group"] in ("seen", "unseen", "long"):
        return [f"{line['task']}, {line['group']} voices" if line["group"] != "long" else "transcribe, two sentences"]
    if line["group"] == "picture":
        return [line["task"], "pictures without boxes"] if line["task"] != "detect" else ["detect"]
    return [f"typed: {line['task']}"]


def score(reader, lines, path):
    """Counts by row, and word errors of transcripts by voices."""
    table, words = {}, {}
    with open(path, "w") as log:
        for line in lines:
            said = reader.answer(line)
            ok = right(line, said)
            log.write(json.dumps({"id": line["id"], "said": said, "right": ok}) + "\n")
            for row in groups(line):
                good, count = table.get(row, (0, 0))
                table[row] = good + ok, count + 1
            if line["task"] == "transcribe":
                wrong, count = words.get(line["group"], (0, 0))
                a, b = line["expect"].split(), said.split()
                words[line["group"]] = wrong + audio.distance(a, b), count + len(a)
    return table, words


def main():
    folder, kinds = Path(sys.argv[1]), sys.argv[2:] or ["f16", "q8_0", "q4_0", "3bit"]
    lines = [json.loads(l) for l in (folder / "manifest.jsonl").read_text().splitlines()]
    whole = gather.model()
    for kind in kinds:
        reader = Reader(rounded(whole, kind), folder)
        table, words = score(reader, lines, common.WORK / f"answers-{kind}.jsonl")
        print(f"\n{kind}")
        for row, (good, count) in table.items():
            print(f"| {row} | {good}/{count} | {100 * good / count:.0f} % ({interval(good, count)}) |")
        for group, (wrong, count) in words.items():
            print(f"| word error rate, {group} | {wrong}/{count} | {100 * wrong / count:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
