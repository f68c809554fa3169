"""Asks a model about a sound and a picture, and prints the answer while it is made.

    python3 ask.py libculet_c.so model.gguf mmproj.gguf --sound words.wav "Transcribe."
    python3 ask.py libculet_c.so model.gguf mmproj.gguf --picture photo.ppm "What do you see?"

Sounds are WAV files of 16-bit samples, pictures are binary PPM files, so that nothing beyond
Python is needed. Ctrl-C cancels.

Needs Python 3 (3.11 here), libculet_c and a model with its encoders. Run here: with the small model
that ships, a sound and a picture, on x86-64 Linux, by `cargo test -p culet-ffi`; Ctrl-C was not.
"""

import argparse
import array
import re
import sys
import threading
import wave

import culet


def read_sound(path):
    """Returns the samples of a WAV file, its channels mixed into one, and the rate."""
    with wave.open(path) as sound:
        n_channels, rate_hz = sound.getnchannels(), sound.getframerate()
        if sound.getsampwidth() != 2:
            raise SystemExit(f"{path}: samples of {8 * sound.getsampwidth()} bits, expected 16")
        values = array.array("h", sound.readframes(sound.getnframes()))
    if sys.byteorder == "big":
        values.byteswap()
    scale = 32768 * n_channels
    channels = [values[i::n_channels] for i in range(n_channels)]
    return array.array("f", (sum(frame) / scale for frame in zip(*channels))), rate_hz


def read_picture(path):
    """Returns the pixels of a binary PPM file, its width and its height."""
    with open(path, "rb") as file:
        data = file.read()
    gap = rb"(?:\s|#[^\n]*\n)+"
    head = re.match(gap.join([rb"P6", rb"(\d+)", rb"(\d+)", rb"255\s"]), data)
    if head is None:
        raise SystemExit(f"{path}: not a binary PPM file of 8 bits")
    width, height = int(head[1]), int(head[2])
    return data[head.end():][:3 * width * height], width, height


def answer(session):
    """Prints the answer; a call that was cancelled ends it."""
    try:
        session.prompt()
        for event in session.events():
            if event.kind in (culet.ANSWER, culet.TOOL_CALL):
                print(event.text, end="", flush=True)
    except culet.Cancelled:
        pass
    print()


def main():
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("library")
    parser.add_argument("model")
    parser.add_argument("mmproj")
    parser.add_argument("question", nargs="?")
    parser.add_argument("--sound", metavar="WAV")
    parser.add_argument("--picture", metavar="PPM")
    parser.add_argument("--budget", type=int, default=280, help="most tokens of the picture")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_intermixed_args()
    library = culet.Library(args.library)
    with culet.Engine(library, args.model, args.mmproj, threads=args.threads) as engine:
        session = culet.Session(engine, temperature=0)
    if args.picture:
        session.append_image(*read_picture(args.picture), budget=args.budget)
    if args.sound:
        session.append_audio(*read_sound(args.sound))
    if args.question:
        session.append_text(args.question)
    # The main thread stays free for Ctrl-C.
    worker = threading.Thread(target=answer, args=[session])
    worker.start()
    try:
        worker.join()
    except KeyboardInterrupt:
        session.cancel()
        worker.join()
    session.close()


if __name__ == "__main__":
    main()
