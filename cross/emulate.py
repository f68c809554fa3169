"""Runs what `cargo xtask dist` made under emulated processors, and compares it with this machine.

    python3 cross/emulate.py aarch64-linux target/release/culet | tee cross/record/aarch64-linux.txt

In: a target's name, the program of this machine, and names of processors if not all are wanted.
Out: a line for each check; status 1 if one failed. The package is looked for in target/dist; QEMU's
user emulation must be installed.
Float weights must agree within KERNEL (the same sums in another order). The tiny model's weights
are quantised, and so are its activations, differently by each kernel: there the best tokens must
agree and the distributions be near (QUANT). Its answers about text, a sound and a picture are told
beside this machine's; they may differ where two words are nearly as good.
"""

import glob
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile

# For each target: QEMU, where its system's libraries and ALSA are, processors, what they have and
# what they lack.
TARGETS = {
    "aarch64-linux": ("qemu-aarch64", "/usr/aarch64-linux-gnu",
                      "target/dist/aarch64-linux/sysroot/usr/lib/aarch64-linux-gnu", [
        ("cortex-a72", [], ["dotprod", "i8mm"]),
        ("neoverse-n1", ["dotprod"], ["i8mm"]),
        ("max", ["dotprod", "i8mm"], []),
    ]),
    "x86_64-linux": ("qemu-x86_64", "/", "", [
        ("Nehalem", ["sse4.2"], ["avx"]),
        ("max", ["avx2"], ["avx512f"]),
    ]),
}
KERNEL = 1e-4
# Least share of equal best tokens, and most mean divergence.
QUANT = (0.9, 0.05)
TINY_IDS = [2, 105, 9, 33, 71, 8, 64, 19, 5, 200, 41]
TINY = ["--model", "models/tiny/culet-tiny-q4_0.gguf",
        "--mmproj", "models/tiny/mmproj-culet-tiny-q8_0.gguf"]
SOUND = "tests/golden/media/sound.wav"
PICTURE = "tests/golden/media/pictures/rgb_50x30.png"
MEDIA = ["models/fixtures/media.gguf", "--mmproj", "models/fixtures/media-mmproj.gguf", "-t", "1"]
ANSWERS = {
    "text": ["What is the capital of France?"],
    "sound": ["--audio", SOUND, "Write down what is said."],
    "picture": ["--image", PICTURE, "What colour is this?"],
}


def read_npy(path):
    """Returns the values of a little-endian float32 array."""
    with open(path, "rb") as file:
        data = file.read()
    assert data[:6] == b"\x93NUMPY" and b"'<f4'" in data[:128], path
    start = 10 + struct.unpack("<H", data[8:10])[0]
    return struct.unpack(f"<{(len(data) - start) // 4}f", data[start:])


def difference(got, expected):
    """Returns the length of the difference, as a part of the expected length."""
    assert len(got) == len(expected), (len(got), len(expected))
    off = sum((a - b) ** 2 for a, b in zip(got, expected))
    return (off / sum(b * b for b in expected)) ** 0.5


def chances(logits):
    """Returns the logarithms of the chances that logits give."""
    top = max(logits)
    total = top + math.log(sum(math.exp(x - top) for x in logits))
    return [x - total for x in logits]


def agreement(got, expected):
    """Returns the share of rows with equal best tokens, and the mean divergence of the rows."""
    n_vocab, n_same, divergence = len(expected) // len(TINY_IDS), 0, 0.0
    for start in range(0, len(expected), n_vocab):
        a = chances(expected[start:start + n_vocab])
        b = chances(got[start:start + n_vocab])
        n_same += a.index(max(a)) == b.index(max(b))
        divergence += sum(math.exp(x) * (x - y) for x, y in zip(a, b))
    return n_same / len(TINY_IDS), divergence / len(TINY_IDS)


def run(program, words):
    """Runs a program and returns what it prints."""
    done = subprocess.run(program + words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(program + words)}: {done.stderr.strip()}")
    return done.stdout


def probes(folder):
    """Returns the stages with float weights: their names, arguments and outputs."""
    ids = os.path.join(folder, "ids.json")
    with open(ids, "w", encoding="utf-8") as file:
        json.dump({"ids": TINY_IDS}, file)
    return {
        "decoder": ["logits", "models/fixtures/e2b.gguf", "--ids", ids, "-t", "1"],
        "tiny": ["logits", TINY[1], "--ids", ids, "-t", "1"],
        "sound": ["audio", *MEDIA, "--audio", SOUND],
        "picture": ["vision", *MEDIA, "--image", PICTURE, "--budget", "70"],
    }


def measure(program):
    """Returns the arrays of all stages and the tiny model's answers."""
    with tempfile.TemporaryDirectory() as folder:
        arrays = {}
        for name, words in probes(folder).items():
            out = os.path.join(folder, name + ".npy")
            run(program, ["probe", *words, "--out", out])
            arrays[name] = read_npy(out)
    answers = {}
    for name, words in ANSWERS.items():
        words = ["run", *words, *TINY, "--greedy", "-n", "12", "-t", "1", "--json"]
        answers[name] = json.loads(run(program, words))["text"]
    return arrays, answers


def main():
    """Compares each emulated processor with this machine."""
    target, native, *wanted = sys.argv[1:]
    qemu, root, alsa, processors = TARGETS[target]
    qemu = shutil.which(qemu) or shutil.which(qemu + "-static")
    if qemu is None:
        raise SystemExit("QEMU's user emulation is missing: apt-get install qemu-user")
    package = [p for p in glob.glob(f"target/dist/culet-*-{target}") if os.path.isdir(p)]
    if len(package) != 1:
        raise SystemExit(f"{len(package)} packages in target/dist; run: cargo xtask dist {target}")
    failures = 0
    print(f"{target}, {os.path.basename(package[0])}")
    arrays, answers = measure([native])
    print("this machine:", json.loads(run([native], ["doctor", "--json"]))["cpu"])
    for cpu, has, lacks in processors:
        if wanted and cpu not in wanted:
            continue
        program = [qemu, "-L", root, "-E", f"LD_LIBRARY_PATH={os.path.abspath(alsa)}", "-cpu", cpu,
                   os.path.join(package[0], "bin/culet")]
        report = json.loads(run(program, ["doctor", "--json"]))
        found, kernels = report["cpu_features"], report["kernel_features"]
        fits = all(f in found for f in has) and not any(f in found for f in lacks)
        # Kernels name features in capitals and without marks: SSE42, DOTPROD, MATMUL_INT8.
        print(f"{cpu}: processor {' '.join(found)}; kernels {' '.join(kernels)}; "
              f"{'as expected' if fits else 'FAILED'}")
        failures += not fits
        other_arrays, other_answers = measure(program)
        for name, expected in arrays.items():
            if name == "tiny":
                same, divergence = agreement(other_arrays[name], expected)
                good = same >= QUANT[0] and divergence <= QUANT[1]
                found = f"{same:.0%} of the best tokens agree, divergence {divergence:.1e}"
            else:
                error = difference(other_arrays[name], expected)
                good, found = error < KERNEL, f"relative difference {error:.1e}"
            failures += not good
            print(f"{cpu}: {name}: {found} {'ok' if good else 'FAILED'}", flush=True)
        for name, expected in answers.items():
            answer = other_answers[name]
            failures += not answer
            told = "the same here" if answer == expected else f"here {expected!r}"
            print(f"{cpu}: answer about a {name}: {answer!r}, {told}", flush=True)
    raise SystemExit(1 if failures else 0)


main()
