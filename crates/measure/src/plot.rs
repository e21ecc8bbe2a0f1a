//! Plots as SVG inside a page, whose style gives them their colours.

use std::fmt::Write;

use crate::report::{Layer, Limits, Phase};
use crate::text::{figure, short};

const WIDTH: f64 = 960.0;
/// Around what is plotted: for the labels of axes.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 42.0;

/// Text as it may stand in a page or a drawing.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// Dots that are named.
const MOST_NAMES: usize = 6;

/// A logarithmic scale from values to places.
#[derive(Clone, Copy)]
struct Log {
    values: (f64, f64),
    places: (f64, f64),
}

impl Log {
    /// Around all of `values`, with some room.
    fn around(values: impl Iterator<Item = f64>, places: (f64, f64)) -> Log {
        let (low, high) = values
            .filter(|value| *value > 0.0)
            .fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), v| (low.min(v), high.max(v)));
        let values = if low > high { (0.1, 10.0) } else { (low / 1.8, high * 1.8) };
        Log { values, places }
    }

    fn at(&self, value: f64) -> f64 {
        let (low, high) = (self.values.0.ln(), self.values.1.ln());
        let share = (value.max(f64::MIN_POSITIVE).ln() - low) / (high - low);
        self.places.0 + share * (self.places.1 - self.places.0)
    }

    /// Powers of ten, with their doubles and fives where few would be left.
    fn ticks(&self) -> Vec<f64> {
        let (low, high) = self.values;
        let tens = || low.log10().floor() as i32..=high.log10().ceil() as i32;
        let of = |steps: &[f64]| {
            let all = tens().flat_map(|e| steps.iter().map(move |step| step * 10f64.powi(e)));
            all.filter(|tick| (low..=high).contains(tick)).collect::<Vec<f64>>()
        };
        let powers = of(&[1.0]);
        if powers.len() > 2 { powers } else { of(&[1.0, 2.0, 5.0]) }
    }
}

/// Round values from 0 to `most`, about `count` of them.
fn round_ticks(most: f64, count: usize) -> Vec<f64> {
    let rough = most / count as f64;
    if !(rough.is_finite() && rough > 0.0) {
        return vec![0.0];
    }
    let unit = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|s| s * unit).into_iter().find(|s| *s >= rough);
    let step = step.unwrap_or(rough);
    (0..=(most / step) as usize).map(|i| i as f64 * step).collect()
}

/// A line of a plot of curves.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What it is.
    pub name: String,
    /// Its points, in the order of x; what is not finite is left out.
    pub points: Vec<(f64, f64)>,
    /// Whether each point is marked, as where there are few.
    pub marked: bool,
}

/// The most curves that are told apart.
const CURVES: [&str; 3] = ["int8", "f32", "moves"];

/// Curves over one x, the first in front, with their names; of `x` and `y` what the axes are.
pub fn curves(x: &str, y: &str, curves: &[Curve]) -> String {
    const HEIGHT: f64 = 320.0;
    let finite = |(x, y): &&(f64, f64)| x.is_finite() && y.is_finite();
    let all = || curves.iter().flat_map(|c| &c.points).filter(finite);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) =
            all().map(of).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        match high - low {
            span if span > 0.0 => (low, high),
            _ if low > high => (0.0, 1.0),
            _ => (low - 0.5, high + 0.5),
        }
    };
    let ((left, right), (low, high)) = (range(|p| p.0), range(|p| p.1));
    let (low, high) = (low - 0.04 * (high - low), high + 0.04 * (high - low));
    let along = |v: f64| LEFT + (v - left) / (right - left) * (WIDTH - RIGHT - LEFT);
    let up = |v: f64| HEIGHT - BOTTOM - (v - low) / (high - low) * (HEIGHT - BOTTOM - TOP);
    let mut svg = open(HEIGHT, &format!("{y} over {x}"));
    for value in ticks_between(low, high, 6) {
        line(&mut svg, "grid", (LEFT, up(value)), (WIDTH - RIGHT, up(value)));
        words(&mut svg, "tick", "end", (LEFT - 6.0, up(value) + 4.0), &tick(value));
    }
    for value in ticks_between(left, right, 8) {
        words(&mut svg, "tick", "middle", (along(value), HEIGHT - BOTTOM + 16.0), &tick(value));
    }
    words(&mut svg, "axis", "middle", ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0), x);
    for (curve, class) in curves.iter().zip(CURVES).rev() {
        let points: Vec<String> = curve
            .points
            .iter()
            .filter(finite)
            .map(|(x, y)| format!("{:.1},{:.1}", along(*x), up(*y)))
            .collect();
        let _ =
            writeln!(svg, "<polyline class=\"curve {class}\" points=\"{}\"/>", points.join(" "));
        for point in points.iter().filter(|_| curve.marked) {
            let (px, py) = point.split_once(',').unwrap_or_default();
            let _ =
                writeln!(svg, "<circle class=\"dot {class}\" cx=\"{px}\" cy=\"{py}\" r=\"3.5\"/>");
        }
    }
    for (i, (curve, class)) in curves.iter().zip(CURVES).enumerate() {
        let at = TOP + 12.0 + 18.0 * i as f64;
        line(&mut svg, &format!("curve {class}"), (WIDTH - 200.0, at), (WIDTH - 180.0, at));
        words(&mut svg, "label", "start", (WIDTH - 174.0, at + 4.0), &curve.name);
    }
    svg + "</svg>\n"
}

/// Round values between two, about `count` of them.
fn ticks_between(low: f64, high: f64, count: usize) -> Vec<f64> {
    let step = round_ticks(high - low, count).get(1).copied().unwrap_or(1.0);
    let first = (low / step).ceil() as i64;
    (first..).map(|i| i as f64 * step).take_while(|v| *v <= high).collect()
}

/// `0.1`, `20`, `1000`: no more digits than needed.
fn tick(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn open(height: f64, label: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n",
        escape(label)
    )
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

/// `anchor`: `start`, `middle` or `end`.
fn words(svg: &mut String, class: &str, anchor: &str, (x, y): (f64, f64), text: &str) {
    let text = escape(text);
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"
    );
}

/// What a layer is, for who points at it.
fn title(layer: &Layer) -> String {
    let rate = |value: Option<f64>, unit: &str| {
        value.map_or(String::new(), |value| format!(", {} {unit}", figure(value)))
    };
    escape(&format!(
        "{} ({}): {:.3} ms, {:.1} %{}{}{}",
        short(&layer.name),
        layer.kernel,
        layer.ms,
        layer.share,
        rate(layer.gmac_s, "GMAC/s"),
        rate(layer.gb_s, "GB/s"),
        rate(layer.of_limit, "% of the limit")
    ))
}

/// The roofline of a phase: what each layer reaches over how much it computes with each byte.
/// Areas of dots are shares of the time; those with the largest are named.
pub(crate) fn roofline(layers: &[Layer], limits: &Limits) -> String {
    const HEIGHT: f64 = 420.0;
    let dots: Vec<(f64, f64, &Layer)> = layers
        .iter()
        .filter_map(|l| Some((l.macs as f64 / l.bytes.max(1) as f64, l.gmac_s?, l)))
        .collect();
    let flats = [("int8", limits.int8_gmac_s), ("f32", limits.f32_gmac_s)];
    let flats: Vec<(&str, f64)> =
        flats.into_iter().filter_map(|(kind, rate)| Some((kind, rate?))).collect();
    let mut slopes: Vec<(&str, f64)> =
        limits.memory_gb_s.iter().map(|rate| ("memory", *rate)).collect();
    let cache =
        limits.weights_gb_s.filter(|rate| Some(*rate) > limits.memory_gb_s.map(|m| 1.2 * m));
    slopes.extend(cache.map(|rate| ("cache", rate)));
    let highest = flats.iter().map(|(_, rate)| *rate).fold(1.0, f64::max);
    // The ridges, where slopes meet flats, belong into the picture.
    let ridges = slopes.iter().map(|(_, slope)| highest / slope);
    let x = Log::around(dots.iter().map(|dot| dot.0).chain(ridges), (LEFT, WIDTH - RIGHT));
    let y = Log::around(
        dots.iter().map(|dot| dot.1).chain(flats.iter().map(|(_, rate)| *rate)),
        (HEIGHT - BOTTOM, TOP),
    );
    let mut svg = open(HEIGHT, "Roofline: arithmetic of each layer over its intensity");
    for value in x.ticks() {
        line(&mut svg, "grid", (x.at(value), TOP), (x.at(value), HEIGHT - BOTTOM));
        words(&mut svg, "tick", "middle", (x.at(value), HEIGHT - BOTTOM + 16.0), &tick(value));
    }
    for value in y.ticks() {
        line(&mut svg, "grid", (LEFT, y.at(value)), (WIDTH - RIGHT, y.at(value)));
        words(&mut svg, "tick", "end", (LEFT - 6.0, y.at(value) + 4.0), &tick(value));
    }
    let middle = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0);
    words(&mut svg, "axis", "middle", middle, "multiply-accumulates for each byte");
    let _ = writeln!(
        svg,
        "<text class=\"axis\" text-anchor=\"middle\" transform=\"translate(14 {:.0}) rotate(-90)\">GMAC/s</text>",
        (TOP + HEIGHT - BOTTOM) / 2.0
    );
    let start = slopes.iter().map(|(_, slope)| *slope).fold(0.0, f64::max);
    for (kind, rate) in &flats {
        let from = if start > 0.0 { (rate / start).max(x.values.0) } else { x.values.0 };
        line(
            &mut svg,
            &format!("roof {kind}"),
            (x.at(from), y.at(*rate)),
            (WIDTH - RIGHT, y.at(*rate)),
        );
        let label = format!("{kind} {} GMAC/s", figure(*rate));
        words(&mut svg, "label", "end", (WIDTH - RIGHT - 4.0, y.at(*rate) - 6.0), &label);
    }
    for (kind, slope) in &slopes {
        let from = x.values.0.max(y.values.0 / slope);
        let to = highest / slope;
        line(
            &mut svg,
            &format!("roof {kind}"),
            (x.at(from), y.at(from * slope)),
            (x.at(to), y.at(highest)),
        );
        // A third of the way up, turned as the line is.
        let at = from * (to / from).powf(0.3);
        let (px, py) = (x.at(at), y.at(at * slope));
        let (dx, dy) = (x.at(to) - x.at(from), y.at(highest) - y.at(from * slope));
        let what = if *kind == "memory" { "memory" } else { "what holds the model" };
        let _ = writeln!(
            svg,
            "<text class=\"label\" text-anchor=\"middle\" transform=\"translate({px:.1} {py:.1}) rotate({:.1}) translate(0 -6)\">{what} {} GB/s</text>",
            dy.atan2(dx).to_degrees(),
            figure(*slope)
        );
    }
    // Large dots first, so that small ones lie on them.
    let mut order: Vec<_> = dots.iter().collect();
    order.sort_by(|a, b| b.2.share.total_cmp(&a.2.share));
    let mut named: Vec<(f64, f64)> = Vec::new();
    let mut names = String::new();
    for (intensity, rate, layer) in &order {
        let radius = (layer.share.sqrt() * 4.0).clamp(2.5, 26.0);
        let (px, py) = (x.at(*intensity), y.at(*rate));
        let _ = writeln!(
            svg,
            "<circle class=\"dot {}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"{radius:.1}\">\
             <title>{}</title></circle>",
            layer.arithmetic,
            title(layer)
        );
        let apart = |(x, y): &(f64, f64)| (x - px).abs() > 240.0 || (y - py).abs() > 16.0;
        if named.len() < MOST_NAMES && named.iter().all(apart) {
            named.push((px, py));
            let (anchor, side) = if px > WIDTH / 2.0 { ("end", -1.0) } else { ("start", 1.0) };
            let place = (px + side * (radius + 5.0), py + 4.0);
            words(&mut names, "label", anchor, place, &short(&layer.name));
        }
    }
    svg += &names;
    svg + "</svg>\n"
}

/// The layers' times in the order in which they run; what is in full colour is the limit.
pub(crate) fn in_order(phase: &Phase) -> String {
    const HEIGHT: f64 = 240.0;
    let most = phase.layers.iter().map(|layer| layer.ms).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let (floor, scale) = (HEIGHT - 28.0, (HEIGHT - 28.0 - TOP) / most);
    let mut svg = open(HEIGHT, "Time of each layer in order");
    for value in round_ticks(most, 4) {
        let y = floor - value * scale;
        line(&mut svg, "grid", (LEFT, y), (WIDTH - RIGHT, y));
        words(&mut svg, "tick", "end", (LEFT - 6.0, y + 4.0), &tick(value));
    }
    let wide = (WIDTH - LEFT - RIGHT) / phase.layers.len().max(1) as f64;
    let gap = (wide * 0.15).min(4.0);
    for (i, layer) in phase.layers.iter().enumerate() {
        let x = LEFT + i as f64 * wide + gap / 2.0;
        let part = |svg: &mut String, class: &str, ms: f64| {
            let high = ms * scale;
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{high:.2}\"/>",
                floor - high,
                (wide - gap).max(0.2)
            );
        };
        let kind = if layer.macs > 0 { layer.arithmetic } else { "moves" };
        let _ = write!(svg, "<g><title>{}</title>", title(layer));
        part(&mut svg, &format!("bar {kind}"), layer.ms);
        part(&mut svg, &format!("bar part {kind}"), layer.limit_ms.unwrap_or(0.0).min(layer.ms));
        svg += "</g>\n";
    }
    let middle = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 6.0);
    words(&mut svg, "axis", "middle", middle, "layers in the order in which they run; ms");
    svg + "</svg>\n"
}

/// Lines of the plot of kernels; the last is the sum of the rest.
const MOST_KERNELS: usize = 10;

/// The time of each kind of kernel, the longest first.
pub(crate) fn by_kernel(phase: &Phase) -> String {
    const LINE: f64 = 26.0;
    const NAMES: f64 = 310.0;
    struct Sum {
        name: String,
        kind: &'static str,
        ms: f64,
        limit: f64,
        share: f64,
    }
    let mut sums: Vec<Sum> = Vec::new();
    for layer in &phase.layers {
        let name = format!("{}: {}", layer.op, layer.kernel);
        let kind = if layer.macs > 0 { layer.arithmetic } else { "moves" };
        let limit = layer.limit_ms.unwrap_or(0.0).min(layer.ms);
        match sums.iter_mut().find(|sum| (&sum.name, sum.kind) == (&name, kind)) {
            Some(sum) => {
                (sum.ms, sum.share) = (sum.ms + layer.ms, sum.share + layer.share);
                sum.limit += limit;
            }
            None => sums.push(Sum { name, kind, ms: layer.ms, limit, share: layer.share }),
        }
    }
    sums.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    if sums.len() > MOST_KERNELS {
        let rest = sums.split_off(MOST_KERNELS - 1);
        let of = |value: fn(&Sum) -> f64| rest.iter().map(value).sum::<f64>();
        let (ms, limit, share) = (of(|s| s.ms), of(|s| s.limit), of(|s| s.share));
        let name = format!("{} others", rest.len());
        sums.push(Sum { name, kind: "moves", ms, limit, share });
    }
    let most = sums.iter().map(|sum| sum.ms).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - NAMES - 140.0) / most;
    let mut svg = open(LINE * sums.len() as f64 + 4.0, "Time by kernel");
    for (i, sum) in sums.iter().enumerate() {
        let y = LINE * i as f64 + 4.0;
        let mut name = sum.name.clone();
        if name.chars().count() > 46 {
            name = name.chars().take(45).chain(['…']).collect();
        }
        words(&mut svg, "tick", "end", (NAMES - 8.0, y + 14.0), &name);
        for (class, ms) in [("bar", sum.ms), ("bar part", sum.limit)] {
            let _ = writeln!(
                svg,
                "<rect class=\"{class} {}\" x=\"{NAMES}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                sum.kind,
                ms * scale,
                LINE - 8.0
            );
        }
        let label = format!("{} ms, {:.1} %", figure(sum.ms), sum.share);
        words(&mut svg, "label", "start", (NAMES + sum.ms * scale + 8.0, y + 14.0), &label);
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        assert_eq!(round_ticks(1.0, 4), [0.0, 0.5, 1.0]);
        assert_eq!(round_ticks(0.0, 4), [0.0]);
        assert_eq!(round_ticks(f64::NAN, 4), [0.0]);
        let log = Log { values: (0.3, 700.0), places: (0.0, 100.0) };
        assert_eq!(log.ticks(), [1.0, 10.0, 100.0]);
        assert_eq!(Log { values: (3.0, 30.0), ..log }.ticks(), [5.0, 10.0, 20.0]);
        assert_eq!(["0.1", "20", "1000"], [0.1, 20.0, 1000.0].map(tick));
    }

    #[test]
    fn curves_lie_within_their_axes() {
        let curve = |points: &[(f64, f64)], marked| Curve {
            name: "a<b".into(),
            points: points.to_vec(),
            marked,
        };
        let two = [
            curve(&[(0.0, 5.0), (10.0, 1.0), (20.0, f64::NAN)], false),
            curve(&[(5.0, 2.0)], true),
        ];
        let svg = curves("step", "loss", &two);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(svg.contains("a&lt;b") && !svg.contains("NaN"), "{svg}");
        assert!(svg.contains("points=\"64.0,"), "{svg}");
        // Of nothing, and of one height.
        for none in [&[][..], &[curve(&[], false)], &[curve(&[(1.0, 2.0), (2.0, 2.0)], false)]] {
            let svg = curves("", "", none);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
        assert_eq!(ticks_between(0.9, 3.2, 4), [1.0, 2.0, 3.0]);
        assert_eq!(ticks_between(-1.0, 1.0, 2), [-1.0, 0.0, 1.0]);
    }

    #[test]
    fn places_grow_with_values() {
        let log = Log::around([1.0, 100.0].into_iter(), (0.0, 200.0));
        assert!((log.at(10.0) - 100.0).abs() < 1e-9);
        assert!(log.at(0.0).is_finite());
        // Nothing to plot is no reason for numbers that are none.
        let empty = Log::around(std::iter::empty(), (0.0, 200.0));
        assert!(empty.at(1.0).is_finite() && !empty.ticks().is_empty());
    }
}
