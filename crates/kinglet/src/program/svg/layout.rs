//! Where the boxes of a directed graph without circles go: in layers from top to bottom, edges down.
//!
//! The method is Sugiyama's: each box below all that it needs, long edges broken by a joint in every
//! layer they cross, layers reordered so that few edges cross, and boxes moved under their neighbours.

/// Space between neighbours in a layer.
const GAP: f64 = 28.0;
/// Space between layers.
const STEP: f64 = 46.0;
const SWEEPS: usize = 12;

/// Where everything is.
pub(super) struct Layout {
    /// The top middle of each box.
    pub boxes: Vec<(f64, f64)>,
    /// The points of each edge from box to box.
    pub edges: Vec<Vec<(f64, f64)>>,
    pub width: f64,
    pub height: f64,
}

/// Places boxes of `sizes` (width, height). `edges` lead from a box to one that needs it.
pub(super) fn place(sizes: &[(f64, f64)], edges: &[(usize, usize)]) -> Layout {
    let layers = layers(sizes.len(), edges);
    let mut web = Web::new(sizes, edges, &layers);
    web.order();
    web.move_under_neighbours();
    web.finish(sizes)
}

/// A box's layer: one below the lowest of those it needs; a box that needs none stands right above
/// the first that needs it.
fn layers(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut needs = vec![0; count];
    let mut users = vec![Vec::new(); count];
    for &(from, to) in edges {
        needs[to] += 1;
        users[from].push(to);
    }
    let sources: Vec<usize> = (0..count).filter(|&i| needs[i] == 0).collect();
    let mut layer = vec![0usize; count];
    let mut ready = sources.clone();
    while let Some(from) = ready.pop() {
        for &to in &users[from] {
            layer[to] = layer[to].max(layer[from] + 1);
            needs[to] -= 1;
            if needs[to] == 0 {
                ready.push(to);
            }
        }
    }
    for source in sources {
        if let Some(first) = users[source].iter().map(|&to| layer[to]).min() {
            layer[source] = first.saturating_sub(1);
        }
    }
    layer
}

/// Boxes and joints, linked from layer to layer.
struct Web {
    /// Things of each layer, from left to right.
    rows: Vec<Vec<usize>>,
    width: Vec<f64>,
    height: Vec<f64>,
    up: Vec<Vec<usize>>,
    down: Vec<Vec<usize>>,
    x: Vec<f64>,
    /// The things that each edge leads through, its ends included.
    paths: Vec<Vec<usize>>,
}

impl Web {
    fn new(sizes: &[(f64, f64)], edges: &[(usize, usize)], layers: &[usize]) -> Web {
        let count = layers.iter().max().map_or(0, |last| last + 1);
        let mut web = Web {
            rows: vec![Vec::new(); count],
            width: sizes.iter().map(|size| size.0).collect(),
            height: sizes.iter().map(|size| size.1).collect(),
            up: vec![Vec::new(); sizes.len()],
            down: vec![Vec::new(); sizes.len()],
            x: Vec::new(),
            paths: Vec::new(),
        };
        for (thing, &layer) in layers.iter().enumerate() {
            web.rows[layer].push(thing);
        }
        for &(from, to) in edges {
            let mut path = vec![from];
            for layer in layers[from] + 1..layers[to] {
                let joint = web.width.len();
                web.width.push(10.0);
                web.height.push(0.0);
                web.up.push(Vec::new());
                web.down.push(Vec::new());
                web.rows[layer].push(joint);
                path.push(joint);
            }
            path.push(to);
            for pair in path.windows(2) {
                web.down[pair[0]].push(pair[1]);
                web.up[pair[1]].push(pair[0]);
            }
            web.paths.push(path);
        }
        web
    }

    /// Sorts each layer by the middle of its neighbours' places, downwards and upwards in turn.
    fn order(&mut self) {
        let mut place = vec![0.0; self.width.len()];
        for row in &self.rows {
            row.iter().enumerate().for_each(|(at, &thing)| place[thing] = at as f64);
        }
        for sweep in 0..SWEEPS {
            let links = if sweep % 2 == 0 { &self.up } else { &self.down };
            for step in 0..self.rows.len() {
                let row = if sweep % 2 == 0 { step } else { self.rows.len() - 1 - step };
                let row = &mut self.rows[row];
                let middle = |thing: usize| mean(&links[thing], &place).unwrap_or(place[thing]);
                let mut keyed: Vec<(f64, usize)> =
                    row.iter().map(|&thing| (middle(thing), thing)).collect();
                keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
                for (at, (slot, (_, thing))) in row.iter_mut().zip(keyed).enumerate() {
                    *slot = thing;
                    place[thing] = at as f64;
                }
            }
        }
    }

    fn move_under_neighbours(&mut self) {
        self.x = vec![0.0; self.width.len()];
        for sweep in 0..SWEEPS * 2 {
            for step in 0..self.rows.len() {
                let down = sweep % 2 == 0;
                let row = if down { step } else { self.rows.len() - 1 - step };
                let links = if down { &self.up } else { &self.down };
                let row = &self.rows[row];
                let wish: Vec<f64> = row
                    .iter()
                    .map(|&thing| mean(&links[thing], &self.x).unwrap_or(self.x[thing]))
                    .collect();
                let apart: Vec<f64> = row
                    .windows(2)
                    .map(|pair| (self.width[pair[0]] + self.width[pair[1]]) / 2.0 + GAP)
                    .collect();
                for (&thing, x) in row.iter().zip(spread(&wish, &apart)) {
                    self.x[thing] = x;
                }
            }
        }
    }

    fn finish(self, sizes: &[(f64, f64)]) -> Layout {
        let things = 0..self.width.len();
        let left = things.clone().map(|t| self.x[t] - self.width[t] / 2.0).fold(0.0, f64::min);
        let right = things.map(|t| self.x[t] + self.width[t] / 2.0).fold(0.0, f64::max);
        let mut y = vec![0.0; self.width.len()];
        let mut top = 0.0;
        for row in &self.rows {
            let height = row.iter().map(|&thing| self.height[thing]).fold(0.0, f64::max);
            for &thing in row {
                y[thing] = top + (height - self.height[thing]) / 2.0;
            }
            top += height + STEP;
        }
        let x = |thing: usize| self.x[thing] - left;
        let edge = |path: &Vec<usize>| {
            let mut points: Vec<(f64, f64)> =
                path.iter().map(|&thing| (x(thing), y[thing])).collect();
            points[0].1 += self.height[path[0]];
            points
        };
        Layout {
            boxes: (0..sizes.len()).map(|thing| (x(thing), y[thing])).collect(),
            edges: self.paths.iter().map(edge).collect(),
            width: right - left,
            height: (top - STEP).max(0.0),
        }
    }
}

fn mean(links: &[usize], values: &[f64]) -> Option<f64> {
    let sum: f64 = links.iter().map(|&link| values[link]).sum();
    (!links.is_empty()).then(|| sum / links.len() as f64)
}

/// The places nearest to `wish` (in squares) that keep their order and lie `apart` at least: neighbours
/// that collide are joined to a block that stands at the mean of its wishes.
fn spread(wish: &[f64], apart: &[f64]) -> Vec<f64> {
    let mut offset = 0.0;
    let mut blocks: Vec<(f64, f64)> = Vec::new();
    let mut offsets = Vec::with_capacity(wish.len());
    for (index, &wish) in wish.iter().enumerate() {
        offset += if index == 0 { 0.0 } else { apart[index - 1] };
        offsets.push(offset);
        let mut block = (wish - offset, 1.0);
        while let Some(&(at, weight)) = blocks.last().filter(|last| last.0 > block.0) {
            block = ((block.0 * block.1 + at * weight) / (block.1 + weight), block.1 + weight);
            blocks.pop();
        }
        blocks.push(block);
    }
    let places = blocks.iter().flat_map(|&(at, weight)| std::iter::repeat_n(at, weight as usize));
    places.zip(offsets).map(|(at, offset)| at + offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colliding_places_are_spread_around_their_mean() {
        assert_eq!(spread(&[0.0, 0.0, 100.0], &[10.0, 10.0]), [-5.0, 5.0, 100.0]);
        assert_eq!(spread(&[5.0, 1.0], &[4.0]), [1.0, 5.0]);
    }

    #[test]
    fn boxes_never_overlap_and_edges_lead_down() {
        let mut rng = kinglet_testing::Rng::new(3);
        let sizes: Vec<(f64, f64)> =
            (0..60).map(|_| (20.0 + rng.below(200) as f64, 20.0 + rng.below(40) as f64)).collect();
        let edges: Vec<(usize, usize)> =
            (1..60).flat_map(|to| [(rng.below(to), to), (rng.below(to), to)]).collect();
        let layout = place(&sizes, &edges);
        for (a, &(x, y)) in layout.boxes.iter().enumerate() {
            assert!(x - sizes[a].0 / 2.0 > -0.01 && x + sizes[a].0 / 2.0 < layout.width + 0.01);
            assert!(y >= 0.0 && y + sizes[a].1 <= layout.height + 0.01);
            for (b, &(x2, y2)) in layout.boxes.iter().enumerate().skip(a + 1) {
                let apart = (x - x2).abs() >= (sizes[a].0 + sizes[b].0) / 2.0;
                let above = y + sizes[a].1 <= y2 || y2 + sizes[b].1 <= y;
                assert!(apart || above, "{a} and {b} overlap");
            }
        }
        for points in &layout.edges {
            assert!(points.windows(2).all(|pair| pair[0].1 < pair[1].1));
        }
    }

    #[test]
    fn nothing_at_all_is_placed_too() {
        let layout = place(&[], &[]);
        assert_eq!((layout.width, layout.height), (0.0, 0.0));
    }
}
