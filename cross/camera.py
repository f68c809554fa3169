"""Runs `culet see` and `culet watch` on a real camera device that a small virtual machine has.

    python3 cross/camera.py target/dist/culet-0.1.0-x86_64-linux | tee cross/record/camera.txt

In: a package of `cargo xtask dist x86_64-linux`, unpacked (QEMU's processor lacks what a build for
this machine may use). Out: a line for each check; status 1 if one failed.
The kernel is Debian's, whose driver `vivid` is a camera that shows colour bars; the machine is QEMU's
without acceleration, so nothing of the host is needed. Frames come the way of every Linux camera:
V4L2, nokhwa, the newest-frame slot, the encoder.
Needs Debian packages busybox-static cpio kmod v4l-utils qemu-system-x86, and the network once, for
the kernel's package.
"""

import base64
import glob
import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

WORK = "target/camera"
SIDES = (640, 480)
# The bars of vivid, from the left: three quarters of full colours.
BARS = [(191, 191, 191), (191, 191, 0), (0, 191, 191), (0, 191, 0),
        (191, 0, 191), (191, 0, 0), (0, 0, 191), (0, 0, 0)]
# Most that a channel may be off by the way through YUV.
CHANNEL_APART_MAX = 3
LIMIT_S = 900

INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev; mount -t proc none /proc; mount -t sysfs none /sys
while read module; do
    case "$module" in
    */vivid.ko) insmod "$module" node_types=0x1 num_inputs=1 input_types=0x0 ;;
    *) insmod "$module" ;;
    esac
done < /modules
v4l2-ctl -c osd_text_mode=2
cd /culet
say() { echo; echo "BEGIN $1"; shift; "$@"; status=$?; echo; echo "END $status"; }
export PATH=/bin:/culet/bin
say devices culet see --devices --json
say see culet see "Describe the picture." --size 640x480 --budget 70 --output /f.bmp --json -n 12
say frame sh -c 'gzip -9 < /f.bmp | base64'
say none culet see --device nowhere
culet watch "Tell me what you see." --size 640x480 --budget 70 --every 1 -n 4 --json > /watched 2> /said &
watcher=$!
( sleep 120; kill -9 $watcher ) &
while [ ! -s /watched ] && kill -0 $watcher; do sleep 1; done
v4l2-ctl -c disconnect=1
wait $watcher
status=$?
say watched sh -c "cat /watched; echo; cat /said; echo status $status"
poweroff -f
"""


def run(*words, **options):
    return subprocess.run(words, check=True, **options)


def kernel():
    """Returns the kernel and its folder of modules, fetched and unpacked once."""
    found = glob.glob(f"{WORK}/k/boot/vmlinuz-*")
    if not found:
        os.makedirs(f"{WORK}/k", exist_ok=True)
        depends = run("apt-cache", "depends", "linux-image-amd64", capture_output=True, text=True)
        name = [w for w in depends.stdout.split() if w.startswith("linux-image-")][-1]
        run("apt-get", "download", name, cwd=WORK, stdout=subprocess.DEVNULL)
        (package,) = glob.glob(f"{WORK}/{name}*.deb")
        run("dpkg", "-x", package, f"{WORK}/k")
        os.remove(package)
        found = glob.glob(f"{WORK}/k/boot/vmlinuz-*")
        run("depmod", "-b", f"{WORK}/k", found[0].split("vmlinuz-")[1])
    return found[0], found[0].split("vmlinuz-")[1]


def modules(version):
    """Returns the files of vivid and what it needs, in the order of loading."""
    shown = run("modprobe", "-D", "-d", f"{WORK}/k", "-S", version, "vivid",
                capture_output=True, text=True)
    return [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("insmod")]


def place(root, path, to=None):
    """Copies a file, and the libraries that it needs."""
    to = root + (to or path)
    os.makedirs(os.path.dirname(to), exist_ok=True)
    shutil.copy(os.path.realpath(path), to)
    libraries(root, path)


def libraries(root, path):
    """Copies the system's libraries that a program or library needs."""
    shown = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    for line in shown.splitlines():
        words = [w for w in line.split() if w.startswith(("/lib", "/usr/lib"))]
        if words and not os.path.exists(root + words[0]):
            place(root, words[0])


def image(package, version):
    """Returns the file system that the machine starts with."""
    with tempfile.TemporaryDirectory() as root:
        for folder in ("bin", "proc", "sys", "dev", "lib", "etc"):
            os.makedirs(f"{root}/{folder}")
        place(root, shutil.which("busybox"), "/bin/busybox")
        place(root, shutil.which("v4l2-ctl"), "/bin/v4l2-ctl")
        shutil.copytree(package, f"{root}/culet", symlinks=True)
        for name in [f"{package}/bin/culet", *glob.glob(f"{package}/lib/*.so*")]:
            libraries(root, name)
        names = modules(version)
        for name in names:
            place(root, name, "/ko/" + os.path.basename(name))
        with open(f"{root}/modules", "w") as out:
            out.writelines(f"/ko/{os.path.basename(name)}\n" for name in names)
        tiny = f"{root}/culet/models/tiny"
        os.makedirs(tiny)
        for name in glob.glob("models/tiny/*.gguf"):
            shutil.copy(name, tiny)
        with open(f"{root}/init", "w") as out:
            out.write(INIT)
        os.chmod(f"{root}/init", 0o755)
        names = run("find", ".", cwd=root, capture_output=True).stdout
        packed = run("cpio", "-o", "-H", "newc", "--quiet", cwd=root, input=names,
                     capture_output=True).stdout
    with gzip.open(f"{WORK}/image.gz", "wb", 1) as out:
        out.write(packed)
    return f"{WORK}/image.gz"


def boot(kernel_file, image_file):
    """Returns what each part of INIT printed, by its name, and its status."""
    shown = run(
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024",
        "-nographic", "-no-reboot", "-net", "none", "-kernel", kernel_file, "-initrd", image_file,
        "-append", "console=ttyS0 quiet panic=-1", stdin=subprocess.DEVNULL, capture_output=True,
        timeout=LIMIT_S,
    ).stdout.decode(errors="replace").replace("\r", "")
    with open(f"{WORK}/console.txt", "w") as out:
        out.write(shown)
    parts = {}
    for part in shown.split("\nBEGIN ")[1:]:
        name, rest = part.split("\n", 1)
        text, status = rest.split("\nEND ", 1)
        parts[name] = (text.strip(), int(status.split()[0]))
    if not parts:
        sys.exit("the machine did not start:\n" + shown[-3000:])
    return parts


def bars(bmp):
    """Returns the colour in the middle of each bar of a bitmap of 24 bits."""
    (start,) = struct.unpack_from("<I", bmp, 10)
    width, height, _, bits = struct.unpack_from("<iiHH", bmp, 18)
    if (width, abs(height), bits) != (*SIDES, 24):
        sys.exit(f"the frame has {width}x{height} and {bits} bits")
    row = start + (abs(height) // 2) * ((3 * width + 3) // 4 * 4)
    at = lambda x: tuple(bmp[row + 3 * x : row + 3 * x + 3][::-1])
    return [at((2 * i + 1) * width // 16) for i in range(8)]


def main():
    package = sys.argv[1] if len(sys.argv) == 2 else sys.exit(__doc__)
    os.makedirs(WORK, exist_ok=True)
    kernel_file, version = kernel()
    parts = boot(kernel_file, image(package, version))
    failed = False

    def check(name, good, shown):
        nonlocal failed
        failed |= not good
        print(f"{name}: {shown} {'ok' if good else 'FAILED'}", flush=True)

    print(f"Linux {version}, vivid, QEMU")
    text, status = parts["devices"]
    check("devices", status == 0 and "vivid" in text, text)
    text, status = parts["see"]
    # What is going on is written on the same screen, before the document.
    seen = json.loads(text[text.index("{") :]) if status == 0 else {"error": text}
    check("see", status == 0 and bool(seen.get("text")), json.dumps(seen))
    got = bars(gzip.decompress(base64.b64decode(parts["frame"][0])))
    apart = max(abs(a - b) for x, y in zip(got, BARS) for a, b in zip(x, y))
    check("bars", apart <= CHANNEL_APART_MAX, f"{got}, {apart} apart at most;")
    text, status = parts["none"]
    check("a camera that is not there", status == 1 and "nowhere" in text, repr(text))
    text, _ = parts["watched"]
    looks = [line for line in text.splitlines() if line.startswith("{")]
    check("watch, then pulled out", bool(looks) and "status 1" in text and "camera" in text,
          repr(text[-400:]))
    sys.exit(failed)


if __name__ == "__main__":
    main()
