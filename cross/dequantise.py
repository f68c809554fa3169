"""Writes a GGUF file whose weights are the same values in float32.

    python3 cross/dequantise.py FROM.gguf TO.gguf

In: a file of F32, F16, BF16, Q4_0 and Q8_0 tensors. Out: the same metadata and values, all F32. Its
results have no rounding of weights or activations but float32's own, so that the error of a kernel
can be measured. Needs nothing but Python.
Source: GGUF version 3, and the layouts of `block_q4_0` and `block_q8_0` in ggml.
"""

import array
import struct
import sys

# Type of metadata: bytes of a value. 8 is a string, 9 a list.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
F32 = 0


def halves(data):
    """Returns float16 values."""
    return list(struct.unpack(f"<{len(data) // 2}e", data))


def brains(data):
    """Returns bfloat16 values: the upper halves of float32 ones."""
    whole = b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2))
    return list(struct.unpack(f"<{len(data) // 2}f", whole))


def q8_0(data):
    """Returns the values of blocks of 34 bytes: a scale and 32 steps."""
    out = []
    for scale, *steps in struct.iter_unpack("<e32b", data):
        out.extend([scale * step for step in steps])
    return out


def q4_0(data):
    """Returns the values of blocks of 18 bytes: a scale and 32 steps; low halves come first."""
    out = []
    for scale, *steps in struct.iter_unpack("<e16B", data):
        out.extend([scale * ((step & 15) - 8) for step in steps])
        out.extend([scale * ((step >> 4) - 8) for step in steps])
    return out


# Type of a tensor: values and bytes of a block, and how they are read.
TYPES = {
    F32: (1, 4, lambda data: list(struct.unpack(f"<{len(data) // 4}f", data))),
    1: (1, 2, halves),
    2: (32, 18, q4_0),
    8: (32, 34, q8_0),
    30: (1, 2, brains),
}


class Reader:
    """Reads a file's head from its bytes."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        """Returns one value of a form that `struct` knows."""
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def text(self):
        """Returns a string as bytes."""
        n = self.take("Q")
        self.at += n
        return self.data[self.at - n:self.at]

    def skip(self, kind):
        """Passes over a value of metadata."""
        if kind == 8:
            self.text()
        elif kind == 9:
            inner, n = self.take("I"), self.take("Q")
            if inner in SIZES:
                self.at += n * SIZES[inner]
            else:
                for _ in range(n):
                    self.skip(inner)
        else:
            self.at += SIZES[kind]


def dequantised(data):
    """Returns the bytes of the file whose weights are float32."""
    r = Reader(data)
    magic, version, n_tensors, n_keys = r.take("4s"), r.take("I"), r.take("Q"), r.take("Q")
    if magic != b"GGUF" or version != 3:
        raise SystemExit("no GGUF file of version 3")
    metadata_start, align = r.at, 32
    for _ in range(n_keys):
        name, kind = r.text(), r.take("I")
        if name == b"general.alignment":
            align = struct.unpack_from("<I", data, r.at)[0]
        r.skip(kind)
    metadata = data[metadata_start:r.at]
    tensors = []
    for _ in range(n_tensors):
        name = r.text()
        sides = [r.take("Q") for _ in range(r.take("I"))]
        tensors.append((name, sides, r.take("I"), r.take("Q")))
    start = -(-r.at // align) * align
    head = struct.pack("<4sIQQ", magic, version, n_tensors, n_keys) + metadata
    body = bytearray()
    for name, sides, kind, offset in tensors:
        if kind not in TYPES:
            raise SystemExit(f"{name.decode()}: tensors of type {kind} are not known here")
        block, n_bytes, read = TYPES[kind]
        n = 1
        for side in sides:
            n *= side
        first = start + offset
        values = array.array("f", read(data[first:first + n // block * n_bytes]))
        if sys.byteorder == "big":
            values.byteswap()
        body += b"\0" * (-len(body) % align)
        head += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(sides))
        head += struct.pack(f"<{len(sides)}QIQ", *sides, F32, len(body))
        body += values.tobytes()
    body += b"\0" * (-len(body) % align)
    return head + b"\0" * (-len(head) % align) + bytes(body)


def dequantise(source, target):
    """Writes the float32 copy of a file."""
    with open(source, "rb") as file:
        data = file.read()
    with open(target, "wb") as file:
        file.write(dequantised(data))


if __name__ == "__main__":
    dequantise(*sys.argv[1:])
