//! Tables for people.

use std::fmt::Write;

use crate::choices;
use crate::profile::{Profile, Rate};
use crate::report::{Figures, Layer, Phase, Report};
use crate::spread::Spread;

/// Lines of columns.
struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    /// For each column, whether it holds words.
    words: Vec<bool>,
}

impl Table {
    /// Columns by their heads; those of words start with a `<`.
    fn new(heads: &[&'static str]) -> Table {
        Table {
            head: heads.iter().map(|head| head.trim_start_matches('<')).collect(),
            words: heads.iter().map(|head| head.starts_with('<')).collect(),
            rows: Vec::new(),
        }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn lines(&self, indent: &str) -> String {
        let length = |text: &str| text.chars().count();
        let wide = |column: usize| {
            let cells = self.rows.iter().map(|row| length(&row[column]));
            cells.max().unwrap_or(0).max(length(self.head[column]))
        };
        let widths: Vec<usize> = (0..self.head.len()).map(wide).collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded =
                cells.zip(&widths).zip(&self.words).map(|((cell, wide), words)| match words {
                    true => format!("{cell:wide$}"),
                    false => format!("{cell:>wide$}"),
                });
            format!("{indent}{}", padded.collect::<Vec<_>>().join("  ")).trim_end().to_string()
        };
        let head = line(&mut self.head.iter().copied());
        let rows = self.rows.iter().map(|row| line(&mut row.iter().map(String::as_str)));
        std::iter::once(head).chain(rows).fold(String::new(), |text, line| text + &line + "\n")
    }
}

/// A layer's name, short: TFLite joins the names of all that became one by `;`, and paths tell most at
/// their end.
pub(crate) fn short(name: &str) -> String {
    const MOST: usize = 40;
    let first = name.split(';').next().unwrap_or(name);
    let long = first.chars().count().saturating_sub(MOST);
    match long {
        0 => first.into(),
        _ => std::iter::once('…').chain(first.chars().skip(long + 1)).collect(),
    }
}

/// Three significant digits.
pub(crate) fn figure(value: f64) -> String {
    let digits = match value.abs() {
        x if x >= 100.0 => 0,
        x if x >= 10.0 => 1,
        x if x >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

pub(crate) fn or_dash(value: Option<f64>) -> String {
    value.map_or("–".into(), figure)
}

/// `32 KiB`, `1.5 MiB`.
pub fn size(bytes: usize) -> String {
    let (unit, name) = match bytes {
        0..0x400 => (1, "B"),
        0x400..0x10_0000 => (1 << 10, "KiB"),
        0x10_0000..0x4000_0000 => (1 << 20, "MiB"),
        _ => (1 << 30, "GiB"),
    };
    let value = bytes as f64 / f64::from(unit);
    let digits = usize::from(value.fract() != 0.0 && value < 100.0);
    format!("{value:.digits$} {name}")
}

/// A profile as a page of text.
pub fn profile(profile: &Profile) -> String {
    let cores = if profile.usable == 1 { "core" } else { "cores" };
    let mut text = format!(
        "{} ({}), {} {cores} to use, measured in {:.1} s\n",
        profile.model, profile.arch, profile.usable, profile.seconds
    );
    text += "\nArithmetic at most, GMAC/s (median of the runs in brackets)\n";
    let counts: Vec<usize> = profile.peaks.iter().map(|peak| peak.threads).collect();
    let all = counts.iter().max().copied().unwrap_or(1);
    let both = |best: f64, median: f64| format!("{} ({})", figure(best), figure(median));
    let mut table = Table::new(match all {
        1 => &["<instructions", "<numbers", "1 thread"],
        _ => &["<instructions", "<numbers", "1 thread", "all threads"],
    });
    for peak in profile.peaks.iter().filter(|peak| peak.threads == 1) {
        let mut row = vec![peak.isa.clone(), peak.arithmetic.clone()];
        let same = profile
            .peaks
            .iter()
            .filter(|other| (&other.isa, &other.arithmetic) == (&peak.isa, &peak.arithmetic));
        row.extend(same.map(|peak| both(peak.gmac_s.best, peak.gmac_s.median)));
        table.row(row);
    }
    text += &table.lines("  ");

    let whole = profile.memory.first().map_or(0, |read| read.bytes);
    let _ = writeln!(text, "\nReading {} of memory in order, GB/s", size(whole));
    let mut table = Table::new(&["threads", "best", "median"]);
    for read in &profile.memory {
        let Rate { best, median } = read.gb_s;
        table.row([read.threads.to_string(), figure(best), figure(median)]);
    }
    text += &table.lines("  ");

    text += "\nReading less over and over, GB/s\n";
    let mut table = Table::new(match all {
        1 => &["size", "1 thread"],
        _ => &["size", "1 thread", "all threads"],
    });
    for read in profile.reads.iter().filter(|read| read.threads == 1) {
        let same = profile.reads.iter().filter(|other| other.bytes == read.bytes);
        let rates = same.map(|read| figure(read.gb_s.best));
        table.row(std::iter::once(size(read.bytes)).chain(rates));
    }
    text += &table.lines("  ");

    text += "\nConvolutions of 3 × 3 windows of floats with 1 thread, GMAC/s\n";
    let mut table = Table::new(&["channels", "by taps", "by Winograd"]);
    for rate in &profile.convolutions {
        let [taps, winograd] = [&rate.taps_gmac_s, &rate.winograd_gmac_s];
        table.row([rate.channels.to_string(), figure(taps.best), figure(winograd.best)]);
    }
    text += &table.lines("  ");
    let _ = match choices::choose(profile).winograd_channels {
        usize::MAX => writeln!(text, "  by taps, always"),
        channels => writeln!(text, "  by Winograd from {channels} channels on"),
    };

    let told =
        if profile.caches_measured { "as reading shows them" } else { "as the system tells" };
    let _ = writeln!(text, "\nData caches, {told}");
    for cache in &profile.caches {
        let shared = match cache.shared_by {
            1 => String::new(),
            cores => format!(", shared by {cores} cores"),
        };
        let count = if cache.count == 1 { String::new() } else { format!("{} × ", cache.count) };
        let _ = writeln!(text, "  L{}  {count}{}{shared}", cache.level, size(cache.bytes));
    }

    text += "\nCores\n";
    for kind in &profile.kinds {
        let list: Vec<String> = kind.cpus.iter().map(usize::to_string).collect();
        let said = [
            kind.part.clone(),
            kind.max_mhz.map(|mhz| format!("{mhz} MHz at most")),
            kind.capacity.map(|capacity| format!("capacity {capacity}")),
        ];
        let said: Vec<String> = said.into_iter().flatten().collect();
        let said = if said.is_empty() { "of one kind".into() } else { said.join(", ") };
        let _ = writeln!(text, "  {}: {said}", list.join(" "));
    }
    if !profile.cores.is_empty() {
        let mut table = Table::new(&["core", "int8 GMAC/s", "f32 GMAC/s", "reads GB/s"]);
        for core in &profile.cores {
            let rates = [core.int8_gmac_s, core.f32_gmac_s, core.read_gb_s];
            let rates = rates.map(|rate| figure(rate.best));
            table.row(std::iter::once(core.cpu.to_string()).chain(rates));
        }
        text += &table.lines("  ");
    }
    let threads = crate::threads::choose(profile);
    let _ = writeln!(text, "\nThreads that commands take where --threads does not say: {threads}");
    text
}

fn spread(spread: &Spread, unit: &str) -> String {
    let Spread { median, p10, p90, min, runs, .. } = spread;
    format!(
        "{} {unit} (10 % to 90 %: {} to {}, least {}, {runs} runs)",
        figure(*median),
        figure(*p10),
        figure(*p90),
        figure(*min)
    )
}

/// What was measured of a model as a page of text.
pub fn report(report: &Report) -> String {
    let threads = if report.threads == 1 { "thread" } else { "threads" };
    let mut text = format!("{} ({}, {} {threads})\n", report.model, report.kind, report.threads);
    let mut line = |what: &str, value: String| {
        let _ = writeln!(text, "{what:10} {value}");
    };
    match &report.figures {
        Figures::Net { latency_ms } => line("latency", spread(latency_ms, "ms")),
        Figures::Language { prompt_tokens, prompt_tok_s, decode_tokens, decode_tok_s } => {
            line("prompt", format!("{} of {prompt_tokens}", spread(prompt_tok_s, "tokens/s")));
            line("decode", format!("{} of {decode_tokens}", spread(decode_tok_s, "tokens/s")));
        }
    }
    let load = format!(
        "{} ms, and {} ms the first run",
        figure(report.load_ms),
        figure(report.first_run_ms)
    );
    line("load", load);
    if let Some(peak) = report.peak_bytes {
        line("memory", format!("{} at the peak of the process", size(peak)));
    }
    let limits = &report.limits;
    let rate = |value: Option<f64>, unit: &str| value.map(|v| format!("{} {unit}", figure(v)));
    let rates = [
        rate(limits.int8_gmac_s, "GMAC/s int8"),
        rate(limits.f32_gmac_s, "GMAC/s f32"),
        rate(limits.weights_gb_s, "GB/s for weights"),
        rate(limits.memory_gb_s, "GB/s from memory"),
    ];
    let rates: Vec<String> = rates.into_iter().flatten().collect();
    line("limit", format!("{} by {}", rates.join(", "), limits.isa));
    for phase in &report.phases {
        text += "\n";
        text += &layers(phase, matches!(report.figures, Figures::Language { .. }));
    }
    text
}

/// The layers of a phase; `alike`: those that are alike together.
fn layers(phase: &Phase, alike: bool) -> String {
    let of_limit =
        phase.of_limit.map_or(String::new(), |share| format!(", {share:.0} % of the limit"));
    let mut text = format!("{}: {} ms{of_limit}\n", phase.what, figure(phase.ms));
    let mut table = Table::new(&[
        "ms",
        "share",
        "GMAC/s",
        "GB/s",
        "limit",
        "<layer",
        "<kernel",
        "<result by weights",
    ]);
    let per_cent = |value: f64| format!("{value:.1} %");
    let cells = |layer: &Layer| {
        let times = if layer.count == 1 { String::new() } else { format!("{} × ", layer.count) };
        [
            format!("{:.3}", layer.ms),
            per_cent(layer.share),
            or_dash(layer.gmac_s),
            or_dash(layer.gb_s),
            of_limit_text(layer.of_limit),
            format!("{times}{}", short(&layer.name)),
            layer.kernel.clone(),
            layer.shape.clone(),
        ]
    };
    let grouped;
    let rows = match alike {
        true => {
            grouped = phase.alike();
            &grouped
        }
        false => &phase.layers,
    };
    rows.iter().for_each(|layer| table.row(cells(layer)));
    table.row([
        format!("{:.3}", phase.ms),
        per_cent(phase.layers.iter().map(|layer| layer.share).sum()),
        or_dash(phase.gmac_s()),
        or_dash(phase.gb_s()),
        of_limit_text(phase.of_limit),
        "all".into(),
        String::new(),
        String::new(),
    ]);
    text += &table.lines("  ");
    text
}

/// What is compared of a model: latency, prompt, decoding, per cents of the limit, load and memory.
pub(crate) fn compared(report: &Report) -> [String; 6] {
    let (latency, prompt, decode) = report.figures.medians();
    let limits: Vec<String> =
        report.phases.iter().map(|phase| of_limit_text(phase.of_limit)).collect();
    [
        or_dash(latency),
        or_dash(prompt),
        or_dash(decode),
        limits.join(", "),
        figure(report.load_ms),
        report.peak_bytes.map_or("–".into(), size),
    ]
}

/// A share of the limit, where there is one.
pub(crate) fn of_limit_text(share: Option<f64>) -> String {
    share.map_or("–".into(), |share| format!("{share:.0} %"))
}

/// Several models side by side.
pub fn comparison(reports: &[Report]) -> String {
    let mut table = Table::new(&[
        "<model",
        "latency ms",
        "prompt tok/s",
        "decode tok/s",
        "of the limit",
        "load ms",
        "peak memory",
    ]);
    for report in reports {
        let figures = compared(report);
        table.row(std::iter::once(report.model.clone()).chain(figures));
    }
    table.lines("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let mut table = Table::new(&["<name", "ms"]);
        table.row(["a".into(), "1.25".into()]);
        table.row(["long name".into(), "12.5".into()]);
        assert_eq!(table.lines(" "), " name         ms\n a          1.25\n long name  12.5\n");
    }

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(short("a/b;c/d"), "a/b");
        let name = format!("{}/expanded_conv_1/depthwise/Relu6", "x".repeat(40));
        assert_eq!(short(&name).chars().count(), 40);
        assert!(short(&name).starts_with('…') && short(&name).ends_with("/depthwise/Relu6"));
    }

    #[test]
    fn figures_have_three_digits() {
        let all = [1234.5, 99.96, 9.876, 0.12345, 0.0].map(figure);
        assert_eq!(all, ["1234", "100.0", "9.88", "0.123", "0.000"]);
        assert_eq!(
            [32 << 10, 1 << 20, 3 << 19, 700 << 20].map(size),
            ["32 KiB", "1 MiB", "1.5 MiB", "700 MiB"]
        );
    }

    #[test]
    fn a_profile_says_what_it_holds() {
        let text = profile(&crate::testing::profile());
        for part in
            ["Made-up CPU", "avx2", "200 (180)", "256 MiB", "L1  2 × 32 KiB", "capacity 1024"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.ends_with("does not say: 2\n"));
    }
}
