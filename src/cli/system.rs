//! What the system tells of the machine and of this program's limits.
//! In: `/proc` and `/sys` where there are such, the search path. Out: numbers and names.
//! Invariant: what the system does not tell is `None`.

use std::path::PathBuf;

/// Returns the name of the machine's processor.
pub(crate) fn cpu() -> String {
    let name = field("/proc/cpuinfo", "model name").or_else(|| {
        // Boards with ARM processors name themselves here.
        let text = std::fs::read_to_string("/proc/device-tree/model").ok()?;
        Some(text.trim_end_matches('\0').to_owned()).filter(|t| !t.is_empty())
    });
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Returns the rest of the first line `key ...: value` of a file.
pub(crate) fn field(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|l| l.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

/// Returns a size that a file of `/proc` gives in KiB.
pub(crate) fn proc_kib(file: &str, key: &str) -> Option<u64> {
    field(file, key)?.split_whitespace().next()?.parse().ok()
}

/// Returns the bytes of memory that this program's group of processes may use, if they are fewer
/// than the machine has.
pub(crate) fn memory_limit_bytes() -> Option<u64> {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let text = files.iter().find_map(|file| std::fs::read_to_string(file).ok())?;
    let limit = text.trim().parse().ok()?;
    let total = proc_kib("/proc/meminfo", "MemTotal:").map(|kib| kib << 10);
    Some(limit).filter(|limit| total.is_none_or(|total| *limit < total))
}

/// Returns a limit of this program as the system words it, such as `Max locked memory`.
pub(crate) fn limit(name: &str) -> Option<String> {
    limit_in(&std::fs::read_to_string("/proc/self/limits").ok()?, name)
}

fn limit_in(text: &str, name: &str) -> Option<String> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next().map(str::to_owned)
}

/// Returns where the search path has a program.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(&file)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_the_first_of_its_line() {
        let text = "Limit           Soft Limit  Hard Limit  Units\n\
                    Max locked memory         8388608    unlimited   bytes\n\
                    Max open files            1024       4096        files\n";
        assert_eq!(limit_in(text, "Max locked memory").as_deref(), Some("8388608"));
        assert_eq!(limit_in(text, "Max open files").as_deref(), Some("1024"));
        assert_eq!(limit_in(text, "Max nothing"), None);
    }

    #[test]
    fn only_programs_of_the_path_are_found() {
        assert_eq!(find_program("no-such-program-anywhere"), None);
        #[cfg(unix)]
        assert!(find_program("sh").is_some_and(|p| p.is_absolute()));
    }
}
