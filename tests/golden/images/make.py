"""Writes small pictures of every kind, and what Pillow reads from them, as NAME.rgb.

Run by a person in this folder: python make.py
"""

import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

W, H = 24, 16
y, x = np.mgrid[0:H, 0:W]
RED, GREEN, BLUE = x * 255 // (W - 1), y * 255 // (H - 1), (x * 7 + y * 11) % 256
RGB = np.stack([RED, GREEN, BLUE], -1).astype(np.uint8)
ALPHA = ((x + y) * 255 // (W + H - 2)).astype(np.uint8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(name, colour_type, values):
    """Pillow does not write 16-bit colour."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", W, H, 16, colour_type, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    open(name, "wb").write(b"\x89PNG\r\n\x1a\n" + data)


def turned(way):
    exif = Image.Exif()
    exif[0x0112] = way
    return exif.tobytes()


rgb, grey = Image.fromarray(RGB), Image.fromarray(RGB[..., 0])
rgba = Image.fromarray(np.dstack([RGB, ALPHA]))
palette = rgb.quantize(16)
smooth = Image.fromarray((RGB // 64 * 16 + 100).astype(np.uint8)).resize((48, 32), Image.BILINEAR)

rgb.save("rgb.png")
rgba.save("rgba.png")
grey.save("grey.png")
Image.merge("LA", (grey, Image.fromarray(ALPHA))).save("grey_alpha.png")
palette.save("palette.png", transparency=3)
grey.point(lambda v: 255 * (v > 100)).convert("1").save("bit.png")
rgb.save("turned.png", exif=turned(6))
png16("rgb16.png", 2, RGB.reshape(H, -1).astype(np.uint32) * 257 - (RGB.reshape(H, -1) > 9) * 99)
png16("grey16.png", 0, RGB[..., 0].astype(np.uint32) * 251)
rgba.save("rgba.webp", lossless=True, exact=True)
rgb.save("turned.webp", lossless=True, exif=turned(8))
smooth.save("lossy.webp", quality=90)
palette.save("palette.gif", transparency=3)
palette.save("moving.gif", save_all=True, duration=80, loop=0, append_images=[
    Image.fromarray(np.roll(RGB, 5 * k, 1)).quantize(16) for k in (1, 2)])
rgb.save("rgb.bmp")
palette.save("palette.bmp")
for way in range(1, 9):
    smooth.save(f"turned_{way}.jpg", quality=95, exif=turned(way))
smooth.save("progressive.jpg", quality=95, progressive=True)
smooth.convert("L").save("grey.jpg", quality=95)
smooth.convert("CMYK").save("cmyk.jpg", quality=95)

import glob

for name in sorted(glob.glob("*.*")):
    if name.rsplit(".", 1)[1] in ("png", "webp", "gif", "bmp", "jpg"):
        picture = ImageOps.exif_transpose(Image.open(name))
        made = picture.convert("RGB")
        if name == "grey16.png":  # where Pillow makes everything above 255 white
            made = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
        open(name + ".rgb", "wb").write(struct.pack("<II", *made.size) + made.tobytes())
