//! Random tensors, from a generator of Kinglet's own: other engines draw other numbers.

use super::movement::{count, fail, ints_in};
use crate::number::Number;
use crate::op::{OpError, OpResult};
use crate::{Bool, DType, Dim, Dims, InferCx, Inputs, Op, Outputs, Shape, ValueType};
use std::sync::atomic::{AtomicU64, Ordering};

/// What random numbers follow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Evenly from `low` to before `high`.
    Uniform {
        /// The least.
        low: f64,
        /// What none reaches.
        high: f64,
    },
    /// The bell curve.
    Normal {
        /// Its middle.
        mean: f64,
        /// Its standard deviation.
        scale: f64,
    },
}

/// Input: shape (integers). Output: random numbers (ONNX `RandomNormal` and `RandomUniform`).
#[derive(Clone, Debug)]
pub struct Random {
    /// What they follow.
    pub distribution: Distribution,
    /// A float type.
    pub dtype: DType,
    /// The same numbers each run, or, with none, others each time.
    pub seed: Option<u64>,
}

/// Input: data. Output: random numbers in its sizes (ONNX `RandomNormalLike` and
/// `RandomUniformLike`).
#[derive(Clone, Debug)]
pub struct RandomLike {
    /// What they follow.
    pub distribution: Distribution,
    /// A float type; `None`: the data's.
    pub dtype: Option<DType>,
    /// The same numbers each run, or, with none, others each time.
    pub seed: Option<u64>,
}

/// Input: probabilities. Output: for each, 1 with that probability and else 0.
#[derive(Clone, Debug)]
pub struct Bernoulli {
    /// `None`: the data's.
    pub dtype: Option<DType>,
    /// The same draws each run, or, with none, others each time.
    pub seed: Option<u64>,
}

/// Input: logarithms of the weights of classes, `[batch, classes]`. Output `[batch, samples]`:
/// classes drawn by them.
#[derive(Clone, Debug)]
pub struct Multinomial {
    /// Draws for each row.
    pub samples: usize,
    /// [`DType::I32`] or [`DType::I64`].
    pub dtype: DType,
    /// The same draws each run, or, with none, others each time.
    pub seed: Option<u64>,
}

/// Inputs: data, ratio (one float, optional: 0.5), training (one truth value, optional: false).
/// Outputs: the data, and where it was kept (truth values; optional). In training, elements are
/// dropped with the probability `ratio` and the others divided by what is left of 1.
#[derive(Clone, Debug, Default)]
pub struct Dropout {
    /// The same draws each run, or, with none, others each time.
    pub seed: Option<u64>,
}

/// Random numbers by SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Generator(u64);

impl Generator {
    /// The same numbers for the same seed.
    pub fn seeded(seed: u64) -> Generator {
        Generator(seed)
    }

    fn new(seed: Option<u64>) -> Generator {
        static NEXT: AtomicU64 = AtomicU64::new(0x6b69_6e67_6c65_7421);
        Generator(seed.unwrap_or_else(|| NEXT.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to before 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn draw(&mut self, distribution: Distribution) -> f64 {
        match distribution {
            Distribution::Uniform { low, high } => low + (high - low) * self.unit(),
            // Box and Muller 1958.
            Distribution::Normal { mean, scale } => {
                let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
                mean + scale * radius * (std::f64::consts::TAU * self.unit()).cos()
            }
        }
    }
}

fn fill(
    outputs: &mut Outputs<'_>,
    dtype: DType,
    dims: &[usize],
    mut next: impl FnMut() -> f64,
) -> OpResult {
    count(dims)?;
    crate::dispatch_float!(dtype, T => {
        outputs.slice::<T>(0, dims)?.iter_mut().for_each(|out| *out = T::of_f64(next()));
        Ok(())
    }, else => fail(format!("random numbers can't be {dtype}")))
}

impl Op for Random {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let shape = match cx.sizes(0)? {
            Some(sizes) if sizes.iter().all(|s| s.as_i64().is_none_or(|s| s >= 0)) => {
                Shape::new(sizes)
            }
            Some(_) => return fail("the shape has a negative size"),
            None => Shape::unknown(),
        };
        Ok(vec![ValueType::new(self.dtype, shape)])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let size =
            |s: &i64| usize::try_from(*s).map_err(|_| OpError::new(format!("{s} is no size")));
        let dims = ints_in(inputs, 0)?.iter().map(size).collect::<OpResult<Dims>>()?;
        let mut generator = Generator::new(self.seed);
        fill(outputs, self.dtype, &dims, || generator.draw(self.distribution))
    }

    fn is_pure(&self) -> bool {
        false
    }
}

impl Op for RandomLike {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        Ok(vec![ValueType::new(self.dtype.unwrap_or(ty.dtype), ty.shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let mut generator = Generator::new(self.seed);
        let dtype = self.dtype.unwrap_or(data.dtype);
        fill(outputs, dtype, data.dims, || generator.draw(self.distribution))
    }

    fn reads(&self, _input: usize) -> bool {
        false
    }

    fn is_pure(&self) -> bool {
        false
    }
}

impl Op for Bernoulli {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        Ok(vec![ValueType::new(self.dtype.unwrap_or(ty.dtype), ty.shape.clone())])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let dtype = self.dtype.unwrap_or(data.dtype);
        let mut generator = Generator::new(self.seed);
        crate::dispatch_float!(data.dtype, P => {
            let odds = data.slice::<P>()?;
            let mut draw = |p: &P| generator.unit() < p.to_f64();
            if dtype == DType::Bool {
                let out = outputs.slice::<Bool>(0, data.dims)?;
                out.iter_mut().zip(odds).for_each(|(o, p)| *o = draw(p).into());
                return Ok(());
            }
            crate::dispatch_number!(dtype, T => {
                let out = outputs.slice::<T>(0, data.dims)?;
                out.iter_mut().zip(odds).for_each(|(o, p)| *o = T::of_f64(f64::from(draw(p))));
                Ok(())
            }, else => fail(format!("draws can't be {dtype}")))
        }, else => fail(format!("probabilities can't be {}", data.dtype)))
    }

    fn is_pure(&self) -> bool {
        false
    }
}

impl Op for Multinomial {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let batch = match cx.dims(0)? {
            Some([batch, _]) => batch.clone(),
            Some(dims) => return fail(format!("weights of rank {}", dims.len())),
            None => cx.unknown_dim(),
        };
        Ok(vec![ValueType::new(self.dtype, vec![batch, Dim::from(self.samples)])])
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let [batch, classes] = *data.dims else {
            return fail(format!("weights of sizes {:?}", data.dims));
        };
        if classes == 0 {
            return fail("there are no classes to draw from");
        }
        let dims = [batch, self.samples];
        count(&dims)?;
        let mut generator = Generator::new(self.seed);
        crate::dispatch_float!(data.dtype, P => {
            let weights = data.slice::<P>()?;
            let mut draw = |row: usize| {
                let row = &weights[row * classes..][..classes];
                let most = row.iter().map(|w| w.to_f64()).fold(f64::NEG_INFINITY, f64::max);
                let weight = |w: &P| (w.to_f64() - most).exp();
                let mut left = generator.unit() * row.iter().map(weight).sum::<f64>();
                let found = row.iter().position(|w| {
                    left -= weight(w);
                    left < 0.0
                });
                found.unwrap_or(classes - 1)
            };
            match self.dtype {
                DType::I32 => {
                    let out = outputs.slice::<i32>(0, &dims)?.iter_mut().enumerate();
                    out.for_each(|(k, o)| *o = draw(k / self.samples) as i32);
                }
                DType::I64 => {
                    let out = outputs.slice::<i64>(0, &dims)?.iter_mut().enumerate();
                    out.for_each(|(k, o)| *o = draw(k / self.samples) as i64);
                }
                other => return fail(format!("classes can't be {other}")),
            }
            Ok(())
        }, else => fail(format!("weights can't be {}", data.dtype)))
    }

    fn is_pure(&self) -> bool {
        false
    }
}

impl Op for Dropout {
    fn infer(&self, cx: &InferCx<'_>) -> OpResult<Vec<ValueType>> {
        let ty = cx.ty(0)?;
        let mask = ValueType::new(DType::Bool, ty.shape.clone());
        Ok([ty.clone(), mask].into_iter().take(cx.outputs()).collect())
    }

    fn eval(&self, inputs: &Inputs<'_>, outputs: &mut Outputs<'_>) -> OpResult {
        let data = inputs.get(0)?;
        let ratio = match inputs.opt(1) {
            None => 0.5,
            Some(ratio) => crate::dispatch_float!(ratio.dtype, T => {
                ratio.scalar::<T>()?.to_f64()
            }, else => return fail(format!("the ratio can't be {}", ratio.dtype))),
        };
        let training = inputs.opt(2).map_or(Ok(Bool(0)), |t| t.scalar::<Bool>())?.get();
        let with_mask = outputs.len() > 1;
        if !training || ratio == 0.0 {
            outputs.put(0, &data)?;
            if with_mask {
                outputs.slice::<Bool>(1, data.dims)?.fill(Bool(1));
            }
            return Ok(());
        }
        if !(0.0..1.0).contains(&ratio) {
            return fail(format!("a ratio of {ratio}"));
        }
        // The same draws once for the data and once for the mask.
        let seed = Generator::new(self.seed).0;
        crate::dispatch_float!(data.dtype, T => {
            let mut generator = Generator::new(Some(seed));
            let out = outputs.slice::<T>(0, data.dims)?.iter_mut();
            for (o, v) in out.zip(data.slice::<T>()?) {
                let kept = generator.unit() >= ratio;
                *o = T::of_f64(if kept { v.to_f64() / (1.0 - ratio) } else { 0.0 });
            }
        }, else => return fail(format!("dropout of {}", data.dtype)));
        if with_mask {
            let mut generator = Generator::new(Some(seed));
            let out = outputs.slice::<Bool>(1, data.dims)?.iter_mut();
            out.for_each(|o| *o = (generator.unit() >= ratio).into());
        }
        Ok(())
    }

    fn is_pure(&self) -> bool {
        self.seed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::test::{b, i, run, run_opt, t};
    use super::*;
    use crate::Tensor;

    fn floats(t: &Tensor) -> &[f32] {
        t.slice().unwrap()
    }

    #[test]
    fn numbers_follow_their_distribution() {
        let shape = i(&[100, 100]);
        let normal = Distribution::Normal { mean: 2.0, scale: 3.0 };
        let op = Random { distribution: normal, dtype: DType::F32, seed: Some(1) };
        let out = run(&op, &[&shape]).unwrap();
        let n = floats(&out).len() as f32;
        let mean = floats(&out).iter().sum::<f32>() / n;
        let var = floats(&out).iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n;
        assert!((mean - 2.0).abs() < 0.1 && (var.sqrt() - 3.0).abs() < 0.1, "{mean} {var}");
        assert_eq!(floats(&run(&op, &[&shape]).unwrap()), floats(&out));
        let uniform = Distribution::Uniform { low: -1.0, high: 1.0 };
        let op = RandomLike { distribution: uniform, dtype: None, seed: None };
        let (first, second) = (run(&op, &[&out]).unwrap(), run(&op, &[&out]).unwrap());
        assert!(floats(&first).iter().all(|v| (-1.0..1.0).contains(v)));
        assert!((floats(&first).iter().sum::<f32>() / n).abs() < 0.05);
        assert_ne!(floats(&first), floats(&second));
        assert!(
            run(&Random { distribution: normal, dtype: DType::I8, seed: None }, &[&shape]).is_err()
        );
    }

    #[test]
    fn draws_follow_their_odds() {
        let odds = t(&[4000], &[0.25f32; 4000]);
        let op = Bernoulli { dtype: Some(DType::I32), seed: Some(3) };
        let ones: i32 = run(&op, &[&odds]).unwrap().slice::<i32>().unwrap().iter().sum();
        assert!((900..1100).contains(&ones), "{ones}");
        let weights = t(&[2, 3], &[0f32, 2f32.ln(), f32::NEG_INFINITY, -1e9, 0.0, -1e9]);
        let op = Multinomial { samples: 3000, dtype: DType::I64, seed: Some(4) };
        let out = run(&op, &[&weights]).unwrap();
        let (first, second) = out.slice::<i64>().unwrap().split_at(3000);
        let ones: i64 = first.iter().sum();
        assert!((1900..2100).contains(&ones), "{ones}");
        assert!(second.iter().all(|v| *v == 1));
    }

    #[test]
    fn dropout_drops_in_training_only() {
        let x = t(&[1000], &[1f32; 1000]);
        let (ratio, training) = (Tensor::scalar(0.2f32), b(&[], &[true]));
        let op = Dropout { seed: Some(5) };
        let out = run_opt(&op, &[Some(&x), Some(&ratio)], 2).unwrap();
        assert_eq!(floats(&out[0]), floats(&x));
        assert!(out[1].slice::<Bool>().unwrap().iter().all(|b| b.get()));
        let out = run_opt(&op, &[Some(&x), Some(&ratio), Some(&training)], 2).unwrap();
        let kept = out[1].slice::<Bool>().unwrap();
        for (v, kept) in floats(&out[0]).iter().zip(kept) {
            assert_eq!(*v, if kept.get() { 1.25 } else { 0.0 });
        }
        assert!((750..850).contains(&kept.iter().filter(|b| b.get()).count()));
        let all = Tensor::scalar(1f32);
        assert!(run_opt(&op, &[Some(&x), Some(&all), Some(&training)], 1).is_err());
    }
}
