//! The readable text form of a graph.

use crate::{Graph, ValueId};
use std::fmt;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.print(f, 0)
    }
}

impl Graph {
    fn print(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        let pad = "  ".repeat(depth);
        writeln!(f, "{pad}graph \"{}\" {{", self.name)?;
        for id in &self.inputs {
            let value = self.value(*id);
            writeln!(f, "{pad}  input  {id} \"{}\": {}", value.name, value.ty)?;
        }
        for (i, state) in self.states().iter().enumerate() {
            writeln!(f, "{pad}  state  @{i} \"{}\": {}", state.name, state.ty)?;
        }
        for (id, value) in self.values_with_ids() {
            if let Some(data) = &value.data {
                write!(f, "{pad}  const  {id} \"{}\": {}", value.name, value.ty)?;
                match (data.raw().len() <= 64).then(|| data.view().ints()) {
                    Some(Ok(ints)) if ints.len() <= 8 => writeln!(f, " = {ints:?}")?,
                    _ => writeln!(f, " ({} bytes)", data.raw().len())?,
                }
            }
        }
        for node in self.nodes() {
            write!(f, "{pad}  ")?;
            for (i, v) in node.outputs.iter().enumerate() {
                let comma = if i > 0 { ", " } else { "" };
                write!(f, "{comma}{v}: {}", self.value(*v).ty)?;
            }
            if !node.outputs.is_empty() {
                write!(f, " = ")?;
            }
            let text = match node.op.subgraphs().is_empty() {
                true => format!("{:?}", node.op),
                false => node.op.name().to_string(),
            };
            let attributes = text.strip_prefix(node.op.name()).unwrap_or(&text).trim_start();
            write!(f, "{}({})", node.op.name(), Args(&node.inputs))?;
            if !attributes.is_empty() {
                write!(f, " {attributes}")?;
            }
            if !node.name.is_empty() {
                write!(f, "  // {}", node.name)?;
            }
            writeln!(f)?;
            for body in node.op.subgraphs() {
                body.print(f, depth + 2)?;
            }
        }
        for id in &self.outputs {
            writeln!(f, "{pad}  output {id} \"{}\"", self.value(*id).name)?;
        }
        writeln!(f, "{pad}}}")
    }
}

struct Args<'a>(&'a [Option<ValueId>]);

impl fmt::Display for Args<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, v) in self.0.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            match v {
                Some(v) => write!(f, "{comma}{v}")?,
                None => write!(f, "{comma}-")?,
            }
        }
        Ok(())
    }
}
