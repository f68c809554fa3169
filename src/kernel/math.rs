//! Exponentials and what is made of them, written so that loops over slices vectorise.
//!
//! Source: range reduction by powers of two and a degree-6 polynomial (Cody and Waite, 1980).

/// Returns `e^x` with a relative error below 2e-7; 0 and the largest float at the ends.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    const MAGIC: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = multiply_add(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = multiply_add(n, -LN2_LO, multiply_add(n, -LN2_HI, x));
    let p = multiply_add(1.987_569_1e-4, r, 1.398_2e-3);
    let p = multiply_add(p, r, 8.333_452e-3);
    let p = multiply_add(p, r, 4.166_579_6e-2);
    let p = multiply_add(p, r, 1.666_666_5e-1);
    let p = multiply_add(p, r, 0.5);
    let e = multiply_add(p, r * r, r) + 1.0;
    let bits = (shifted.to_bits().wrapping_add(127)) << 23;
    e * f32::from_bits(bits)
}

/// Returns `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Returns `x` times its sigmoid.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// Returns the tanh form of GELU: `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    x * sigmoid(TWICE_SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x))
}

/// Returns the hyperbolic tangent with a relative error below 1e-6.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let s = x * x;
    let small = x * (1.0 + s * (-1.0 / 3.0 + s * (2.0 / 15.0 + s * (-17.0 / 315.0))));
    let large = 1.0 - 2.0 / (exp(2.0 * x) + 1.0);
    if x.abs() < 0.15 { small } else { large }
}

/// Returns `a * b + c`, rounded once where the processor can.
#[inline(always)]
pub fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// Writes `gelu_tanh(gate) * up` to `out`.
pub fn gelu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((o, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        *o = gelu_tanh(g) * u;
    }
}

/// Writes `cap * tanh(x / cap)` to `out`.
pub fn soft_cap(x: &[f32], cap: f32, out: &mut [f32]) {
    let inverse = 1.0 / cap;
    for (o, &v) in out.iter_mut().zip(x) {
        *o = cap * tanh(v * inverse);
    }
}

/// Returns the dot product, summed in sixteen lanes.
#[inline]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0f32; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for i in 0..LANES {
            sums[i] += x[i] * y[i];
        }
    }
    let mut sum: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sum += sums[0];
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    mod naive {
        pub(super) fn gelu_tanh(x: f64) -> f64 {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + u.tanh())
        }
    }

    fn grid() -> impl Iterator<Item = f32> {
        (-4000..=4000).map(|i| i as f32 * 0.01)
    }

    #[test]
    fn twins_agree() {
        for x in grid() {
            let wide = f64::from(x);
            let close = |fast: f32, slow: f64, tolerance: f64| {
                let error = (f64::from(fast) - slow).abs();
                assert!(error <= tolerance * slow.abs().max(1e-30), "{x}: {fast} {slow}");
            };
            close(exp(x), wide.exp(), 4e-7);
            close(tanh(x), wide.tanh(), 2e-6);
            close(sigmoid(x), 1.0 / (1.0 + (-wide).exp()), 1e-6);
            let error = (f64::from(gelu_tanh(x)) - naive::gelu_tanh(wide)).abs();
            assert!(error <= 1e-6 * wide.abs().max(1.0), "{x}");
        }
    }

    #[test]
    fn ends_are_finite() {
        for x in [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0] {
            assert!(exp(x).is_finite() && tanh(x).is_finite() && sigmoid(x).is_finite(), "{x}");
        }
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn dot_equals_the_plain_sum() {
        for n in [0, 1, 15, 16, 17, 100, 257] {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..n).map(|i| (i as f32 * 0.3).cos()).collect();
            let plain: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(x * y)).sum();
            assert!((f64::from(dot(&a, &b)) - plain).abs() < 1e-4, "{n}");
        }
    }
}
