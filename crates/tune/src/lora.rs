//! Low-rank adaptation (Hu et al., arXiv 2106.09685): a weight W [m, k] stays as it is, in whatever
//! encoding, and beside it α/r B A is learned, of B [m, r] and A [r, k].

use crate::random::Random;
use kinglet_formats::Named;
use kinglet_formats::lm::adapter::{Adapter, Low, Part, beside, rows_of};
use kinglet_graph::{DType, Graph, GraphError, OpError, Tensor, ValueId};

/// How much is learned beside each weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lora {
    /// r, of which A has rows and B columns.
    pub rank: usize,
    /// α: what is learned counts by α / r.
    pub alpha: f64,
}

/// What A and B are called, after their weight's name.
const PARTS: [&str; 2] = ["lora_a", "lora_b"];

impl Lora {
    fn scale(self) -> f32 {
        (self.alpha / self.rank.max(1) as f64) as f32
    }

    /// Adds α/r B A x to each product W x of `graph`, whose types are inferred, by one of `weights`, and
    /// returns all A and B: A of `seed`'s chance, B zero, so that nothing changes yet. A weight that is
    /// read by something else too, as embeddings that are the output's as well, is left out.
    ///
    /// # Errors
    /// If no product is left.
    pub fn adapt(
        self,
        graph: &mut Graph,
        weights: &[ValueId],
        seed: u64,
    ) -> Result<Vec<ValueId>, GraphError> {
        let mut made = Vec::new();
        beside(graph, |graph, weight| {
            if !weights.contains(&weight) {
                return Ok(None);
            }
            let name = graph.value(weight).name.clone();
            let fail = |e: OpError| GraphError::new(name.clone(), e.to_string());
            let [a, b] = self.parts(graph, weight, seed).map_err(fail)?;
            made.extend([a, b]);
            let factor = graph.add_constant("", Tensor::scalar(self.scale()));
            Ok(Some(Low { a, b, factor }))
        })?;
        match made.is_empty() {
            true => Err(GraphError::new("LoRA", "the model has no product by a weight of its own")),
            false => Ok(made),
        }
    }

    /// New A and B for a weight.
    fn parts(self, graph: &mut Graph, weight: ValueId, seed: u64) -> Result<[ValueId; 2], OpError> {
        let value = graph.value(weight);
        let name = value.name.clone();
        let &[m, k] = value.data.as_ref().map_or(&[][..], |data| data.dims()) else {
            return Err(OpError::new(format!("'{name}' is no matrix")));
        };
        let mut random = Random::new(seed, weight.index() as u64);
        // The spread of PEFT's, which is uniform within ±1/√k.
        let spread = 1.0 / (3.0 * k as f64).sqrt();
        let a: Vec<f32> = (0..self.rank * k).map(|_| (spread * random.normal()) as f32).collect();
        let a = Tensor::from_slice(&[self.rank, k], &a)?;
        let b = Tensor::zeros(DType::F32, &[m, self.rank])?;
        let [of_a, of_b] = PARTS.map(|part| format!("{name}.{part}"));
        Ok([graph.add_constant(of_a, a), graph.add_constant(of_b, b)])
    }

    /// The A and B in `trained` as an adapter, called `name`, of weights that have `rows` rows. What stands
    /// beside rows of one weight becomes one part of all ranks together.
    ///
    /// # Errors
    /// If one is missing, or of other sizes.
    pub fn adapter(
        self,
        name: &str,
        trained: &[(String, Tensor)],
        rows: impl Fn(&str) -> Option<usize>,
    ) -> Result<Adapter, OpError> {
        let [of_a, of_b] = PARTS.map(|part| format!(".{part}"));
        let mut weights: Named<Vec<(Part, Vec<usize>)>> = Named::default();
        for (name, b) in trained {
            let Some(stem) = name.strip_suffix(&of_b) else { continue };
            let a = trained.iter().find(|(n, _)| n.strip_suffix(&of_a) == Some(stem));
            let (_, a) = a.ok_or_else(|| OpError::new(format!("'{name}' is without its A")))?;
            let (weight, first) = rows_of(stem).unwrap_or((stem, 0));
            let mut own = weights.get(weight).cloned().unwrap_or_default();
            let part = Part { a: a.clone(), b: b.clone(), scale: self.scale() };
            own.push((part, (first..first + b.dims()[0]).collect()));
            weights.insert(weight, own);
        }
        let mut parts = Named::default();
        for (weight, own) in weights {
            let m = rows(&weight).ok_or_else(|| OpError::new(format!("'{weight}' is missing")))?;
            let own: Vec<_> = own.iter().map(|(part, rows)| (part, rows.clone())).collect();
            parts.insert(weight, Part::stacked(m, &own)?);
        }
        Ok(Adapter { name: name.to_string(), parts })
    }

    /// The weights W + α/r B A, in f32, of the A and B in `trained`; `weight` gives each W.
    ///
    /// # Errors
    /// If one is missing, or of other sizes.
    pub fn merged(
        self,
        trained: &[(String, Tensor)],
        weight: impl Fn(&str, usize) -> Option<Tensor>,
    ) -> Result<Vec<(String, Tensor)>, OpError> {
        let [of_a, of_b] = PARTS.map(|part| format!(".{part}"));
        let mut merged = Vec::new();
        for (name, b) in trained {
            let Some(stem) = name.strip_suffix(&of_b) else { continue };
            let fail = || OpError::new(format!("what belongs to '{name}' is missing"));
            let a = trained.iter().find(|(n, _)| n.strip_suffix(&of_a) == Some(stem));
            let (_, a) = a.ok_or_else(fail)?;
            let (&[rank, k], &[m, columns]) = (a.dims(), b.dims()) else { return Err(fail()) };
            let own = weight(stem, m).filter(|w| w.dims() == [m, k] && columns == rank);
            let own = own.ok_or_else(fail)?;
            let mut values = vec![0.0; m * k];
            own.view().decode(0, &mut values)?;
            let (a, b) = (a.slice::<f32>()?, b.slice::<f32>()?);
            for (row, of_row) in values.chunks_exact_mut(k.max(1)).zip(b.chunks_exact(rank.max(1)))
            {
                for (b, a) in of_row.iter().zip(a.chunks_exact(k.max(1))) {
                    row.iter_mut().zip(a).for_each(|(w, a)| *w += self.scale() * b * a);
                }
            }
            merged.push((stem.to_string(), Tensor::from_slice(&[m, k], &values)?));
        }
        Ok(merged)
    }
}
