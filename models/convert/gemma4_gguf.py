"""Converts a Hugging Face Gemma 4 E2B/E4B model to a text GGUF and an mmproj GGUF.

    python models/convert/gemma4_gguf.py FOLDER --text e2b.gguf --mmproj mmproj.gguf --type q8_0

FOLDER is a checkpoint as transformers saves it (config.json, *.safetensors, tokenizer.json,
chat_template.jinja). Tensors are read from the mapped file, converted and written one at a time,
so the memory needed is that of the largest converted tensor.

As a module: `convert_text(source, path, ...)` and `convert_mmproj(source, path, ...)` with
`Source.from_folder(folder)` or `Source.from_model(model)`, and a `Vocabulary`.

Layouts: names and orders are those that llama.cpp reads (architecture `gemma4`, projectors
`gemma4v` and `gemma4a`). Norms, one-dimensional tensors, convolutions, the picture position table
and the audio input projection stay F32. Two names are swapped in the format and stay so here:
`conv_norm` holds the norm before the convolution module, `norm_conv` the one inside it.

Needs: numpy, gguf, torch; safetensors for folders.
"""

import argparse
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType, quants

TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
# Small and sensitive to rounding: at least eight bits in a four-bit file.
AT_LEAST_8_BIT = re.compile(r"(inp_gate|\.proj|per_layer_model_proj)\.weight$")
ROWS_PER_STEP = 8192
ROPE_UNROTATED = 1e30

NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6
CONTROL_TOKENS = frozenset(
    "<pad> <eos> <bos> <unk> <mask> <|tool> <tool|> <|think|> <|turn> <turn|> <|image> <|audio> "
    "<|image|> <|audio|> <image|> <audio|> <|video|>".split()
)
MARK_TOKENS = frozenset(
    '<|tool_call> <tool_call|> <|tool_response> <tool_response|> <|"|> <|channel> <channel|>'.split()
)


@dataclass
class Vocabulary:
    """Tokens in id order, merges in rank order, and the ids of the roles by name."""

    tokens: list[str]
    merges: list[tuple[str, str]]
    chat_template: str | None = None
    eos: str = "<turn|>"
    types: list[int] = field(default_factory=list)

    def __post_init__(self):
        if not self.types:
            self.types = [token_type(token) for token in self.tokens]

    @staticmethod
    def from_folder(folder: Path) -> "Vocabulary":
        """Reads tokenizer.json and, if there is one, the chat template."""
        model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        pieces = dict(model["model"]["vocab"])
        pieces.update({token["content"]: token["id"] for token in model.get("added_tokens", [])})
        by_id = {index: piece for piece, index in pieces.items()}
        tokens = [by_id.get(i, f"[unused{i}]") for i in range(max(by_id) + 1)]
        merges = [
            tuple(m) if isinstance(m, list) else split_merge(m) for m in model["model"]["merges"]
        ]
        template = folder / "chat_template.jinja"
        text = template.read_text(encoding="utf-8") if template.exists() else None
        return Vocabulary(tokens, merges, text)


def token_type(token: str) -> int:
    """Returns the GGUF token type, which follows from the spelling."""
    if token in CONTROL_TOKENS:
        return CONTROL
    if token in MARK_TOKENS:
        return USER_DEFINED
    return BYTE if re.fullmatch(r"<0x[0-9A-F]{2}>", token) else NORMAL


def split_merge(merge: str) -> tuple[str, str]:
    """Splits `left right` at the first space that is not the first character."""
    at = merge.index(" ", 1)
    return merge[:at], merge[at + 1 :]


@dataclass
class Source:
    """A model's configuration and a way to its tensors by name."""

    config: dict
    names: frozenset[str]
    load: Callable[[str], torch.Tensor]

    @staticmethod
    def from_model(model) -> "Source":
        """Reads a transformers model in memory."""
        state = model.state_dict()
        return Source(model.config.to_dict(), frozenset(state), state.__getitem__)

    @staticmethod
    def from_folder(folder: Path) -> "Source":
        """Reads a saved checkpoint, one shard or several, without loading it."""
        from safetensors import safe_open

        files = [safe_open(path, framework="pt") for path in sorted(folder.glob("*.safetensors"))]
        where = {name: file for file in files for name in file.keys()}
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return Source(config, frozenset(where), lambda name: where[name].get_tensor(name))

    def text_config(self) -> dict:
        """Returns the decoder's configuration, alone or inside a multimodal one."""
        return self.config.get("text_config") or self.config

    def root(self, tail: str) -> str:
        """Returns the prefix of the one tensor whose name ends in `tail`."""
        found = [n for n in self.names if n == tail or n.endswith("." + tail)]
        if len(found) != 1:
            raise SystemExit(f"model has {len(found)} tensors called {tail}, expected 1")
        return found[0][: -len(tail)]


@dataclass
class Tensor:
    """A tensor to write: where it comes from, how it is laid out, whether it may be quantised."""

    name: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], np.ndarray]
    dtype: GGMLQuantizationType

    def encoded(self) -> np.ndarray:
        """Returns the bytes to write, made step by step so that no float copy is held."""
        n_rows = int(np.prod(self.shape[:-1]))
        block, size = GGML_QUANT_SIZES[self.dtype]
        out = np.empty((n_rows, self.shape[-1] // block * size), dtype=np.uint8)
        for begin in range(0, n_rows, ROWS_PER_STEP):
            end = min(begin + ROWS_PER_STEP, n_rows)
            data = quants.quantize(np.ascontiguousarray(self.rows(begin, end)), self.dtype)
            out[begin:end] = data.view(np.uint8).reshape(end - begin, -1)
        return out


class Plan:
    """Collects what a file will hold, then writes it."""

    def __init__(self, source: Source, dtype: str, overrides: dict[str, str] | None = None):
        self.source = source
        self.dtype, self.file_type = TYPES[dtype]
        self.overrides = [(re.compile(k), TYPES[v][0]) for k, v in (overrides or {}).items()]
        self.tensors: list[Tensor] = []

    def add(self, name: str, origin: str, change=None, *, exact: bool = False) -> None:
        """Adds a tensor of the model; `change` rearranges it, `exact` keeps it F32."""
        if origin not in self.source.names:
            raise SystemExit(f"model has no tensor {origin}, expected for {name}")
        change = change or (lambda tensor: tensor)
        shape = tuple(change(self.source.load(origin)).shape)
        cached = []

        def rows(begin: int, end: int) -> np.ndarray:
            if begin == 0:
                cached[:] = [change(self.source.load(origin)).reshape(-1, shape[-1])]
            part = cached[0][begin:end].to(torch.float32).numpy()
            if end >= cached[0].shape[0]:
                cached.clear()
            return part

        self.tensors.append(Tensor(name, shape, rows, self.type_of(name, shape, exact)))

    def add_array(self, name: str, data: np.ndarray) -> None:
        """Adds a generated F32 tensor."""
        table = data.astype(np.float32).reshape(-1, data.shape[-1])
        kind = GGMLQuantizationType.F32
        self.tensors.append(Tensor(name, data.shape, lambda a, b: table[a:b], kind))

    def type_of(self, name: str, shape: tuple, exact: bool) -> GGMLQuantizationType:
        """Returns the type a tensor gets: the file's, unless its kind or row length forbids."""
        if exact or len(shape) < 2 or not name.endswith(".weight"):
            return GGMLQuantizationType.F32
        dtype = self.dtype
        if dtype == GGMLQuantizationType.Q4_0 and AT_LEAST_8_BIT.search(name):
            dtype = GGMLQuantizationType.Q8_0
        for pattern, other in self.overrides:
            if pattern.search(name):
                dtype = other
        if shape[-1] % GGML_QUANT_SIZES[dtype][0] != 0:
            return GGMLQuantizationType.F16
        return dtype

    def write(self, path: Path, arch: str, fill: Callable[[GGUFWriter], None]) -> None:
        """Writes metadata (by `fill`) and all tensors."""
        writer = GGUFWriter(str(path), arch)
        fill(writer)
        writer.add_uint32("general.file_type", int(self.file_type))
        writer.add_uint32("general.quantization_version", 2)
        for t in self.tensors:
            block, size = GGML_QUANT_SIZES[t.dtype]
            nbytes = int(np.prod(t.shape)) // block * size
            shape = t.shape[:-1] + (t.shape[-1] // block * size,)
            writer.add_tensor_info(t.name, shape, np.dtype(np.uint8), nbytes, raw_dtype=t.dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for t in self.tensors:
            writer.write_tensor_data(t.encoded())
        writer.close()


def global_head_dim(text: dict) -> int:
    """Returns the head width of full-attention layers, in either spelling of the configuration."""
    for override in (text.get("per_layer_config") or {}).values():
        if "head_dim" in override:
            return override["head_dim"]
    return text.get("global_head_dim") or text["head_dim"]


def feed_forward_lengths(text: dict) -> list[int]:
    """Returns the MLP width of every layer; KV-shared layers may be twice as wide."""
    n, shared = text["num_hidden_layers"], text.get("num_kv_shared_layers") or 0
    wide = 2 if text.get("use_double_wide_mlp") else 1
    return [text["intermediate_size"] * (wide if i >= n - shared else 1) for i in range(n)]


def rope_factors(text: dict) -> np.ndarray:
    """Returns the frequency divisors of full layers: 1 where dims rotate, huge where not."""
    width = global_head_dim(text)
    part = text["rope_parameters"]["full_attention"].get("partial_rotary_factor", 1.0)
    n_rotated = int(part * width // 2)
    factors = np.full(width // 2, ROPE_UNROTATED)
    factors[:n_rotated] = 1.0
    return factors


def text_metadata(w: GGUFWriter, text: dict, name: str) -> None:
    """Writes the decoder's hyper-parameters."""
    n_layer, arch = text["num_hidden_layers"], "gemma4"
    rope = text["rope_parameters"]
    w.add_string("general.type", "model")
    w.add_string("general.name", name)
    w.add_int32("general.sampling.top_k", 64)
    w.add_float32("general.sampling.top_p", 0.95)
    w.add_float32("general.sampling.temp", 1.0)
    w.add_uint32(f"{arch}.block_count", n_layer)
    w.add_uint32(f"{arch}.context_length", text["max_position_embeddings"])
    w.add_uint32(f"{arch}.embedding_length", text["hidden_size"])
    w.add_array(f"{arch}.feed_forward_length", feed_forward_lengths(text))
    w.add_uint32(f"{arch}.attention.head_count", text["num_attention_heads"])
    w.add_uint32(f"{arch}.attention.head_count_kv", text["num_key_value_heads"])
    for kind in ("key", "value"):
        w.add_uint32(f"{arch}.attention.{kind}_length", global_head_dim(text))
        w.add_uint32(f"{arch}.attention.{kind}_length_swa", text["head_dim"])
    w.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", text["rms_norm_eps"])
    w.add_uint32(f"{arch}.attention.sliding_window", text["sliding_window"])
    sliding = [kind == "sliding_attention" for kind in text["layer_types"]]
    w.add_array(f"{arch}.attention.sliding_window_pattern", sliding)
    w.add_uint32(f"{arch}.attention.shared_kv_layers", text.get("num_kv_shared_layers") or 0)
    w.add_uint32(f"{arch}.embedding_length_per_layer_input", text["hidden_size_per_layer_input"])
    if text.get("final_logit_softcapping"):
        w.add_float32(f"{arch}.final_logit_softcapping", text["final_logit_softcapping"])
    w.add_float32(f"{arch}.rope.freq_base", rope["full_attention"]["rope_theta"])
    w.add_float32(f"{arch}.rope.freq_base_swa", rope["sliding_attention"]["rope_theta"])
    w.add_uint32(f"{arch}.rope.dimension_count", global_head_dim(text))
    w.add_uint32(f"{arch}.rope.dimension_count_swa", text["head_dim"])


def vocabulary_metadata(w: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Writes the tokenizer; scores are constant because merges carry the order."""
    index = {token: i for i, token in enumerate(vocabulary.tokens)}
    w.add_string("tokenizer.ggml.model", "gemma4")
    w.add_array("tokenizer.ggml.tokens", vocabulary.tokens)
    w.add_array("tokenizer.ggml.scores", [-1000.0] * len(vocabulary.tokens))
    w.add_array("tokenizer.ggml.token_type", vocabulary.types)
    w.add_array("tokenizer.ggml.merges", [f"{a} {b}" for a, b in vocabulary.merges])
    roles = {"bos": "<bos>", "eos": vocabulary.eos, "unknown": "<unk>", "padding": "<pad>"}
    for role, token in {**roles, "mask": "<mask>"}.items():
        if token in index:
            w.add_uint32(f"tokenizer.ggml.{role}_token_id", index[token])
    w.add_bool("tokenizer.ggml.add_space_prefix", False)
    w.add_bool("tokenizer.ggml.add_bos_token", True)
    if vocabulary.chat_template:
        w.add_string("tokenizer.chat_template", vocabulary.chat_template)


def layer_tensors(text: dict, layer: int, dead_kv: bool) -> Iterator[tuple[str, str]]:
    """Yields (file name, model name) of one decoder layer, without prefixes."""
    first_shared = text["num_hidden_layers"] - (text.get("num_kv_shared_layers") or 0)
    yield "attn_norm", "input_layernorm.weight"
    yield "attn_q", "self_attn.q_proj.weight"
    yield "attn_q_norm", "self_attn.q_norm.weight"
    if layer < first_shared or dead_kv:
        yield "attn_k", "self_attn.k_proj.weight"
        yield "attn_v", "self_attn.v_proj.weight"
        yield "attn_k_norm", "self_attn.k_norm.weight"
    yield "attn_output", "self_attn.o_proj.weight"
    yield "post_attention_norm", "post_attention_layernorm.weight"
    yield "ffn_norm", "pre_feedforward_layernorm.weight"
    yield "ffn_gate", "mlp.gate_proj.weight"
    yield "ffn_up", "mlp.up_proj.weight"
    yield "ffn_down", "mlp.down_proj.weight"
    yield "post_ffw_norm", "post_feedforward_layernorm.weight"
    yield "inp_gate", "per_layer_input_gate.weight"
    yield "proj", "per_layer_projection.weight"
    yield "post_norm", "post_per_layer_input_norm.weight"
    yield "layer_output_scale", "layer_scalar"


def convert_text(
    source: Source,
    path: Path,
    vocabulary: Vocabulary,
    dtype: str = "bf16",
    *,
    name: str = "Gemma 4",
    overrides: dict[str, str] | None = None,
    dead_kv: bool = False,
) -> None:
    """Writes the decoder. `dead_kv` also writes the unused K/V tensors of KV-shared layers."""
    text, plan = source.text_config(), Plan(source, dtype, overrides)
    root = source.root("embed_tokens_per_layer.weight")
    plan.add("token_embd.weight", root + "embed_tokens.weight")
    plan.add("per_layer_token_embd.weight", root + "embed_tokens_per_layer.weight")
    plan.add("per_layer_model_proj.weight", root + "per_layer_model_projection.weight")
    plan.add("per_layer_proj_norm.weight", root + "per_layer_projection_norm.weight")
    plan.add("output_norm.weight", root + "norm.weight")
    plan.add_array("rope_freqs.weight", rope_factors(text))
    for layer in range(text["num_hidden_layers"]):
        for short, origin in layer_tensors(text, layer, dead_kv):
            plan.add(f"blk.{layer}.{short}.weight", f"{root}layers.{layer}.{origin}")

    def fill(writer: GGUFWriter) -> None:
        text_metadata(writer, text, name)
        vocabulary_metadata(writer, vocabulary)

    plan.write(path, "gemma4", fill)


def add_clipped(plan: Plan, name: str, origin: str) -> None:
    """Adds a clipped linear: its matrix and, where the model has them, four clamp values."""
    plan.add(f"{name}.weight", f"{origin}.linear.weight")
    for clamp in ("input_min", "input_max", "output_min", "output_max"):
        if f"{origin}.{clamp}" in plan.source.names:
            plan.add(f"{name}.{clamp}", f"{origin}.{clamp}", lambda t: t.reshape(1), exact=True)


def add_vision(plan: Plan, config: dict) -> None:
    """Adds the picture encoder and its projector."""
    root = plan.source.root("patch_embedder.position_embedding_table")
    side, n_embd = config["patch_size"], config["hidden_size"]

    def patch_kernel(weight: torch.Tensor) -> torch.Tensor:
        return weight.reshape(n_embd, side, side, 3).permute(0, 3, 1, 2).contiguous()

    kernel = root + "patch_embedder.input_proj.weight"
    plan.add("v.patch_embd.weight", kernel, patch_kernel, exact=True)
    table = root + "patch_embedder.position_embedding_table"
    plan.add("v.position_embd.weight", table, exact=True)
    norms = {
        "ln1": "input_layernorm",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "attn_post_norm": "post_attention_layernorm",
        "ln2": "pre_feedforward_layernorm",
        "ffn_post_norm": "post_feedforward_layernorm",
    }
    linears = {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_out": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for layer in range(config["num_hidden_layers"]):
        block, origin = f"v.blk.{layer}", f"{root}encoder.layers.{layer}"
        for short, long in norms.items():
            plan.add(f"{block}.{short}.weight", f"{origin}.{long}.weight")
        for short, long in linears.items():
            add_clipped(plan, f"{block}.{short}", f"{origin}.{long}")
    embedder = plan.source.root("embed_vision.embedding_projection.weight")
    plan.add("mm.input_projection.weight", embedder + "embed_vision.embedding_projection.weight")


AUDIO_NORMS = {
    "ffn_norm": "feed_forward1.pre_layer_norm",
    "ffn_post_norm": "feed_forward1.post_layer_norm",
    "attn_pre_norm": "norm_pre_attn",
    "attn_post_norm": "norm_post_attn",
    "conv_norm": "lconv1d.pre_layer_norm",
    "norm_conv": "lconv1d.conv_norm",
    "ffn_norm_1": "feed_forward2.pre_layer_norm",
    "ffn_post_norm_1": "feed_forward2.post_layer_norm",
    "ln2": "norm_out",
    "attn_k_rel": "self_attn.relative_k_proj",
}
AUDIO_LINEARS = {
    "ffn_up": "feed_forward1.ffw_layer_1",
    "ffn_down": "feed_forward1.ffw_layer_2",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.post",
    "conv_pw1": "lconv1d.linear_start",
    "conv_pw2": "lconv1d.linear_end",
    "ffn_up_1": "feed_forward2.ffw_layer_1",
    "ffn_down_1": "feed_forward2.ffw_layer_2",
}


def add_audio(plan: Plan, config: dict) -> None:
    """Adds the sound encoder and its projector."""
    root = plan.source.root("subsample_conv_projection.input_proj_linear.weight")
    convs = root + "subsample_conv_projection"
    for i in range(2):
        plan.add(f"a.conv1d.{i}.weight", f"{convs}.layer{i}.conv.weight", exact=True)
        plan.add(f"a.conv1d.{i}.norm.weight", f"{convs}.layer{i}.norm.weight")
    plan.add("a.input_projection.weight", f"{convs}.input_proj_linear.weight", exact=True)
    for layer in range(config["num_hidden_layers"]):
        block, origin = f"a.blk.{layer}", f"{root}layers.{layer}"
        for short, long in AUDIO_NORMS.items():
            plan.add(f"{block}.{short}.weight", f"{origin}.{long}.weight")
        for short, long in AUDIO_LINEARS.items():
            add_clipped(plan, f"{block}.{short}", f"{origin}.{long}")
        scale, depthwise = "self_attn.per_dim_scale", "lconv1d.depthwise_conv1d.weight"
        plan.add(
            f"{block}.per_dim_scale.weight",
            f"{origin}.{scale}",
            lambda t: torch.nn.functional.softplus(t.float()),
        )
        plan.add(
            f"{block}.conv_dw.weight", f"{origin}.{depthwise}", lambda t: t.squeeze(1), exact=True
        )
    plan.add("a.pre_encode.out.weight", root + "output_proj.weight")
    plan.add("a.pre_encode.out.bias", root + "output_proj.bias")
    embedder = plan.source.root("embed_audio.embedding_projection.weight")
    plan.add("mm.a.input_projection.weight", embedder + "embed_audio.embedding_projection.weight")


def encoder_metadata(w: GGUFWriter, kind: str, config: dict, width: int, n_ff: int) -> None:
    """Writes the hyper-parameters that both encoders have."""
    w.add_uint32(f"clip.{kind}.embedding_length", config["hidden_size"])
    w.add_uint32(f"clip.{kind}.feed_forward_length", n_ff)
    w.add_uint32(f"clip.{kind}.block_count", config["num_hidden_layers"])
    w.add_uint32(f"clip.{kind}.projection_dim", width)
    w.add_uint32(f"clip.{kind}.attention.head_count", config["num_attention_heads"])
    w.add_float32(f"clip.{kind}.attention.layer_norm_epsilon", config["rms_norm_eps"])


def convert_mmproj(
    source: Source,
    path: Path,
    dtype: str = "bf16",
    *,
    name: str = "Gemma 4",
    overrides: dict[str, str] | None = None,
) -> None:
    """Writes the encoders that the model has, with their projectors."""
    vision, audio = source.config.get("vision_config"), source.config.get("audio_config")
    if not vision and not audio:
        raise SystemExit("model has neither a picture nor a sound encoder")
    width, plan = source.text_config()["hidden_size"], Plan(source, dtype, overrides)
    if vision:
        add_vision(plan, vision)
    if audio:
        add_audio(plan, audio)

    def fill(w: GGUFWriter) -> None:
        w.add_string("general.type", "mmproj")
        w.add_string("general.name", name)
        w.add_bool("clip.has_vision_encoder", bool(vision))
        w.add_bool("clip.has_audio_encoder", bool(audio))
        if vision:
            w.add_string("clip.vision.projector_type", "gemma4v")
            encoder_metadata(w, "vision", vision, width, vision["intermediate_size"])
            w.add_uint32("clip.vision.image_size", 224)
            w.add_uint32("clip.vision.patch_size", vision["patch_size"])
            w.add_array("clip.vision.image_mean", [0.0, 0.0, 0.0])
            w.add_array("clip.vision.image_std", [1.0, 1.0, 1.0])
        if audio:
            w.add_string("clip.audio.projector_type", "gemma4a")
            encoder_metadata(w, "audio", audio, width, audio["hidden_size"] * 4)
            w.add_uint32("clip.audio.num_mel_bins", 128)

    plan.write(path, "clip", fill)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="checkpoint folder")
    parser.add_argument("--text", type=Path, help="text GGUF to write")
    parser.add_argument("--mmproj", type=Path, help="mmproj GGUF to write")
    parser.add_argument("--type", choices=TYPES, default="bf16")
    parser.add_argument(
        "--tensor-type",
        action="append",
        default=[],
        metavar="PATTERN=TYPE",
        help="type of the tensors whose name matches, e.g. token_embd=q8_0",
    )
    args = parser.parse_args()
    overrides = dict(rule.rsplit("=", 1) for rule in args.tensor_type)
    source, name = Source.from_folder(args.folder), args.folder.resolve().name
    if args.text:
        words = Vocabulary.from_folder(args.folder)
        convert_text(source, args.text, words, args.type, name=name, overrides=overrides)
    if args.mmproj:
        convert_mmproj(source, args.mmproj, args.type, name=name, overrides=overrides)


if __name__ == "__main__":
    main()
