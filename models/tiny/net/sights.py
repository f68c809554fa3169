"""The vision tower for training, and batches of drawn scenes.

In:  `Scene` values of synth.pictures.
Out: patches, soft tokens in the decoder's embedding space, and the tower's losses.
Invariant: equal to transformers' `Gemma4VisionModel` up to rounding; all pictures of one batch
have the same grid.
"""

import numpy as np
import torch
import torch.nn.functional as F

from net.ears import norm
from synth import pictures

PATCH = 16


def patches(pixels):
    """Pixels (h, w, 3) uint8 -> patches (n, 768) in 0..1 and positions (n, 2), x first."""
    h, w = pixels.shape[0] // PATCH, pixels.shape[1] // PATCH
    x = torch.from_numpy(pixels.copy()).float() / 255
    x = x.view(h, PATCH, w, PATCH, 3).permute(0, 2, 1, 3, 4).reshape(h * w, -1)
    i = torch.arange(h * w)
    return x, torch.stack([i % w, i // w], 1)


def linear(c, x):
    return F.linear(x, c.linear.weight)


def rotate(x, cos, sin):
    """Both axes at once: each half of the head is turned by its own angles."""
    b, n, heads, size = x.shape
    x = x.view(b, n, heads, 2, 2, size // 4)
    first, second = x[..., 0, :], x[..., 1, :]
    out = torch.stack([first * cos - second * sin, second * cos + first * sin], -2)
    return out.view(b, n, heads, size).transpose(1, 2)


def layer(l, x, cos, sin):
    a = l.self_attn
    b, n, width = x.shape
    h = norm(x, l.input_layernorm.weight)
    split = lambda c: linear(c, h).view(b, n, -1, a.head_dim)
    q = rotate(norm(split(a.q_proj), a.q_norm.weight), cos, sin)
    k = rotate(norm(split(a.k_proj), a.k_norm.weight), cos, sin)
    v = norm(split(a.v_proj)).transpose(1, 2)
    o = F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).reshape(b, n, -1)
    x = x + norm(linear(a.o_proj, o), l.post_attention_layernorm.weight)
    h, m = norm(x, l.pre_feedforward_layernorm.weight), l.mlp
    h = linear(m.down_proj, F.gelu(linear(m.gate_proj, h), approximate="tanh") * linear(m.up_proj, h))
    return x + norm(h, l.post_feedforward_layernorm.weight)


def tower(t, x, positions, grid):
    """(B, n, 768) -> (B, soft tokens, width) after the embedder's norm. grid in soft tokens."""
    width, height = grid
    table = t.patch_embedder.position_embedding_table
    at = F.embedding(positions[:, 0], table[0]) + F.embedding(positions[:, 1], table[1])
    h = F.linear(2 * (x - 0.5), t.patch_embedder.input_proj.weight) + at
    angle = positions[:, None, :, None].float() * t.encoder.rotary_emb.inv_freq
    cos, sin = angle.cos(), angle.sin()
    for l in t.encoder.layers:
        h = layer(l, h, cos, sin)
    h = h.view(len(x), height, 3, width, 3, -1).mean((2, 4)).flatten(1, 2)
    return norm(h * h.shape[-1] ** 0.5)


def soft_tokens(model, x, positions, grid):
    h = tower(model.vision_tower, x, positions, grid)
    return F.linear(h, model.embed_vision.embedding_projection.weight), h


def signs_of(s, count=pictures.SIGN_SLOTS):
    """Character classes of the printed text, padded with 0."""
    ids = [pictures.CHARACTERS.index(c) + 1 for c in s.text[:count]]
    return ids + [0] * (count - len(ids))


def labels(scenes):
    """Colour, shape, box, text of every soft token; 0 where there is nothing."""
    cells = torch.stack([torch.from_numpy(pictures.cells(s)) for s in scenes])
    owner = torch.stack([torch.from_numpy(pictures.owners(s)) for s in scenes])
    boxes = torch.zeros(*cells.shape, 4)
    signs = torch.zeros(*cells.shape, pictures.SIGN_SLOTS, dtype=torch.long)
    for i, s in enumerate(scenes):
        for j, t in enumerate(s.things):
            mine = owner[i] == j + 1
            boxes[i][mine] = torch.tensor(pictures.box(s, t)) / 1000
            if t.kind == "text":
                signs[i][mine] = torch.tensor(signs_of(s))
    shape = torch.where(cells > 0, torch.where(cells == pictures.TEXT, 4, (cells - 1) % 3 + 1), 0)
    color = torch.where((cells > 0) & (cells < pictures.TEXT), (cells - 1) // 3 + 1, 0)
    return {"shape": shape, "color": color, "box": boxes, "sign": signs}


class Heads(torch.nn.Module):
    """Throw-away outputs; colour and shape are read off the decoder's own token frame."""

    def __init__(self, width, color_pieces, shape_pieces, frame):
        super().__init__()
        self.register_buffer("colors", frame[color_pieces].clone())
        self.register_buffer("shapes", frame[shape_pieces].clone())
        self.none = torch.nn.Parameter(torch.zeros(2))
        self.box = torch.nn.Sequential(
            torch.nn.Linear(width, 64), torch.nn.GELU(), torch.nn.Linear(64, 4)
        )
        self.sign = torch.nn.Linear(width, pictures.SIGN_SLOTS * (len(pictures.CHARACTERS) + 1))

    def read(self, soft, rows, which):
        none = self.none[which].expand(*soft.shape[:-1], 1)
        return torch.cat([none, F.linear(soft, rows)], -1)


def losses(heads, soft, h, wanted):
    """Cross entropies of colour, shape and characters, absolute error of the box."""
    out = {}
    for which, (name, rows) in enumerate((("color", heads.colors), ("shape", heads.shapes))):
        z = heads.read(soft, rows, which).flatten(0, 1)
        weight = torch.ones(len(rows) + 1)
        weight[0] = 0.3
        out[name] = F.cross_entropy(z, wanted[name].flatten(), weight=weight)
    inside = wanted["shape"] > 0
    out["box"] = F.l1_loss(heads.box(h[inside]), wanted["box"][inside])
    text = wanted["shape"] == 4
    if text.any():
        z = heads.sign(h[text]).view(-1, len(pictures.CHARACTERS) + 1)
        out["sign"] = F.cross_entropy(z, wanted["sign"][text].flatten())
    return out


def batch(r, size):
    """Fresh scenes that share a grid, with their patches."""
    grid = r.choice(pictures.GRIDS)
    scenes = [pictures.scene(r, grid) for _ in range(size)]
    drawn = [patches(pictures.seen(r, s)) for s in scenes]
    return scenes, torch.stack([p for p, _ in drawn]), drawn[0][1], grid
