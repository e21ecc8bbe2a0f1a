//! What sums become: biased, added to, activated, and a result or a factor of one.

use crate::elementwise::Unary;
use crate::isa::Isa;
use crate::shared::SharedMut;
use std::ops::Range;

/// What is done with the sums of a product.
#[derive(Clone, Copy, Debug)]
pub struct Finish<'a> {
    /// Added: a value a row of weights.
    pub bias: Option<&'a [f32]>,
    /// Added after that, laid out as the results.
    pub residual: Option<&'a [f32]>,
    /// Applied to these sums.
    pub activation: Unary,
    /// Whether what is there is multiplied by them, and not replaced.
    pub factor: bool,
}

impl Default for Finish<'_> {
    fn default() -> Self {
        Finish { bias: None, residual: None, activation: Unary::Identity, factor: false }
    }
}

impl Finish<'_> {
    /// # Panics
    /// Where there is too little for results of `m` columns.
    pub(super) fn check(&self, m: usize, out: SharedMut<'_, f32>) {
        assert!(self.bias.is_none_or(|b| b.len() >= m), "bias too short");
        assert!(self.residual.is_none_or(|r| r.len() >= out.len()), "residual too short");
    }

    /// Puts a row's sums in the columns `columns`; the row starts at `start`. Uses up `sums`.
    ///
    /// # Safety
    /// Nobody else touches these results meanwhile.
    pub(super) unsafe fn place(
        &self,
        isa: Isa,
        (start, columns): (usize, Range<usize>),
        sums: &mut [f32],
        out: SharedMut<'_, f32>,
    ) {
        let results = start + columns.start..start + columns.end;
        let sums = &mut sums[..results.len()];
        if let Some(bias) = self.bias {
            sums.iter_mut().zip(&bias[columns]).for_each(|(sum, bias)| *sum += bias);
        }
        if let Some(residual) = self.residual {
            sums.iter_mut().zip(&residual[results.clone()]).for_each(|(sum, r)| *sum += r);
        }
        if self.activation != Unary::Identity {
            self.activation.run(isa, sums);
        }
        // SAFETY: the caller's promise.
        let out = unsafe { out.slice(results) };
        if self.factor {
            out.iter_mut().zip(sums).for_each(|(out, factor)| *out *= *factor);
        } else {
            out.copy_from_slice(sums);
        }
    }
}
