//! The devices that the kernels can use, and the choice of one.
//!
//! In: ggml's registry, what a user calls a GPU. Out: a running backend.

use std::ffi::CStr;
use std::ffi::c_char;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::error::Error;
use crate::error::Result;
use crate::ggml::backend::init;

/// One device that the kernels can use.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Short name, such as `CPU`, `Vulkan0` or `CUDA0`.
    pub name: String,
    /// The maker's name of it.
    pub description: String,
    /// Memory that is free, in bytes; 0 if unknown.
    pub free_bytes: usize,
    /// Memory in all, in bytes; 0 if unknown.
    pub total_bytes: usize,
    /// Whether it is a GPU.
    pub is_gpu: bool,
    /// Whether it is a GPU that shares the processor's memory.
    pub is_integrated: bool,
}

/// Lists the devices that the kernels can use.
pub fn devices() -> Vec<DeviceInfo> {
    init();
    // SAFETY: counts the registry's entries.
    (0..unsafe { sys::ggml_backend_dev_count() }).map(info).collect()
}

fn info(index: usize) -> DeviceInfo {
    // SAFETY: the index is below the count; names are static C strings.
    unsafe {
        let dev = sys::ggml_backend_dev_get(index);
        let text = |p: *const c_char| CStr::from_ptr(p).to_string_lossy().into_owned();
        let (mut free, mut total) = (0, 0);
        sys::ggml_backend_dev_memory(dev, &raw mut free, &raw mut total);
        let kind = sys::ggml_backend_dev_type(dev);
        let is_integrated = kind == sys::GGML_BACKEND_DEVICE_TYPE_IGPU;
        DeviceInfo {
            name: text(sys::ggml_backend_dev_name(dev)),
            description: text(sys::ggml_backend_dev_description(dev)),
            free_bytes: free,
            total_bytes: total,
            is_gpu: is_integrated || kind == sys::GGML_BACKEND_DEVICE_TYPE_GPU,
            is_integrated,
        }
    }
}

/// Returns the place in `all` of the GPU that a user means.
///
/// # Errors
/// `Input` naming the GPUs that there are.
fn choose(all: &[DeviceInfo], name: &str) -> Result<usize> {
    let gpus: Vec<usize> = (0..all.len()).filter(|&i| all[i].is_gpu).collect();
    let wanted = name.to_lowercase();
    let largest = |own_memory: bool| {
        let meant = gpus.iter().filter(|&&i| !(own_memory && all[i].is_integrated));
        // Of equals the last one is returned; the first one is meant.
        meant.rev().max_by_key(|&&i| all[i].total_bytes)
    };
    let found = match (wanted.as_str(), wanted.parse::<usize>()) {
        ("" | "auto", _) => largest(true).or(gpus.first()),
        ("largest", _) => largest(false),
        (_, Ok(number)) => gpus.get(number),
        _ => {
            let exact = gpus.iter().find(|&&i| all[i].name.to_lowercase() == wanted);
            let part = |text: &str| text.to_lowercase().contains(&wanted);
            exact.or(gpus.iter().find(|&&i| part(&all[i].name) || part(&all[i].description)))
        }
    };
    found.copied().ok_or_else(|| {
        let called = match wanted.as_str() {
            "" | "auto" | "largest" => "no GPU was found".to_owned(),
            _ => format!("no GPU is called \"{name}\""),
        };
        let line = |(number, &i): (usize, &usize)| {
            format!("{number}: {} ({})", all[i].name, all[i].description)
        };
        let names: Vec<_> = gpus.iter().enumerate().map(line).collect();
        let offer = match names.is_empty() {
            true => "none; a build has kernels for GPUs with the feature vulkan, metal or cuda"
                .to_owned(),
            false => names.join(", "),
        };
        Error::input(format!("{called}; this build and machine offer {offer}"))
    })
}

/// Starts the GPU that a user means: a name or a part of it; a number from 0; `largest` for the one
/// with most memory, shared or not; or nothing for the one with most memory of its own, or the
/// first if none has any.
pub(in crate::ggml) fn start(name: &str) -> Result<(NonNull<sys::ggml_backend>, DeviceInfo)> {
    let all = devices();
    let index = choose(&all, name)?;
    // SAFETY: the index is one of the registry's.
    let raw =
        unsafe { sys::ggml_backend_dev_init(sys::ggml_backend_dev_get(index), std::ptr::null()) };
    let raw = NonNull::new(raw).ok_or_else(|| {
        Error::device(format!("GPU {} cannot be started; use the processor", all[index].name))
    })?;
    Ok((raw, all[index].clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(name: &str, is_integrated: bool, total_bytes: usize) -> DeviceInfo {
        DeviceInfo { total_bytes, ..device(name, "", true, is_integrated) }
    }

    fn device(name: &str, description: &str, is_gpu: bool, is_integrated: bool) -> DeviceInfo {
        let (name, description) = (name.to_owned(), description.to_owned());
        DeviceInfo { name, description, free_bytes: 0, total_bytes: 0, is_gpu, is_integrated }
    }

    #[test]
    fn a_gpu_is_chosen_by_its_memory() {
        let all = [
            device("CPU", "", false, false),
            sized("Vulkan0", true, 64),
            sized("Vulkan1", false, 8),
            sized("Vulkan2", false, 24),
            sized("Vulkan3", false, 24),
            sized("Vulkan4", true, 64),
        ];
        let chosen = |all: &[DeviceInfo], name| choose(all, name).expect(name);
        assert_eq!((chosen(&all, ""), chosen(&all, "auto")), (3, 3));
        assert_eq!((chosen(&all, "largest"), chosen(&all[2..], "LARGEST")), (1, 3));
        assert_eq!((chosen(&all[..2], ""), chosen(&all[..3], "")), (1, 2));
        let error = choose(&all[..1], "largest").expect_err("no GPU").to_string();
        assert!(error.contains("no GPU was found"), "{error}");
    }

    #[test]
    fn a_gpu_is_chosen_by_name_part_or_number() {
        let all = [
            device("CPU", "Vulkan fanatic's processor", false, false),
            device("Vulkan0", "Small graphics", true, true),
            device("Vulkan1", "Big Card 12", true, false),
            device("Vulkan10", "Other Card", true, false),
        ];
        for (name, want) in [
            ("", 2),
            ("auto", 2),
            ("0", 1),
            ("1", 2),
            ("vulkan1", 2),
            ("Vulkan10", 3),
            ("big card", 2),
            ("card", 2),
            ("vulkan", 1),
        ] {
            assert_eq!(choose(&all, name).expect(name), want, "{name}");
        }
        let error = choose(&all, "3").expect_err("no such number").to_string();
        assert!(error.contains("0: Vulkan0 (Small graphics)"), "{error}");
        let error = choose(&all[..1], "").expect_err("no GPU").to_string();
        assert!(error.contains("no GPU was found") && error.contains("feature"), "{error}");
    }
}
