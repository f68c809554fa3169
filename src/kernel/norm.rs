//! Root-mean-square normalisation of rows, fused with what follows it.

use super::math::dot;

/// Returns `(mean(x^2) + eps)^(-1/2)`.
#[inline]
pub fn rms_scale(x: &[f32], eps: f32) -> f32 {
    let mean = dot(x, x) / x.len() as f32;
    1.0 / (mean + eps).sqrt()
}

/// Writes `x` normalised, times `weight` where given.
pub fn rms_norm(x: &[f32], weight: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    let scale = rms_scale(x, eps);
    match weight {
        Some(weight) => {
            for ((o, &v), &w) in out.iter_mut().zip(x).zip(weight) {
                *o = v * scale * w;
            }
        }
        None => {
            for (o, &v) in out.iter_mut().zip(x) {
                *o = v * scale;
            }
        }
    }
}

/// Writes `(residual + factor * rms_norm(x) * weight) * gain`.
pub fn rms_norm_add(
    x: &[f32],
    weight: &[f32],
    residual: &[f32],
    (eps, factor, gain): (f32, f32, f32),
    out: &mut [f32],
) {
    let scale = rms_scale(x, eps) * factor;
    for (((o, &v), &w), &r) in out.iter_mut().zip(x).zip(weight).zip(residual) {
        *o = (r + v * scale * w) * gain;
    }
}

/// Limits `x` to `min ..= max`; the ends may be infinite.
#[inline(always)]
pub fn limit(x: f32, (min, max): (f32, f32)) -> f32 {
    let x = if x < min { min } else { x };
    if x > max { max } else { x }
}

/// Writes `x` normalised, times `weight` where given, limited to `limits`.
pub fn rms_norm_limit(
    x: &[f32],
    weight: Option<&[f32]>,
    eps: f32,
    limits: (f32, f32),
    out: &mut [f32],
) {
    rms_norm(x, weight, eps, out);
    if limits != UNLIMITED {
        out.iter_mut().for_each(|o| *o = limit(*o, limits));
    }
}

/// Writes `residual + factor * rms_norm(limit(x)) * weight`.
pub fn limit_rms_norm_add(
    (x, limits): (&[f32], (f32, f32)),
    weight: &[f32],
    residual: &[f32],
    (eps, factor): (f32, f32),
    out: &mut [f32],
) {
    for (o, &v) in out.iter_mut().zip(x) {
        *o = limit(v, limits);
    }
    let scale = rms_scale(out, eps) * factor;
    for ((o, &w), &r) in out.iter_mut().zip(weight).zip(residual) {
        *o = r + *o * scale * w;
    }
}

/// Normalises `x` to mean 0 and variance 1, times `weight`, and drops what is negative.
pub fn layer_norm_relu(x: &mut [f32], weight: &[f32], eps: f32) {
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    x.iter_mut().for_each(|v| *v -= mean);
    let scale = rms_scale(x, eps);
    for (v, &w) in x.iter_mut().zip(weight) {
        *v = (*v * scale * w).max(0.0);
    }
}

/// The ends of a range that limits nothing.
pub const UNLIMITED: (f32, f32) = (f32::NEG_INFINITY, f32::INFINITY);

#[cfg(test)]
mod tests {
    use super::*;

    mod naive {
        pub(super) fn rms_norm(x: &[f32], eps: f64) -> Vec<f64> {
            let sum: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            let scale = 1.0 / (sum / x.len() as f64 + eps).sqrt();
            x.iter().map(|&v| f64::from(v) * scale).collect()
        }
    }

    #[test]
    fn twins_agree() {
        for n in [1, 7, 64, 1536, 1537] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
            let w: Vec<f32> = (0..n).map(|i| (i as f32 * 0.11).cos()).collect();
            let slow = naive::rms_norm(&x, 1e-6);
            let (mut plain, mut scaled, mut added) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
            rms_norm(&x, None, 1e-6, &mut plain);
            rms_norm(&x, Some(&w), 1e-6, &mut scaled);
            rms_norm_add(&x, &w, &x, (1e-6, 0.5, 2.0), &mut added);
            for i in 0..n {
                let weighted = slow[i] * f64::from(w[i]);
                assert!((f64::from(plain[i]) - slow[i]).abs() < 1e-5, "{n} {i}");
                assert!((f64::from(scaled[i]) - weighted).abs() < 1e-5, "{n} {i}");
                let sum = (f64::from(x[i]) + 0.5 * weighted) * 2.0;
                assert!((f64::from(added[i]) - sum).abs() < 2e-5, "{n} {i}");
            }
        }
    }

    #[test]
    fn limited_twins_agree() {
        let limits = (-0.4, 0.7);
        for n in [1, 7, 64, 1000] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
            let w: Vec<f32> = (0..n).map(|i| (i as f32 * 0.11).cos()).collect();
            let (mut normed, mut added) = (vec![0.0; n], vec![0.0; n]);
            rms_norm_limit(&x, Some(&w), 1e-6, limits, &mut normed);
            limit_rms_norm_add((&x, limits), &w, &x, (1e-6, 0.5), &mut added);
            let slow = naive::rms_norm(&x, 1e-6);
            let limited: Vec<f32> = x.iter().map(|v| v.clamp(limits.0, limits.1)).collect();
            let after = naive::rms_norm(&limited, 1e-6);
            for i in 0..n {
                let want = (slow[i] * f64::from(w[i])).clamp(-0.4, 0.7);
                assert!((f64::from(normed[i]) - want).abs() < 1e-5, "{n} {i}");
                let want = f64::from(x[i]) + 0.5 * after[i] * f64::from(w[i]);
                assert!((f64::from(added[i]) - want).abs() < 1e-5, "{n} {i}");
            }
        }
        assert_eq!(limit(5.0, UNLIMITED), 5.0);
        assert!(limit(f32::NAN, limits).is_nan());
    }
}
