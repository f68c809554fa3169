//! First use of a GPU: small products, attention and row steps, compared with plain arithmetic.
//!
//! In: a few rows of a model's own weights, shapes of its heads. Out: nothing, or what went wrong.
//! Some drivers compute wrongly and say nothing; what is checked here is every kind of operation
//! that the decoder's graph runs on a GPU.
//! Invariant: the expected values come from no kernel of ggml's but the dequantisers.

use std::sync::Arc;

use crate::error::Error;
use crate::error::Result;
use crate::ggml::backend::Backend;
use crate::ggml::buffer::Aligned;
use crate::ggml::buffer::HOST_ALIGN;
use crate::ggml::buffer::Owner;
use crate::ggml::buffer::Placement;
use crate::ggml::buffer::Weight;
use crate::ggml::buffer::WeightSpec;
use crate::ggml::buffer::map_weights;
use crate::ggml::compute::Plan;
use crate::ggml::compute::Port;
use crate::ggml::graph::GraphBuilder;
use crate::ggml::graph::Rope;
use crate::ggml::state::StateSpec;
use crate::ggml::state::StateStore;
use crate::ggml::tensor::DType;
use crate::ggml::tensor::Shape;
use crate::ggml::tensor::quantize;
use crate::kernel::math;
use crate::kernel::norm;

/// Greatest relative error: activations that are rounded to 8 bits stay below it, faults do not.
const ERROR_MAX: f64 = 3e-2;
/// One row, as an answer has, and more than any tile's edge.
const ROWS: [usize; 2] = [1, 37];
/// Cells of the cache that attention reads, and how many of them its queries see.
const CELLS: usize = 64;
const SEEN: usize = 41;
const EPS: f32 = 1e-6;
const CAP: f32 = 30.0;
/// Base of the turned heads' frequencies.
const BASE: f32 = 10_000.0;

/// Heads of one kind of layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadShape {
    /// Heads that ask.
    pub n_head: usize,
    /// Heads that are asked.
    pub n_head_kv: usize,
    /// Values of a head.
    pub head_dim: usize,
}

/// What a GPU is tried with.
pub struct GpuSample {
    /// Memory that the weights lie in.
    pub owner: Owner,
    /// A few rows of a weight of each type; those that the GPU has no kernels for are left out.
    pub weights: Vec<WeightSpec>,
    /// Each shape of heads.
    pub heads: Vec<HeadShape>,
}

impl GpuSample {
    /// Makes weights of these types up.
    ///
    /// # Errors
    /// `Unsupported` if a type cannot be made from numbers.
    pub fn of_types(types: &[DType], heads: Vec<HeadShape>) -> Result<Self> {
        let (k, n) = (512, 48);
        let (mut bytes, mut weights) = (Vec::new(), Vec::new());
        for (seed, &dtype) in types.iter().enumerate() {
            let (name, shape) = (dtype.to_string(), Shape::new(&[k, n])?);
            let (offset, placement) = (bytes.len(), Placement::Host);
            weights.push(WeightSpec { name, dtype, shape, offset, placement });
            bytes.extend(quantize(dtype, &values(seed as u32, k * n), k)?);
            bytes.resize(bytes.len().next_multiple_of(HOST_ALIGN), 0);
        }
        Ok(Self { owner: Arc::new(Aligned::new(&bytes)), weights, heads })
    }
}

/// Computes samples on the backend's GPU and compares them with plain arithmetic.
///
/// # Errors
/// `Device` naming the GPU and the operation that differs; whatever computing brings.
pub fn check_gpu(sample: &GpuSample, backend: &mut Backend) -> Result<()> {
    let Some(name) = backend.gpu_info().map(|gpu| gpu.name.clone()) else {
        return Err(Error::internal("no GPU to check"));
    };
    let mut fitting = Vec::new();
    for spec in &sample.weights {
        if backend.gpu_bytes(spec)?.is_some() {
            fitting.push(spec);
        }
    }
    let placed = |placement| -> Vec<WeightSpec> {
        fitting.iter().map(|&s| WeightSpec { placement, ..s.clone() }).collect()
    };
    let host = map_weights(sample.owner.clone(), &placed(Placement::Host), backend)?;
    let on_gpu = map_weights(sample.owner.clone(), &placed(Placement::Gpu), backend)?;
    let Some(first) = on_gpu.first() else {
        return Err(Error::unsupported(format!("GPU {name} cannot multiply with these weights")));
    };
    let verdict = |what: &str, got: &[f32], expected: &[f32]| -> Result<()> {
        let error = relative_error(got, expected);
        log::debug!("{name}: {what}: relative error {error:.1e}");
        match error <= ERROR_MAX {
            true => Ok(()),
            false => Err(Error::device(format!(
                "GPU {name} computes {what} wrongly: relative error {error:.1e}, at most \
                 {ERROR_MAX:.0e} is expected; a newer driver may help"
            ))),
        }
    };
    for (host, on_gpu) in host.iter().zip(&on_gpu) {
        for n in ROWS {
            let (got, expected) = product(host, on_gpu, n, backend)?;
            verdict(&format!("products of {n} rows with {}", host.dtype()), &got, &expected)?;
        }
    }
    for &shape in &sample.heads {
        for n in ROWS {
            let (got, expected) = attention(shape, first, n, backend)?;
            verdict(&format!("attention over {shape:?}"), &got, &expected)?;
        }
    }
    let (got, expected) = row_steps(first, backend)?;
    verdict("norms and gates", &got, &expected)?;
    let (got, expected) = turns(first, sample.heads.first(), backend)?;
    verdict("rotations", &got, &expected)
}

/// Length of the difference as a part of the expected length; not a number if any value is not.
pub fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    let square = |v: f32| f64::from(v) * f64::from(v);
    let off: f64 = got.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let whole: f64 = expected.iter().map(|&b| square(b)).sum();
    (off / whole.max(f64::MIN_POSITIVE)).sqrt()
}

/// Values that look random and that half precision holds exactly, from -1 to 1.
fn values(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 16) % 257) as f32 / 128.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Computes one output of a graph whose inputs are written in order.
fn computed(
    g: GraphBuilder,
    inputs: &[(Port, &[f32])],
    (out, n): (Port, usize),
    backend: &mut Backend,
) -> Result<Vec<f32>> {
    let mut plan = Plan::new(g, backend)?;
    inputs.iter().try_for_each(|(port, values)| plan.write_f32(*port, values))?;
    plan.compute(backend)?;
    let mut got = vec![0.0; n];
    plan.read_f32(out, 0, &mut got)?;
    Ok(got)
}

fn product(
    host: &Weight,
    on_gpu: &Weight,
    n: usize,
    backend: &mut Backend,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let [k, n_out, ..] = host.shape().0;
    let x = values(1, k * n);
    let g = GraphBuilder::new(16, backend)?;
    g.follow(on_gpu)?;
    let (input, port) = g.input(DType::F32, &[k, n])?;
    let out = g.output(g.linear(on_gpu, input)?);
    let got = computed(g, &[(port, &x)], (out, n_out * n), backend)?;
    let rows = host.to_f32()?;
    let expected = x.chunks_exact(k).flat_map(|x| rows.chunks_exact(k).map(|w| math::dot(w, x)));
    Ok((got, expected.collect()))
}

fn attention(
    HeadShape { n_head, n_head_kv, head_dim: d }: HeadShape,
    weight: &Weight,
    n: usize,
    backend: &mut Backend,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let width = d * n_head_kv;
    let spec = StateSpec { dtype: DType::F16, shape: Shape::new(&[width, CELLS])?, on_gpu: true };
    let store = StateStore::new(&[spec, spec], backend)?;
    let (k_state, v_state) = (store.state(0), store.state(1));
    let (q, k, v) = (values(2, d * n_head * n), values(3, width * SEEN), values(4, width * SEEN));
    let g = GraphBuilder::new(64, backend)?;
    g.follow(weight)?;
    let (q_in, q_port) = g.input(DType::F32, &[d, n_head, n])?;
    let (mask, mask_port) = g.input(DType::F16, &[CELLS, n])?;
    let (cells, cells_port) = g.input(DType::I64, &[SEEN])?;
    let mut ports = Vec::new();
    for state in [k_state, v_state] {
        let (rows, port) = g.input(DType::F32, &[width, SEEN])?;
        g.expand(g.set_rows(g.state(&store, state)?, rows, cells)?);
        ports.push(port);
    }
    let heads = |state| {
        let cells = g.reshape(g.state(&store, state)?, &[d, n_head_kv, CELLS])?;
        g.permute(cells, [0, 2, 1, 3])
    };
    let scale = (d as f32).powf(-0.5);
    let q_heads = g.permute(q_in, [0, 2, 1, 3])?;
    let mixed = g.attention([q_heads, heads(k_state)?, heads(v_state)?], Some(mask), scale)?;
    let out = g.output(mixed);
    let mut plan = Plan::new(g, backend)?;
    plan.write_f32(q_port, &q)?;
    plan.write_f32(ports[0], &k)?;
    plan.write_f32(ports[1], &v)?;
    plan.write_i64(cells_port, &(0..SEEN as i64).collect::<Vec<_>>())?;
    let hidden = |i: usize| if i % CELLS < SEEN { 0 } else { 0xfc00 };
    plan.write_f16_bits(mask_port, &(0..CELLS * n).map(hidden).collect::<Vec<_>>())?;
    plan.compute(backend)?;
    let mut got = vec![0.0; q.len()];
    plan.read_f32(out, 0, &mut got)?;
    let mut expected = Vec::with_capacity(q.len());
    for (i, q) in q.chunks_exact(d).enumerate() {
        let column = i % n_head / (n_head / n_head_kv) * d;
        let row = |all: &[f32], cell: usize| all[cell * width + column..][..d].to_vec();
        let scores: Vec<f32> = (0..SEEN).map(|c| math::dot(q, &row(&k, c)) * scale).collect();
        expected.extend(mix(&scores, |cell| row(&v, cell), d));
    }
    Ok((got, expected))
}

/// Mixes rows by the softmax of scores.
fn mix(scores: &[f32], row: impl Fn(usize) -> Vec<f32>, d: usize) -> Vec<f32> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let chances: Vec<f32> = scores.iter().map(|s| (s - most).exp()).collect();
    let total: f32 = chances.iter().sum();
    let mut out = vec![0.0; d];
    for (cell, chance) in chances.iter().enumerate() {
        for (o, v) in out.iter_mut().zip(row(cell)) {
            *o += chance / total * v;
        }
    }
    out
}

/// What happens to rows between two products.
fn row_steps(weight: &Weight, backend: &mut Backend) -> Result<(Vec<f32>, Vec<f32>)> {
    let (k, n) = (256, ROWS[1]);
    let (x, up, gains) = (values(5, k * n), values(6, k * n), values(7, k));
    let g = GraphBuilder::new(32, backend)?;
    g.follow(weight)?;
    let (x_in, x_port) = g.input(DType::F32, &[k, n])?;
    let (up_in, up_port) = g.input(DType::F32, &[k, n])?;
    let (gains_in, gains_port) = g.input(DType::F32, &[k])?;
    let normed = g.rms_norm_add(x_in, gains_in, up_in, (EPS, 1.0, 3.0))?;
    let gated = g.gelu_mul(normed, up_in)?;
    let out = g.output(g.soft_cap(gated, CAP)?);
    let inputs = [(x_port, &x[..]), (up_port, &up[..]), (gains_port, &gains[..])];
    let got = computed(g, &inputs, (out, k * n), backend)?;
    let mut expected = vec![0.0; k * n];
    let rows = x.chunks_exact(k).zip(up.chunks_exact(k)).zip(expected.chunks_exact_mut(k));
    let (mut normed, mut gated) = (vec![0.0; k], vec![0.0; k]);
    for ((x, up), out) in rows {
        norm::rms_norm_add(x, &gains, up, (EPS, 1.0, 3.0), &mut normed);
        math::gelu_mul(&normed, up, &mut gated);
        math::soft_cap(&gated, CAP, out);
    }
    Ok((got, expected))
}

/// Heads turned by their positions.
fn turns(
    weight: &Weight,
    shape: Option<&HeadShape>,
    backend: &mut Backend,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let (d, n) = (shape.map_or(64, |s| s.head_dim), ROWS[1]);
    let x = values(8, d * n);
    let positions: Vec<i32> = (0..n as i32).map(|i| i * 53).collect();
    let g = GraphBuilder::new(16, backend)?;
    g.follow(weight)?;
    let (x_in, x_port) = g.input(DType::F32, &[d, 1, n])?;
    let (at, at_port) = g.input(DType::I32, &[n])?;
    let out = g.output(g.rope(x_in, at, None, Rope { base: BASE, n_dims: d })?);
    let mut plan = Plan::new(g, backend)?;
    plan.write_f32(x_port, &x)?;
    plan.write_i32(at_port, &positions)?;
    plan.compute(backend)?;
    let mut got = vec![0.0; d * n];
    plan.read_f32(out, 0, &mut got)?;
    let mut expected = vec![0.0; d * n];
    let rows = x.chunks_exact(d).zip(expected.chunks_exact_mut(d));
    for ((x, out), &position) in rows.zip(&positions) {
        for i in 0..d / 2 {
            let frequency = f64::from(BASE).powf(-2.0 * i as f64 / d as f64);
            let (sin, cos) = (f64::from(position) * frequency).sin_cos();
            let (a, b) = (f64::from(x[i]), f64::from(x[i + d / 2]));
            out[i] = (a * cos - b * sin) as f32;
            out[i + d / 2] = (b * cos + a * sin) as f32;
        }
    }
    Ok((got, expected))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::backend::BackendOptions;

    #[test]
    fn one_wrong_value_or_none_at_all_is_seen() {
        let expected = values(9, 4096);
        assert!(relative_error(&expected, &expected) == 0.0);
        let mut wrong = expected.clone();
        wrong[17] = f32::NAN;
        assert!(relative_error(&wrong, &expected).is_nan());
        assert!(relative_error(&vec![0.0; 4096], &expected) > ERROR_MAX);
        wrong[17] = expected[17] + 3.0;
        assert!(relative_error(&wrong, &expected) > ERROR_MAX);
    }

    #[test]
    fn there_is_nothing_to_check_without_a_gpu() {
        let mut backend = Backend::new(&BackendOptions { n_threads: 1, gpu: None }).expect("one");
        let owner: Owner = Arc::new(vec![0_u8; 64]);
        let sample = GpuSample { owner, weights: Vec::new(), heads: Vec::new() };
        assert!(check_gpu(&sample, &mut backend).is_err());
    }
}
