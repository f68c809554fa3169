"""Runs what `cargo xtask dist` made under emulated processors, and judges what it computes.

    python3 cross/emulate.py aarch64-linux target/release/culet > cross/record/aarch64-linux.txt

In: a target's name, the program of this machine, and names of processors if not all are wanted.
Out: a line for each check; status 1 if one failed. Needs QEMU's user emulation, a C compiler for the
target and pkg-config.

The archive in target/dist is unpacked into an empty folder, which is then moved; programs start in
another folder, with no environment, and find the small model that ships by themselves.

What must hold on every processor:

1. The processor is seen to have, and to lack, what it should.
2. Float weights: the same maths in another order, so within KERNEL of this machine.
3. Quantised weights (the small model): each kernel rounds activations in its own way. What counts is
   the distance from the same weights in float32 (dequantise.py): at most FACTOR times this machine's.
   This machine's distance must itself be below ROUNDING, or it would be no measure.
4. Answers about a text, a sound and a picture, token by token: the logits as in 3; and where the
   best token of the float32 answer leads by more than twice what is allowed (FACTOR times the largest
   difference of any logit on this machine), the same token. Where it leads by less, answers may
   part, and are not compared further. DECIDED of all tokens at least must lead by more.
5. The answers themselves, in float32 on this machine, are those that are right.
6. The C library: `ffi/tests/smoke.c`, compiled with the package's header and pkg-config file, runs.
"""

import ast
import glob
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile

from dequantise import dequantise

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HOST = "this machine"
# For each target: QEMU, where its system's libraries and ALSA are, its C compiler, processors, what
# they have and what they lack.
TARGETS = {
    "aarch64-linux": ("qemu-aarch64", "/usr/aarch64-linux-gnu",
                      "target/dist/aarch64-linux/sysroot/usr/lib/aarch64-linux-gnu",
                      "aarch64-linux-gnu-gcc", [
        ("cortex-a72", ["neon"], ["dotprod", "i8mm"]),
        ("neoverse-n1", ["dotprod"], ["i8mm"]),
        ("max", ["dotprod", "i8mm"], []),
    ]),
    "x86_64-linux": ("qemu-x86_64", "/", "", "cc", [
        (HOST, ["sse4.2"], []),
        ("core2duo", ["ssse3"], ["sse4.2"]),
        ("Nehalem", ["sse4.2"], ["avx"]),
        ("Haswell", ["avx2"], ["avx512f"]),
    ]),
}
KERNEL = 1e-5
FACTOR = 2.0
ROUNDING = 0.03
DECIDED = 0.8
FIXTURES = os.path.join(ROOT, "models/fixtures")
GOLDENS = os.path.join(ROOT, "tests/golden/media")
TINY = os.path.join(ROOT, "models/tiny")
IDS = [2, 105, 9, 33, 71, 8, 64, 19, 5, 200, 41]
SHIPPED = [f"{TINY}/culet-tiny-q4_0.gguf", f"{TINY}/mmproj-culet-tiny-q8_0.gguf"]
SOUND = os.path.join(TINY, "heldout/sounds/seen01.flac")
PICTURE = os.path.join(TINY, "heldout/pictures/picture00.png")
# What the small model is asked, and what is right.
ANSWERS = {
    "text": (["How many days are in a week?"], "A week has seven days."),
    "sound": (["--audio", SOUND, "Transcribe."], "set the temperature to seventeen degrees"),
    "picture": (["--image", PICTURE, "--budget", "70", "How many shapes are there?"], "One."),
}


def read_npy(path):
    """Returns the rows of a little-endian float32 array."""
    with open(path, "rb") as file:
        data = file.read()
    start = 10 + struct.unpack("<H", data[8:10])[0]
    shape = ast.literal_eval(data[10:start].decode())["shape"]
    values = struct.unpack(f"<{math.prod(shape)}f", data[start:])
    return [values[i:i + shape[-1]] for i in range(0, len(values), shape[-1])]


def pairs(got, expected):
    """Returns the values of rows side by side; tokens that may not be chosen are left out."""
    assert len(got) == len(expected), (len(got), len(expected))
    both = [(a, b) for x, y in zip(got, expected) for a, b in zip(x, y)]
    assert all(math.isinf(a) == math.isinf(b) for a, b in both)
    return [(a, b) for a, b in both if not math.isinf(b)]


def difference(got, expected):
    """Returns the length of the difference, as a part of the expected length."""
    both = pairs(got, expected)
    return math.sqrt(sum((a - b) ** 2 for a, b in both) / sum(b * b for _, b in both))


def best(row):
    """Returns the best token, and how far it leads."""
    first = max(range(len(row)), key=row.__getitem__)
    return first, row[first] - max(row[:first] + row[first + 1:])


def comparable(got, expected):
    """Returns the rows of two answers up to the first token that is not the same."""
    n = min(len(got), len(expected))
    for i in range(n):
        if best(got[i])[0] != best(expected[i])[0]:
            n = i + 1
            break
    return got[:n], expected[:n]


def parting(got, expected, allowed):
    """Tells where two answers part, and whether they may."""
    for i, (x, y) in enumerate(zip(got, expected)):
        token, lead = best(y)
        if best(x)[0] != token:
            return lead <= 2 * allowed, f"parts at token {i + 1}, which leads by {lead:.2f}"
    return len(got) == len(expected), f"all {len(expected)} tokens the same"


def run(program, words, folder):
    """Runs a program in a folder, without an environment, and returns what it prints."""
    done = subprocess.run(program + words, capture_output=True, text=True, check=False, cwd=folder,
                          env={})
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(program + words)}: {done.returncode} {done.stderr.strip()}")
    return done.stdout


def array(program, words, folder):
    """Runs a stage that writes an array; returns what it prints and the array's rows."""
    out = os.path.join(folder, "out.npy")
    said = run(program, ["probe", *words, "-t", "1", "--out", out], folder)
    return said, read_npy(out)


def floats(program, folder):
    """Returns the results of the stages with float weights."""
    ids = os.path.join(folder, "ids.json")
    with open(ids, "w", encoding="utf-8") as file:
        json.dump({"ids": IDS}, file)
    media = [f"{FIXTURES}/media.gguf", "--mmproj", f"{FIXTURES}/media-mmproj.gguf"]
    picture = f"{GOLDENS}/pictures/rgb_50x30.png"
    stages = {
        "decoder": ["logits", f"{FIXTURES}/e2b.gguf", "--ids", ids],
        "sound encoder": ["audio", *media, "--audio", f"{GOLDENS}/sound.wav"],
        "picture encoder": ["vision", *media, "--image", picture, "--budget", "70"],
    }
    return {name: array(program, words, folder)[1] for name, words in stages.items()}


def answers(program, more, folder):
    """Yields names, texts and logits of the answers."""
    for name, (words, _) in ANSWERS.items():
        words = ["answer", *words, *more, "--greedy", "-n", "16"]
        said, rows = array(program, words, folder)
        yield name, json.loads(said)["text"], rows


class Measure:
    """What this machine computes, and how far that is from float32."""

    def __init__(self, native, folder):
        copies = [os.path.join(folder, name) for name in ("tiny.gguf", "mmproj-tiny.gguf")]
        for source, target in zip(SHIPPED, copies):
            dequantise(source, target)
        self.floats = floats(native, folder)
        model = ["--model", SHIPPED[0], "--mmproj", SHIPPED[1]]
        exact = ["--model", copies[0], "--mmproj", copies[1], "--kv", "f32"]
        found = {name: rows for name, _, rows in answers(native, model, folder)}
        self.exact, texts = {}, {}
        for name, text, rows in answers(native, exact, folder):
            self.exact[name], texts[name] = rows, text
        self.errors, self.largest, leads = {}, 0.0, []
        for name, rows in self.exact.items():
            got, expected = comparable(found[name], rows)
            self.errors[name] = difference(got, expected)
            self.largest = max(self.largest, *(abs(a - b) for a, b in pairs(got, expected)))
            leads += [best(row)[1] for row in rows]
        self.allowed = FACTOR * self.largest
        n_decided = sum(lead > 2 * self.allowed for lead in leads)
        self.is_measure = max(self.errors.values()) <= ROUNDING
        self.is_measure &= n_decided >= DECIDED * len(leads)
        told = ", ".join(f"{name} {error:.1e}" for name, error in self.errors.items())
        print(f"{HOST}: from float32: {told}; a logit at most {self.largest:.2f}; {n_decided} of "
              f"{len(leads)} tokens lead by more than {2 * self.allowed:.2f}: "
              f"{'ok' if self.is_measure else 'FAILED'}", flush=True)
        for name, text in texts.items():
            is_right = text == ANSWERS[name][1]
            self.is_measure &= is_right
            print(f"float32: answer about a {name}: {text!r}: {'ok' if is_right else 'FAILED'}")


def judge(program, measure, folder):
    """Yields what each check found: its name, whether it holds, and words."""
    for name, rows in floats(program, folder).items():
        error = difference(rows, measure.floats[name])
        yield name, error < KERNEL, f"relative difference {error:.1e}"
    for name, text, rows in answers(program, [], folder):
        got, expected = comparable(rows, measure.exact[name])
        error = difference(got, expected)
        told = f"{error:.1e} from float32, {error / measure.errors[name]:.2f} of this machine's"
        yield f"logits about a {name}", error <= FACTOR * measure.errors[name], told
        holds, where = parting(rows, measure.exact[name], measure.allowed)
        yield f"answer about a {name}", holds, f"{text!r}, {where}"


def smoke(package, compiler, folder):
    """Compiles the C program with what the package brings; returns its path."""
    paths = {"PKG_CONFIG_PATH": os.path.join(package, "lib/pkgconfig"), "PATH": os.environ["PATH"]}
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "culet"], capture_output=True,
                           text=True, check=True, env=paths).stdout.split()
    program = os.path.join(folder, "smoke")
    source = os.path.join(ROOT, "ffi/tests/smoke.c")
    rpath = f"-Wl,-rpath,{package}/lib"
    subprocess.run([compiler, "-std=c99", source, "-o", program, *flags, "-lm", rpath], check=True)
    return program


def unpack(target, folder):
    """Unpacks the archive into an empty folder, moves what was in it and returns its place."""
    archives = glob.glob(os.path.join(ROOT, f"target/dist/culet-*-{target}.tar.gz"))
    if len(archives) != 1:
        raise SystemExit(f"{len(archives)} archives in target/dist; run: cargo xtask dist {target}")
    with tempfile.TemporaryDirectory(dir=folder) as first:
        shutil.unpack_archive(archives[0], first)
        (name,) = os.listdir(first)
        package = os.path.join(folder, "moved")
        shutil.move(os.path.join(first, name), package)
    print(f"{target}, {os.path.basename(archives[0])}")
    return package


def main():
    """Judges each emulated processor."""
    target, native, *wanted = sys.argv[1:]
    qemu, root, alsa, compiler, processors = TARGETS[target]
    qemu = shutil.which(qemu) or shutil.which(qemu + "-static")
    if qemu is None:
        raise SystemExit("QEMU's user emulation is missing: apt-get install qemu-user")
    with tempfile.TemporaryDirectory() as place:
        folder = os.path.join(place, "elsewhere")
        os.mkdir(folder)
        package = unpack(target, place)
        native = [os.path.abspath(native)]
        report = json.loads(run(native, ["doctor", "--json"], folder))
        print(f"{HOST}: {report['cpu']}")
        measure = Measure(native, folder)
        failures = not measure.is_measure
        library = smoke(package, compiler, place)
        for cpu, has, lacks in processors:
            if wanted and cpu not in wanted:
                continue
            libraries = ["-E", f"LD_LIBRARY_PATH={os.path.join(ROOT, alsa)}"] if alsa else []
            emulator = [] if cpu == HOST else [qemu, "-L", root, *libraries, "-cpu", cpu]
            program = emulator + [os.path.join(package, "bin/culet")]
            report = json.loads(run(program, ["doctor", "--json"], folder))
            found, kernels = report["cpu_features"], report["kernel_features"]
            holds = all(f in found for f in has) and not any(f in found for f in lacks)
            told = f"{' '.join(found)}; kernels {' '.join(kernels)}"
            said = run(emulator + [library], SHIPPED, folder)
            checks = [("processor", holds, told), ("library", bool(said.strip()), repr(said))]
            for checked in (checks, judge(program, measure, folder)):
                for name, holds, told in checked:
                    failures += not holds
                    print(f"{cpu}: {name}: {told}: {'ok' if holds else 'FAILED'}", flush=True)
    print(f"{failures} failed")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
