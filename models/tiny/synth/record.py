"""Writes one file of utterances: `python -m synth.record OUT COUNT SEED train|seen|unseen`."""

import pickle
import sys

from synth import speech


def main():
    path, count, seed, split = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    made = speech.make(count, seed, split, keep=split != "train")
    with open(path, "wb") as f:
        pickle.dump(made, f, protocol=5)
    print(path, len(made), "utterances", round(sum(len(u.mel) for u in made) / 6000, 1), "minutes")


if __name__ == "__main__":
    main()
