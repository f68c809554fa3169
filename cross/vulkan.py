"""Builds the feature `vulkan` and runs its tests on a Vulkan driver made of software, llvmpipe.

    python3 cross/vulkan.py [FOLDER] | tee cross/record/vulkan.txt

In: a folder to build in (`target-vulkan` if none is given). Out: a line for each check; status 1 if
one failed. On Debian it installs what is missing, as root. Older systems' Vulkan headers are too
old for ggml: unless VULKAN_SDK names others, Debian 13's are unpacked beside what is built, not
installed. The tests compare logits and soft tokens with the processor's; how fast it is here means
nothing. A driver that computes nothing shows that Culet notices and goes on without it. `culet
doctor` runs on that one alone: its check has the heads of E2B and E4B, of 256 and 512 values, and
LLVM 15 had not compiled their attention after eight minutes.
"""

import glob
import json
import os
import platform
import re
import subprocess
import sys
import tempfile

from emulate import ANSWERS

# Package, and a file of it.
PACKAGES = [
    ("mesa-vulkan-drivers", "/usr/share/vulkan/icd.d/lvp_icd*.json"),
    ("libvulkan-dev", "/usr/include/vulkan/vulkan.hpp"),
    ("glslc", "/usr/bin/glslc"),
    ("spirv-headers", "/usr/include/spirv/unified1/spirv.hpp"),
]
# What ggml names that headers before 1.4 do not have.
WORD = "LayerSettingEXT"
NEWER = ["libvulkan-dev", "spirv-headers"]
NEWER_RELEASE = "trixie"
TINY = ["--model", "models/tiny/culet-tiny-q4_0.gguf",
        "--mmproj", "models/tiny/mmproj-culet-tiny-q8_0.gguf"]

# Debian 12's llvmpipe (Mesa 22.3) follows every binding of a descriptor set, also those that no
# shader uses and that may therefore name a buffer long gone. Here the rest of each set names the
# first buffer again. With CULET_TEST_DRIVER=idle it computes nothing, as a bad driver may.
DRIVER = r"""
#define _GNU_SOURCE
#define VK_NO_PROTOTYPES
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vulkan.h>
enum { BINDINGS = 12 };
static PFN_vkUpdateDescriptorSets update;
static void whole(VkDevice device, uint32_t n, const VkWriteDescriptorSet *writes,
                  uint32_t n_copies, const VkCopyDescriptorSet *copies) {
    for (uint32_t i = 0; i < n; i++) {
        VkWriteDescriptorSet write = writes[i];
        VkDescriptorBufferInfo all[BINDINGS];
        for (uint32_t k = 0; k < BINDINGS; k++)
            all[k] = write.pBufferInfo[k < write.descriptorCount ? k : 0];
        write.pBufferInfo = all;
        write.descriptorCount = BINDINGS;
        update(device, 1, &write, 0, NULL);
    }
    update(device, 0, NULL, n_copies, copies);
}
static void idle(VkCommandBuffer commands, uint32_t x, uint32_t y, uint32_t z) {}
PFN_vkVoidFunction vkGetInstanceProcAddr(VkInstance instance, const char *name) {
    PFN_vkGetInstanceProcAddr next = dlsym(RTLD_NEXT, "vkGetInstanceProcAddr");
    const char *kind = getenv("CULET_TEST_DRIVER");
    PFN_vkVoidFunction found = next(instance, name);
    if (kind && !strcmp(kind, "idle") && !strcmp(name, "vkCmdDispatch"))
        return (PFN_vkVoidFunction)idle;
    if (strcmp(name, "vkUpdateDescriptorSets"))
        return found;
    update = (PFN_vkUpdateDescriptorSets)found;
    return (PFN_vkVoidFunction)whole;
}
"""


def call(words, **more):
    """Runs a program whose failure ends this one."""
    done = subprocess.run(words, check=False, text=True, **more)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: status {done.returncode}\n{done.stderr or ''}")
    return done.stdout


def install():
    """Installs the packages of which a file is missing."""
    missing = [name for name, file in PACKAGES if not glob.glob(file)]
    if missing:
        call(["apt-get", "install", "-y", "--no-install-recommends", *missing],
             stdout=subprocess.DEVNULL)


def has_word(folder):
    """Tells whether the headers of a folder are new enough."""
    for path in glob.glob(os.path.join(folder, "vulkan/vulkan*.hpp")):
        with open(path, encoding="utf-8") as file:
            if WORD in file.read():
                return True
    return False


def mirror():
    """Returns where this system's packages come from."""
    rows = call(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)",
                 "Created-By: Packages"], stdout=subprocess.PIPE).splitlines()
    release = platform.freedesktop_os_release().get("VERSION_CODENAME")
    found = [row.split()[0] for row in rows if row.split()[1:] == [release, "main"]]
    if not found:
        raise SystemExit("no Debian mirror is known; set VULKAN_SDK to headers of 1.4 or later")
    return found[0]


def headers(folder):
    """Returns the variables with which the build finds new enough headers."""
    if "VULKAN_SDK" in os.environ or has_word("/usr/include"):
        return {}
    sdk = os.path.abspath(os.path.join(folder, "vulkan-sdk"))
    if not has_word(os.path.join(sdk, "usr/include")):
        os.makedirs(os.path.join(sdk, "lists/partial"), exist_ok=True)
        source = os.path.join(sdk, "sources.list")
        with open(source, "w", encoding="utf-8") as file:
            file.write(f"deb {mirror()} {NEWER_RELEASE} main\n")
        # The system's own sources and lists stay as they are.
        only = ["-o", f"Dir::Etc::sourcelist={source}", "-o", "Dir::Etc::sourceparts=/dev/null",
                "-o", f"Dir::State::lists={sdk}/lists", "-o", "APT::Sandbox::User=root"]
        quiet = {"cwd": sdk, "stdout": subprocess.DEVNULL}
        call(["apt-get", *only, "update"], **quiet)
        call(["apt-get", *only, "download", *NEWER], **quiet)
        for package in glob.glob(os.path.join(sdk, "*.deb")):
            call(["dpkg", "-x", package, sdk])
        os.symlink("usr/include", os.path.join(sdk, "include"))
    return {"VULKAN_SDK": sdk, "CMAKE_PREFIX_PATH": os.path.join(sdk, "usr")}


def preloaded(folder, env):
    """Builds what stands before the driver; returns the variables that programs run with."""
    source = os.path.join(folder, "driver.c")
    library = os.path.abspath(os.path.join(folder, "driver.so"))
    with open(source, "w", encoding="utf-8") as file:
        file.write(DRIVER)
    include = os.path.join(env.get("VULKAN_SDK", "/usr"), "include")
    call(["cc", "-O1", "-shared", "-fPIC", "-I", include, "-o", library, source, "-ldl"])
    return {**env, "LD_PRELOAD": library}


def tests(cargo, env):
    """Runs the tests and tells of each when it ends; returns whether all passed."""
    words = [*cargo, "--lib", "--test", "it", "gpu::", "--", "--nocapture", "--test-threads=1"]
    with tempfile.TemporaryFile("w+") as said, \
            subprocess.Popen(words, env=env, text=True, stdout=subprocess.PIPE,
                             stderr=said) as child:
        for line in child.stdout:
            line = re.sub(r"^test gpu::(\w+) \.\.\. (?=.)", r"\1:\n", line.rstrip())
            if re.search(r"relative error|:\n|^ok$|FAILED|^test ", line):
                print(line, flush=True)
        status = child.wait()
        if status != 0:
            said.seek(0)
            print(said.read()[-4000:], f"FAILED with status {status}", sep="\n")
    return status == 0


def doctor(program, env):
    """Returns what the GPUs of the machine are told to be, and what would be used."""
    words = [program, "doctor"]
    report = json.loads(call([*words, "--json"], env=env, stdout=subprocess.PIPE))
    told = call(words, env=env, stdout=subprocess.PIPE).splitlines()
    gpus = [d for d in report["devices"] if d["is_gpu"]]
    for gpu in gpus:
        print(f"{gpu['name']}: {gpu['description']}; check of first use: {gpu['check']}")
    print(*[line for line in told if line.startswith("to use a GPU")], sep="\n", flush=True)
    return bool(gpus) and all(gpu["check"] == "passed" for gpu in gpus)


def answer(program, words, env):
    """Returns the tiny model's answer and what was said beside it."""
    words = [program, "run", *words, *TINY, "--greedy", "-n", "12", "-t", "1", "--json"]
    done = subprocess.run(words, env=env, check=False, text=True, capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: status {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)["text"], done.stderr.strip()


def fall_back(program, env):
    """Checks that a GPU which computes nothing is left out, with a warning, and nothing is lost."""
    idle = {**env, "CULET_TEST_DRIVER": "idle"}
    is_offered = doctor(program, idle)
    (alone, _), (got, said) = (answer(program, [*more, *ANSWERS["text"][0]], idle)
                               for more in ([], ["--gpu"]))
    print(f"a driver that computes nothing: {got!r}, {said!r}", flush=True)
    return not is_offered and got == alone and "the processor computes alone" in said


def main():
    """Builds, tests, and tells what the program says."""
    folder = sys.argv[1] if len(sys.argv) > 1 else "target-vulkan"
    install()
    # ggml leaves software out unless a device is asked for by number.
    env = {**os.environ, **headers(folder), "GGML_VK_VISIBLE_DEVICES": "0",
           "CMAKE_PROJECT_TOP_LEVEL_INCLUDES": os.path.abspath("cross/kernels-only.cmake")}
    more = ["--release", "--features", "vulkan", "--target-dir", folder]
    call(["cargo", "build", *more], env=env, stderr=subprocess.PIPE)
    cargo = ["cargo", "test", *more]
    call([*cargo, "--lib", "--test", "it", "--no-run"], env=env, stderr=subprocess.PIPE)
    env = preloaded(folder, env)
    program = os.path.join(folder, "release/culet")
    good = tests(cargo, env)
    for name, (words, right) in ANSWERS.items():
        (alone, _), (with_gpu, said) = (answer(program, [*more, *words], env)
                                        for more in ([], ["--gpu"]))
        told = "the same alone" if with_gpu == alone else f"alone {alone!r}"
        print(f"answer about a {name}: {with_gpu!r}, {told}", flush=True)
        good = good and with_gpu == alone == right and "computes alone" not in said
    good = fall_back(program, env) and good
    print("all passed" if good else "FAILED")
    raise SystemExit(0 if good else 1)


main()
