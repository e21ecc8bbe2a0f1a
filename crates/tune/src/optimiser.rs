//! Optimisers: from a tensor and its gradient to the tensor's next value, as pieces of a graph.

use kinglet_graph::ops::binary::BinaryFn;
use kinglet_graph::ops::cast::Cast;
use kinglet_graph::ops::matmul::MatMul;
use kinglet_graph::ops::reduce::ReduceKind;
use kinglet_graph::ops::state::{StateRead, StateWrite};
use kinglet_graph::ops::unary::Unary;
use kinglet_graph::{Builder, DType, OpResult, Shape, State, StateId, Tensor, ValueId, ValueType};
use std::collections::BTreeMap;

/// How gradients change what is trained. Names, meaning and defaults are PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimiser {
    /// Stochastic gradient descent: p ← p − η d, d the running sum m ← `momentum` m + g.
    Sgd {
        /// How much of the sum so far is kept; 0: none, and no state.
        momentum: f64,
        /// Looks one step ahead: d is g + `momentum` m.
        nesterov: bool,
        /// Added to the gradient, times p.
        weight_decay: f64,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).
    AdamW {
        /// How much of the running mean of gradients is kept.
        beta1: f64,
        /// How much of the running mean of squared gradients is kept.
        beta2: f64,
        /// Added to its root.
        epsilon: f64,
        /// p shrinks by η times this.
        weight_decay: f64,
    },
    /// The sign of a running mean (Chen et al., arXiv 2302.06675): half of Adam's state.
    Lion {
        /// How much of the running mean takes part in a step.
        beta1: f64,
        /// How much of it is kept.
        beta2: f64,
        /// p shrinks by η times this.
        weight_decay: f64,
    },
    /// Adam without running mean, whose second moments of a matrix are kept as one number a row and
    /// one a column (Shazeer and Stern, arXiv 1804.04235); steps are relative to the size of p.
    Adafactor {
        /// The share of the new squared gradient at step t is t to the power of this.
        decay: f64,
        /// The least size of p that steps are relative to.
        least: f64,
        /// Updates of a larger root mean square are scaled down to it.
        clip: f64,
        /// p shrinks by η times this.
        weight_decay: f64,
    },
}

impl Optimiser {
    /// Plain gradient descent.
    pub fn sgd() -> Optimiser {
        Optimiser::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 }
    }

    /// AdamW with the usual numbers.
    pub fn adam_w() -> Optimiser {
        Optimiser::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
    }

    /// Lion with its paper's numbers.
    pub fn lion() -> Optimiser {
        Optimiser::Lion { beta1: 0.9, beta2: 0.99, weight_decay: 0.0 }
    }

    /// Adafactor with its paper's numbers.
    pub fn adafactor() -> Optimiser {
        Optimiser::Adafactor { decay: -0.8, least: 1e-3, clip: 1.0, weight_decay: 0.0 }
    }

    /// Bytes of state for each tensor of sizes `dims`, held in f32; beside these a step has one
    /// counter.
    pub fn state_bytes(&self, dims: &[usize]) -> usize {
        let all: usize = dims.iter().product();
        let elements = match *self {
            Optimiser::Sgd { momentum: 0.0, .. } => 0,
            Optimiser::Sgd { .. } | Optimiser::Lion { .. } => all,
            Optimiser::AdamW { .. } => 2 * all,
            Optimiser::Adafactor { .. } => match dims {
                [lead @ .., rows, columns] => lead.iter().product::<usize>() * (rows + columns),
                _ => all,
            },
        };
        4 * elements
    }
}

/// What the updates of all tensors of one step share.
pub(crate) struct Step {
    optimiser: Optimiser,
    /// Scalars of the step, by the element type that they are wanted in.
    numbers: BTreeMap<DType, Numbers>,
    /// The same in f64.
    exact: Numbers,
}

/// Scalars that updates need of the learning rate η and of the step's number t.
#[derive(Clone, Copy)]
struct Numbers {
    /// η.
    rate: ValueId,
    /// 1 − η times the weight decay; `None`: 1.
    kept: Option<ValueId>,
    /// AdamW: η / (1 − β₁ᵗ). Adafactor: the least of η and 1 / √t.
    length: ValueId,
    /// AdamW: √(1 − β₂ᵗ). Adafactor: the share of the new squared gradient.
    second: ValueId,
}

/// One tensor in a step.
#[derive(Clone, Copy)]
pub(crate) struct Parameter<'a> {
    /// The name of its state.
    pub name: &'a str,
    /// Its value before the step.
    pub value: ValueId,
    /// Its gradient.
    pub gradient: ValueId,
}

impl Step {
    /// The beginning of a step: counts it, where the optimiser wants its number. `rate` is the
    /// learning rate.
    pub fn new(optimiser: Optimiser, b: &mut Builder<'_>, rate: ValueId) -> OpResult<Step> {
        // In f64: 1 − 0.999ᵗ has few digits in f32.
        let rate = b.apply(Cast::new(DType::F64), &[rate])?;
        let kept = match optimiser {
            Optimiser::AdamW { weight_decay, .. }
            | Optimiser::Lion { weight_decay, .. }
            | Optimiser::Adafactor { weight_decay, .. }
                if weight_decay != 0.0 =>
            {
                let part = b.scaled(rate, weight_decay)?;
                let one = b.scalar(1.0, part)?;
                Some(b.sub(one, part)?)
            }
            _ => None,
        };
        let (mut length, mut second) = (rate, rate);
        match optimiser {
            Optimiser::AdamW { beta1, beta2, .. } => {
                let count = counted(b)?;
                let mut rest = |beta: f64| {
                    let beta = b.scalar(beta, count)?;
                    let power = b.binary(BinaryFn::Pow, beta, count)?;
                    let one = b.scalar(1.0, count)?;
                    b.sub(one, power)
                };
                let (of_first, of_second) = (rest(beta1)?, rest(beta2)?);
                length = b.div(rate, of_first)?;
                second = b.apply(Unary::Sqrt, &[of_second])?;
            }
            Optimiser::Adafactor { decay, .. } => {
                let count = counted(b)?;
                let exponent = b.scalar(decay, count)?;
                second = b.binary(BinaryFn::Pow, count, exponent)?;
                let bound = b.apply(Unary::Rsqrt, &[count])?;
                length = b.binary(BinaryFn::Min, rate, bound)?;
            }
            Optimiser::Sgd { .. } | Optimiser::Lion { .. } => {}
        }
        let exact = Numbers { rate, kept, length, second };
        Ok(Step { optimiser, numbers: BTreeMap::new(), exact })
    }

    /// The step's scalars in the element type of `like`.
    fn numbers(&mut self, b: &mut Builder<'_>, like: ValueId) -> OpResult<Numbers> {
        let dtype = b.dtype(like);
        if let Some(numbers) = self.numbers.get(&dtype) {
            return Ok(*numbers);
        }
        let mut cast = |v: ValueId| b.apply(Cast::new(dtype), &[v]);
        let Numbers { rate, kept, length, second } = self.exact;
        let numbers = Numbers {
            rate: cast(rate)?,
            kept: kept.map(&mut cast).transpose()?,
            length: cast(length)?,
            second: cast(second)?,
        };
        self.numbers.insert(dtype, numbers);
        Ok(numbers)
    }

    /// Appends the update of one tensor, and returns its next value.
    pub fn update(&mut self, b: &mut Builder<'_>, p: Parameter<'_>) -> OpResult<ValueId> {
        let numbers = self.numbers(b, p.value)?;
        match self.optimiser {
            Optimiser::Sgd { momentum, nesterov, weight_decay } => {
                let mut g = p.gradient;
                if weight_decay != 0.0 {
                    let decay = b.scaled(p.value, weight_decay)?;
                    g = b.add(g, decay)?;
                }
                if momentum != 0.0 {
                    let (state, before) = moment(b, p, "momentum")?;
                    let kept = b.scaled(before, momentum)?;
                    let sum = b.add(kept, g)?;
                    write(b, state, sum);
                    let ahead = if nesterov { Some(b.scaled(sum, momentum)?) } else { None };
                    g = match ahead {
                        Some(ahead) => b.add(g, ahead)?,
                        None => sum,
                    };
                }
                let change = b.mul(g, numbers.rate)?;
                b.sub(p.value, change)
            }
            Optimiser::AdamW { beta1, beta2, epsilon, weight_decay: _ } => {
                let (first, old) = moment(b, p, "first")?;
                let mean = mixed(b, old, p.gradient, beta1)?;
                write(b, first, mean);
                let (second, old) = moment(b, p, "second")?;
                let square = b.apply(Unary::Square, &[p.gradient])?;
                let square = mixed(b, old, square, beta2)?;
                write(b, second, square);
                let root = b.apply(Unary::Sqrt, &[square])?;
                let root = b.div(root, numbers.second)?;
                let epsilon = b.scalar(epsilon, root)?;
                let divisor = b.add(root, epsilon)?;
                let direction = b.div(mean, divisor)?;
                let change = b.mul(direction, numbers.length)?;
                let shrunk = numbers.shrunk(b, p.value)?;
                b.sub(shrunk, change)
            }
            Optimiser::Lion { beta1, beta2, weight_decay: _ } => {
                let (state, old) = moment(b, p, "momentum")?;
                let mean = mixed(b, old, p.gradient, beta1)?;
                let direction = b.apply(Unary::Sign, &[mean])?;
                let kept = mixed(b, old, p.gradient, beta2)?;
                write(b, state, kept);
                let change = b.mul(direction, numbers.rate)?;
                let shrunk = numbers.shrunk(b, p.value)?;
                b.sub(shrunk, change)
            }
            Optimiser::Adafactor { least, clip, .. } => numbers.adafactor(b, p, least, clip),
        }
    }
}

impl Numbers {
    /// p before the step, after its decay.
    fn shrunk(&self, b: &mut Builder<'_>, p: ValueId) -> OpResult<ValueId> {
        self.kept.map_or(Ok(p), |kept| b.mul(p, kept))
    }

    fn adafactor(
        &self,
        b: &mut Builder<'_>,
        p: Parameter<'_>,
        least: f64,
        clip: f64,
    ) -> OpResult<ValueId> {
        let dims = b.fixed(p.value)?;
        let all: Vec<usize> = (0..dims.len()).collect();
        let tiny = f64::from(f32::EPSILON);
        let square = b.apply(Unary::Square, &[p.gradient])?;
        let moved = |b: &mut Builder<'_>, name: &str, to: ValueId| {
            let ty = ValueType::new(b.dtype(to), &*b.fixed(to)?);
            let (state, old) = state(b, &format!("{}.{name}", p.name), ty)?;
            let way = b.sub(to, old)?;
            let way = b.mul(way, self.second)?;
            let new = b.add(old, way)?;
            write(b, state, new);
            Ok::<_, kinglet_graph::OpError>(new)
        };
        let variance = if dims.len() > 1 {
            let (row, column) = (dims.len() - 2, dims.len() - 1);
            let rows = b.reduce(ReduceKind::Mean, square, &[column], true)?;
            let columns = b.reduce(ReduceKind::Mean, square, &[row], true)?;
            let (rows, columns) = (moved(b, "rows", rows)?, moved(b, "columns", columns)?);
            let product = b.apply(MatMul::new(), &[rows, columns])?;
            let mean = b.reduce(ReduceKind::Mean, rows, &[row], true)?;
            let floor = b.scalar(tiny, mean)?;
            let mean = b.binary(BinaryFn::Max, mean, floor)?;
            b.div(product, mean)?
        } else {
            moved(b, "second", square)?
        };
        let floor = b.scalar(tiny * tiny, variance)?;
        let variance = b.binary(BinaryFn::Max, variance, floor)?;
        let inverse = b.apply(Unary::Rsqrt, &[variance])?;
        let update = b.mul(inverse, p.gradient)?;
        let size = root_mean_square(b, update, &all)?;
        let excess = b.scaled(size, 1.0 / clip)?;
        let one = b.scalar(1.0, excess)?;
        let excess = b.binary(BinaryFn::Max, excess, one)?;
        let own = root_mean_square(b, p.value, &all)?;
        let floor = b.scalar(least, own)?;
        let own = b.binary(BinaryFn::Max, own, floor)?;
        let length = b.mul(own, self.length)?;
        let length = b.div(length, excess)?;
        let change = b.mul(update, length)?;
        let shrunk = self.shrunk(b, p.value)?;
        b.sub(shrunk, change)
    }
}

/// The number of the step, from 1 on, a scalar of f64.
fn counted(b: &mut Builder<'_>) -> OpResult<ValueId> {
    let (state, before) =
        state(b, "optimiser.step", ValueType::new(DType::F64, Shape::new(Vec::new())))?;
    let one = b.scalar(1.0, before)?;
    let count = b.add(before, one)?;
    write(b, state, count);
    Ok(count)
}

/// State of the sizes of a tensor, and what it holds before the step.
fn moment(b: &mut Builder<'_>, p: Parameter<'_>, part: &str) -> OpResult<(StateId, ValueId)> {
    let ty = ValueType::new(b.dtype(p.value), &*b.fixed(p.value)?);
    state(b, &format!("{}.{part}", p.name), ty)
}

/// `keep` of the old and the rest of the new.
fn mixed(b: &mut Builder<'_>, old: ValueId, new: ValueId, keep: f64) -> OpResult<ValueId> {
    let (old, new) = (b.scaled(old, keep)?, b.scaled(new, 1.0 - keep)?);
    b.add(old, new)
}

fn root_mean_square(b: &mut Builder<'_>, x: ValueId, axes: &[usize]) -> OpResult<ValueId> {
    let square = b.apply(Unary::Square, &[x])?;
    let mean = b.reduce(ReduceKind::Mean, square, axes, false)?;
    b.apply(Unary::Sqrt, &[mean])
}

/// New state of zeros, and its content before the step.
pub(crate) fn state(
    b: &mut Builder<'_>,
    name: &str,
    ty: ValueType,
) -> OpResult<(StateId, ValueId)> {
    let state = b.graph.add_state(State { name: name.into(), ty: ty.clone(), initial: None });
    Ok((state, b.apply_all(StateRead { state, ty }, &[], 1)?[0]))
}

/// Lets `state` hold `value` from the next step on.
pub(crate) fn write(b: &mut Builder<'_>, state: StateId, value: ValueId) {
    b.graph.add_node("", StateWrite { state }, vec![Some(value)], Vec::new());
}

/// The gradients, scaled down together where the root of the sum of all their squares is above `most`
/// (Pascanu et al., arXiv 1211.5063); and that root.
pub(crate) fn clipped(
    b: &mut Builder<'_>,
    gradients: &[ValueId],
    most: f64,
) -> OpResult<(Vec<ValueId>, ValueId)> {
    let mut total: Option<ValueId> = None;
    for g in gradients {
        let axes: Vec<usize> = (0..b.rank(*g)?).collect();
        let square = b.reduce(ReduceKind::SumSquare, *g, &axes, false)?;
        let square = if axes.is_empty() { b.mul(square, square)? } else { square };
        let square = match b.dtype(square) {
            DType::F32 => square,
            _ => b.apply(Cast::new(DType::F32), &[square])?,
        };
        total = Some(match total {
            Some(total) => b.add(total, square)?,
            None => square,
        });
    }
    let Some(total) = total else {
        let none = b.graph.add_constant("", Tensor::scalar(0f32));
        return Ok((Vec::new(), none));
    };
    let norm = b.apply(Unary::Sqrt, &[total])?;
    let epsilon = b.scalar(1e-6, norm)?;
    let divisor = b.add(norm, epsilon)?;
    let most = b.scalar(most, norm)?;
    let factor = b.div(most, divisor)?;
    let one = b.scalar(1.0, factor)?;
    let factor = b.binary(BinaryFn::Min, factor, one)?;
    let mut scaled = Vec::with_capacity(gradients.len());
    for g in gradients {
        let dtype = b.dtype(*g);
        let factor = match dtype {
            DType::F32 => factor,
            _ => b.apply(Cast::new(dtype), &[factor])?,
        };
        scaled.push(b.mul(*g, factor)?);
    }
    Ok((scaled, norm))
}
