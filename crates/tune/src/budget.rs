//! Training that fits into a budget of memory: what is chosen so that it does.
//!
//! Of ways that fit, the one that costs least is taken. First those that learn the same: activations are
//! computed again ([`crate::Recipe::recompute`]), which costs time; a batch runs in parts whose gradients
//! are summed. Then those that learn less: the last layers alone, as many as fit ("On-Device Training
//! Under 256KB Memory", Lin et al., NeurIPS 2022, arXiv 2206.15472); and at last norms and biases alone,
//! which have next to no gradients and no state ("TinyTL", Cai et al., NeurIPS 2020, arXiv 2007.11622).

use crate::selection::layers;
use crate::{Memory, Selection, TuneError};
use serde::Serialize;
use std::fmt;

/// A way to train.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Which weights are trained, where not all are.
    pub train: Option<Selection>,
    /// Whether activations are computed again.
    pub recompute: bool,
    /// Parts that a batch runs in.
    pub parts: usize,
}

/// What is asked for, and what may be chosen.
#[derive(Clone, Debug)]
pub struct Budget<'a> {
    /// Bytes that the training may take.
    pub limit: usize,
    /// What was asked for: it stays so, where it says more than the default.
    pub asked: Way,
    /// Lines of a batch: parts are made of whole ones.
    pub lines: usize,
    /// The names of the weights that may be trained.
    pub names: &'a [&'a str],
    /// Whether norms and biases alone can be trained.
    pub vectors: bool,
}

/// A way to train that was planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// The way, in words.
    #[serde(serialize_with = "in_words")]
    pub way: Way,
    /// Bytes that it takes.
    pub bytes: usize,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fit {
    /// Bytes that the training may take.
    pub limit: usize,
    /// What fits, and costs least.
    pub chosen: Tried,
    /// What takes more, the largest first: other ways to train the same, and weights that fit in no way.
    pub too_large: Vec<Tried>,
}

impl Budget<'_> {
    /// The way to train that fits and costs least; `memory_of` plans one.
    ///
    /// # Errors
    /// Where none fits: it says how much the smallest takes. What `memory_of` says.
    pub fn fit(
        &self,
        memory_of: impl FnMut(&Way) -> Result<Memory, TuneError>,
    ) -> Result<Fit, TuneError> {
        let mut search = Search { budget: self, memory_of, tried: Vec::new() };
        let chosen = match &self.asked.train {
            Some(train) => search.ways_of(Some(train))?,
            None => search.less_and_less()?,
        };
        let (fits, too_large): (Vec<_>, Vec<_>) =
            search.tried.into_iter().partition(|tried| tried.bytes <= self.limit);
        let Some(chosen) = chosen.and_then(|way| fits.iter().find(|tried| tried.way == way)) else {
            return Err(self.nothing_fits(&too_large));
        };
        // Of less than what was chosen nothing need be told.
        let tells = |tried: &Tried| {
            let train = &tried.way.train;
            *train == chosen.way.train || fits.iter().all(|fitting| fitting.way.train != *train)
        };
        let mut too_large: Vec<_> = too_large.into_iter().filter(tells).collect();
        too_large.sort_by_key(|tried| std::cmp::Reverse(tried.bytes));
        Ok(Fit { limit: self.limit, chosen: chosen.clone(), too_large })
    }

    fn nothing_fits(&self, tried: &[Tried]) -> TuneError {
        let least = tried.iter().min_by_key(|tried| tried.bytes);
        let mib = |bytes: usize| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let least = least.map_or(String::new(), |Tried { way, bytes }| {
            format!(": the least is {}, by {way}", mib(*bytes))
        });
        TuneError::Input(format!(
            "no way to train this model that was asked for fits into {}{least}; give more memory, a \
             shorter context, or learn low-rank products beside the weights",
            mib(self.limit)
        ))
    }

    /// The ways to train `train` that learn the same, what costs least first.
    fn ways(&self, train: Option<&Selection>) -> impl Iterator<Item = Way> {
        let (least, lines) = (self.asked.parts.max(1), self.lines.max(1));
        let parts = std::iter::successors(Some(least), move |parts| {
            (*parts < lines).then(|| (2 * parts).min(lines))
        });
        let (recompute, train) = (self.asked.recompute, train.cloned());
        parts.flat_map(move |parts| {
            let way = Way { train: train.clone(), recompute, parts };
            let again = (!recompute).then(|| Way { recompute: true, ..way.clone() });
            [Some(way), again].into_iter().flatten()
        })
    }
}

/// A search for what fits.
struct Search<'a, F> {
    budget: &'a Budget<'a>,
    memory_of: F,
    tried: Vec<Tried>,
}

impl<F: FnMut(&Way) -> Result<Memory, TuneError>> Search<'_, F> {
    fn fits(&mut self, way: &Way) -> Result<bool, TuneError> {
        let known = self.tried.iter().find(|tried| tried.way == *way).map(|tried| tried.bytes);
        let bytes = match known {
            Some(bytes) => bytes,
            None => {
                let bytes = (self.memory_of)(way)?.total();
                self.tried.push(Tried { way: way.clone(), bytes });
                bytes
            }
        };
        Ok(bytes <= self.budget.limit)
    }

    /// The first way to train `train` that fits.
    fn ways_of(&mut self, train: Option<&Selection>) -> Result<Option<Way>, TuneError> {
        for way in self.budget.ways(train) {
            if self.fits(&way)? {
                return Ok(Some(way));
            }
        }
        Ok(None)
    }

    /// The first way that fits to train all, fewer and fewer layers, and vectors.
    fn less_and_less(&mut self) -> Result<Option<Way>, TuneError> {
        if let Some(way) = self.ways_of(None)? {
            return Ok(Some(way));
        }
        // The layers that fit are fewer than `over`, and at least `fitting`, of which `found` tells.
        let (mut fitting, mut over, mut found) = (0, layers(self.budget.names) + 1, None);
        while fitting + 1 < over {
            let count = fitting.midpoint(over);
            match self.ways_of(Some(&Selection::last(count)))? {
                Some(way) => (fitting, found) = (count, Some(way)),
                None => over = count,
            }
        }
        match Selection::vectors(self.budget.names).filter(|_| self.budget.vectors) {
            Some(vectors) if found.is_none() => self.ways_of(Some(&vectors)),
            _ => Ok(found),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.train {
            None => f.write_str("all that was asked for")?,
            Some(train) => write!(f, "{train} alone")?,
        }
        if self.recompute {
            f.write_str(", activations computed again")?;
        }
        match self.parts {
            0 | 1 => Ok(()),
            parts => write!(f, ", batches in {parts} parts"),
        }
    }
}

fn in_words<S: serde::Serializer>(way: &Way, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(way)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 6] = [
        "token_embd.weight",
        "blk.0.attn_q.weight",
        "blk.1.attn_q.weight",
        "blk.2.attn_q.weight",
        "blk.3.attn_q.weight",
        "output_norm.weight",
    ];

    /// Four layers, each of 30 bytes of weights and 100 of activations, of which 25 when they are computed
    /// again, over all lines; embeddings of 50 bytes. Sums of gradients are as large as weights.
    fn memory(way: &Way) -> Result<Memory, TuneError> {
        let train = way.train.as_ref().map(Selection::to_string);
        let (weights, layers) = match train.as_deref() {
            None => (170, 4),
            Some("*norm.weight") => (1, 4),
            Some(last) => {
                let count: usize = last.trim_start_matches("last=").parse().unwrap();
                (30 * count, count)
            }
        };
        let activations = layers * if way.recompute { 25 } else { 100 } / way.parts;
        let optimiser = if way.parts > 1 { weights } else { 0 };
        Ok(Memory { weights, optimiser, activations, ..Memory::default() })
    }

    fn budget(limit: usize) -> Budget<'static> {
        let asked = Way { parts: 1, ..Way::default() };
        Budget { limit, asked, lines: 4, names: &NAMES, vectors: true }
    }

    fn chosen(budget: &Budget<'_>) -> String {
        let fit = budget.fit(memory).unwrap();
        assert_eq!(fit.chosen.bytes, memory(&fit.chosen.way).unwrap().total());
        assert!(fit.chosen.bytes <= fit.limit);
        assert!(fit.too_large.iter().all(|tried| tried.bytes > fit.limit), "{fit:?}");
        fit.chosen.way.to_string()
    }

    #[test]
    fn what_costs_least_is_chosen() {
        for (limit, want) in [
            (570, "all that was asked for"),
            (569, "all that was asked for, activations computed again"),
            (270, "all that was asked for, activations computed again"),
            (269, "last=4 alone, activations computed again"),
            (219, "last=3 alone, activations computed again"),
            (100, "last=1 alone, activations computed again"),
            (54, "*norm.weight alone, activations computed again, batches in 2 parts"),
            (27, "*norm.weight alone, activations computed again, batches in 4 parts"),
        ] {
            assert_eq!(chosen(&budget(limit)), want, "{limit}");
        }
    }

    #[test]
    fn what_was_asked_for_stays() {
        let mut asked = budget(570);
        asked.asked.recompute = true;
        assert_eq!(chosen(&asked), "all that was asked for, activations computed again");
        let mut asked = budget(219);
        asked.asked.train = Some(Selection::last(4));
        let error = asked.fit(memory).unwrap_err().to_string();
        assert!(error.contains("by last=4 alone, activations computed again"), "{error}");
    }

    #[test]
    fn where_nothing_fits_the_least_is_told() {
        let limit = 26 << 20;
        let budget = Budget { limit, ..budget(0) };
        let larger = |way: &Way| {
            let Memory { weights, optimiser, activations, .. } = memory(way)?;
            Ok(Memory { weights: (weights + optimiser + activations) << 20, ..Memory::default() })
        };
        let error = budget.fit(larger).unwrap_err().to_string();
        let want = "into 26.0 MiB: the least is 27.0 MiB, by *norm.weight alone";
        assert!(error.contains(want), "{error}");
    }
}
