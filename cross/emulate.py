"""Runs what `cargo xtask dist` made under emulated processors, and compares it with this machine.

    python3 cross/emulate.py aarch64-linux target/release/culet | tee cross/record/aarch64-linux.txt

In: a target's name, the program of this machine. Out: a line for each check; status 1 if one
failed. The package is looked for in target/dist; QEMU's user emulation must be installed.
Float weights must agree within KERNEL (the same sums in another order), the tiny model's answers
about text, a sound and a picture word by word.
"""

import glob
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

# For each target: QEMU, where its system's libraries are, processors and what they lack or have.
TARGETS = {
    "aarch64-linux": ("qemu-aarch64", "/usr/aarch64-linux-gnu", [
        ("cortex-a72", [], ["dotprod", "i8mm"]),
        ("neoverse-n1", ["dotprod"], ["i8mm"]),
        ("max", ["dotprod", "i8mm"], []),
    ]),
    "x86_64-linux": ("qemu-x86_64", "/", [
        ("Nehalem", ["sse4.2"], ["avx"]),
        ("max", ["avx2"], ["avx512f"]),
    ]),
}
KERNEL = 1e-4
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
        json.dump({"ids": [2, 105, 9, 33, 71, 8, 64, 19, 5, 200, 41]}, file)
    return {
        "decoder": ["logits", "models/fixtures/e2b.gguf", "--ids", ids, "-t", "1"],
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
    target, native = sys.argv[1:]
    qemu, root, processors = TARGETS[target]
    qemu = shutil.which(qemu) or shutil.which(qemu + "-static")
    if qemu is None:
        raise SystemExit("QEMU's user emulation is missing: apt-get install qemu-user")
    package = [p for p in glob.glob(f"target/dist/culet-*-{target}") if os.path.isdir(p)]
    if len(package) != 1:
        raise SystemExit(f"{len(package)} packages in target/dist; run: cargo xtask dist {target}")
    failures = 0
    arrays, answers = measure([native])
    print("this machine:", json.loads(run([native], ["doctor", "--json"]))["cpu"])
    for cpu, has, lacks in processors:
        program = [qemu, "-L", root, "-cpu", cpu, os.path.join(package[0], "bin/culet")]
        report = json.loads(run(program, ["doctor", "--json"]))
        found, kernels = report["cpu_features"], report["kernel_features"]
        fits = all(f in found for f in has) and not any(f in found for f in lacks)
        # Kernels name features in capitals and without marks: SSE42, DOTPROD, MATMUL_INT8.
        print(f"{cpu}: processor {' '.join(found)}; kernels {' '.join(kernels)}; "
              f"{'as expected' if fits else 'FAILED'}")
        failures += not fits
        other_arrays, other_answers = measure(program)
        for name, expected in arrays.items():
            error = difference(other_arrays[name], expected)
            failures += not error < KERNEL
            print(f"{cpu}: {name}: {error:.1e} {'ok' if error < KERNEL else 'FAILED'}")
        for name, expected in answers.items():
            same = other_answers[name] == expected
            failures += not same
            print(f"{cpu}: answer about a {name}: {other_answers[name]!r} "
                  f"{'ok' if same else f'FAILED, expected {expected!r}'}")
    raise SystemExit(1 if failures else 0)


main()
