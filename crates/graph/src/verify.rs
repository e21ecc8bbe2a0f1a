//! Checks that a graph is one: every id in range, every value defined once and before its use,
//! types as the ops' shape rules say.

use crate::ops::state::{StateRead, StateWrite};
use crate::{Graph, GraphError, elements};
use std::collections::BTreeSet;

impl Graph {
    /// Checks the graph, its subgraphs included. Passes keep a graph valid; so must importers.
    pub fn verify(&self) -> Result<(), GraphError> {
        let mut defined = vec![false; self.values().len()];
        for (id, value) in self.values_with_ids() {
            let place = || format!("value {id} '{}'", value.name);
            if let Some(data) = &value.data {
                defined[id.index()] = true;
                if data.dtype() != value.ty.dtype || !value.ty.shape.admits(data.dims()) {
                    let m = format!("is {}, its data {data:?}", value.ty);
                    return Err(GraphError::new(place(), m));
                }
            }
            if let Some(q) = &value.ty.quant {
                let along = |axis: usize| {
                    let dims = value.ty.shape.dims();
                    dims.is_none_or(|d| {
                        d.get(axis).is_some_and(|d| d.fixed().is_none_or(|n| n == q.scale.len()))
                    })
                };
                let one = q.scale.len() == 1;
                if q.scale.len() != q.zero_point.len()
                    || !(one || q.axis.is_some_and(along))
                    || q.scale.iter().any(|s| !s.is_finite() || *s < 0.0)
                {
                    return Err(GraphError::new(
                        place(),
                        format!("has {} scales that do not fit {}", q.scale.len(), value.ty),
                    ));
                }
            }
            if value.ty.shape.fixed().is_some_and(|d| elements(&d).is_none()) {
                return Err(GraphError::new(place(), "its sizes overflow"));
            }
        }
        for id in &self.inputs {
            self.define(*id, &mut defined, || format!("input {id}"))?;
        }
        for node in self.nodes() {
            for v in node.inputs.iter().flatten() {
                match defined.get(v.index()) {
                    Some(true) => {}
                    Some(false) => {
                        let m = format!("uses {v} before anything defines it");
                        return Err(GraphError::new(node.place(), m));
                    }
                    None => return Err(GraphError::new(node.place(), format!("no value {v}"))),
                }
            }
            let dtypes = node.inputs.iter().map(|v| v.map(|v| self.value(v).ty.dtype));
            node.op.check_encoded(dtypes).map_err(|e| GraphError::at(node, &e))?;
            for v in &node.outputs {
                self.define(*v, &mut defined, || node.place())?;
            }
            for body in node.op.subgraphs() {
                body.verify().map_err(|e| {
                    GraphError::new(
                        format!("{}, body '{}'", node.place(), body.name),
                        e.to_string(),
                    )
                })?;
            }
            self.verify_state(node)?;
        }
        for v in &self.outputs {
            if !defined.get(v.index()).copied().unwrap_or(false) {
                return Err(GraphError::new(format!("output {v}"), "nothing computes it"));
            }
        }
        let names: BTreeSet<_> = self.states().iter().map(|s| &s.name).collect();
        if names.len() != self.states().len() {
            return Err(GraphError::new("state", "two pieces of state have one name"));
        }
        Ok(())
    }

    fn define(
        &self,
        id: crate::ValueId,
        defined: &mut [bool],
        place: impl Fn() -> String,
    ) -> Result<(), GraphError> {
        match defined.get_mut(id.index()) {
            None => Err(GraphError::new(place(), format!("no value {id}"))),
            Some(true) => Err(GraphError::new(
                place(),
                format!("defines {id} '{}' a second time", self.value(id).name),
            )),
            Some(slot) => {
                *slot = true;
                Ok(())
            }
        }
    }

    fn verify_state(&self, node: &crate::Node) -> Result<(), GraphError> {
        let Some(id) = node.op.state() else {
            return Ok(());
        };
        let Some(state) = self.states().get(id.index()) else {
            return Err(GraphError::new(node.place(), format!("no state {id}")));
        };
        let value = if node.op.is::<StateRead>() {
            node.outputs.first().copied()
        } else if node.op.is::<StateWrite>() {
            node.inputs.first().copied().flatten()
        } else {
            None
        };
        match value.map(|v| &self.value(v).ty) {
            Some(ty) if ty.dtype != state.ty.dtype => Err(GraphError::new(
                node.place(),
                format!("state '{}' is {}, the value {ty}", state.name, state.ty),
            )),
            _ => Ok(()),
        }
    }
}
