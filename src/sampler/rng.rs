//! Random numbers from a seed.
//! In: a 64-bit seed. Out: numbers in [0, 1).
//! Source: Blackman and Vigna, "Scrambled linear pseudorandom number generators" (xoshiro256++),
//! seeded by Steele's SplitMix64, as its authors advise.
//! Invariant: whole-number arithmetic only, so the same seed gives the same row everywhere.

/// A seeded row of random numbers.
#[derive(Clone)]
pub(super) struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// Creates the row that belongs to `seed`.
    pub(super) fn new(seed: u64) -> Self {
        let mut mixer = seed;
        Self { state: std::array::from_fn(|_| split_mix(&mut mixer)) }
    }

    /// Returns where the row is; [`at`](Self::at) goes on there.
    pub(super) fn state(&self) -> [u64; 4] {
        self.state
    }

    /// Creates a row that goes on where another one was.
    pub(super) fn at(state: [u64; 4]) -> Self {
        Self { state }
    }

    /// Returns the next number in [0, 1), a multiple of 2^-53.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_rows_are_met() {
        assert_eq!(split_mix(&mut 0), 0xE220_A839_7B1D_CDAF);
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let row = [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386];
        assert_eq!(row.map(|_| rng.next()), row);
    }

    #[test]
    fn units_fill_the_interval_evenly() {
        let mut rng = Rng::new(7);
        let mut counts = [0_u32; 10];
        for _ in 0..100_000 {
            let unit = rng.unit();
            assert!((0.0..1.0).contains(&unit));
            counts[(unit * 10.0) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
    }
}
