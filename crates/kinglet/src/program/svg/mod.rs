//! A drawing of a graph: boxes with the op's name and its weights, sizes beside the edges.

mod layout;

use std::fmt::Write;

use kinglet::Graph;
use kinglet::parts::graph::{Node, ValueId, ValueType};
use kinglet_measure::escape;

use super::inspect::{bytes, sizes};

const MARGIN: f64 = 24.0;
const LINE: f64 = 15.0;

struct Item {
    kind: &'static str,
    lines: Vec<String>,
}

impl Item {
    fn size(&self) -> (f64, f64) {
        let wide = self.lines.iter().map(|line| text_width(line)).fold(0.0, f64::max);
        (wide + 24.0, LINE * self.lines.len() as f64 + 12.0)
    }
}

/// How wide a text is, near enough, in the sans-serif of 11 pixels that is drawn.
fn text_width(text: &str) -> f64 {
    let wide = |c: char| if c.is_ascii_uppercase() || "mw×—".contains(c) { 8.0 } else { 6.2 };
    text.chars().map(wide).sum()
}

/// The drawing, as an SVG file.
pub(super) fn draw(graph: &Graph) -> String {
    let mut items = Vec::new();
    let mut maker = vec![None; graph.values().len()];
    for id in &graph.inputs {
        let value = graph.value(*id);
        maker[id.index()] = Some(items.len());
        items.push(Item { kind: "end", lines: vec![value.name.clone(), "input".into()] });
    }
    for node in graph.nodes() {
        for id in &node.outputs {
            maker[id.index()] = Some(items.len());
        }
        items.push(box_of(graph, node));
    }
    let mut edges: Vec<(usize, usize)> = Vec::new();
    let mut values: Vec<ValueId> = Vec::new();
    let mut link = |id: ValueId, to: usize| {
        if let Some(from) = maker[id.index()]
            && !edges.iter().zip(&values).rev().take(64).any(|(e, v)| (*e, *v) == ((from, to), id))
        {
            edges.push((from, to));
            values.push(id);
        }
    };
    for (index, node) in graph.nodes().iter().enumerate() {
        let at = graph.inputs.len() + index;
        node.inputs.iter().flatten().for_each(|id| link(*id, at));
    }
    for (index, id) in graph.outputs.iter().enumerate() {
        link(*id, items.len());
        let name = match graph.value(*id).name.as_str() {
            "" => format!("output {index}"),
            name => name.to_string(),
        };
        items.push(Item { kind: "end", lines: vec![name, "output".into()] });
    }
    let sizes: Vec<(f64, f64)> = items.iter().map(Item::size).collect();
    let layout = layout::place(&sizes, &edges);
    let labels = labels(graph, &values);
    let reach = layout.edges.iter().zip(&labels).filter_map(|(points, label)| {
        label.as_ref().map(|label| points[0].0 + 8.0 + text_width(label))
    });
    let width = reach.fold(layout.width, f64::max) + 2.0 * MARGIN;
    let height = layout.height + 2.0 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\">\n<style>{STYLE}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<g transform=\"translate({MARGIN} {MARGIN})\">\n"
    );
    for points in &layout.edges {
        let _ = writeln!(svg, "<path d=\"{}\"/>", path(points));
    }
    for ((item, &(x, y)), (width, height)) in items.iter().zip(&layout.boxes).zip(sizes) {
        draw_item(&mut svg, item, x, y, width, height);
    }
    for (points, label) in layout.edges.iter().zip(labels) {
        if let Some(label) = label {
            let (x, y) = (points[0].0 + 6.0, points[0].1 + 15.0);
            let _ = writeln!(
                svg,
                "<text class=\"s\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
                escape(&label)
            );
        }
    }
    svg + "</g>\n</svg>\n"
}

const STYLE: &str = "\
    text{font:11px system-ui,'DejaVu Sans',sans-serif;fill:#1c2733;text-anchor:middle}\
    .n{font-weight:600}.w{fill:#51606e}\
    .s{text-anchor:start;fill:#51606e;font-size:10px;paint-order:stroke;stroke:#fff;stroke-width:3px}\
    path{fill:none;stroke:#8a99a8;stroke-width:1.2}\
    rect.box{stroke:#b9c4cf;fill:#f2f5f8}rect.work{stroke:#7fa8d9;fill:#dfecfb}\
    rect.state{stroke:#d9a860;fill:#fdf0db}rect.end{stroke:#7dbb8b;fill:#e2f4e6}";

fn draw_item(svg: &mut String, item: &Item, x: f64, y: f64, width: f64, height: f64) {
    let left = x - width / 2.0;
    let round = if item.kind == "end" { height / 2.0 } else { 5.0 };
    let _ = writeln!(
        svg,
        "<rect class=\"{}\" x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{round:.1}\"/>",
        item.kind
    );
    for (index, line) in item.lines.iter().enumerate() {
        let class = if index == 0 { "n" } else { "w" };
        let y = y + 6.0 + LINE * (index as f64 + 0.75);
        let _ = writeln!(
            svg,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
            escape(line)
        );
    }
}

fn box_of(graph: &Graph, node: &Node) -> Item {
    let inputs: Vec<_> = node.inputs.iter().map(|id| id.map(|id| &graph.value(id).ty)).collect();
    let outputs: Vec<_> = node.outputs.iter().map(|id| &graph.value(*id).ty).collect();
    let kind = match () {
        () if node.op.state().is_some() => "state",
        () if node.op.cost(&inputs, &outputs).macs > 0 => "work",
        () => "box",
    };
    let mut lines = vec![node.op.name().to_string()];
    if let Some(state) = node.op.state() {
        lines.push(graph.state(state).name.clone());
    }
    let weights = node.inputs.iter().flatten().map(|id| graph.value(*id));
    let weights: Vec<_> = weights.filter(|value| value.data.is_some()).collect();
    let total: usize = weights.iter().filter_map(|value| value.ty.bytes()).sum();
    if let Some(largest) = weights.iter().max_by_key(|value| value.ty.bytes()) {
        let more =
            if weights.len() > 1 { format!(" + {}", weights.len() - 1) } else { String::new() };
        lines.push(format!("{}{more}, {}", size_of(&largest.ty), bytes(total)));
    }
    Item { kind, lines }
}

fn size_of(ty: &ValueType) -> String {
    format!("{} {}", ty.dtype, sizes(&ty.shape))
}

/// The type of each edge's value, beside the first edge that it leads along.
fn labels(graph: &Graph, values: &[ValueId]) -> Vec<Option<String>> {
    let mut seen = vec![false; graph.values().len()];
    let label = |id: &ValueId| {
        let first = !std::mem::replace(&mut seen[id.index()], true);
        first.then(|| size_of(&graph.value(*id).ty))
    };
    values.iter().map(label).collect()
}

fn path(points: &[(f64, f64)]) -> String {
    let mut path = format!("M{:.1} {:.1}", points[0].0, points[0].1);
    for pair in points.windows(2) {
        let ((x, y), (to_x, to_y)) = (pair[0], pair[1]);
        let middle = (y + to_y) / 2.0;
        let _ = write!(path, "C{x:.1} {middle:.1} {to_x:.1} {middle:.1} {to_x:.1} {to_y:.1}");
    }
    path
}
