//! From logits to chances: temperature, top-p, min-p and the draw.
//! In: candidates, best first. Out: one of them.
//! Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", section 4 (top-p);
//! Nguyen et al., "Turning Up the Heat", section 3 (min-p).
//! Invariant: additions and multiplications in double precision and in a fixed order only, so
//! that no platform's mathematics library can change a token.

/// Returns the weight of a logit beside the highest: 1 for the highest, less for the others.
pub(super) fn weight(logit: f32, highest: f32, temperature: f64) -> f64 {
    if logit == highest {
        return 1.0;
    }
    if logit.is_nan() {
        return 0.0;
    }
    exp((f64::from(logit) - f64::from(highest)) / temperature)
}

/// Returns how many of `weights` (falling) reach the share `top_p` of `total`; at least one.
pub(super) fn top_p_count(weights: &[f64], total: f64, top_p: f64) -> Option<usize> {
    let mut sum = 0.0;
    for (index, weight) in weights.iter().enumerate() {
        sum += weight;
        if sum >= top_p * total {
            return Some(index + 1);
        }
    }
    None
}

/// Returns the index at which the share `unit` of the sum of `weights` is reached.
pub(super) fn draw(weights: &[f64], unit: f64) -> Option<usize> {
    let mut left = unit * weights.iter().sum::<f64>();
    let mut last = None;
    for (index, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        if left < weight {
            return Some(index);
        }
        left -= weight;
        last = Some(index);
    }
    last
}

/// Returns e to the power of `x`, for `x` at most 0, the same bits on every platform.
///
/// # Source
/// Reduction to the nearest multiple of ln 2 (in two parts, Cody and Waite), then Taylor's series.
fn exp(x: f64) -> f64 {
    const LN_2_HIGH: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000);
    const LN_2_LOW: f64 = f64::from_bits(0x3DEA_39EF_3579_3C76);
    // Below, the result is smaller than any share that a draw of 53 bits can reach.
    if x < -700.0 || x.is_nan() {
        return 0.0;
    }
    let power = (x * std::f64::consts::LOG2_E).round();
    let rest = (x - power * LN_2_HIGH) - power * LN_2_LOW;
    let series = (1..=14).rev().fold(1.0, |sum, n| 1.0 + rest / f64::from(n) * sum);
    series * f64::from_bits(((1023 + power as i64) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_equals_the_library_to_the_last_bits() {
        for i in 0..200_000 {
            let x = -f64::from(i) * 0.0034;
            let error = (exp(x) - x.exp()).abs() / x.exp();
            assert!(error < 4.0 * f64::EPSILON, "exp({x}) is off by {error:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1.0).to_bits(), 0x3FD7_8B56_362C_EF38);
    }

    #[test]
    fn infinite_logits_have_weights() {
        let infinite = f32::INFINITY;
        assert_eq!(weight(infinite, infinite, 1.0), 1.0);
        assert_eq!(weight(3.0, infinite, 1.0), 0.0);
        assert_eq!(weight(-infinite, 3.0, 1.0), 0.0);
        assert_eq!(weight(f32::NAN, 3.0, 1.0), 0.0);
        assert_eq!(weight(2.0, 3.0, 1e-300), 0.0);
    }

    #[test]
    fn cuts_and_draws() {
        let weights = [1.0, 0.5, 0.25, 0.25];
        for (top_p, expected) in [(0.1, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.9, 4), (1.0, 4)] {
            assert_eq!(top_p_count(&weights, 2.0, top_p), Some(expected), "{top_p}");
        }
        assert_eq!(top_p_count(&weights, 9.0, 0.5), None);
        for (unit, expected) in [(0.0, 0), (0.49, 0), (0.5, 1), (0.74, 1), (0.75, 2), (0.99, 3)] {
            assert_eq!(draw(&weights, unit), Some(expected), "{unit}");
        }
        assert_eq!(draw(&[0.0, 1.0, 0.0], 0.999_999), Some(1));
        assert_eq!(draw(&[], 0.5), None);
    }
}
