#!/usr/bin/env python3
"""Records what a program shows on a terminal, as a picture that moves.

    terminal.py OUT.svg SECONDS PROGRAM [ARGUMENT ...]

In:  a program, run on a terminal of its own of 96 columns; Ctrl-C is pressed after SECONDS.
Out: an SVG that plays the session in the time that it took, and goes on from its start.
It knows what the programs here use: new lines, and carriage returns that rewrite a line.
Needs Python's own library only.
"""

import html
import os
import pty
import select
import struct
import sys
import termios
import textwrap
import time
from fcntl import ioctl

COLUMNS = 96
LINE_PX, COLUMN_PX, EDGE_PX = 19, 8.43, 14
# Changes that come closer together than this are one picture.
TURN_S = 0.08
# How long the last picture stays.
REST_S = 4.0


def record(command, seconds):
    """Returns [(seconds, bytes)] of what the command writes, and its exit status."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], command)
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    start, out, is_pressed = time.monotonic(), [], False
    while True:
        wait = None if is_pressed else max(0.0, start + seconds - time.monotonic())
        if not select.select([terminal], [], [], wait)[0]:
            os.write(terminal, b"\x03")
            is_pressed = True
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:
            data = b""
        if not data:
            break
        out.append((time.monotonic() - start, data))
    _, status = os.waitpid(child, 0)
    return out, os.waitstatus_to_exitcode(status)


def screens(pieces):
    """Returns [(seconds, lines)], one for each change that a reader can see."""
    lines, column, out, text = [""], 0, [], b""
    for at, data in pieces:
        text += data
        try:
            piece, text = text.decode(), b""
        except UnicodeDecodeError:
            continue
        for c in piece:
            if c == "\n":
                lines.append("")
                column = 0
            elif c == "\r":
                column = 0
            else:
                line = lines[-1].ljust(column)
                lines[-1] = line[:column] + c + line[column + 1 :]
                column += 1
        seen = [line.rstrip() for line in lines]
        if out and at - out[-1][0] < TURN_S:
            out[-1] = (out[-1][0], seen)
        elif not out or out[-1][1] != seen:
            out.append((at, seen))
    return out


def svg(frames, prompt):
    """Returns the picture: every line of every frame, shown while it stands there."""
    end = frames[-1][0] + REST_S
    prompts = textwrap.wrap(prompt, COLUMNS - 2)
    prompts = [line + " \\" for line in prompts[:-1]] + prompts[-1:]
    first = len(prompts)
    n_lines = max(len(lines) for _, lines in frames) + first
    width, height = COLUMNS * COLUMN_PX + 2 * EDGE_PX, n_lines * LINE_PX + 2 * EDGE_PX
    rules, texts = [], []

    def text(row, line, name=""):
        y = EDGE_PX + LINE_PX * (row + 0.75)
        kind = f' class="{name}"' if name else ""
        texts.append(f'<text x="{EDGE_PX}" y="{y:.1f}"{kind}>{html.escape(line)}</text>')

    for row, line in enumerate(prompts):
        text(row, line, "p")
    for row in range(n_lines - first):
        shown, since = "", 0.0
        for at, lines in [*frames, (end, None)]:
            line = lines[row] if lines and row < len(lines) else ""
            if lines is not None and line == shown:
                continue
            if shown:
                name = f"l{len(rules)}"
                a, b = 100 * since / end, 100 * min(at, end) / end
                # What stands there at the end is also what a viewer without motion shows.
                off, still = (f"{b:.2f}%{{opacity:0}}", "opacity:0;") if b < 100 else ("", "")
                rules.append(
                    f"@keyframes {name}{{0%{{opacity:0}}{a:.2f}%{{opacity:1}}{off}}}"
                    f".{name}{{{still}animation:{name} {end:.2f}s step-end infinite}}"
                )
                text(row + first, shown, name)
            shown, since = line, at
    style = "text{font:14px ui-monospace,Menlo,Consolas,monospace;fill:#d8dee9;white-space:pre}"
    style += ".p{fill:#88c0d0}" + "".join(rules)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}">'
        f'<style>{style}</style><rect width="100%" height="100%" rx="8" fill="#20242c"/>'
        + "".join(texts)
        + "</svg>\n"
    )


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    path, seconds, command = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
    pieces, status = record(command, seconds)
    frames = screens(pieces)
    if status or not frames:
        sys.exit(f"{command[0]}: exit status {status}, {len(frames)} pictures")
    shown = [os.path.basename(command[0]), *command[1:]]
    with open(path, "w", encoding="utf-8") as out:
        out.write(svg(frames, "$ " + " ".join(shown)))
    print(f"{path}: {len(frames)} pictures in {frames[-1][0]:.1f} s")


if __name__ == "__main__":
    main()
