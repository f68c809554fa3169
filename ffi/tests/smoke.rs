//! C, C++, Python and Java programs, run against the library; C and C++ with warnings as errors.
//!
//! In: the header, the built library, programs. Out: what they print.
//! The programs' own code runs under AddressSanitizer and UndefinedBehaviorSanitizer where the
//! compiler has them, with its leak check; where it has not, the test says so.

#![expect(clippy::unwrap_used, reason = "a test that cannot start a compiler has failed")]
#![expect(clippy::print_stderr, reason = "tells what was left out")]
#![cfg(unix)]

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

const SANITIZERS: &str = "-fsanitize=address,undefined";

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn root() -> PathBuf {
    here().parent().unwrap().to_owned()
}

/// Returns the folder of the library that was built beside this test.
fn library_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap();
    let found = library_in(folder);
    assert!(found.is_some(), "no libculet_c beside the test; build the package culet-ffi");
    folder.to_owned()
}

fn library_in(folder: &Path) -> Option<PathBuf> {
    let names = ["libculet_c.so", "libculet_c.dylib"];
    names.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("culet-smoke-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn run(command: &mut Command, input: &[u8]) -> Output {
    // Cargo's may find an older library before the one beside this test.
    command.env_remove("LD_LIBRARY_PATH");
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A program that ends early does not read on.
        stdin.write_all(&input).is_ok()
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn must_succeed(command: &mut Command, input: &[u8]) -> String {
    let output = run(command, input);
    let (out, err) = (&output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{command:?}: {}: {err}", output.status);
    String::from_utf8(out.clone()).unwrap()
}

fn compiler(is_cpp: bool) -> Command {
    let (variable, usual) = if is_cpp { ("CXX", "c++") } else { ("CC", "cc") };
    let standard = if is_cpp { "-std=c++17" } else { "-std=c99" };
    let mut command = Command::new(std::env::var_os(variable).unwrap_or(usual.into()));
    command.args([standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-g"]);
    command
}

/// Tells whether programs can be built and run with the sanitizers here.
fn has_sanitizers(folder: &Path) -> bool {
    let (source, program) = (folder.join("empty.c"), folder.join("empty"));
    std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let built = run(compiler(false).arg(SANITIZERS).arg(&source).arg("-o").arg(&program), &[]);
    let works = built.status.success() && run(&mut Command::new(&program), &[]).status.success();
    if !works {
        eprintln!("left out: {SANITIZERS}, which this compiler does not have");
    }
    works
}

/// Builds a program against the library and runs it with the tiny model.
fn build_and_run(source: &Path, arguments: &[&str], input: &[u8]) -> String {
    let folder = scratch(source.file_name().unwrap().to_str().unwrap());
    let library = library_folder();
    let mut flags = vec!["-I".into(), here().join("include").display().to_string()];
    flags.extend(["-L".into(), library.display().to_string()]);
    flags.extend(["-lculet_c", "-lm", "-pthread"].map(str::to_owned));
    flags.push(format!("-Wl,-rpath,{}", library.display()));
    let program = build(source, &folder, &flags);
    let said = run_with_tiny(&program, arguments, input);
    std::fs::remove_dir_all(&folder).unwrap();
    said
}

/// Builds a program in a folder, with the sanitizers if they are there.
fn build(source: &Path, folder: &Path, flags: &[String]) -> PathBuf {
    let program = folder.join("program");
    let mut command = compiler(source.extension().is_some_and(|e| e == "cpp"));
    command.arg(source).arg("-o").arg(&program);
    if has_sanitizers(folder) {
        command.arg(SANITIZERS);
    }
    must_succeed(command.args(flags), &[]);
    program
}

fn run_with_tiny(program: &Path, arguments: &[&str], input: &[u8]) -> String {
    let tiny = root().join("models/tiny");
    let mut command = Command::new(program);
    command.arg(tiny.join("culet-tiny-q4_0.gguf")).arg(tiny.join("mmproj-culet-tiny-q8_0.gguf"));
    command.args(arguments).env("UBSAN_OPTIONS", "halt_on_error=1");
    must_succeed(&mut command, input)
}

#[test]
fn a_c99_program_talks_shows_and_speaks() {
    let said = build_and_run(&here().join("tests/smoke.c"), &[], &[]);
    assert!(said.lines().count() >= 3, "{said:?}");
}

#[test]
fn a_cpp17_program_cancels_from_another_thread() {
    let said = build_and_run(&here().join("tests/smoke.cpp"), &[], &[]);
    assert!(said.ends_with('\n'), "{said:?}");
}

#[test]
fn the_voice_loop_answers_each_time_the_speaker_pauses() {
    let tools = std::fs::read_to_string(root().join("models/tiny/tools.json")).unwrap();
    let messages = format!("{{\"tools\": {tools}}}");
    let program = root().join("examples/c/voice_loop.c");
    let said = build_and_run(&program, &["1", &messages], &questions(&["seen00", "seen01"]));
    let answers: Vec<&str> = said.lines().collect();
    assert!(answers.len() == 2 && answers[0].contains("set_reminder"), "{said:?}");
    // The second is "turn off the hallway lights".
    let sounds = questions(&["seen01", "seen20"]);
    let said = build_and_run(&program, &["1", &messages, "Turn off"], &sounds);
    assert!(said.lines().count() == 1 && said.contains("hallway"), "{said:?}");
}

/// Returns held-out sounds as floats; the last one ends with the sound.
fn questions(names: &[&str]) -> Vec<u8> {
    let mut samples: Vec<f32> = Vec::new();
    for name in names {
        let path = root().join(format!("models/tiny/heldout/sounds/{name}.flac"));
        let blocks = culet::source::SoundFile::open(&path).unwrap();
        samples.extend(blocks.flat_map(|block| block.unwrap().samples));
        samples.resize(samples.len() + 16_000, 0.0);
    }
    samples.truncate(samples.len() - 12_000);
    samples.iter().flat_map(|s| s.to_ne_bytes()).collect()
}

/// Runs a Python program with the library and the tiny model; Python must be there.
fn run_python(program: &Path, arguments: &[&OsStr]) -> String {
    let tiny = root().join("models/tiny");
    let mut command = Command::new("python3");
    command.arg(program).arg(library_in(&library_folder()).unwrap());
    command.arg(tiny.join("culet-tiny-q4_0.gguf")).arg(tiny.join("mmproj-culet-tiny-q8_0.gguf"));
    command.args(arguments).env("PYTHONPATH", root().join("examples/python"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    must_succeed(&mut command, &[])
}

#[test]
fn python_talks_hears_sees_and_cancels() {
    let said = run_python(&here().join("tests/smoke.py"), &[]);
    let parts = ["text: ", "sound: ", "picture: ", "cancelled and repeated: "];
    assert!(parts.iter().all(|part| said.contains(part)), "{said:?}");
    let parts = ["saved and restored: ", "spoken: "];
    assert!(parts.iter().all(|part| said.contains(part)), "{said:?}");
}

#[test]
fn the_python_example_reads_wav_and_ppm_files() {
    let folder = scratch("python");
    let (sound, picture) = (folder.join("tone.wav"), folder.join("grey.ppm"));
    let tone = (0..8_000).map(|i| (9_000.0 * (i as f32 * 0.05).sin()) as i16);
    let samples: Vec<u8> = tone.flat_map(i16::to_le_bytes).collect();
    std::fs::write(&sound, wav(&samples)).unwrap();
    std::fs::write(&picture, [&b"P6\n# grey\n48 48\n255\n"[..], &[128; 48 * 48 * 3]].concat())
        .unwrap();
    let arguments = [
        OsStr::new("What is this?"),
        OsStr::new("--sound"),
        sound.as_os_str(),
        OsStr::new("--picture"),
        picture.as_os_str(),
        OsStr::new("--threads=1"),
    ];
    let said = run_python(&root().join("examples/python/ask.py"), &arguments);
    assert!(said.ends_with('\n') && said.len() > 1, "{said:?}");
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Returns the folder of the JDK whose compiler is on the search path.
fn jdk() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let javac = std::env::split_paths(&path).map(|folder| folder.join("javac"));
    let javac = javac.filter_map(|file| file.canonicalize().ok()).next();
    let javac = javac.expect("no javac; install a JDK, such as default-jdk-headless");
    javac.ancestors().nth(2).unwrap().to_owned()
}

#[test]
fn the_android_example_s_jni_layer_works_on_a_desktop() {
    let (folder, jdk) = (scratch("jni"), jdk());
    let example = root().join("examples/android/culet/src/main");
    let mut command = Command::new(jdk.join("bin/javac"));
    command.args(["-encoding", "UTF-8", "-Xlint:all", "-Werror", "-d"]).arg(&folder);
    command.arg(example.join("java/org/culet/Native.java"));
    command.arg(example.join("java/org/culet/CuletException.java"));
    must_succeed(command.arg(here().join("tests/Smoke.java")), &[]);
    let (layer, library) = (folder.join("libculet_jni.so"), library_folder());
    let system = if cfg!(target_os = "macos") { "darwin" } else { "linux" };
    let mut command = compiler(false);
    command.args(["-fPIC", "-shared"]).arg("-I").arg(here().join("include"));
    command.arg("-I").arg(jdk.join("include")).arg("-I").arg(jdk.join("include").join(system));
    command.arg(example.join("cpp/culet_jni.c")).arg("-o").arg(&layer);
    command.arg("-L").arg(&library).arg("-lculet_c");
    command.arg(format!("-Wl,-rpath,{}", library.display()));
    must_succeed(&mut command, &[]);
    let tiny = root().join("models/tiny");
    let mut command = Command::new(jdk.join("bin/java"));
    command.args(["-Xcheck:jni", "-cp"]).arg(&folder).arg("org.culet.Smoke").arg(&layer);
    command.arg(tiny.join("culet-tiny-q4_0.gguf")).arg(tiny.join("mmproj-culet-tiny-q8_0.gguf"));
    let said = must_succeed(&mut command, &[]);
    let parts = ["text: ", "sound: ", "picture: ", "cancelled and repeated: "];
    assert!(parts.iter().all(|part| said.contains(part)), "{said:?}");
    assert!(!said.contains("WARNING"), "{said:?}");
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Puts the head of a WAV file before samples of 16 bits, one channel at 16 kHz.
fn wav(samples: &[u8]) -> Vec<u8> {
    let n_bytes = samples.len() as u32;
    let rates = [16_000_u32, 32_000].map(u32::to_le_bytes).concat();
    [
        &b"RIFF"[..],
        &(36 + n_bytes).to_le_bytes(),
        b"WAVEfmt \x10\0\0\0\x01\0\x01\0",
        &rates,
        b"\x02\0\x10\0data",
        &n_bytes.to_le_bytes(),
        samples,
    ]
    .concat()
}

#[test]
fn only_names_of_ours_are_exported() {
    let library = library_in(&library_folder()).unwrap();
    let listed = run(Command::new("nm").args(["-D", "--defined-only"]).arg(&library), &[]);
    if cfg!(not(target_os = "linux")) {
        eprintln!("left out: exported names, which are listed on Linux");
        return;
    }
    assert!(listed.status.success());
    let names = String::from_utf8(listed.stdout).unwrap();
    let names: Vec<&str> = names.lines().filter_map(|line| line.split(' ').next_back()).collect();
    let foreign: Vec<_> = names.iter().filter(|name| !name.starts_with("culet_")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let header = std::fs::read_to_string(here().join("include/culet.h")).unwrap();
    let missing: Vec<_> =
        names.iter().filter(|name| !header.contains(&format!("{name}("))).collect();
    assert!(missing.is_empty() && names.len() > 30, "{missing:?}");
}

/// What a program with the static library inside needs of the system; also in README.md.
const SYSTEM_LIBRARIES: &str = if cfg!(target_os = "macos") {
    "-lc++ -framework Foundation -framework Metal -framework MetalKit -framework Accelerate"
} else {
    "-lstdc++ -lm -ldl -lpthread"
};

/// Returns what the static library needs besides when it was built with the program's features, as
/// tests of the whole workspace do: ALSA, for the microphone.
fn needed_by_the_program() -> Vec<String> {
    let mut command = Command::new("pkg-config");
    let output = run(command.args(["--libs", "alsa"]), &[]);
    // Without ALSA, no microphone was built.
    String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
}

/// Lays a library out as an installation and fills in the templates.
fn install(folder: &Path, library: &Path) {
    for part in ["include", "lib/pkgconfig", "lib/cmake/culet"] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
    }
    std::fs::copy(here().join("include/culet.h"), folder.join("include/culet.h")).unwrap();
    let place = folder.join("lib").join(library.file_name().unwrap());
    std::os::unix::fs::symlink(library, place).unwrap();
    for (template, place) in [
        ("culet.pc.in", "lib/pkgconfig/culet.pc"),
        ("cmake/culet-config.cmake.in", "lib/cmake/culet/culet-config.cmake"),
    ] {
        let text = std::fs::read_to_string(here().join(template)).unwrap();
        let text = text.replace("@VERSION@", env!("CARGO_PKG_VERSION"));
        let text = text.replace("@PREFIX@", folder.to_str().unwrap());
        let text = text.replace("@SYSTEM_LIBRARIES@", SYSTEM_LIBRARIES);
        std::fs::write(folder.join(place), text).unwrap();
    }
}

const VERSION_PROGRAM: &str = "\
#include <culet.h>
#include <stdio.h>
int main(void) { return puts(culet_version()) < 0 || culet_abi_version() != CULET_ABI_VERSION; }
";

/// Returns what pkg-config says of an installation.
fn flags_of(folder: &Path, is_static: bool) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.args(is_static.then_some("--static")).args(["--cflags", "--libs", "culet"]);
    command.env("PKG_CONFIG_PATH", folder.join("lib/pkgconfig"));
    must_succeed(&mut command, &[]).split_whitespace().map(str::to_owned).collect()
}

#[test]
fn pkg_config_finds_the_library() {
    let folder = scratch("pkg-config");
    install(&folder, &library_in(&library_folder()).unwrap());
    let source = folder.join("main.c");
    std::fs::write(&source, VERSION_PROGRAM).unwrap();
    let mut flags = flags_of(&folder, false);
    flags.push(format!("-Wl,-rpath,{}", folder.join("lib").display()));
    let program = build(&source, &folder, &flags);
    let said = must_succeed(&mut Command::new(&program), &[]);
    assert_eq!(said.trim(), env!("CARGO_PKG_VERSION"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_c99_program_with_the_static_library_stands_alone() {
    let folder = scratch("static");
    install(&folder, &library_folder().join("libculet_c.a"));
    let flags = [flags_of(&folder, true), needed_by_the_program()].concat();
    let program = build(&here().join("tests/smoke.c"), &folder, &flags);
    // The installation may be gone.
    std::fs::remove_dir_all(folder.join("lib")).unwrap();
    let said = run_with_tiny(&program, &[], &[]);
    assert!(said.lines().count() >= 3, "{said:?}");
    if cfg!(target_os = "linux") {
        let parts = must_succeed(Command::new("readelf").arg("--dynamic").arg(&program), &[]);
        assert!(parts.contains("NEEDED") && !parts.contains("culet"), "{parts}");
    } else {
        eprintln!("left out: the libraries that the program asks for, which are listed on Linux");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn cmake_finds_either_library() {
    let folder = library_folder();
    build_with_cmake("cmake", &library_in(&folder).unwrap());
    build_with_cmake("cmake-static", &folder.join("libculet_c.a"));
}

fn build_with_cmake(name: &str, library: &Path) {
    let folder = scratch(name);
    install(&folder, library);
    std::fs::write(folder.join("main.c"), VERSION_PROGRAM).unwrap();
    let project = "cmake_minimum_required(VERSION 3.15)\nproject(main C)\n\
                   find_package(culet REQUIRED)\nadd_executable(main main.c)\n\
                   target_link_libraries(main PRIVATE culet::culet)\n";
    std::fs::write(folder.join("CMakeLists.txt"), project).unwrap();
    let build = folder.join("build");
    let mut command = Command::new("cmake");
    command.arg("-S").arg(&folder).arg("-B").arg(&build);
    command.arg(format!("-DCMAKE_PREFIX_PATH={}", folder.display()));
    command.arg(format!("-DCMAKE_C_STANDARD_LIBRARIES={}", needed_by_the_program().join(" ")));
    must_succeed(&mut command, &[]);
    must_succeed(Command::new("cmake").arg("--build").arg(&build), &[]);
    let said = must_succeed(&mut Command::new(build.join("main")), &[]);
    assert_eq!(said.trim(), env!("CARGO_PKG_VERSION"));
    std::fs::remove_dir_all(&folder).unwrap();
}
