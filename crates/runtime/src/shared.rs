//! What the plans of one model share: its state, and copies of weights packed on first use.

use kinglet_graph::{AlignedBytes, Tensor};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state and the packed weights of a model, for all its plans. Get it from one plan
/// ([`crate::Plan::shared`]) and give it to the next ([`crate::PlanOptions::shared`]).
#[derive(Default)]
pub struct Shared {
    pub(crate) states: Mutex<Vec<Tensor>>,
    weights: Mutex<HashMap<Key, Arc<PackedWeight>>>,
    let_go: Option<LetGo>,
}

/// Called with stored bytes of weights that have been packed, so that a large weight and its copy
/// need not be in memory both.
pub type LetGo = fn(&[u8]);

/// Where the weight lies, how long it is, and the layout that it is packed in.
type Key = (usize, usize, &'static str);

impl Shared {
    /// Which calls `let_go` for weights as they are packed.
    pub fn letting_go(let_go: LetGo) -> Shared {
        Shared { let_go: Some(let_go), ..Shared::default() }
    }

    /// The packed copy of `weight` in `layout`, which is yet to be made where no plan made it; `size`
    /// bytes.
    pub fn packed(&self, weight: &Tensor, layout: &'static str, size: usize) -> Arc<PackedWeight> {
        let bytes = weight.raw();
        let key = (bytes.as_ptr() as usize, bytes.len(), layout);
        let mut weights = lock(&self.weights);
        weights
            .entry(key)
            .or_insert_with(|| Arc::new(PackedWeight::of(weight, size, self.let_go)))
            .clone()
    }

    /// Gives back the memory of all packed copies; the next run that needs one makes it again.
    /// Returns the bytes given back.
    pub fn trim(&self) -> usize {
        lock(&self.weights).values().map(|w| w.trim()).sum()
    }

    /// Gives back the memory of the packed copies of the weight that `bytes` are, as
    /// [`Shared::trim`]. Returns the bytes given back.
    pub fn trim_weight(&self, bytes: &[u8]) -> usize {
        self.of(bytes, PackedWeight::trim)
    }

    /// Bytes that packed copies of the weight that `bytes` are take once they are made; 0 where it is
    /// used as it is stored.
    pub fn packed_size_of(&self, bytes: &[u8]) -> usize {
        self.of(bytes, |w| w.size)
    }

    fn of(&self, bytes: &[u8], f: impl Fn(&PackedWeight) -> usize) -> usize {
        let place = (bytes.as_ptr() as usize, bytes.len());
        let weights = lock(&self.weights);
        weights.iter().filter(|((at, len, _), _)| (*at, *len) == place).map(|(_, w)| f(w)).sum()
    }

    /// Bytes of packed copies that are there now.
    pub fn packed_bytes(&self) -> usize {
        lock(&self.weights).values().map(|w| w.bytes()).sum()
    }

    /// The state, in the order of the graph's, to look at or to change between runs.
    pub fn with_states<R>(&self, f: impl FnOnce(&mut [Tensor]) -> R) -> R {
        f(&mut lock(&self.states))
    }
}

/// A copy of a weight, packed for a kernel when it first runs, and again after a trim.
pub struct PackedWeight {
    // Keeps the address that the copy is known by.
    _weight: Tensor,
    size: usize,
    bytes: Mutex<Option<Arc<AlignedBytes>>>,
    let_go: Option<LetGo>,
}

impl PackedWeight {
    /// About so many stored bytes are packed before [`PackedWeight::let_go`] is told of them.
    pub const AT_ONCE: usize = 4 << 20;

    fn of(weight: &Tensor, size: usize, let_go: Option<LetGo>) -> PackedWeight {
        PackedWeight { _weight: weight.clone(), size, bytes: Mutex::new(None), let_go }
    }

    /// The copy; made by `pack` where it is not there.
    pub fn get(&self, pack: impl FnOnce() -> AlignedBytes) -> Arc<AlignedBytes> {
        lock(&self.bytes).get_or_insert_with(|| Arc::new(pack())).clone()
    }

    /// Says that these stored bytes have been packed.
    pub fn let_go(&self, stored: &[u8]) {
        if let Some(let_go) = self.let_go {
            let_go(stored);
        }
    }

    fn trim(&self) -> usize {
        lock(&self.bytes).take().map_or(0, |b| b.as_ref().as_ref().len())
    }

    fn bytes(&self) -> usize {
        lock(&self.bytes).as_ref().map_or(0, |b| b.as_ref().as_ref().len())
    }
}

/// What the mutex holds is whole between any two statements, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
