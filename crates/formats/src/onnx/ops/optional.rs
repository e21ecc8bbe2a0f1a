//! Optional values, as far as loading settles them: in a graph of tensors a value is there or not.

use kinglet_graph::ops::reshape::Identity;
use kinglet_graph::{Bool, Tensor};

use super::{Entry, op};

pub const TABLE: &[Entry] = &[
    op("OptionalGetElement", 15, |cx| cx.emit(Identity)),
    op("OptionalHasElement", 15, |cx| {
        let there = cx.opt(0).is_some();
        let answer = cx.constant(Tensor::scalar(Bool::from(there)));
        cx.finish(answer);
        Ok(())
    }),
];
