"""The tokenizer: BPE with byte fallback under Gemma's control-token names, 1,664 pieces.

In:  the sentences that the other generators make.
Out: `tokenizer.json` of the Hugging Face library.
Invariant: every spoken word is one piece, with and without a leading space; digits stay single.
"""

import json
import random
import re
from pathlib import Path

from tokenizers import Regex
from tokenizers import Tokenizer
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import trainers

from synth import pictures
from synth import talk
from synth import world

SPECIAL = (
    '<pad> <eos> <bos> <unk> <mask> <|turn> <turn|> <|tool> <tool|> <|tool_call> <tool_call|> '
    '<|tool_response> <tool_response|> <|"|> <|think|> <|channel> <channel|> <|image> <|image|> '
    "<image|> <|audio> <|audio|> <audio|> <|video|>"
).split()
ID = {t: i for i, t in enumerate(SPECIAL)}
PAD, EOS, BOS, TURN, END = ID["<pad>"], ID["<eos>"], ID["<bos>"], ID["<|turn>"], ID["<turn|>"]
AUDIO, IMAGE, WAIT = ID["<|audio|>"], ID["<|image|>"], ID["<|tool_response>"]
# Kept visible to parsers; the other special tokens are control tokens.
VISIBLE = '<|tool_call> <tool_call|> <|tool_response> <tool_response|> <|"|> <|channel> <channel|>'.split()
SIZE = 1664
# Merges never cross these borders, so BPE over whole texts gives the same pieces.
BORDERS = "\u2581?[A-Za-z_]+|[0-9]|\n+|\u2581|[^A-Za-z_0-9\n\u2581]+"


def spoken_words():
    """Every word that the speech generator can say."""
    r = random.Random(3)
    words = {w for _ in range(40000) for w in world.draw(r).words.split()}
    words |= {w for n in range(100) for w in world.number_words(n).split()}
    words |= {w for q, _ in world.SPOKEN_FACTS for w in q.split()}
    return sorted(words)


def pictures_text(r):
    """What is asked about pictures, and the answers."""
    texts = []
    for _ in range(4000):
        scene = pictures.scene(r)
        texts += [text for _ in range(2) for text in pictures.question(r, scene)]
    return texts


def corpus():
    """Training text for the merges: what the model will read and write."""
    r = random.Random(5)
    texts = [text + answer for _ in range(9000) for text, answer in talk.conversation(r)]
    texts += [ask + form for ask in talk.ASK_WORDS for form in talk.ASK_FORMAT] * 60
    for word in spoken_words():
        texts += [word, " " + word] * 150 + [" " + word.capitalize(), word.capitalize()] * 40
    texts += pictures_text(r)
    texts += ["\n", "\n\n"] * 50
    texts.append("The quick brown fox jumps over the lazy dog. 0123456789 ?:;,.'\"()[]{}<>|/\\+-*=_#%&@$~^`")
    return texts


def build(path):
    """Trains the merges and writes the tokenizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(BORDERS), "isolated")
    marks = re.compile("|".join(re.escape(s) for s in sorted(SPECIAL, key=len, reverse=True)))
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - 258, special_tokens=SPECIAL, min_frequency=3, show_progress=False
    )
    pieces = [p for t in corpus() for p in marks.split(t) if p]
    tokenizer.train_from_iterator(pieces, trainer)
    j = json.loads(tokenizer.to_str())
    learned = [t for t, _ in sorted(j["model"]["vocab"].items(), key=lambda x: x[1])]
    learned = [t for t in learned if t not in ID and t not in ("\n", "\n\n")]
    vocabulary = SPECIAL + [f"<0x{i:02X}>" for i in range(256)] + ["\n", "\n\n"] + learned
    merges = [m if isinstance(m, list) else m.split(" ") for m in j["model"]["merges"]]
    if ["\n", "\n"] not in merges:
        merges.append(["\n", "\n"])
    j["model"]["vocab"] = {t: i for i, t in enumerate(vocabulary)}
    j["model"]["merges"] = merges
    j["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    replace = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    steps = [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]
    j["decoder"] = {"type": "Sequence", "decoders": steps}
    for added in j["added_tokens"]:
        added["id"] = ID[added["content"]]
    Path(path).write_text(json.dumps(j, ensure_ascii=False, indent=0))
    return len(vocabulary)


class Tokens:
    """The tokenizer with the calls that training needs."""

    def __init__(self, path):
        self.inner = Tokenizer.from_file(str(path))
        self.size = self.inner.get_vocab_size()
        self.memory = {}

    def encode(self, text):
        """Ids of a prompt, special tokens included; repeated texts are remembered."""
        ids = self.memory.get(text)
        if ids is None:
            ids = self.inner.encode(text, add_special_tokens=False).ids
            if len(self.memory) < 200000:
                self.memory[text] = ids
        return list(ids)

    def decode(self, ids):
        return self.inner.decode(ids, skip_special_tokens=False)

    def word(self, word):
        """The one piece that stands for a spoken word after a space."""
        ids = self.encode(" " + word)
        if len(ids) != 1:
            raise ValueError(f"'{word}' is not one piece")
        return ids[0]
