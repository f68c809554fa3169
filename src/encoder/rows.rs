//! Fused steps of the encoders: what happens to each row between two matrix products.
//!
//! In: tensors of one graph. Out: the tensor computed in one pass over its rows, or by a few
//! operations of ggml's where a GPU computes.

use std::sync::Arc;

use crate::error::Error;
use crate::error::Result;
use crate::ggml::GraphBuilder;
use crate::ggml::Split;
use crate::ggml::Tensor;
use crate::kernel::math;
use crate::kernel::norm;
use crate::kernel::norm::limit;
use crate::model::encoders::Clipped;
use crate::model::encoders::Vector;

/// Least and greatest value.
pub(super) type Range = (f32, f32);

/// Elements that stay together when a step without rows is split among threads.
const STEP: usize = 64;

/// Multiplies by a clipped linear's weight; the caller limits its input and output.
pub(super) fn product<'g>(
    g: &'g GraphBuilder,
    linear: &Clipped,
    x: Tensor<'g>,
) -> Result<Tensor<'g>> {
    g.mul_rows(&linear.weight, x)
}

/// Normalises rows once and multiplies them by several linears, each with its own limits.
pub(super) fn normed_products<'g, const N: usize>(
    g: &'g GraphBuilder,
    x: Tensor<'g>,
    (weight, eps): (&Vector, f32),
    linears: [&Clipped; N],
) -> Result<[Tensor<'g>; N]> {
    let mut normed: Vec<(Range, Tensor<'g>)> = Vec::with_capacity(N);
    let mut products = [x; N];
    for (out, linear) in products.iter_mut().zip(linears) {
        let known = normed.iter().find(|(limits, _)| *limits == linear.input).map(|n| n.1);
        let input = match known {
            Some(input) => input,
            None => norm_limit(g, x, Some(weight), (eps, linear.input))?,
        };
        normed.push((linear.input, input));
        *out = product(g, linear, input)?;
    }
    Ok(products)
}

/// Normalises rows, times `weight` where given, and limits them for the product that follows.
pub(super) fn norm_limit<'g>(
    g: &'g GraphBuilder,
    x: Tensor<'g>,
    weight: Option<&Vector>,
    (eps, limits): (f32, Range),
) -> Result<Tensor<'g>> {
    if g.on_gpu() {
        let weight = weight.map(|w| g.constant(&[w.len()], w)).transpose()?;
        return limited(g, g.rms_norm(x, weight, eps)?, limits);
    }
    let weight = weight.cloned();
    g.custom(&x.shape().0, &[x], Split::Rows, move |call| {
        let x = &call.f32(0)[call.first..call.first + call.out.len()];
        let rows = x.chunks_exact(call.row_len);
        for (row, out) in rows.zip(call.out.chunks_exact_mut(call.row_len)) {
            norm::rms_norm_limit(row, weight.as_deref(), eps, limits, out);
        }
    })
}

/// Computes `residual + factor * rms_norm(limit(x)) * weight`.
pub(super) fn add_normed<'g>(
    g: &'g GraphBuilder,
    (x, limits): (Tensor<'g>, Range),
    weight: &Vector,
    residual: Tensor<'g>,
    (eps, factor): (f32, f32),
) -> Result<Tensor<'g>> {
    if g.on_gpu() {
        let weight = g.constant(&[weight.len()], weight)?;
        return g.rms_norm_add(limited(g, x, limits)?, weight, residual, (eps, factor, 1.0));
    }
    let weight = Arc::clone(weight);
    g.custom(&x.shape().0, &[x, residual], Split::Rows, move |call| {
        let range = call.first..call.first + call.out.len();
        let (x, residual) = (&call.f32(0)[range.clone()], &call.f32(1)[range]);
        let n = call.row_len;
        let rows = x.chunks_exact(n).zip(residual.chunks_exact(n));
        for ((x, residual), out) in rows.zip(call.out.chunks_exact_mut(n)) {
            norm::limit_rms_norm_add((x, limits), &weight, residual, (eps, factor), out);
        }
    })
}

/// Computes `residual + limit(x)`.
pub(super) fn add_limited<'g>(
    g: &'g GraphBuilder,
    (x, limits): (Tensor<'g>, Range),
    residual: Tensor<'g>,
) -> Result<Tensor<'g>> {
    if g.on_gpu() {
        return g.add(residual, limited(g, x, limits)?);
    }
    g.custom(&x.shape().0, &[x, residual], Split::Elements(STEP), move |call| {
        let range = call.first..call.first + call.out.len();
        let (x, residual) = (&call.f32(0)[range.clone()], &call.f32(1)[range]);
        for ((o, &x), &r) in call.out.iter_mut().zip(x).zip(residual) {
            *o = r + limit(x, limits);
        }
    })
}

/// Limits every element, or returns `x` itself where nothing is limited.
pub(super) fn limited<'g>(g: &'g GraphBuilder, x: Tensor<'g>, limits: Range) -> Result<Tensor<'g>> {
    if limits == norm::UNLIMITED {
        return Ok(x);
    }
    if g.on_gpu() {
        return g.clamp(x, limits.0, limits.1);
    }
    g.custom(&x.shape().0, &[x], Split::Elements(STEP), move |call| {
        let x = &call.f32(0)[call.first..call.first + call.out.len()];
        for (o, &x) in call.out.iter_mut().zip(x) {
            *o = limit(x, limits);
        }
    })
}

/// Computes `limit(silu(limit(x)))`: the end of one product and the start of the next.
pub(super) fn silu<'g>(
    g: &'g GraphBuilder,
    x: Tensor<'g>,
    (before, after): (Range, Range),
) -> Result<Tensor<'g>> {
    if g.on_gpu() {
        return limited(g, g.silu(limited(g, x, before)?)?, after);
    }
    g.custom(&x.shape().0, &[x], Split::Elements(STEP), move |call| {
        let x = &call.f32(0)[call.first..call.first + call.out.len()];
        for (o, &x) in call.out.iter_mut().zip(x) {
            *o = limit(math::silu(limit(x, before)), after);
        }
    })
}

/// Computes `limit(a) * sigmoid(limit(b))` of rows `[a | b]`.
pub(super) fn gated<'g>(g: &'g GraphBuilder, x: Tensor<'g>, limits: Range) -> Result<Tensor<'g>> {
    let half = x.side(0) / 2;
    if g.on_gpu() {
        let x = limited(g, x, limits)?;
        let [a, b] = [g.slice(x, 0, 0, half)?, g.slice(x, 0, half, half)?];
        return g.mul(g.cont(a)?, g.sigmoid(g.cont(b)?)?);
    }
    g.custom(&[half, x.side(1)], &[x], Split::Rows, move |call| {
        let x = &call.f32(0)[2 * call.first..2 * (call.first + call.out.len())];
        for (row, out) in x.chunks_exact(2 * half).zip(call.out.chunks_exact_mut(half)) {
            let (a, b) = row.split_at(half);
            for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *o = limit(a, limits) * math::sigmoid(limit(b, limits));
            }
        }
    })
}

/// Computes `limit(gelu(limit(gate)) * limit(up))` with the exact tanh form of GELU.
pub(super) fn gelu_mul<'g>(
    g: &'g GraphBuilder,
    (gate, gate_limits): (Tensor<'g>, Range),
    (up, up_limits): (Tensor<'g>, Range),
    after: Range,
) -> Result<Tensor<'g>> {
    if g.on_gpu() {
        let (gate, up) = (limited(g, gate, gate_limits)?, limited(g, up, up_limits)?);
        return limited(g, g.gelu_mul(gate, up)?, after);
    }
    g.custom(&gate.shape().0, &[gate, up], Split::Elements(STEP), move |call| {
        let range = call.first..call.first + call.out.len();
        let (gate, up) = (&call.f32(0)[range.clone()], &call.f32(1)[range]);
        for ((o, &gate), &up) in call.out.iter_mut().zip(gate).zip(up) {
            let gate = math::gelu_tanh(limit(gate, gate_limits));
            *o = limit(gate * limit(up, up_limits), after);
        }
    })
}

/// Joins parts of rows, in order.
pub(super) fn joined<'g>(g: &'g GraphBuilder, parts: &[Tensor<'g>]) -> Result<Tensor<'g>> {
    let Some(&first) = parts.first() else {
        return Err(Error::internal("no parts to join"));
    };
    if parts.len() == 1 || g.on_gpu() {
        return parts[1..].iter().try_fold(first, |joined, &part| g.concat(joined, part, 1));
    }
    let n_rows = parts.iter().map(|p| p.side(1)).sum();
    let n_parts = parts.len();
    g.custom(&[first.side(0), n_rows], parts, Split::Rows, move |call| {
        let mut start = 0;
        let range = call.first..call.first + call.out.len();
        for i in 0..n_parts {
            let part = call.f32(i);
            let from = range.start.max(start);
            let to = range.end.min(start + part.len());
            if from < to {
                call.out[from - range.start..to - range.start]
                    .copy_from_slice(&part[from - start..to - start]);
            }
            start += part.len();
        }
    })
}
