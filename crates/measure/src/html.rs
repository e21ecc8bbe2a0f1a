//! A page with plots.

use std::fmt::Write;

use crate::plot::{self, escape};
use crate::profile::Profile;
use crate::report::{Figures, Layer, Limits, Phase, Report};
use crate::spread::Spread;
use crate::text::{compared, figure, of_limit_text, or_dash, short, size};

/// What was measured of models, as a page that needs no other file.
pub fn page(profile: &Profile, reports: &[Report]) -> String {
    let names: Vec<&str> = reports.iter().map(|report| file_name(&report.model)).collect();
    let about = format!(
        "{}, {}, {} core{} to use; Kinglet {}",
        profile.model,
        profile.arch,
        profile.usable,
        if profile.usable == 1 { "" } else { "s" },
        profile.program
    );
    let mut page = head("kinglet bench", &names.join(", "), &about);
    if reports.len() > 1 {
        page += &comparison(reports);
    }
    for report in reports {
        page += &section(report);
    }
    page += "<footer class=\"soft\"><p>A layer's limit is the longer of two times: its \
        multiply-accumulates at the measured peak of the instruction set, and its bytes at measured \
        rates: weights at that of the memory or cache that holds all that a run touches, inputs and \
        outputs at that of what holds them alone. Bytes are each operand read once and each result \
        written once, weights as the file has them.</p></footer>\n</main>\n";
    page
}

/// The beginning of a page, up to its first part.
fn head(command: &str, of: &str, about: &str) -> String {
    let command = escape(command);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{command}: {}</title>\n<style>{STYLE}</style>\n<main>\n<h1>{command}</h1>\n\
         <p class=\"soft\">{}</p>\n",
        escape(of),
        escape(about)
    )
}

/// Figures of a page: name, value, and what is said below it.
pub type Card = (String, String, String);

/// A page of figures and plots, each with what is said below it, of the work of another command than
/// `bench`. `of`: what it worked on.
pub fn plots(
    command: &str,
    of: &str,
    about: &str,
    cards: &[Card],
    plots: &[(String, &str)],
) -> String {
    let mut page = head(command, of, about);
    let _ = write!(page, "<section>\n<h2>{}</h2>\n<div class=\"cards\">\n", escape(of));
    cards.iter().for_each(|(name, value, below)| card(&mut page, name, value, below));
    page += "</div>\n";
    for (svg, below) in plots {
        let below = escape(below);
        let _ = write!(page, "<figure>\n{svg}<figcaption>{below}</figcaption></figure>\n");
    }
    page + "</section>\n</main>\n"
}

fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or(path)
}

/// A figure with its name above and its spread below.
fn card(page: &mut String, name: &str, value: &str, below: &str) {
    let _ = writeln!(
        page,
        "<div class=\"card\"><span>{}</span><b>{}</b><small>{}</small></div>",
        escape(name),
        escape(value),
        escape(below)
    );
}

fn spread(spread: &Spread) -> String {
    format!("{} to {}, {} runs", figure(spread.p10), figure(spread.p90), spread.runs)
}

fn section(report: &Report) -> String {
    let mut page = format!(
        "<section>\n<h2>{}</h2>\n<p class=\"soft\">{}, {} thread{}, {}</p>\n<div class=\"cards\">\n",
        escape(file_name(&report.model)),
        escape(&report.kind),
        report.threads,
        if report.threads == 1 { "" } else { "s" },
        escape(&report.limits.isa)
    );
    match &report.figures {
        Figures::Net { latency_ms } => {
            card(
                &mut page,
                "latency",
                &format!("{} ms", figure(latency_ms.median)),
                &spread(latency_ms),
            );
        }
        Figures::Language { prompt_tokens, prompt_tok_s, decode_tokens, decode_tok_s } => {
            let rate = |of: &Spread| format!("{} tok/s", figure(of.median));
            let name = |what: &str, tokens| format!("{what} of {tokens}");
            card(
                &mut page,
                &name("prompt", prompt_tokens),
                &rate(prompt_tok_s),
                &spread(prompt_tok_s),
            );
            card(
                &mut page,
                &name("decode", decode_tokens),
                &rate(decode_tok_s),
                &spread(decode_tok_s),
            );
        }
    }
    for phase in &report.phases {
        if let Some(of_limit) = phase.of_limit {
            let name = if report.phases.len() == 1 { "" } else { phase.name };
            card(
                &mut page,
                &format!("{name} of the limit"),
                &format!("{of_limit:.0} %"),
                "sum of the layers",
            );
        }
    }
    let first = format!("first run {} ms", figure(report.first_run_ms));
    card(&mut page, "load", &format!("{} ms", figure(report.load_ms)), &first);
    if let Some(peak) = report.peak_bytes {
        card(&mut page, "memory", &size(peak), "at the peak");
    }
    page += "</div>\n";
    for phase in &report.phases {
        page += &part(phase, &report.limits, report.phases.len() > 1);
    }
    page + "</section>\n"
}

/// The plots and tables of a phase; `alike`: with the layers that are alike put together first.
fn part(phase: &Phase, limits: &Limits, alike: bool) -> String {
    let mut page = format!("<h3>{}: {} ms</h3>\n", escape(&phase.what), figure(phase.ms));
    page += LEGEND;
    page += "<figure>\n";
    page += &plot::by_kernel(phase);
    page += "<figcaption>Time by kernel; the part in full colour is what the limit takes.</figcaption></figure>\n<figure>\n";
    let grouped = if alike { phase.alike() } else { phase.layers.clone() };
    page += &plot::roofline(&grouped, limits);
    let moves: f64 = phase.layers.iter().filter(|l| l.macs == 0).map(|l| l.share).sum();
    let _ = writeln!(
        page,
        "<figcaption>Roofline. Areas are shares of the time; layers without multiply-accumulates, \
         {moves:.1} % of it, are not in it.</figcaption></figure>\n<figure>"
    );
    page += &plot::in_order(phase);
    page += "<figcaption>Time of each layer; the part in full colour is what the limit takes.</figcaption></figure>\n";
    if alike {
        page += &table(&grouped);
        let _ = writeln!(page, "<details><summary>All {} layers</summary>", phase.layers.len());
        page += &table(&phase.layers);
        page += "</details>\n";
    } else {
        page += &table(&grouped);
    }
    page
}

const LEGEND: &str = "<p class=\"legend\"><i class=\"int8\"></i>8-bit arithmetic \
    <i class=\"f32\"></i>float arithmetic <i class=\"moves\"></i>no multiply-accumulates</p>\n";

fn table(layers: &[Layer]) -> String {
    let mut page = String::from(
        "<div class=\"scroll\"><table>\n<thead><tr><th>layer<th>op<th>kernel<th>result by weights\
         <th class=\"n\">ms<th class=\"n\">share<th class=\"n\">GMAC/s<th class=\"n\">GB/s\
         <th class=\"n\">limit<th>bound by</tr></thead>\n<tbody>\n",
    );
    for layer in layers {
        let times = if layer.count == 1 { String::new() } else { format!("{} × ", layer.count) };
        let bound = match layer.bound {
            Some(crate::Bound::Arithmetic) => "arithmetic",
            Some(crate::Bound::Memory) => "memory",
            None => "–",
        };
        let _ = write!(page, "<tr><td title=\"{}\">", escape(&layer.name));
        for text in
            [format!("{times}{}", short(&layer.name)), layer.op.into(), layer.kernel.clone()]
        {
            let _ = write!(page, "{}<td>", escape(&text));
        }
        let _ = write!(page, "{}", escape(&layer.shape));
        let share = format!("{:.1} %", layer.share);
        let of_limit = of_limit_text(layer.of_limit);
        let rates = [or_dash(layer.gmac_s), or_dash(layer.gb_s)];
        for text in [format!("{:.3}", layer.ms), share].into_iter().chain(rates).chain([of_limit]) {
            let _ = write!(page, "<td class=\"n\">{text}");
        }
        let _ = writeln!(page, "<td>{bound}</tr>");
    }
    page + "</tbody></table></div>\n"
}

fn comparison(reports: &[Report]) -> String {
    let mut page = String::from(
        "<div class=\"scroll\"><table>\n<thead><tr><th>model<th class=\"n\">latency ms\
         <th class=\"n\">prompt tok/s<th class=\"n\">decode tok/s<th class=\"n\">of limit\
         <th class=\"n\">load ms<th class=\"n\">peak memory</tr></thead>\n<tbody>\n",
    );
    for report in reports {
        let _ = write!(page, "<tr><td>{}", escape(file_name(&report.model)));
        for text in compared(report) {
            let _ = write!(page, "<td class=\"n\">{text}");
        }
        page += "</tr>\n";
    }
    page + "</tbody></table></div>\n"
}

const STYLE: &str = "\
:root{color-scheme:light dark;--page:#fff;--ink:#1c2733;--soft:#5b6b7a;--line:#dde4ea;--panel:#f5f7f9;\
--int8:#2f74c0;--f32:#c96a12;--moves:#7b8794}\
@media(prefers-color-scheme:dark){:root{--page:#12171d;--ink:#e4eaf0;--soft:#94a3b1;--line:#2a333d;\
--panel:#1a2129;--int8:#5ba3ea;--f32:#f0a04b;--moves:#8b98a5}}\
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,'DejaVu Sans',sans-serif}\
main{max-width:1120px;margin:0 auto;padding:24px 20px 48px}\
h1{font-size:22px;margin:0}h2{font-size:19px;margin:40px 0 0;overflow-wrap:anywhere}\
h3{font-size:16px;margin:32px 0 4px}p{margin:4px 0}.soft,figcaption,small{color:var(--soft)}\
.cards{display:flex;flex-wrap:wrap;gap:10px;margin:14px 0}\
.card{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:8px 14px;min-width:110px}\
.card span,.card small{display:block;font-size:12.5px;color:var(--soft)}\
.card b{font-size:20px;font-variant-numeric:tabular-nums}\
figure{margin:14px 0}figcaption{font-size:13px}svg{width:100%;height:auto;display:block}\
svg text{font:12px system-ui,'DejaVu Sans',sans-serif;fill:var(--ink)}\
svg .tick{fill:var(--soft)}svg .axis{fill:var(--soft)}\
svg .label{paint-order:stroke;stroke:var(--page);stroke-width:4px;stroke-linejoin:round}\
.grid{stroke:var(--line);stroke-width:1}.roof{stroke:var(--soft);stroke-width:1.6}\
.roof.int8{stroke:var(--int8)}.roof.f32{stroke:var(--f32)}.roof.cache{stroke-dasharray:5 4}\
.curve{fill:none;stroke-width:1.7;stroke-linejoin:round}.curve.int8{stroke:var(--int8)}\
.curve.f32{stroke:var(--f32)}.curve.moves{stroke:var(--moves);stroke-opacity:.55;stroke-width:1}\
.dot.moves{fill:var(--moves)}.dot{fill-opacity:.45;stroke-width:1.2}.dot.int8{fill:var(--int8);stroke:var(--int8)}\
.dot.f32{fill:var(--f32);stroke:var(--f32)}\
.bar{fill-opacity:.38}.bar.part{fill-opacity:1}.bar.int8{fill:var(--int8)}.bar.f32{fill:var(--f32)}\
.bar.moves{fill:var(--moves)}\
.legend{font-size:13px;color:var(--soft)}\
.legend i{display:inline-block;width:11px;height:11px;border-radius:3px;margin:0 6px 0 14px}\
.legend i:first-child{margin-left:0}i.int8{background:var(--int8)}i.f32{background:var(--f32)}\
i.moves{background:var(--moves)}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:12.5px;white-space:nowrap}\
th{text-align:left;color:var(--soft);font-weight:600}th,td{padding:3px 12px 3px 0}\
tbody tr{border-top:1px solid var(--line)}.n{text-align:right;font-variant-numeric:tabular-nums}\
details{margin:10px 0}summary{cursor:pointer}footer{margin-top:40px;font-size:13px}";
