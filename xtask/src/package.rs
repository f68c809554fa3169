//! System packages: which are needed, which are there, and how the rest gets installed.
//! In: nothing. Out: an installed package, or a message that says what to install.
//! Invariant: a machine that has everything is not changed and needs no network.

use crate::step::cargo_program;
use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

/// How to see that a package is there, whoever installed it.
enum Probe {
    /// A program on the search path.
    Program(&'static str),
    /// A library that pkg-config knows.
    Library(&'static str),
    /// libclang, which is looked up by file.
    Libclang,
    /// A plugin of ALSA, by its file.
    AlsaPlugin(&'static str),
}

struct Package {
    /// Its name in Debian and Ubuntu.
    name: &'static str,
    probe: Probe,
    /// What it is for; shown when it is missing.
    purpose: &'static str,
    /// Whether nothing can be built without it.
    required: bool,
}

const fn need(name: &'static str, probe: Probe, purpose: &'static str) -> Package {
    Package { name, probe, purpose, required: true }
}

const fn like(name: &'static str, probe: Probe, purpose: &'static str) -> Package {
    Package { name, probe, purpose, required: false }
}

/// pkg-config comes first, because later probes ask it.
const PACKAGES: [Package; 15] = [
    need("pkg-config", Probe::Program("pkg-config"), "finds system libraries"),
    need("g++", Probe::Program("c++"), "compiles the kernels"),
    need("make", Probe::Program("make"), "runs the kernels' build"),
    need("cmake", Probe::Program("cmake"), "configures the kernels' build"),
    need("clang", Probe::Program("clang"), "reads the kernels' headers"),
    need("libclang-dev", Probe::Libclang, "reads the kernels' headers"),
    need("libasound2-dev", Probe::Library("alsa"), "microphone and speaker"),
    like("python3", Probe::Program("python3"), "runs the Python example in the tests"),
    like("ffmpeg", Probe::Program("ffmpeg"), "opens videos"),
    like("default-jdk-headless", Probe::Program("javac"), "runs the JNI layer in the tests"),
    like("ccache", Probe::Program("ccache"), "makes repeated builds fast"),
    like("espeak-ng", Probe::Program("espeak-ng"), "speaks answers aloud"),
    like("pulseaudio", Probe::Program("pulseaudio"), "a microphone and a speaker for tests"),
    like("pulseaudio-utils", Probe::Program("pacat"), "plays to that microphone"),
    like("libasound2-plugins", Probe::AlsaPlugin(PULSE_PLUGIN), "joins ALSA and that server"),
];

const PULSE_PLUGIN: &str = "libasound_module_pcm_pulse.so";

const ELSEWHERE: &str = "\
  Fedora:   sudo dnf install pkgconf gcc-c++ make cmake clang clang-devel alsa-lib-devel ccache
  Arch:     sudo pacman -S --needed pkgconf gcc make cmake clang alsa-lib ccache
  openSUSE: sudo zypper install pkgconf gcc-c++ make cmake clang-devel alsa-devel ccache
  macOS:    xcode-select --install && brew install cmake pkgconf ccache
  Windows:  Visual Studio Build Tools (C++), CMake and LLVM, each on the PATH";

/// Installs the packages that are missing, or says which they are.
pub(crate) fn install_missing() -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        return check_elsewhere();
    }
    let missing: Vec<&Package> = PACKAGES.iter().filter(|p| !p.is_there()).collect();
    if missing.is_empty() {
        println!("==> system packages: all {} are there", PACKAGES.len());
        return Ok(());
    }
    println!("==> system packages missing:");
    for package in &missing {
        println!("    {:16} {}", package.name, package.purpose);
    }
    if !on_path("apt-get") {
        return unless_optional(&missing, format!("install them:\n{ELSEWHERE}"));
    }
    let installed = apt(&missing.iter().map(|p| p.name).collect::<Vec<_>>());
    match installed {
        Ok(()) => Ok(()),
        Err(reason) => unless_optional(&missing, reason),
    }
}

/// Adds the formatter and the linter to the toolchain if they are missing.
pub(crate) fn install_rust_parts(root: &Path) -> Result<(), String> {
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let is_there = Command::new(cargo_program())
            .args([command, "--version"])
            .current_dir(root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !is_there {
            println!("==> rustup component add {component}");
            run("rustup", &["component", "add", component])?;
        }
    }
    Ok(())
}

impl Package {
    fn is_there(&self) -> bool {
        match self.probe {
            Probe::Program(name) => on_path(name),
            Probe::Library(name) => succeeds("pkg-config", &["--exists", name]),
            Probe::Libclang => {
                env::var_os("LIBCLANG_PATH").is_some() || libclang_folder().is_some()
            }
            Probe::AlsaPlugin(file) => {
                let inside = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
                let folders = inside.map(|entry| entry.path()).chain(["/usr/lib64".into()]);
                folders.into_iter().any(|folder| folder.join("alsa-lib").join(file).is_file())
            }
        }
    }
}

/// Without a required package the build would end in a confusing error, so it ends here.
fn unless_optional(missing: &[&Package], reason: String) -> Result<(), String> {
    let required: Vec<&str> = missing.iter().filter(|p| p.required).map(|p| p.name).collect();
    if required.is_empty() {
        println!("    going on without them: {reason}");
        return Ok(());
    }
    Err(format!("system packages are missing ({}); {reason}", required.join(", ")))
}

fn check_elsewhere() -> Result<(), String> {
    let missing: Vec<&str> = ["cmake", "clang"].into_iter().filter(|p| !on_path(p)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("programs are missing ({}); install them:\n{ELSEWHERE}", missing.join(", ")))
}

fn apt(names: &[&str]) -> Result<(), String> {
    let is_root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == "0");
    let install = ["install", "-y", "--no-install-recommends"];
    if !is_root && !on_path("sudo") {
        return Err(format!("as root, run: apt-get {} {}", install.join(" "), names.join(" ")));
    }
    let mut prefix = vec!["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"];
    if !is_root {
        prefix.insert(0, "sudo");
    }
    let update = [&prefix[1..], &["update"]].concat();
    println!("    {} {}", prefix[0], update.join(" "));
    if let Err(reason) = run(prefix[0], &update) {
        println!("    package lists stay as they are: {reason}");
    }
    let install = [&prefix[1..], &install[..], names].concat();
    println!("    {} {}", prefix[0], install.join(" "));
    run(prefix[0], &install)
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let status = Command::new(program)
        .args(arguments)
        .status()
        .map_err(|e| format!("{program} cannot be started: {e}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{program} {} ended with {status}", arguments.join(" ")))
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Tells whether the search path has a program.
pub(crate) fn on_path(program: &str) -> bool {
    let file = format!("{program}{}", env::consts::EXE_SUFFIX);
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(&file).is_file()))
}

/// Returns a folder that holds a libclang as Debian, Ubuntu and others place it.
fn libclang_folder() -> Option<std::path::PathBuf> {
    let llvm = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut folders: Vec<_> = llvm
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm"))
        .map(|entry| entry.path().join("lib"))
        .collect();
    folders.extend(["/usr/lib", "/usr/lib64"].map(Into::into));
    folders.into_iter().find(|folder| {
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        files
            .map(|file| file.file_name().to_string_lossy().into_owned())
            .any(|name| name.starts_with("libclang.so") || name.starts_with("libclang-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_required_packages_stop_the_run() {
        let optional = like("a", Probe::Program("a"), "");
        let required = need("b", Probe::Program("b"), "");
        assert!(unless_optional(&[&optional], "reason".into()).is_ok());
        let message = unless_optional(&[&optional, &required], "do this".into());
        assert_eq!(message, Err("system packages are missing (b); do this".into()));
    }

    #[test]
    fn probes_see_what_runs_this_test() {
        assert!(on_path("cargo") || env::var_os("CARGO").is_some());
        assert!(!on_path("no-such-program-anywhere"));
    }

    #[test]
    fn package_names_are_unique() {
        let mut names: Vec<&str> = PACKAGES.iter().map(|p| p.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PACKAGES.len());
    }
}
