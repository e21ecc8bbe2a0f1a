//! From weights under GGUF's names back to a class's own tensors.

use super::change::{Change, floats, wrong};
use super::{Named, Weights, gather, placed};
use crate::lm::config::Config;
use crate::lm::hf::classes::Class;
use kinglet_graph::{GraphError, OpError, Tensor};

/// The tensor `name` of `class`, of these sizes, in f32.
///
/// A rearrangement is turned back without a second set of rules: the numbers of the tensor's elements
/// go through the way in, and where each arrives is where its value is fetched from.
pub fn own(
    class: &Class,
    config: &Config,
    name: &str,
    dims: &[usize],
    weights: &dyn Weights,
) -> Result<Tensor, GraphError> {
    let fail = |m: String| GraphError::new(format!("tensor '{name}'"), m);
    let (_, change, place) =
        placed(class, name).ok_or_else(|| fail(format!("is not one that a {} has", class.name)))?;
    if change == Change::Decay || place.number.is_some() {
        return Err(fail("is of a kind that can be read, but not written".into()));
    }
    let count: usize = dims.iter().product();
    let numbered = |e: OpError| wrong(name, &e);
    let numbers: Vec<i32> = (0..i32::try_from(count)
        .map_err(|_| fail(format!("{dims:?} is more than can be rearranged")))?)
        .collect();
    let mut one = Named::default();
    one.insert(name, Tensor::from_slice(dims, &numbers).map_err(numbered)?);
    // As if nothing were centred: that would count the numbers of a norm as its weights.
    let plain = Class { zero_centred: false, ..*class };
    let mut arrived = Named::default();
    gather(&plain, config, &one, &mut arrived, &|_, tensor, _| Ok(tensor))?;
    let mut values = vec![0.0; count];
    let mut filled = 0;
    for (gguf, places) in arrived.iter() {
        let found = weights
            .tensor(gguf)
            .ok_or_else(|| fail(format!("is made of '{gguf}', which is missing")))?;
        let places = places.slice::<i32>().map_err(numbered)?;
        let found = floats(&found).map_err(numbered)?;
        if found.len() != places.len() {
            return Err(fail(format!(
                "'{gguf}' has {} elements for {}",
                found.len(),
                places.len()
            )));
        }
        let centred =
            class.zero_centred && change != Change::Uncentred && gguf.ends_with("norm.weight");
        for (place, value) in places.iter().zip(found) {
            values[*place as usize] = if centred { value - 1.0 } else { value };
        }
        filled += places.len();
    }
    match filled == count {
        true => Tensor::from_slice(dims, &values).map_err(numbered),
        false => Err(fail(format!("{filled} of its {count} elements are held"))),
    }
}
