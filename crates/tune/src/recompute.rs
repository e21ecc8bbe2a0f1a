//! Activations that are computed again instead of being held (Chen et al., "Training Deep Nets with
//! Sublinear Memory Cost", arXiv 1604.06174).
//!
//! The forward graph is cut into segments where little crosses. What crosses is held, and so is what
//! only one run may make: the results of ops that change state, such as attention over rows. All else
//! that backward nodes read of a segment is computed once more from these, by copies of the nodes that
//! made it, each just before it is first needed. The last segment is left alone: its backward nodes
//! follow at once.

use kinglet_graph::{Graph, Node, ValueId};
use std::ops::Range;

/// The most segments that are tried.
const MOST_SEGMENTS: usize = 256;

/// Lets the nodes of `graph` from number `forward` on, which are backward ones, read activations that are
/// computed again. Types are inferred.
pub(crate) fn recompute(graph: &mut Graph, forward: usize) {
    let activations = Activations::of(graph, forward);
    let segments = activations.segments();
    Copies::new(graph, &activations, &segments).insert(graph, forward);
}

/// A value that a forward node computes and that could be computed again.
#[derive(Clone, Copy)]
struct Activation {
    made: usize,
    /// The last forward node that reads it.
    read: usize,
    bytes: usize,
    /// Whether a backward node reads it.
    wanted: bool,
}

/// The activations of a training graph.
struct Activations {
    forward: usize,
    /// Of each value, where it is one.
    of: Vec<Option<Activation>>,
    /// Of each forward node, the bytes that backward nodes want of it.
    wanted: Vec<usize>,
    /// Before each forward node, the bytes that nodes before it hand to it and to those after it.
    crossing: Vec<usize>,
}

impl Activations {
    fn of(graph: &Graph, forward: usize) -> Activations {
        let mut of: Vec<Option<Activation>> = vec![None; graph.values().len()];
        for (i, node) in graph.nodes()[..forward].iter().enumerate() {
            for v in node.inputs.iter().flatten() {
                if let Some(activation) = &mut of[v.index()] {
                    activation.read = i;
                }
            }
            for v in &node.outputs {
                if !node.op.is_pure() || graph.value(*v).data.is_some() {
                    continue;
                }
                // Open sizes tell nothing: what counts is then how many values there are.
                let bytes = graph.value(*v).ty.bytes().unwrap_or(1);
                of[v.index()] = Some(Activation { made: i, read: i, bytes, wanted: false });
            }
        }
        for v in graph.nodes()[forward..].iter().flat_map(|node| node.inputs.iter().flatten()) {
            if let Some(activation) = &mut of[v.index()] {
                activation.wanted = true;
            }
        }
        let (mut wanted, mut crossing) = (vec![0; forward], vec![0; forward]);
        for activation in of.iter().flatten() {
            wanted[activation.made] += if activation.wanted { activation.bytes } else { 0 };
            // What nothing reads crosses nothing.
            let crossed = crossing.get_mut(activation.made + 1..=activation.read);
            crossed.into_iter().flatten().for_each(|bytes| *bytes += activation.bytes);
        }
        Activations { forward, of, wanted, crossing }
    }

    /// Segments of forward nodes with which the least is held at once, as far as is known before memory
    /// is planned.
    fn segments(&self) -> Vec<Range<usize>> {
        let all: usize = self.wanted.iter().sum();
        let tried = (1..=MOST_SEGMENTS.min(self.forward)).map(|n| self.cut(all.div_ceil(n)));
        tried.min_by_key(|segments| (self.peak(segments), segments.len())).unwrap_or_default()
    }

    /// Segments of which backward nodes want about `bytes` each, cut where the least crosses.
    fn cut(&self, bytes: usize) -> Vec<Range<usize>> {
        let (mut segments, mut start) = (Vec::new(), 0);
        while start < self.forward {
            let (mut sum, mut end) = (0, None::<usize>);
            for at in start + 1..self.forward {
                sum += self.wanted[at - 1];
                if sum > bytes && end.is_some() {
                    break;
                }
                let narrower = end.is_none_or(|end| self.crossing[at] <= self.crossing[end]);
                if 2 * sum >= bytes && narrower {
                    end = Some(at);
                }
            }
            let end = end.unwrap_or(self.forward);
            segments.push(start..end);
            start = end;
        }
        segments
    }

    /// The most bytes held at once: what crosses from the segments before, and what is computed again of
    /// one.
    fn peak(&self, segments: &[Range<usize>]) -> usize {
        let segment_of = segment_of(segments, self.forward);
        let (mut held, mut again) = (vec![0; segments.len()], vec![0; segments.len()]);
        for activation in self.of.iter().flatten() {
            let segment = segment_of[activation.made];
            match segment_of[activation.read] == segment {
                false => held[segment] += activation.bytes,
                true if activation.wanted => again[segment] += activation.bytes,
                true => {}
            }
        }
        let mut before = 0;
        let live = held.iter().zip(again).map(|(held, again)| {
            before += held;
            before + again
        });
        live.max().unwrap_or(0)
    }
}

/// Of each of `nodes` nodes, the segment that it is in.
fn segment_of(segments: &[Range<usize>], nodes: usize) -> Vec<usize> {
    let mut of = vec![0; nodes];
    for (i, segment) in segments.iter().enumerate() {
        of[segment.clone()].fill(i);
    }
    of
}

/// Which values are computed again, and by what.
struct Copies {
    /// Of each value that is computed again, the forward node that makes it.
    made: Vec<Option<usize>>,
    /// Of each value, its copy where there is one already.
    again: Vec<Option<ValueId>>,
}

impl Copies {
    fn new(graph: &Graph, activations: &Activations, segments: &[Range<usize>]) -> Copies {
        let segment_of = segment_of(segments, activations.forward);
        let last = segments.len().saturating_sub(1);
        let within =
            |a: &Activation| segment_of[a.made] == segment_of[a.read] && segment_of[a.made] != last;
        // What the caller gets is there in any case.
        let is_output = |i: usize| graph.outputs.iter().any(|v| v.index() == i);
        let of = activations.of.iter().enumerate();
        let made = of.map(|(i, a)| a.filter(|a| within(a) && !is_output(i)).map(|a| a.made));
        Copies { made: made.collect(), again: vec![None; activations.of.len()] }
    }

    /// Puts copies before the backward nodes that first need them.
    fn insert(mut self, graph: &mut Graph, forward: usize) {
        let mut backward = graph.nodes_mut().split_off(forward);
        let mut placed = Vec::with_capacity(backward.len());
        for node in &mut backward {
            for i in self.missing(graph, node) {
                let copy = self.copy(graph, i);
                placed.push(copy);
            }
            self.redirect(node);
            placed.push(node.clone());
        }
        graph.nodes_mut().append(&mut placed);
    }

    /// The forward nodes to be copied before `node` can run, in order.
    fn missing(&self, graph: &Graph, node: &Node) -> Vec<usize> {
        let lacks = |v: &ValueId| {
            let made = self.made.get(v.index()).copied().flatten()?;
            self.again[v.index()].is_none().then_some(made)
        };
        let mut found: Vec<usize> = Vec::new();
        let mut open: Vec<usize> = node.inputs.iter().flatten().filter_map(lacks).collect();
        while let Some(i) = open.pop() {
            if !found.contains(&i) {
                found.push(i);
                open.extend(graph.nodes()[i].inputs.iter().flatten().filter_map(lacks));
            }
        }
        found.sort_unstable();
        found
    }

    /// A copy of forward node `i`, which reads copies itself where there are some.
    fn copy(&mut self, graph: &mut Graph, i: usize) -> Node {
        let mut node = graph.nodes()[i].clone();
        node.name += ".again";
        self.redirect(&mut node);
        for v in &mut node.outputs {
            let value = graph.value(*v).clone();
            let again = graph.add_value(value.name, value.ty);
            if self.made[v.index()].is_some() {
                self.again[v.index()] = Some(again);
            }
            *v = again;
        }
        node
    }

    /// Lets `node` read copies in place of what they are copies of.
    fn redirect(&self, node: &mut Node) {
        for v in node.inputs.iter_mut().flatten() {
            *v = self.again.get(v.index()).copied().flatten().unwrap_or(*v);
        }
    }
}
