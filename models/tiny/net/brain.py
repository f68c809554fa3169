"""The decoder for training: right-padded batches, no cache, upper layers only where an answer is.

In:  token ids, embeddings of soft tokens, the positions whose next token is asked for.
Out: final hidden states of those positions only.
Invariant: equal to transformers' `Gemma4ForConditionalGeneration` up to rounding. Layers that
share K and V are computed for the asked positions alone: the others cannot influence them.
"""

import torch
import torch.nn.functional as F

from net.ears import norm


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def pick(x, at):
    """Rows (B, N, ...) of x (B, T, ...) at positions (B, N)."""
    shape = at.shape + (1,) * (x.ndim - 2)
    return x.gather(1, at.view(shape).expand(*at.shape, *x.shape[2:]))


def queries(a, h, cos, sin):
    b, n, _ = h.shape
    q = norm(F.linear(h, a.q_proj.weight).view(b, n, -1, a.head_dim), a.q_norm.weight)
    return rotate(q.transpose(1, 2), cos, sin)


def keys(a, h, cos, sin):
    b, t, _ = h.shape
    k = norm(F.linear(h, a.k_proj.weight).view(b, t, -1, a.head_dim), a.k_norm.weight)
    v = norm(F.linear(h, a.v_proj.weight).view(b, t, -1, a.head_dim))
    return rotate(k.transpose(1, 2), cos, sin), v.transpose(1, 2)


def after(l, x, q, kv, mask, ple):
    """Everything of a layer past its queries, keys and values."""
    b, n, _ = x.shape
    o = F.scaled_dot_product_attention(q, *kv, attn_mask=mask, scale=1.0, enable_gqa=True)
    o = F.linear(o.transpose(1, 2).reshape(b, n, -1), l.self_attn.o_proj.weight)
    x = x + norm(o, l.post_attention_layernorm.weight)
    h, m = norm(x, l.pre_feedforward_layernorm.weight), l.mlp
    h = F.gelu(F.linear(h, m.gate_proj.weight), approximate="tanh") * F.linear(h, m.up_proj.weight)
    x = x + norm(F.linear(h, m.down_proj.weight), l.post_feedforward_layernorm.weight)
    h = F.gelu(F.linear(x, l.per_layer_input_gate.weight), approximate="tanh") * ple
    h = F.linear(h, l.per_layer_projection.weight)
    return (x + norm(h, l.post_per_layer_input_norm.weight)) * l.layer_scalar


class Tables:
    """Rotations and masks of one batch, by attention type."""

    def __init__(self, lm, length, at):
        i = torch.arange(length)
        distance = i[:, None] - i[None]
        window = lm.config.sliding_window
        near = {"full_attention": distance >= 0}
        near["sliding_attention"] = near["full_attention"] & (distance < window)
        self.rotation, self.mask, self.asked_rotation, self.asked_mask = {}, {}, {}, {}
        for kind, seen in near.items():
            angle = i[:, None].float() * getattr(lm.rotary_emb, f"{kind}_inv_freq")[None]
            angle = torch.cat([angle, angle], -1)
            cos, sin = angle.cos(), angle.sin()
            self.rotation[kind], self.mask[kind] = (cos, sin), seen
            self.asked_rotation[kind] = cos[at][:, None], sin[at][:, None]
            self.asked_mask[kind] = seen[at][:, None]


def embed(lm, ids, places=None, soft=None):
    """Embeddings and per-layer ids; soft tokens use the padding token's per-layer row."""
    if places is None:
        return lm.embed_tokens(ids), ids
    plain = ids.masked_fill(places, 0)
    return lm.embed_tokens(plain).masked_scatter(places[..., None], soft), plain


def forward(lm, embedded, ids, at):
    """Hidden states (B, N, H) at positions `at` (B, N)."""
    c = lm.config
    b, t, _ = embedded.shape
    layers, size = c.num_hidden_layers, c.hidden_size_per_layer_input
    table = lm.embed_tokens_per_layer(ids).view(b, t, layers, size)
    mixed = F.linear(embedded, lm.per_layer_model_projection.weight)
    mixed = (mixed * lm.per_layer_model_projection_scale).view(b, t, layers, size)
    ple = (norm(mixed, lm.per_layer_projection_norm.weight) + table) * lm.per_layer_input_scale
    tables = Tables(lm, t, at)
    last = layers - c.num_kv_shared_layers - 1
    x, shared = embedded, {}
    for n, l in enumerate(lm.layers):
        kind, a = c.layer_types[n], l.self_attn
        if n <= last:
            h = norm(x, l.input_layernorm.weight)
            shared[kind] = keys(a, h, *tables.rotation[kind])
        if n < last:
            q = queries(a, h, *tables.rotation[kind])
            x = after(l, x, q, shared[kind], tables.mask[kind], ple[:, :, n])
            continue
        if n == last:
            x, ple = pick(x, at), pick(ple, at)
        h = norm(x, l.input_layernorm.weight)
        q = queries(a, h, *tables.asked_rotation[kind])
        x = after(l, x, q, shared[kind], tables.asked_mask[kind], ple[:, :, n])
    return norm(x, lm.norm.weight)


def scores(lm, hidden):
    cap = lm.config.final_logit_softcapping
    return torch.tanh(F.linear(hidden, lm.embed_tokens.weight) / cap) * cap
