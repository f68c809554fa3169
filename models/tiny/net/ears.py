"""The audio tower for training: the same parameters and results as the reference, less work.

In:  log-mel batches (utterances, frames, 128) with their mask.
Out: soft tokens in the decoder's embedding space, and the tower's losses.
Invariant: equal to transformers' `Gemma4AudioModel` up to rounding (checked by `train.check`).
"""


import torch
import torch.nn.functional as F

CHUNK = 12


class Norm(torch.autograd.Function):
    """RMS norm with half the memory traffic of the library's backward pass."""

    @staticmethod
    def forward(ctx, x, weight):
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = size.square_().div_(x.shape[-1]).add_(1e-6).rsqrt_()
        h = x * scale
        ctx.save_for_backward(h, scale, weight)
        return h if weight is None else h * weight

    @staticmethod
    def backward(ctx, d):
        h, scale, weight = ctx.saved_tensors
        product, d_weight = d * h, None
        if weight is None:
            along = product.sum(-1, keepdim=True)
        else:
            d_weight = product.flatten(0, -2).sum(0)
            along = product @ weight[:, None]
            d = d * weight
        return torch.addcmul(d, h, along, value=-1 / h.shape[-1]).mul_(scale), d_weight


def norm(x, weight=None):
    return Norm.apply(x, weight)


def feed_forward(f, x):
    h = F.silu(F.linear(norm(x, f.pre_layer_norm.weight), f.ffw_layer_1.linear.weight))
    h = norm(F.linear(h, f.ffw_layer_2.linear.weight), f.post_layer_norm.weight)
    return torch.add(x, h, alpha=f.post_layer_scale)


def windows(x, heads):
    """(B, T, H) -> (B, heads, chunks, 24, D): every chunk after the one before it."""
    b, t, _ = x.shape
    x = F.pad(x, (0, 0, CHUNK, 0)).view(b, t // CHUNK + 1, CHUNK, heads, -1)
    return torch.cat([x[:, :-1], x[:, 1:]], 2).permute(0, 3, 1, 2, 4)


def attention(a, x, position, bias):
    b, t, _ = x.shape
    heads, size, chunks = a.num_heads, a.head_dim, t // CHUNK
    scale = a.q_scale * F.softplus(a.per_dim_scale)
    q = F.linear(x, a.q_proj.linear.weight).view(b, chunks, CHUNK, heads, size) * scale
    q = q.permute(0, 3, 1, 2, 4)
    k = windows(F.linear(x, a.k_proj.linear.weight) * a.k_scale, heads)
    v = windows(F.linear(x, a.v_proj.linear.weight), heads)
    relative = F.linear(position, a.relative_k_proj.weight).view(-1, heads, size)
    near = q.reshape(b, heads, t, size) @ relative.permute(1, 2, 0)
    near = F.pad(near.view(b, heads, chunks, CHUNK, -1), (0, 2 * CHUNK + 1 - near.shape[-1]))
    near = near.view(b, heads, chunks, -1)[..., : 2 * CHUNK * CHUNK]
    score = q @ k.transpose(-1, -2) + near.view(b, heads, chunks, CHUNK, 2 * CHUNK)
    cap = a.attention_logits_soft_cap
    weight = torch.softmax(torch.tanh(score / cap) * cap + bias, -1)
    out = (weight @ v).permute(0, 2, 3, 1, 4).reshape(b, t, heads * size)
    return F.linear(out, a.post.linear.weight)


def convolution(c, x):
    h = F.glu(F.linear(norm(x, c.pre_layer_norm.weight), c.linear_start.linear.weight), -1)
    w = c.depthwise_conv1d.weight[:, 0]
    t, size = h.shape[1], w.shape[1]
    padded = F.pad(h, (0, 0, size - 1, 0))
    y = padded[:, :t] * w[:, 0]
    for j in range(1, size):
        y = torch.addcmul(y, padded[:, j : j + t], w[:, j])
    return x + F.linear(F.silu(norm(y, c.conv_norm.weight)), c.linear_end.linear.weight)


def first_convolution(layer, x):
    """(B, T, 128) -> (B, T/2, 64, 128). Its filters stay as they were drawn: no gradient."""
    b, t, bins = x.shape
    with torch.no_grad():
        p = F.pad(x, (1, 1, 1, 1))
        st = p.stride()
        shape = (b, t // 2, bins // 2, 3, 3)
        seen = p.as_strided(shape, (st[0], 2 * st[1], 2 * st[2], st[1], st[2])).reshape(-1, 9)
        h = seen @ layer.conv.weight.view(-1, 9).t()
        h = F.layer_norm(h, (h.shape[1],), layer.norm.weight, None, layer.norm.eps)
        return F.relu_(h).view(b, t // 2, bins // 2, -1)


def subsample(s, x, mask):
    """Two strided convolutions: four frames become one token."""
    h = first_convolution(s.layer0, x * mask[:, :, None])
    mask = mask[:, ::2]
    h = h.mul_(mask[:, :, None, None]).permute(0, 3, 1, 2)
    weight = s.layer1.conv.weight.contiguous(memory_format=torch.channels_last)
    h = F.conv2d(h, weight, None, 2, 1).permute(0, 2, 3, 1)
    h = F.relu(F.layer_norm(h, (h.shape[-1],), s.layer1.norm.weight, None, s.layer1.norm.eps))
    return F.linear(h.flatten(2), s.input_proj_linear.weight), mask[:, ::2]


def bias_of(mask):
    """Additive mask (B, 1, chunks, 12, 24): itself and eleven before, valid tokens only."""
    b, t = mask.shape
    i = torch.arange(CHUNK)[:, None]
    j = torch.arange(2 * CHUNK)[None] - CHUNK
    near = (i >= j) & (i - j < CHUNK)
    valid = F.pad(mask, (CHUNK, 0)).view(b, -1, CHUNK)
    valid = torch.cat([valid[:, :-1], valid[:, 1:]], 2)
    return torch.where(near & valid[:, None, :, None, :], 0.0, -1e9)


def layer(l, h, position, bias):
    h = feed_forward(l.feed_forward1, h)
    a = attention(l.self_attn, norm(h, l.norm_pre_attn.weight), position, bias)
    h = h + norm(a, l.norm_post_attn.weight)
    return norm(feed_forward(l.feed_forward2, convolution(l.lconv1d, h)), l.norm_out.weight)


def tower(model, x, mask):
    """Frames (B, T, 128), T a multiple of 48 -> (B, T/4, 192) after the embedder's norm, mask."""
    h, kept = subsample(model.subsample_conv_projection, x, mask)
    position, bias = model.rel_pos_enc(h), bias_of(kept)
    for l in model.layers:
        h = layer(l, h, position, bias)
    return norm(model.output_proj(h)), kept


def soft_tokens(model, x, mask):
    """Soft tokens in the embedding space, and which of them are real."""
    h, kept = tower(model.audio_tower, x, mask)
    return F.linear(h, model.embed_audio.embedding_projection.weight), h, kept


class Heads(torch.nn.Module):
    """Throw-away outputs: phones of every token; words read off the embedding itself."""

    def __init__(self, phones, pieces, frame):
        super().__init__()
        self.phones = torch.nn.Linear(192, phones)
        self.bias = torch.nn.Parameter(torch.zeros(len(pieces)))
        self.register_buffer("frame", frame[pieces].clone())

    def words(self, soft):
        """Scores of blank (first) and every word: how far the soft token points at its piece."""
        return F.linear(soft, self.frame) + self.bias


def losses(heads, soft, h, kept, batch, ctc):
    """Cross entropy of phones and words of every token, and CTC over words."""
    out = {}
    phones = heads.phones(h).flatten(0, 1)
    out["phone"] = F.cross_entropy(phones, batch["phones"].flatten(), ignore_index=-100)
    scores = heads.words(soft)
    labels = batch["spoken"].flatten()
    weight = torch.where(labels > 0, 1.0, 0.3) * (labels >= 0)
    words = F.cross_entropy(scores.flatten(0, 1), labels, ignore_index=-100, reduction="none")
    out["word"] = (words * weight).sum() / weight.sum()
    if ctc:
        targets = batch["targets"]
        out["ctc"] = F.ctc_loss(
            scores.log_softmax(-1).transpose(0, 1),
            torch.cat(targets),
            kept.sum(1),
            torch.tensor([len(t) for t in targets]),
            zero_infinity=True,
        )
    return out


def greedy(scores, kept):
    """Words by CTC's rule: repeats merged, blanks dropped."""
    out = []
    for row, mask in zip(scores.argmax(-1), kept):
        last, words = 0, []
        for k in row[mask].tolist():
            if k != last and k:
                words.append(k)
            last = k
        out.append(words)
    return out


