"""Writes resized.csv: sides and checksums of pictures that transformers has resized.

Run by a person: python make.py > resized.csv
With the name of a file it writes the first, middle and last soft token that the fixture `media`
makes of each of these pictures instead: python make.py soft.npy
Needs torch, torchvision, transformers, numpy; versions in README.md. Soft tokens need what
models/fixtures/make.py needs.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

SHAPES = [
    (640, 480), (480, 640), (4032, 3024), (1920, 1080), (1080, 1920), (2000, 100), (100, 2000),
    (3000, 30), (30, 3000), (1, 1), (2, 1), (1, 3), (7, 5), (16, 16), (48, 48), (47, 49),
    (768, 768), (384, 384), (433, 337), (912, 672), (911, 673), (1000, 1000), (224, 224),
    (333, 777), (60, 50), (1281, 719), (299, 1), (1, 299), (2480, 3508), (96, 48), (512, 513),
    (800, 600), (1366, 768), (640, 64), (1584, 1584), (720, 1280),
]
BUDGETS = [280, 70, 140, 560, 1120]


def mix(z):
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def picture(width, height):
    """Gradients, stripes and noise that wrap around, so that edges are hard."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    noise = mix(((y * width + x) * 3 + c).astype(np.uint64)) % np.uint64(64)
    smooth = x * 255 // width + y // 16 % 2 * 128 + c * 40
    return ((smooth + noise.astype(np.int64)) % 256).astype(np.uint8)


def checksum(values):
    at = np.arange(values.size, dtype=np.uint64)
    return int((mix(at) * (values.reshape(-1).astype(np.uint64) + np.uint64(1))).sum())


def main():
    processor = Gemma4ImageProcessorPil()
    print("width,height,budget,to_width,to_height,n_soft_tokens,checksum_pixels,checksum_patches")
    for i, (width, height) in enumerate(SHAPES):
        budget = BUDGETS[i % len(BUDGETS)]
        source = picture(width, height)
        out = processor(Image.fromarray(source), max_soft_tokens=budget, return_tensors="pt")
        positions = out["image_position_ids"][0]
        n = int((positions[:, 0] >= 0).sum())
        n_x, n_y = (int(v) + 1 for v in positions.max(dim=0).values)
        patches = out["pixel_values"][0, :n]
        assert n == n_x * n_y and positions[:n].tolist() == [[k % n_x, k // n_x] for k in range(n)]
        tokens = int(out["num_soft_tokens_per_image"][0])
        bits = patches.numpy().view(np.uint32)
        values = torch.round(patches * 255).to(torch.uint8).reshape(n_y, n_x, 16, 16, 3)
        pixels = values.permute(0, 2, 1, 3, 4).contiguous().numpy()
        print(f"{width},{height},{budget},{n_x * 16},{n_y * 16},{tokens},{checksum(pixels)},{checksum(bits)}")


def soft_tokens(name):
    folder = Path(__file__).resolve().parents[3] / "models" / "fixtures"
    sys.path.insert(0, str(folder))
    from make import FAMILIES
    from media_goldens import patches, soft_picture
    from random_model import random_model

    model = random_model(FAMILIES["media"], FAMILIES["media"]["seed"])
    n_places = model.model.vision_tower.patch_embedder.position_embedding_table.shape[1]
    rows = []
    for i, (width, height) in enumerate(SHAPES):
        source = Image.fromarray(picture(width, height))
        for budget in sorted(b for b in BUDGETS if b <= BUDGETS[i % len(BUDGETS)])[::-1]:
            values, positions = patches(source, budget)
            # Long strips fit into the table of positions at a smaller budget.
            if int(positions.max()) < n_places:
                break
        else:
            print(width, height, "fits at no budget", file=sys.stderr)
            continue
        soft = soft_picture(model, values, positions)
        rows += [soft[0], soft[len(soft) // 2], soft[-1]]
        print(width, height, budget, tuple(soft.shape), float(soft.std()), file=sys.stderr)
    np.save(name, torch.stack(rows).numpy())


np.seterr(over="ignore")
if len(sys.argv) > 1:
    soft_tokens(sys.argv[1])
else:
    main()
