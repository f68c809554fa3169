"""Writes the GGUF files: `python -m ship.export FOLDER [TEXT_TYPE] [MMPROJ_TYPE]`.

In:  the stages' checkpoints (ship.gather), chat_template.jinja.
Out: FOLDER/culet-tiny-q4_0.gguf and FOLDER/mmproj-culet-tiny-q8_0.gguf, or the types named.
Invariant: the converter is the repository's general one (models/convert).
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE.parent / "convert"))

import gemma4_gguf as convert

from ship import gather
from train import common


def vocabulary():
    """The tokenizer in the converter's form."""
    v = convert.Vocabulary.from_folder(common.WORK)
    v.chat_template = (HERE / "chat_template.jinja").read_text()
    return v


def write_plans(m, text, mmproj, names=(None, None)):
    """Both files; the token table stays at eight bits in the small types: it is the head too."""
    source, overrides = convert.Source.from_model(m), None
    if text == "q4_0":
        overrides = {r"^token_embd": "q8_0"}
    convert.convert_text(
        source, names[0], vocabulary(), text, name="Culet tiny", overrides=overrides
    )
    convert.convert_mmproj(source, names[1], mmproj, name="Culet tiny")


def write(m, folder, text="q4_0", mmproj="q8_0"):
    """Writes the two files and says how large they are."""
    names = folder / f"culet-tiny-{text}.gguf", folder / f"mmproj-culet-tiny-{mmproj}.gguf"
    write_plans(m, text, mmproj, names)
    for path in names:
        print(path, round(path.stat().st_size / 1e6, 2), "MB")


def main():
    types = sys.argv[2:] or []
    write(gather.model(), Path(sys.argv[1]), *types)


if __name__ == "__main__":
    main()
