//! Loads eight rows of each format into registers.
//!
//! In: pointers to blocks. Out: codes and scales of 32 values at a time.
//! Source: block layouts of `ggml-common.h` and `repack.cpp` of llama-cpp-sys-2 0.1.161.

use std::arch::x86_64::__m128i;
use std::arch::x86_64::__m256i;
use std::arch::x86_64::__m512;
use std::arch::x86_64::__m512i;
use std::arch::x86_64::_mm_cvtsi32_si128;
use std::arch::x86_64::_mm_loadu_si128;
use std::arch::x86_64::_mm256_cvtph_ps;
use std::arch::x86_64::_mm256_loadu_si256;
use std::arch::x86_64::_mm512_add_epi32;
use std::arch::x86_64::_mm512_and_si512;
use std::arch::x86_64::_mm512_bsrli_epi128;
use std::arch::x86_64::_mm512_castps256_ps512;
use std::arch::x86_64::_mm512_castsi128_si512;
use std::arch::x86_64::_mm512_castsi256_si512;
use std::arch::x86_64::_mm512_cvtepi32_epi16;
use std::arch::x86_64::_mm512_cvtepi32_ps;
use std::arch::x86_64::_mm512_cvtph_ps;
use std::arch::x86_64::_mm512_inserti32x4;
use std::arch::x86_64::_mm512_inserti64x4;
use std::arch::x86_64::_mm512_loadu_si512;
use std::arch::x86_64::_mm512_or_si512;
use std::arch::x86_64::_mm512_permutex2var_epi32;
use std::arch::x86_64::_mm512_permutex2var_epi64;
use std::arch::x86_64::_mm512_permutexvar_ps;
use std::arch::x86_64::_mm512_set1_epi8;
use std::arch::x86_64::_mm512_set1_epi32;
use std::arch::x86_64::_mm512_setr_epi32;
use std::arch::x86_64::_mm512_setr_epi64;
use std::arch::x86_64::_mm512_setzero_ps;
use std::arch::x86_64::_mm512_setzero_si512;
use std::arch::x86_64::_mm512_shuffle_epi8;
use std::arch::x86_64::_mm512_shuffle_i64x2;
use std::arch::x86_64::_mm512_sll_epi16;
use std::arch::x86_64::_mm512_srl_epi16;
use std::arch::x86_64::_mm512_srli_epi16;
use std::arch::x86_64::_mm512_srli_epi32;
use std::arch::x86_64::_mm512_sub_epi8;
use std::arch::x86_64::_mm512_xor_si512;

use super::GROUP;
use super::avx512::Minima;
use super::avx512::Part;
use super::avx512::Read;
use super::format::Format;

/// Every value of each byte.
const NIBBLE: i8 = 0x0f;

/// See [`Format::Q4_0`]; `PACKED` is [`Format::Q4_0Packed`].
pub(super) struct Q4_0<const PACKED: bool>;

impl<const PACKED: bool> Read<1> for Q4_0<PACKED> {
    const FORMAT: Format = if PACKED { Format::Q4_0Packed } else { Format::Q4_0 };
    type Head = ();

    #[inline(always)]
    unsafe fn head(at: *const u8, stride: usize) -> (__m512, ()) {
        // SAFETY: see `Read`.
        unsafe {
            let scale = match PACKED {
                true => spread(&at.cast::<[u16; GROUP]>().read_unaligned()),
                false => halves(at, stride),
            };
            (scale, ())
        }
    }

    #[inline(always)]
    unsafe fn parts(_head: &(), at: *const u8, stride: usize, _step: usize) -> [Part; 1] {
        // SAFETY: see `Read`.
        unsafe {
            let [first, second] = match PACKED {
                true => {
                    let codes = at.add(2 * GROUP);
                    let codes = [codes, codes.add(64)].map(|at| _mm512_loadu_si512(at.cast()));
                    // The packed layout has the highest bit of each value turned.
                    let turned = _mm512_set1_epi8(0x88_u8 as i8);
                    codes.map(|v| _mm512_xor_si512(v, turned))
                }
                false => words16(at.add(2), stride),
            };
            [part([low(first), low(second), high(first), high(second)])]
        }
    }
}

/// See [`Format::Q8_0`].
pub(super) struct Q8_0;

impl Read<1> for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
    type Head = ();

    #[inline(always)]
    unsafe fn head(at: *const u8, stride: usize) -> (__m512, ()) {
        // SAFETY: see `Read`.
        unsafe { (halves(at, stride), ()) }
    }

    #[inline(always)]
    unsafe fn parts(_head: &(), at: *const u8, stride: usize, _step: usize) -> [Part; 1] {
        // SAFETY: see `Read`.
        unsafe {
            let turned = _mm512_set1_epi8(0x80_u8 as i8);
            [part(each(words32(at.add(2), stride), |v| _mm512_xor_si512(v, turned)))]
        }
    }
}

/// See [`Format::TQ2_0`].
pub(super) struct TQ2_0;

impl Read<4> for TQ2_0 {
    const FORMAT: Format = Format::TQ2_0;
    type Head = ();

    #[inline(always)]
    unsafe fn head(at: *const u8, stride: usize) -> (__m512, ()) {
        // SAFETY: see `Read`.
        unsafe { (halves(at.add(64), stride), ()) }
    }

    #[inline(always)]
    unsafe fn parts(_head: &(), at: *const u8, stride: usize, step: usize) -> [Part; 4] {
        // SAFETY: see `Read`.
        unsafe {
            let words = words32(at.add(32 * step), stride);
            // Codes stay where they are in their byte.
            each([0, 1, 2, 3], |p| {
                let mask = _mm512_set1_epi8(3 << (2 * p));
                part(each(words, |v| _mm512_and_si512(v, mask)))
            })
        }
    }
}

/// Scales and minima of 6 bits, four to a number, each row's twice; the factor of the minima.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    scales: [__m512i; 4],
    factor: __m512,
}

/// See [`Format::Q3K`].
pub(super) struct Q3K;

impl Read<4> for Q3K {
    const FORMAT: Format = Format::Q3K;
    /// Scales, four to a number; the highest bits of the codes.
    type Head = ([__m512i; 4], [__m512i; 4]);

    #[inline(always)]
    unsafe fn head(at: *const u8, stride: usize) -> (__m512, Self::Head) {
        // SAFETY: see `Read`.
        unsafe {
            let (bits, [a, b, tops, factor]) =
                (words32(at, stride), numbers16::<2>(at.add(94), stride));
            let scales = [
                _mm512_or_si512(low(a), moved(tops, 0, 4, 0x30)),
                _mm512_or_si512(low(b), moved(tops, 2, 4, 0x30)),
                _mm512_or_si512(high(a), moved(tops, 4, 4, 0x30)),
                _mm512_or_si512(high(b), moved(tops, 6, 4, 0x30)),
            ];
            let scales = each(scales, |v| _mm512_sub_epi8(v, _mm512_set1_epi8(32)));
            (low_half(factor), (scales, bits))
        }
    }

    #[inline(always)]
    unsafe fn parts(head: &Self::Head, at: *const u8, stride: usize, step: usize) -> [Part; 4] {
        // SAFETY: see `Read`.
        unsafe {
            let (scales, bits) = head;
            let words = words32(at.add(32 + 32 * step), stride);
            let bits = each(*bits, |v| down(v, 4 * step));
            each([0, 1, 2, 3], |p| {
                let i = 4 * step + p;
                let code = |w: usize| {
                    _mm512_or_si512(moved(words[w], 2 * p, 0, 0x03), moved(bits[w], p, 2, 0x04))
                };
                let times = pair(scales[i / 2], [0, 4, 8, 12], i % 2 * 2);
                Part { times, ..part([code(0), code(1), code(2), code(3)]) }
            })
        }
    }
}

/// See [`Format::Q4K`].
pub(super) struct Q4K;

impl Read<2> for Q4K {
    const FORMAT: Format = Format::Q4K;
    type Head = Packed;

    #[inline(always)]
    unsafe fn head(at: *const u8, stride: usize) -> (__m512, Packed) {
        // SAFETY: see `Read`.
        unsafe { with_minima(at, stride) }
    }

    #[inline(always)]
    unsafe fn minima(head: &Packed) -> Option<Minima> {
        // SAFETY: see `Read`.
        Some(unsafe { minima(head) })
    }

    #[inline(always)]
    unsafe fn parts(head: &Packed, at: *const u8, stride: usize, step: usize) -> [Part; 2] {
        // SAFETY: see `Read`.
        unsafe {
            let words = words32(at.add(16 + 32 * step), stride);
            let number = |p: usize, codes| Part { scale: scale(head, 2 * step + p), ..part(codes) };
            // High codes stay where they are in their byte.
            let above = _mm512_set1_epi8(!NIBBLE);
            [
                number(0, each(words, |v| low(v))),
                number(1, each(words, |v| _mm512_and_si512(v, above))),
            ]
        }
    }
}

/// See [`Format::Q5K`].
pub(super) struct Q5K;

impl Read<2> for Q5K {
    const FORMAT: Format = Format::Q5K;
    type Head = (Packed, [__m512i; 4]);

    #[inline(always)]
    unsafe fn head(at: *const u8, stride: usize) -> (__m512, Self::Head) {
        // SAFETY: see `Read`.
        unsafe {
            let (scale, packed) = with_minima(at, stride);
            (scale, (packed, words32(at.add(16), stride)))
        }
    }

    #[inline(always)]
    unsafe fn minima(head: &Self::Head) -> Option<Minima> {
        // SAFETY: see `Read`.
        Some(unsafe { minima(&head.0) })
    }

    #[inline(always)]
    unsafe fn parts(head: &Self::Head, at: *const u8, stride: usize, step: usize) -> [Part; 2] {
        // SAFETY: see `Read`.
        unsafe {
            let (packed, bits) = head;
            let words = words32(at.add(48 + 32 * step), stride);
            let bits = each(*bits, |v| down(v, 2 * step));
            let number = |p: usize, codes: [__m512i; 4]| {
                let code = |w: usize| _mm512_or_si512(codes[w], moved(bits[w], p, 4, 0x10));
                let scale = scale(packed, 2 * step + p);
                Part { scale, ..part([code(0), code(1), code(2), code(3)]) }
            };
            [number(0, each(words, |v| low(v))), number(1, each(words, |v| high(v)))]
        }
    }
}

/// See [`Format::Q6K`].
pub(super) struct Q6K;

impl Read<4> for Q6K {
    const FORMAT: Format = Format::Q6K;
    type Head = [__m512i; 2];

    #[inline(always)]
    unsafe fn head(at: *const u8, stride: usize) -> (__m512, Self::Head) {
        // SAFETY: see `Read`.
        unsafe { (halves(at.add(208), stride), words16(at.add(192), stride)) }
    }

    #[inline(always)]
    unsafe fn parts(head: &Self::Head, at: *const u8, stride: usize, step: usize) -> [Part; 4] {
        // SAFETY: see `Read`.
        unsafe {
            let scales = head[step];
            let at_low = at.add(64 * step);
            let (even, odd) = (words32(at_low, stride), words32(at_low.add(32), stride));
            let tops = words32(at.add(128 + 32 * step), stride);
            let number = |p: usize, codes: [__m512i; 4]| {
                let code = |w: usize| _mm512_or_si512(codes[w], moved(tops[w], 2 * p, 4, 0x30));
                let times = pair(scales, [0, 0, 8, 8], 2 * p);
                Part { times, ..part([code(0), code(1), code(2), code(3)]) }
            };
            [
                number(0, each(even, |v| low(v))),
                number(1, each(odd, |v| low(v))),
                number(2, each(even, |v| high(v))),
                number(3, each(odd, |v| high(v))),
            ]
        }
    }
}

/// Returns a part without what some formats have besides codes.
#[target_feature(enable = "avx512f")]
#[inline]
fn part(codes: [__m512i; 4]) -> Part {
    Part { codes, scale: _mm512_setzero_ps(), times: _mm512_setzero_si512() }
}

/// Returns what a function makes of each, always as one piece of code: registers that are passed
/// through memory would take longer than the work.
#[inline(always)]
fn each<T, U>([a, b, c, d]: [T; 4], f: impl Fn(T) -> U) -> [U; 4] {
    [f(a), f(b), f(c), f(d)]
}

/// Returns a block's scale, and its scales and minima of 6 bits: numbers 0 to 3 and 4 to 7 of each.
///
/// # Safety
/// Sixteen bytes of eight rows are readable, `stride` apart.
#[target_feature(enable = "avx512f,avx512bw,f16c")]
#[inline]
unsafe fn with_minima(at: *const u8, stride: usize) -> (__m512, Packed) {
    // SAFETY: by the caller's promise.
    let [pair, a, b, c] = unsafe { numbers16::<0>(at, stride) };
    let sixes = |v| _mm512_and_si512(v, _mm512_set1_epi8(0x3f));
    let scales = [
        sixes(a),
        _mm512_or_si512(low(c), moved(a, 6, 4, 0x30)),
        sixes(b),
        _mm512_or_si512(high(c), moved(b, 6, 4, 0x30)),
    ];
    (low_half(pair), Packed { scales, factor: low_half(_mm512_srli_epi32::<16>(pair)) })
}

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn minima(head: &Packed) -> Minima {
    let pairs = each([0, 1, 2, 3], |pair| {
        _mm512_cvtepi32_ps(byte(head.scales[2 + pair / 2], 2 * (pair % 2), 1))
    });
    Minima { factor: head.factor, pairs }
}

/// Returns the scale of part `i`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn scale(head: &Packed, i: usize) -> __m512 {
    _mm512_cvtepi32_ps(byte(head.scales[i / 4], i % 4, 0))
}

/// Returns the low four bits of each byte.
#[target_feature(enable = "avx512f")]
#[inline]
fn low(v: __m512i) -> __m512i {
    _mm512_and_si512(v, _mm512_set1_epi8(NIBBLE))
}

/// Returns the high four bits of each byte.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn high(v: __m512i) -> __m512i {
    low(_mm512_srli_epi16::<4>(v))
}

/// Returns the bits `mask` of each byte after its bit `from` became bit `to`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn moved(v: __m512i, from: usize, to: usize, mask: i8) -> __m512i {
    let v = match from > to {
        true => down(v, from - to),
        false => _mm512_sll_epi16(v, _mm_cvtsi32_si128((to - from) as i32)),
    };
    _mm512_and_si512(v, _mm512_set1_epi8(mask))
}

/// Moves bits down; what comes into a byte from the one above it is left there.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn down(v: __m512i, n_bits: usize) -> __m512i {
    _mm512_srl_epi16(v, _mm_cvtsi32_si128(n_bits as i32))
}

/// Returns byte `i` of each number, or of every other number byte `i + odd`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn byte(v: __m512i, i: usize, odd: i32) -> __m512i {
    let zero = 0x8080_8000_u32 as i32;
    let (b, d) = (4 + odd, 12 + odd);
    let first = _mm512_setr_epi32(0, b, 8, d, 0, b, 8, d, 0, b, 8, d, 0, b, 8, d);
    _mm512_shuffle_epi8(v, _mm512_or_si512(first, _mm512_set1_epi32(zero | i as i32)))
}

/// Returns bytes `i` and `i + 1` of what starts at byte `starts` of every four numbers, as the
/// high halves of two 16-bit integers.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn pair(v: __m512i, starts: [i32; 4], i: usize) -> __m512i {
    let [a, b, c, d] = starts.map(|start| {
        let at = start + i as i32;
        (at + 1) << 24 | 0x80 << 16 | at << 8 | 0x80
    });
    let take = _mm512_setr_epi32(a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d);
    _mm512_shuffle_epi8(v, take)
}

/// Loads sixteen bytes of eight rows: the first eight of each, then the others.
///
/// # Safety
/// They are readable, `stride` apart.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn words16(at: *const u8, stride: usize) -> [__m512i; 2] {
    // SAFETY: by the caller's promise.
    let [a, b] = unsafe { rows16(at, stride) };
    let even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
    let odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
    [_mm512_permutex2var_epi64(a, even, b), _mm512_permutex2var_epi64(a, odd, b)]
}

/// Loads sixteen bytes of eight rows: the first four rows, then the others.
///
/// # Safety
/// They are readable, `stride` apart.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn rows16(at: *const u8, stride: usize) -> [__m512i; 2] {
    // SAFETY: by the caller's promise.
    let row = |r: usize| unsafe { _mm_loadu_si128(at.add(r * stride).cast()) };
    [four(row(0), row(1), row(2), row(3)), four(row(4), row(5), row(6), row(7))]
}

#[target_feature(enable = "avx512f")]
#[inline]
fn four(a: __m128i, b: __m128i, c: __m128i, d: __m128i) -> __m512i {
    let ab = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(ab, c), d)
}

/// Loads 32 bytes of eight rows, eight bytes of each at a time.
///
/// # Safety
/// They are readable, `stride` apart.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn words32(at: *const u8, stride: usize) -> [__m512i; 4] {
    // SAFETY: by the caller's promise.
    let two = |r: usize| unsafe {
        let row = |r: usize| -> __m256i { _mm256_loadu_si256(at.add(r * stride).cast()) };
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(row(r)), row(r + 1))
    };
    let (a, b, c, d) = (two(0), two(2), two(4), two(6));
    let first = _mm512_setr_epi64(0, 4, 8, 12, 1, 5, 9, 13);
    let last = _mm512_setr_epi64(2, 6, 10, 14, 3, 7, 11, 15);
    let [ab, cd] = [(a, b), (c, d)].map(|(a, b)| {
        [_mm512_permutex2var_epi64(a, first, b), _mm512_permutex2var_epi64(a, last, b)]
    });
    [
        _mm512_shuffle_i64x2::<0x44>(ab[0], cd[0]),
        _mm512_shuffle_i64x2::<0xee>(ab[0], cd[0]),
        _mm512_shuffle_i64x2::<0x44>(ab[1], cd[1]),
        _mm512_shuffle_i64x2::<0xee>(ab[1], cd[1]),
    ]
}

/// Loads four numbers of eight rows, each row's twice; the first is `SKIP` bytes behind `at`, and
/// the last lacks as many.
///
/// # Safety
/// Sixteen bytes of eight rows are readable, `stride` apart.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn numbers16<const SKIP: i32>(at: *const u8, stride: usize) -> [__m512i; 4] {
    // SAFETY: by the caller's promise.
    let [a, b] = unsafe { rows16(at, stride) };
    let (a, b) = (_mm512_bsrli_epi128::<SKIP>(a), _mm512_bsrli_epi128::<SKIP>(b));
    let first = _mm512_setr_epi32(0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
    each([0, 1, 2, 3], |i| {
        _mm512_permutex2var_epi32(a, _mm512_add_epi32(first, _mm512_set1_epi32(i)), b)
    })
}

/// Returns the half-precision number in the low half of each number.
#[target_feature(enable = "avx512f")]
#[inline]
fn low_half(v: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v))
}

/// Loads a half-precision number of eight rows, each row's twice.
///
/// # Safety
/// They are readable, `stride` apart.
#[target_feature(enable = "avx512f,f16c")]
#[inline]
unsafe fn halves(at: *const u8, stride: usize) -> __m512 {
    // SAFETY: by the caller's promise.
    let row = |r: usize| unsafe { at.add(r * stride).cast::<u16>().read_unaligned() };
    spread(&std::array::from_fn(row))
}

/// Returns each number twice.
#[target_feature(enable = "avx512f,f16c")]
#[inline]
fn spread(numbers: &[u16; GROUP]) -> __m512 {
    // SAFETY: eight half-precision numbers fill the register.
    let numbers = unsafe { _mm256_cvtph_ps(_mm_loadu_si128(numbers.as_ptr().cast())) };
    _mm512_permutexvar_ps(twice(), _mm512_castps256_ps512(numbers))
}

#[target_feature(enable = "avx512f")]
#[inline]
fn twice() -> __m512i {
    _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7)
}
