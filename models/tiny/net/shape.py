"""The tiny model's shape: Gemma 4 E2B's architecture at about six million parameters.

In:  the tokenizer's size.
Out: a `Gemma4Config`, a freshly initialised `Gemma4ForConditionalGeneration`.
Invariant: the two layers before the shared block are sliding then full; every row length is a
multiple of 32; the token embedding is a fixed random frame that all three stages share.
"""

import math

import torch
from transformers import Gemma4Config
from transformers import Gemma4ForConditionalGeneration
from transformers.models.gemma4.configuration_gemma4 import Gemma4AudioConfig
from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
from transformers.models.gemma4.configuration_gemma4 import Gemma4VisionConfig

from synth import tokens

HIDDEN, PLE = 192, 32
LAYERS = "SFSFSSF"
SHARED = 3
HEAD, GLOBAL_HEAD = 64, 128
WINDOW = 256
VISION, VISION_LAYERS, VISION_HEADS = 128, 3, 4
AUDIO, AUDIO_LAYERS, AUDIO_OUT = 128, 6, 192
KIND = {"S": "sliding_attention", "F": "full_attention"}


def text_config(vocabulary):
    return Gemma4TextConfig(
        vocab_size=vocabulary,
        vocab_size_per_layer_input=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=384,
        num_hidden_layers=len(LAYERS),
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=HEAD,
        global_head_dim=GLOBAL_HEAD,
        hidden_size_per_layer_input=PLE,
        num_kv_shared_layers=SHARED,
        use_double_wide_mlp=True,
        sliding_window=WINDOW,
        final_logit_softcapping=30.0,
        max_position_embeddings=4096,
        layer_types=[KIND[k] for k in LAYERS],
    )


def vision_config():
    return Gemma4VisionConfig(
        hidden_size=VISION,
        intermediate_size=256,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=VISION_HEADS,
        num_key_value_heads=VISION_HEADS,
        head_dim=VISION // VISION_HEADS,
        position_embedding_size=256,
        use_clipped_linears=True,
    )


def audio_config():
    return Gemma4AudioConfig(
        hidden_size=AUDIO,
        num_hidden_layers=AUDIO_LAYERS,
        num_attention_heads=4,
        output_proj_dims=AUDIO_OUT,
        use_clipped_linears=True,
    )


def config(vocabulary):
    ids = tokens.ID
    return Gemma4Config(
        text_config=text_config(vocabulary),
        vision_config=vision_config(),
        audio_config=audio_config(),
        boi_token_id=ids["<|image>"],
        eoi_token_id=ids["<image|>"],
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
        boa_token_id=ids["<|audio>"],
        eoa_token_index=ids["<audio|>"],
        audio_token_id=ids["<|audio|>"],
    )


def embedding(vocabulary):
    """The fixed frame: rows of unit length in expectation, nearly orthogonal."""
    g = torch.Generator().manual_seed(20)
    return torch.randn(vocabulary, HIDDEN, generator=g) / math.sqrt(HIDDEN)


def waves(table):
    """Writes sines of the position into the table: channels of its own for each axis."""
    for i, period in enumerate((96, 48, 24, 12, 6)):
        angle = torch.arange(table.shape[1]) * (2 * math.pi / period)
        for axis in (0, 1):
            channel = 1 + 10 * axis + 2 * i
            table[axis, :, channel], table[axis, :, channel + 1] = angle.sin(), angle.cos()


def local_attention(tower):
    """Starts each vision head looking at one neighbour: a convolution to begin with.

    One channel of the position table is a constant; query and key weights turn it into a fixed
    vector whose rotation peaks at the neighbour's offset.
    """
    offsets = [[(-1, 0), (1, 0), (0, -1), (0, 1)], [(-2, 0), (2, 0), (0, -2), (0, 2)]]
    offsets.append([(-1, -1), (1, 1), (4, 0), (0, 4)])
    size = VISION // VISION_HEADS
    half = size // 2
    frequencies = 100.0 ** (-torch.arange(0, half, 2) / half)
    with torch.no_grad():
        table = tower.patch_embedder.position_embedding_table
        table.normal_(0, 0.05)
        table[:, :, 0] = 2.0
        waves(table)
        for layer, heads in zip(tower.encoder.layers, offsets):
            attention = layer.self_attn
            for head, (dx, dy) in enumerate(heads):
                rows = slice(head * size, (head + 1) * size)
                key = torch.cat([torch.ones(half // 2), torch.zeros(half // 2)] * 2)
                query = torch.cat(
                    [
                        torch.cat([(frequencies * d).cos(), (frequencies * d).sin()])
                        for d in (-dx, -dy)
                    ]
                )
                attention.q_proj.linear.weight[rows, 0] = query * 0.25
                attention.k_proj.linear.weight[rows, 0] = key * 0.25


def copying_attention(lm):
    """Starts the decoder's attention soft, with heads that write what they look at.

    Queries and keys are normalised and their product is not scaled down, so at full length they
    would begin as hard, random choices that barely learn.
    """
    last = {}
    with torch.no_grad():
        for l in lm.layers:
            a = l.self_attn
            a.q_norm.weight.fill_(0.4)
            if not a.is_kv_shared_layer:
                a.k_norm.weight.fill_(0.4)
                torch.nn.init.orthogonal_(a.v_proj.weight)
                written = a.v_proj.weight.t()
                last[a.head_dim] = written
            heads = a.o_proj.weight.shape[1] // a.head_dim
            a.o_proj.weight.copy_(last[a.head_dim].repeat(1, heads) / heads)


def fresh(vocabulary, seed=1):
    """An untrained model with the shared token frame."""
    torch.manual_seed(seed)
    model = Gemma4ForConditionalGeneration(config(vocabulary)).float()
    with torch.no_grad():
        text = model.model.language_model
        for name, p in text.named_parameters():
            if p.ndim > 1:
                p.normal_(0, 0.5 / math.sqrt(p.shape[1]) if "per_layer" not in name else 0.04)
        copying_attention(text)
        text.embed_tokens_per_layer.weight.normal_(0, 0.3)
        text.embed_tokens.weight.copy_(embedding(vocabulary))
        for part in (model.model.audio_tower, model.model.vision_tower):
            for p in part.parameters():
                if p.ndim == 2:
                    p.normal_(0, 0.7 / math.sqrt(p.shape[1]))
        for embedder in (model.model.embed_audio, model.model.embed_vision):
            w = embedder.embedding_projection.weight
            w.normal_(0, 1 / math.sqrt(w.shape[1]))
        local_attention(model.model.vision_tower)
    model.tie_weights()
    return model
