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
MIDDLES = (torch.arange(pictures.STEPS) + 0.5) / pictures.STEPS


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
    return F.linear(h, model.embed_vision.embedding_projection.weight)


def labels(scenes):
    """Colour, shape, box, digit or word of every soft token; 0 where there is nothing."""
    cells = torch.stack([torch.from_numpy(pictures.cells(s)) for s in scenes])
    owner = torch.stack([torch.from_numpy(pictures.owners(s)) for s in scenes])
    boxes = torch.zeros(*cells.shape, 4)
    signs = torch.stack([torch.from_numpy(pictures.printed(s)) for s in scenes])
    for i, s in enumerate(scenes):
        for j, t in enumerate(s.things):
            mine = owner[i] == j + 1
            boxes[i][mine] = torch.tensor(pictures.box(s, t)) / 1000
    shape = torch.where(cells > 0, torch.where(cells == pictures.TEXT, 4, (cells - 1) % 3 + 1), 0)
    color = torch.where((cells > 0) & (cells < pictures.TEXT), (cells - 1) // 3 + 1, 0)
    return {"shape": shape, "color": color, "box": boxes, "sign": signs}


class Heads(torch.nn.Module):
    """Throw-away outputs, all read off the decoder's own token frame.

    Each side of the box is a distribution over steps along the picture: 100 pieces that nothing
    else uses stand for the steps of y0, x0, y1, x1.
    """

    def __init__(self, color_pieces, shape_pieces, sign_pieces, step_pieces, frame):
        super().__init__()
        self.register_buffer("colors", frame[color_pieces].clone())
        self.register_buffer("shapes", frame[shape_pieces].clone())
        self.register_buffer("signs", frame[sign_pieces].clone())
        self.register_buffer("steps", frame[step_pieces].clone())
        self.none = torch.nn.Parameter(torch.zeros(3))

    def sides(self, soft):
        """Log shares of the steps of y0, x0, y1, x1."""
        return F.linear(soft, self.steps).unflatten(-1, (4, pictures.STEPS)).log_softmax(-1)

    def read(self, soft, rows, which):
        none = self.none[which].expand(*soft.shape[:-1], 1)
        return torch.cat([none, F.linear(soft, rows)], -1)


def losses(heads, soft, wanted):
    """Cross entropies of colour, shape, print and the sides of the box."""
    out = {}
    kinds = (("color", heads.colors), ("shape", heads.shapes), ("sign", heads.signs))
    for which, (name, rows) in enumerate(kinds):
        z = heads.read(soft, rows, which).flatten(0, 1)
        weight = torch.ones(len(rows) + 1)
        weight[0] = 0.3
        out[name] = F.cross_entropy(z, wanted[name].flatten(), weight=weight)
    inside = wanted["shape"] > 0
    off = (wanted["box"][inside][..., None] - MIDDLES) * pictures.STEPS
    near = torch.softmax(-off.square(), -1)
    out["box"] = -(near * (heads.sides(soft[inside]) - near.clamp_min(1e-9).log())).sum(-1).mean()
    return out


def imitate(heads, g, s):
    """Soft tokens of one scene as a good tower would make them, with some of its doubts."""
    wanted = {k: v[0] for k, v in labels([s]).items()}
    count = len(wanted["color"])
    inside = wanted["shape"] > 0
    out = torch.randn(count, heads.steps.shape[1], generator=g) * 0.3
    out += torch.randn(1, heads.steps.shape[1], generator=g) * 0.3
    for name, rows in (("color", heads.colors), ("shape", heads.shapes), ("sign", heads.signs)):
        label = wanted[name]
        slip = torch.rand(count, generator=g) < 0.04
        label = torch.where(slip & (label > 0), torch.randint(len(rows), (count,), generator=g), label)
        level = (6 + 7 * torch.rand(1, generator=g)) * (0.6 + 0.5 * torch.rand(count, generator=g))
        out += F.embedding(label, F.pad(rows, (0, 0, 1, 0))) * level[:, None]
    box = wanted["box"][:, :, None] + 0.012 * torch.randn(count, 4, 1, generator=g)
    near = (6 - ((box - MIDDLES) * pictures.STEPS).square()).clamp_min(0) * inside[:, None, None]
    return out + near.flatten(1) @ heads.steps * (0.8 + 0.6 * torch.rand(1, generator=g))


def batch(r, size):
    """Fresh scenes that share a grid, with their patches."""
    grid = r.choice(pictures.GRIDS)
    scenes = [pictures.scene(r, grid) for _ in range(size)]
    drawn = [patches(pictures.seen(r, s)) for s in scenes]
    return scenes, torch.stack([p for p, _ in drawn]), drawn[0][1], grid
