//! `cargo xtask dist TARGET`: the program and the library for another machine, in one archive.
//!
//! In: the name of a target. Out: `target/dist/culet-VERSION-TARGET.tar.gz`, and its sha256.
//! Invariant: what is needed and missing is said before anything is built.

use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::notices;
use crate::package;
use crate::step::Steps;
use crate::step::cargo_program;

/// One kind of machine.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    triple: &'static str,
    /// Features of the package `culet` besides the program's own.
    features: &'static [&'static str],
    /// Whether the program is built, or the library alone.
    has_program: bool,
    /// Environment of the build; `ROOT` and `SYSROOT` stand for folders.
    environment: &'static [(&'static str, &'static str)],
    /// Programs that must be on the search path.
    tools: &'static [&'static str],
    /// Variables that name an SDK and must be set.
    sdks: &'static [&'static str],
    /// System that the build runs on.
    host: &'static str,
}

/// Leaves llama.cpp's own library out, which is never called.
const KERNELS_ONLY: (&str, &str) =
    ("CMAKE_PROJECT_TOP_LEVEL_INCLUDES", "ROOT/cross/kernels-only.cmake");
/// Many processes build the modules at once.
const NINJA: (&str, &str) = ("CMAKE_GENERATOR", "Ninja");
/// Libraries lie beside the program or in the folder beside its own. Like [`ANY`], it takes the
/// place of `.cargo/config.toml`, which would build for this machine's processor.
const BESIDE: (&str, &str) = ("RUSTFLAGS", "-Clink-arg=-Wl,-rpath,$ORIGIN/../lib:$ORIGIN");
/// Any processor of the target's kind. A processor that is named here would reach the kernels'
/// compiler as `-march`, which knows no processors on ARM.
const ANY: (&str, &str) = ("RUSTFLAGS", "");

#[rustfmt::skip]
pub(crate) const TARGETS: [Target; 8] = [
    Target {
        name: "x86_64-linux", triple: "x86_64-unknown-linux-gnu", host: "linux",
        features: &["dynamic-backends"], has_program: true,
        environment: &[KERNELS_ONLY, NINJA, BESIDE],
        tools: &["cmake", "ninja", "clang", "strip", "tar", "sha256sum"], sdks: &[],
    },
    Target {
        name: "aarch64-linux", triple: "aarch64-unknown-linux-gnu", host: "linux",
        features: &["dynamic-backends"], has_program: true,
        environment: &[
            KERNELS_ONLY,
            NINJA,
            ("RUSTFLAGS", "-Clink-arg=-Wl,-rpath,$ORIGIN/../lib:$ORIGIN \
                           -L SYSROOT/usr/lib/aarch64-linux-gnu"),
            ("CMAKE_TOOLCHAIN_FILE", "ROOT/cross/aarch64-linux.cmake"),
            ("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc"),
            ("BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu",
             "--sysroot=/usr/aarch64-linux-gnu -I/usr/aarch64-linux-gnu/include"),
            ("PKG_CONFIG_ALLOW_CROSS", "1"),
            ("PKG_CONFIG_SYSROOT_DIR", "SYSROOT"),
            ("PKG_CONFIG_LIBDIR", "SYSROOT/usr/lib/aarch64-linux-gnu/pkgconfig"),
        ],
        tools: &["cmake", "ninja", "clang", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-strip",
                 "tar", "sha256sum"],
        sdks: &[],
    },
    Target {
        name: "aarch64-linux-cuda", triple: "aarch64-unknown-linux-gnu", host: "linux",
        features: &["cuda", "dynamic-backends"], has_program: true,
        // Compute capability of Orin's GPU; the processor's kernels are chosen at run time.
        environment: &[KERNELS_ONLY, NINJA, BESIDE, ("CMAKE_CUDA_ARCHITECTURES", "87")],
        tools: &["cmake", "ninja", "clang", "nvcc", "strip", "tar", "sha256sum"], sdks: &[],
    },
    Target {
        name: "aarch64-android", triple: "aarch64-linux-android", host: "linux",
        features: &[], has_program: false, environment: &[ANY],
        tools: &["cmake", "clang", "tar", "sha256sum"],
        sdks: &["ANDROID_NDK", "CARGO_TARGET_AARCH64_LINUX_ANDROID_LINKER"],
    },
    Target {
        name: "aarch64-macos", triple: "aarch64-apple-darwin", host: "macos",
        features: &["metal"], has_program: true, environment: &[KERNELS_ONLY, ANY],
        tools: &["cmake", "xcrun", "strip", "tar", "shasum"], sdks: &[],
    },
    Target {
        name: "aarch64-ios", triple: "aarch64-apple-ios", host: "macos",
        features: &["metal"], has_program: false, environment: &[KERNELS_ONLY, ANY],
        tools: &["cmake", "xcrun", "tar", "shasum"], sdks: &[],
    },
    Target {
        name: "aarch64-ios-sim", triple: "aarch64-apple-ios-sim", host: "macos",
        features: &["metal"], has_program: false, environment: &[KERNELS_ONLY, ANY],
        tools: &["cmake", "xcrun", "tar", "shasum"], sdks: &[],
    },
    Target {
        name: "x86_64-windows", triple: "x86_64-pc-windows-msvc", host: "windows",
        features: &[], has_program: true,
        environment: &[KERNELS_ONLY, ("RUSTFLAGS", "-Ctarget-feature=+crt-static")],
        tools: &["cmake", "clang", "tar", "certutil"], sdks: &[],
    },
];

/// Builds for a target and packs the result.
pub(crate) fn run(root: &Path, name: &str) -> Result<(), String> {
    let target = TARGETS.iter().find(|t| t.name == name).ok_or_else(|| unknown(name))?;
    target.check()?;
    let place = Place::new(root, target);
    let environment = place.environment(root);
    let environment: Vec<_> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let mut steps = Steps::new(root, if target.has_program { 2 } else { 1 });
    let std = standard_library(target.triple)?;
    let features = target.features.iter().map(|f| format!("culet/{f}")).collect::<Vec<_>>();
    let features = features.join(",");
    let folder = place.work.to_str().ok_or("the repository's path is not UTF-8")?;
    let mut common = vec!["--profile", "dist", "--target", target.triple, "--target-dir", folder];
    common.extend(std.arguments);
    let environment = [environment, std.environment.to_vec()].concat();
    fs::remove_dir_all(&place.package).ok();
    for part in ["bin", "lib/pkgconfig", "lib/cmake/culet", "include", MODELS] {
        make(&place.package.join(part))?;
    }
    if target.has_program {
        let build = ["build", "-p", "culet", "--bin", "culet", "--features"];
        place.forget_links()?;
        let line = [&build, &[features.as_str()][..], &common].concat();
        steps.cargo("program", &line, &environment)?;
        place.keep(&place.built, &PROGRAMS, "bin")?;
        place.keep_model(root)?;
        place.keep_appliance(root)?;
    }
    place.forget_links()?;
    let line = [&LIBRARY_BUILD[..], target.library_kinds(), &["--features", &features], &common];
    steps.cargo("library", &line.concat(), &environment)?;
    place.keep(&place.built, target.libraries(), "lib")?;
    place.keep_kernels()?;
    place.strip()?;
    place.check_sizes()?;
    place.describe(&root.join("ffi"))?;
    for file in ["LICENSE-APACHE", "LICENSE-MIT", "README.md"] {
        copy(&root.join(file), &place.package.join(file))?;
    }
    let text = notices::text(root, target.triple, &features)?;
    write(&place.package.join("NOTICES.txt"), &text)?;
    write(&place.package.join("VERSION"), &format!("{}\n", env!("CARGO_PKG_VERSION")))?;
    place.pack()
}

const PROGRAMS: [&str; 2] = ["culet", "culet.exe"];
const LIBRARY_BUILD: [&str; 4] = ["rustc", "-p", "culet-ffi", "--lib"];
/// Dynamic libraries first.
const LIBRARIES: [&str; 6] = [
    "libculet_c.so",
    "libculet_c.dylib",
    "culet_c.dll",
    "culet_c.dll.lib",
    "libculet_c.a",
    "culet_c.lib",
];
const DYNAMIC_LIBRARIES: usize = 4;
/// Where the program looks for the small model, from the folder above its own.
const MODELS: &str = "share/culet/models";
/// What makes a voice appliance of a Linux machine.
const APPLIANCE: &str = "share/culet/appliance";
/// Most bytes of the program, and of the library, if the kernels of no GPU are in it.
const PROGRAM_BYTES_MAX: u64 = 12_000_000;
const LIBRARY_BYTES_MAX: u64 = 8_000_000;

fn unknown(name: &str) -> String {
    let names: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
    format!("target {name} is not known; there are: {}", names.join(", "))
}

impl Target {
    /// Whether the kernels are modules beside the library.
    fn has_modules(&self) -> bool {
        self.features.contains(&"dynamic-backends")
    }

    /// Libraries that are shipped; a static one would still need the kernels' dynamic ones.
    fn libraries(&self) -> &'static [&'static str] {
        if self.has_modules() { &LIBRARIES[..DYNAMIC_LIBRARIES] } else { &LIBRARIES }
    }

    /// What cargo is told of the kinds of libraries; all of the package if nothing.
    fn library_kinds(&self) -> &'static [&'static str] {
        if self.has_modules() { &["--crate-type", "cdylib"] } else { &[] }
    }

    /// What a program with the static library inside needs of the system, for linkers of Unix.
    fn system_libraries(&self) -> &'static str {
        match self.triple {
            t if t.contains("apple") => {
                "-lc++ -framework Foundation -framework Metal -framework MetalKit \
                 -framework Accelerate"
            }
            t if t.contains("android") => "-lc++_static -lc++abi -landroid -llog -lm -ldl",
            _ => "-lstdc++ -lm -ldl -lpthread",
        }
    }

    /// Tells whether a file of this size may not be shipped, and why.
    fn too_large(&self, name: &str, bytes: u64) -> Option<String> {
        let most = match name {
            _ if self.features.iter().any(|f| ["cuda", "metal", "vulkan"].contains(f)) => {
                return None;
            }
            _ if PROGRAMS.contains(&name) => PROGRAM_BYTES_MAX,
            _ if LIBRARIES[..DYNAMIC_LIBRARIES].contains(&name) => LIBRARY_BYTES_MAX,
            _ => return None,
        };
        let text = || format!("{name} has {bytes} bytes, expected at most {most}");
        (bytes > most).then(text)
    }

    /// Tells what is missing to build for it here.
    fn check(&self) -> Result<(), String> {
        if env::consts::OS != self.host {
            let (name, host) = (self.name, self.host);
            return Err(format!("{name} is built on {host}; see cross/README.md"));
        }
        let missing: Vec<_> = self.tools.iter().filter(|t| !package::on_path(t)).collect();
        let unset: Vec<_> = self.sdks.iter().filter(|v| env::var_os(v).is_none()).collect();
        match (missing.is_empty(), unset.is_empty()) {
            (true, true) => Ok(()),
            _ => Err(format!(
                "{} needs programs {missing:?} and variables {unset:?}; see cross/README.md",
                self.name
            )),
        }
    }
}

/// How the standard library for a target is had.
struct Standard {
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

/// Uses what rustup installed, or else builds it from the toolchain's sources.
fn standard_library(triple: &str) -> Result<Standard, String> {
    let program = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let ask = |arguments: &[&str]| {
        let output = Command::new(&program).args(arguments).output();
        let output = output.map_err(|e| format!("rustc cannot be started: {e}"))?;
        Ok::<_, String>(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    };
    if ask(&["--print", "target-libdir", "--target", triple])?.is_dir() {
        return Ok(Standard { arguments: &[], environment: &[] });
    }
    if ask(&["--print", "sysroot"])?.join("lib/rustlib/src/rust/library/Cargo.lock").is_file() {
        let arguments = &["-Zbuild-std=std,panic_abort"];
        return Ok(Standard { arguments, environment: &[("RUSTC_BOOTSTRAP", "1")] });
    }
    Err(format!("no standard library for {triple}: rustup target add {triple}"))
}

/// Folders of one build.
struct Place<'a> {
    target: &'a Target,
    name: String,
    /// `target/dist`.
    dist: PathBuf,
    /// Cargo's target folder of this build.
    work: PathBuf,
    /// Where cargo leaves programs and libraries.
    built: PathBuf,
    /// What is packed.
    package: PathBuf,
}

impl<'a> Place<'a> {
    fn new(root: &Path, target: &'a Target) -> Self {
        let dist = root.join("target/dist");
        let work = dist.join(target.name);
        let built = work.join(target.triple).join("dist");
        let name = format!("culet-{}-{}", env!("CARGO_PKG_VERSION"), target.name);
        Self { target, package: dist.join(&name), name, dist, work, built }
    }

    fn environment(&self, root: &Path) -> Vec<(&'static str, String)> {
        let sysroot = self.work.join("sysroot");
        let (root, sysroot) = (root.display().to_string(), sysroot.display().to_string());
        let fill = |v: &str| v.replace("SYSROOT", &sysroot).replace("ROOT", &root);
        self.target.environment.iter().map(|(k, v)| (*k, fill(v))).collect()
    }

    /// Removes links that an earlier build of the kernels left and the next refuses to replace.
    fn forget_links(&self) -> Result<(), String> {
        for folder in [&self.built, &self.built.join("deps"), &self.built.join("examples")] {
            for file in files(folder) {
                if is_kernel(&file) {
                    let told = |e| format!("{} cannot be removed: {e}", file.display());
                    fs::remove_file(&file).map_err(told)?;
                }
            }
        }
        Ok(())
    }

    /// Copies those of the named files that are there; at least one must be.
    fn keep(&self, from: &Path, names: &[&str], part: &str) -> Result<(), String> {
        let there: Vec<_> = names.iter().filter(|n| from.join(n).is_file()).collect();
        for name in &there {
            copy(&from.join(name), &self.package.join(part).join(name))?;
        }
        match there.is_empty() {
            true => Err(format!("{}: none of {names:?} was built", from.display())),
            false => Ok(()),
        }
    }

    /// Copies the small model and its card to where the program looks for it.
    fn keep_model(&self, root: &Path) -> Result<(), String> {
        let tiny = root.join("models/tiny");
        let is_kept = |p: &&PathBuf| p.extension().is_some_and(|e| e == "gguf" || e == "txt");
        let models = files(&tiny);
        let card = tiny.join("README.md");
        for file in models.iter().filter(is_kept).chain([&card]) {
            let name = file.file_name().ok_or("a file has a name")?;
            copy(file, &self.package.join(MODELS).join(name))?;
        }
        Ok(())
    }

    /// Copies the systemd unit and the container file, where the system has such.
    fn keep_appliance(&self, root: &Path) -> Result<(), String> {
        if !self.target.triple.contains("linux-gnu") {
            return Ok(());
        }
        make(&self.package.join(APPLIANCE))?;
        for file in files(&root.join("cross/appliance")) {
            let name = file.file_name().ok_or("a file has a name")?;
            copy(&file, &self.package.join(APPLIANCE).join(name))?;
        }
        Ok(())
    }

    /// Writes what compilers and build systems ask for; it holds wherever the package lies.
    fn describe(&self, ffi: &Path) -> Result<(), String> {
        copy(&ffi.join("include/culet.h"), &self.package.join("include/culet.h"))?;
        for (template, place) in [
            ("culet.pc.in", "lib/pkgconfig/culet.pc"),
            ("cmake/culet-config.cmake.in", "lib/cmake/culet/culet-config.cmake"),
        ] {
            let template = ffi.join(template);
            let text = fs::read_to_string(&template);
            let text = text.map_err(|e| format!("{}: {e}", template.display()))?;
            write(&self.package.join(place), &filled(&text, self.target))?;
        }
        Ok(())
    }

    /// Refuses programs and libraries that have become too large.
    fn check_sizes(&self) -> Result<(), String> {
        let shipped = self.shipped();
        let mut large = shipped.iter().filter_map(|(n, size)| self.target.too_large(n, *size));
        large.next().map_or(Ok(()), Err)
    }

    /// Returns names and bytes of programs and libraries.
    fn shipped(&self) -> Vec<(String, u64)> {
        let all = [files(&self.package.join("bin")), files(&self.package.join("lib"))].concat();
        let named = |path: &PathBuf| path.file_name().unwrap_or_default().display().to_string();
        let sized = all.iter().filter_map(|p| Some((named(p), fs::metadata(p).ok()?)));
        sized.filter(|(_, m)| m.is_file()).map(|(name, m)| (name, m.len())).collect()
    }

    /// Copies the kernels' modules and libraries, if they are apart, from the newest build.
    fn keep_kernels(&self) -> Result<(), String> {
        let builds = files(&self.built.join("build")).into_iter();
        let age = |p: &PathBuf| fs::metadata(p).and_then(|m| m.modified()).ok();
        let newest = builds.filter(|p| p.join("out/backends").is_dir()).max_by_key(age);
        let Some(newest) = newest else { return Ok(()) };
        let apart = [files(&newest.join("out/lib")), files(&newest.join("out/backends"))].concat();
        for file in apart.iter().filter(|f| is_kernel(f) && is_needed(f)) {
            let name = file.file_name().ok_or("a file has a name")?;
            copy(file, &self.package.join("lib").join(name))?;
        }
        Ok(())
    }

    /// Takes symbols out of the kernels; cargo has done it for the rest.
    fn strip(&self) -> Result<(), String> {
        let Some(tool) = self.target.tools.iter().find(|t| t.ends_with("strip")) else {
            return Ok(());
        };
        for file in files(&self.package.join("lib")).iter().filter(|f| is_kernel(f)) {
            let mut command = Command::new(tool);
            succeed(command.arg("--strip-unneeded").arg(file))?;
        }
        Ok(())
    }

    /// Makes the archive and tells its size and sum.
    fn pack(&self) -> Result<(), String> {
        let archive = format!("{}.tar.gz", self.name);
        let mut tar = Command::new("tar");
        tar.current_dir(&self.dist).args(["-czf", &archive, &self.name]);
        succeed(&mut tar)?;
        let sum = match self.target.host {
            "linux" => told(Command::new("sha256sum").current_dir(&self.dist).arg(&archive))?,
            "macos" => {
                let mut sum = Command::new("shasum");
                told(sum.current_dir(&self.dist).args(["-a", "256", &archive]))?
            }
            _ => {
                let mut sum = Command::new("certutil");
                told(sum.current_dir(&self.dist).args(["-hashfile", &archive, "SHA256"]))?
            }
        };
        write(&self.dist.join(format!("{archive}.sha256")), &sum)?;
        for (name, size) in self.shipped() {
            println!("    {size:>10}  {name}");
        }
        println!("==> {}\n    {}", self.dist.join(&archive).display(), sum.trim());
        Ok(())
    }
}

/// Fills in a template of the C library; its folder is told from the place of the file itself.
fn filled(template: &str, target: &Target) -> String {
    let text = template.replace("@PREFIX@", "${pcfiledir}/../..");
    let text = text.replace("@SYSTEM_LIBRARIES@", target.system_libraries());
    text.replace("@VERSION@", env!("CARGO_PKG_VERSION"))
}

/// Tells whether a file is one of ggml's libraries or modules.
fn is_kernel(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("libggml") || name.starts_with("libllama") || name.starts_with("ggml")
}

/// Tells whether the program asks for a file: modules, and libraries under the name they bear.
fn is_needed(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_library = name.starts_with("libggml.so") || name.starts_with("libggml-base.so");
    !name.starts_with("libllama") && (!is_library || name.ends_with(".so.0"))
}

/// Returns what a folder holds, by name; nothing if there is none.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<_> = entries.map(|entry| entry.path()).collect();
    all.sort();
    all
}

fn make(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let copied = fs::copy(from, to);
    copied.map(drop).map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn succeed(command: &mut Command) -> Result<(), String> {
    told(command).map(drop)
}

/// Runs a program and returns what it says.
pub(crate) fn told(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Starts cargo in a folder.
pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo_program());
    command.current_dir(root).args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_targets_are_unique_and_told() {
        let mut names: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
        let message = unknown("pdp11");
        assert!(names.iter().all(|name| message.contains(name)), "{message}");
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TARGETS.len());
    }

    #[test]
    fn no_target_is_built_for_the_processor_of_this_machine() {
        for target in &TARGETS {
            let flags = target.environment.iter().filter(|(name, _)| *name == "RUSTFLAGS");
            let flags: Vec<_> = flags.map(|(_, flags)| *flags).collect();
            assert_eq!(flags.len(), 1, "{}: .cargo/config.toml would hold", target.name);
            assert!(!flags[0].contains("native"), "{}: {}", target.name, flags[0]);
        }
    }

    #[test]
    fn folders_are_filled_in() {
        let target = TARGETS.iter().find(|t| t.name == "aarch64-linux").unwrap();
        let place = Place::new(Path::new("/r"), target);
        let environment = place.environment(Path::new("/r"));
        let value = |key: &str| &environment.iter().find(|(k, _)| *k == key).unwrap().1;
        assert_eq!(value("PKG_CONFIG_SYSROOT_DIR"), "/r/target/dist/aarch64-linux/sysroot");
        assert_eq!(value("CMAKE_TOOLCHAIN_FILE"), "/r/cross/aarch64-linux.cmake");
    }

    #[test]
    fn the_page_about_boards_leads_to_a_unit_that_finds_everything() {
        let cross = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cross");
        let read = |name: &str| fs::read_to_string(cross.join(name)).unwrap();
        let (page, unit) = (read("boards.md"), read("appliance/culet-voice.service"));
        let value = |text: &str, key: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(key));
            found.unwrap_or_else(|| panic!("no {key}")).to_owned()
        };
        let asked = |line: String| assert!(page.contains(&line), "boards.md lacks: {line}");
        assert!(value(&unit, "ExecStart=").starts_with("/opt/culet/bin/culet voice "));
        asked("sudo mkdir -p /opt/culet/models\n".into());
        asked(format!(
            "sudo cp -r culet-{}-aarch64-linux/. /opt/culet\n",
            env!("CARGO_PKG_VERSION")
        ));
        let model = value(&read("appliance/culet-voice.conf"), "MODEL=");
        let name = model.strip_prefix("/opt/culet/models/").unwrap();
        asked(format!("sudo cp {name} mmproj.gguf /opt/culet/models/\n"));
        let conf = value(&unit, "EnvironmentFile=");
        let (folder, name) = conf.rsplit_once('/').unwrap();
        asked(format!("sudo cp /opt/culet/{APPLIANCE}/{name} {folder}/\n"));
        asked(format!("sudo cp /opt/culet/{APPLIANCE}/culet-voice.service /etc/systemd/system/\n"));
        asked(format!("sudo useradd --system --groups audio,video {}\n", value(&unit, "User=")));
    }

    #[test]
    fn linux_archives_bring_the_unit_and_its_file_of_names() {
        let folder = env::temp_dir().join(format!("culet-dist-{}", std::process::id()));
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for target in &TARGETS {
            let mut place = Place::new(&folder, target);
            place.package = folder.join(target.name);
            place.keep_appliance(&root).unwrap();
            let packed = files(&place.package.join(APPLIANCE));
            let names: Vec<_> = packed.iter().filter_map(|p| p.file_name()?.to_str()).collect();
            let expected = ["Containerfile", "culet-voice.conf", "culet-voice.service"];
            let is_linux = target.name.contains("linux");
            assert_eq!(names, if is_linux { &expected[..] } else { &[] }, "{}", target.name);
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn packages_say_where_they_are_by_themselves() {
        let version = env!("CARGO_PKG_VERSION");
        for (name, libraries) in [
            ("x86_64-linux", "-lstdc++ -lm -ldl -lpthread"),
            ("aarch64-android", "-lc++_static -lc++abi -landroid -llog -lm -ldl"),
        ] {
            let target = TARGETS.iter().find(|t| t.name == name).unwrap();
            let text = filled("@PREFIX@ @VERSION@ @SYSTEM_LIBRARIES@", target);
            assert_eq!(text, format!("${{pcfiledir}}/../.. {version} {libraries}"));
        }
        for template in ["culet.pc.in", "cmake/culet-config.cmake.in"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ffi").join(template);
            let text = filled(&fs::read_to_string(path).unwrap(), &TARGETS[0]);
            assert!(text.contains(version) && !text.contains('@'), "{text}");
        }
    }

    #[test]
    fn large_programs_and_libraries_are_refused() {
        let named = |name: &str| TARGETS.iter().find(|t| t.name == name).unwrap();
        let linux = named("x86_64-linux");
        assert_eq!(linux.too_large("culet", PROGRAM_BYTES_MAX), None);
        let told = linux.too_large("culet", PROGRAM_BYTES_MAX + 1).unwrap();
        assert!(told.contains("culet has 12000001 bytes"), "{told}");
        assert!(linux.too_large("libculet_c.so", LIBRARY_BYTES_MAX + 1).is_some());
        assert_eq!(linux.too_large("libggml-cpu-haswell.so", LIBRARY_BYTES_MAX + 1), None);
        assert_eq!(named("aarch64-macos").too_large("culet", PROGRAM_BYTES_MAX + 1), None);
    }

    #[test]
    fn static_libraries_are_shipped_only_whole() {
        for target in &TARGETS {
            let has_static = target.libraries().contains(&"libculet_c.a");
            assert_eq!(has_static, !target.has_modules(), "{}", target.name);
        }
    }

    #[test]
    fn only_files_that_are_asked_for_are_kept() {
        let kept = |name: &str| is_kernel(Path::new(name)) && is_needed(Path::new(name));
        for name in ["libggml.so.0", "libggml-base.so.0", "libggml-cpu-haswell.so"] {
            assert!(kept(name), "{name}");
        }
        for name in ["libggml.so", "libggml-base.so.0.26.0", "libllama.so.0", "libasound.so"] {
            assert!(!kept(name), "{name}");
        }
    }
}
