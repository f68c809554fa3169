//! Reads `.npy` files of little-endian float32.

use std::path::Path;

/// Values and shape of one array.
pub(crate) struct Array {
    /// Elements in C order.
    pub(crate) values: Vec<f32>,
    /// Sides, slowest first.
    pub(crate) shape: Vec<usize>,
}

/// Reads version 1 and 2 files of `<f4` in C order.
pub(crate) fn read(path: &Path) -> Array {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(&bytes[..6], b"\x93NUMPY", "{}", path.display());
    let (len, start) = match bytes[6] {
        1 => (u16::from_le_bytes([bytes[8], bytes[9]]) as usize, 10),
        _ => (u32::from_le_bytes(bytes[8..12].try_into().unwrap()) as usize, 12),
    };
    let header = std::str::from_utf8(&bytes[start..start + len]).unwrap();
    assert!(header.contains("'<f4'") && header.contains("'fortran_order': False"), "{header}");
    let sides = header.split("'shape': (").nth(1).unwrap().split(')').next().unwrap();
    let shape: Vec<usize> = sides.split(',').filter_map(|s| s.trim().parse().ok()).collect();
    let data = &bytes[start + len..];
    let values: Vec<f32> = data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(values.len(), shape.iter().product::<usize>(), "{}", path.display());
    Array { values, shape }
}

/// Norm of the difference over the norm of `expected`.
pub(crate) fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |v: f64| v * v;
    let pairs = got.iter().zip(expected);
    let difference: f64 = pairs.map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = expected.iter().map(|v| square(f64::from(*v))).sum();
    (difference / norm.max(1e-30)).sqrt()
}
