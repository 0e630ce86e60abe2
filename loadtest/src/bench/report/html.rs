//! A page that needs nothing but itself: tables and plots, light or dark as its reader likes.

use std::fmt::Write as _;

use super::{PERCENTILES, Report};
use crate::bench::{
    meter::Latencies,
    run::{Point, milliseconds},
};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 240.0;
const MARGIN: f64 = 48.0;

/// How many targets have a colour of their own.
const COLOURS: usize = 6;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--line:#d0d7de;--c0:#0969da;--c1:#bc4c00;--c2:#1a7f37;--c3:#8250df;--c4:#bf3989;--c5:#57606a}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--line:#30363d;--c0:#58a6ff;--c1:#f0883e;--c2:#3fb950;--c3:#bc8cff;--c4:#f778ba;--c5:#8b949e}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:76rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;display:block;overflow-x:auto;font-size:.9rem}td,th{padding:.2rem .5rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}text{fill:var(--ink);font-size:13px}
.grid{stroke:var(--line)}.plot{fill:none;stroke-width:1.6}.key{font-weight:600}
.left{text-align:left}.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(34rem,100%),1fr));gap:0 2rem}
.plots>div{overflow-x:auto}.plots svg{min-width:30rem}";

/// The page.
pub fn html(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>forebay bench</title><style>{STYLE}</style><h1>forebay bench</h1><p>{}</p>",
        escape(&report.load)
    );
    for (place, target) in report.targets.iter().enumerate() {
        let _ = write!(page, "<p class=\"key\" style=\"color:{}\">{}</p>", colour(place), escape(&target.name));
    }
    for series in report.series() {
        let _ = write!(page, "<h2>{}</h2>", escape(series));
        table(&mut page, report, series);
        page += "<div class=\"plots\">";
        let percentiles =
            plot_each(report, |target| target.all.all.series.get(series).map(percentile_line).unwrap_or_default());
        let nines = [(0.0, "0"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "99.99 %")];
        plot(&mut page, "latency by percentile, ms", &percentiles, &nines);
        for (title, figure) in FIGURES {
            let lines = plot_each(report, |target| {
                let points = target.all.timeline.get(series).map_or(&[][..], Vec::as_slice);
                points.iter().map(|point| (point.at, figure(point))).collect()
            });
            plot(&mut page, title, &lines, &[]);
        }
        page += "</div>";
    }
    errors(&mut page, report);
    counts(&mut page, report);
    page
}

/// What is plotted over time.
type Figure = (&'static str, fn(&Point) -> f64);

const FIGURES: [Figure; 3] = [
    ("answers a second, over time", |point| point.answered as f64),
    ("p50 of each second, ms", |point| if point.max_ms > 0.0 { point.p50_ms } else { f64::NAN }),
    ("p99 of each second, ms", |point| if point.max_ms > 0.0 { point.p99_ms } else { f64::NAN }),
];

fn table(page: &mut String, report: &Report, series: &str) {
    *page += "<table><tr><th>target</th><th>answers</th><th>a second</th>";
    // What comparing is for stands where it is seen without scrolling.
    if report.targets.len() > 1 {
        *page += "<th>rate, multiple</th><th>p99, multiple</th>";
    }
    for percent in PERCENTILES {
        let _ = write!(page, "<th>p{percent} ms</th>");
    }
    *page += "<th>max ms</th></tr>";
    for (place, target) in report.targets.iter().enumerate() {
        let Some(latencies) = target.all.all.series.get(series) else { continue };
        let (count, rate) = (target.all.all.answered_of(series), target.all.rate(series));
        let _ = write!(page, "<tr><td>{}</td><td>{count}</td><td>{rate:.1}</td>", escape(&target.name));
        if report.targets.len() > 1 {
            for ratio in [report.rate_ratio(place, series), report.latency_ratio(place, series, 99.0)] {
                let shown = ratio.filter(|_| place > 0).map(|ratio| ratio.to_string());
                let _ = write!(page, "<td>{}</td>", shown.unwrap_or_default());
            }
        }
        for percent in PERCENTILES {
            let _ = write!(page, "<td>{:.3}</td>", milliseconds(latencies.percentile(percent)));
        }
        let _ = write!(page, "<td>{:.3}</td></tr>", milliseconds(latencies.max()));
    }
    *page += "</table>";
}

fn errors(page: &mut String, report: &Report) {
    if report.targets.iter().all(|target| target.all.all.failures.is_empty()) {
        return;
    }
    *page += "<h2>errors</h2><table><tr><th>target</th><th>count</th><th class=\"left\">code</th><th class=\"left\">text</th></tr>";
    for target in &report.targets {
        for (failure, count) in &target.all.all.failures {
            let (name, code, text) = (escape(&target.name), escape(&failure.code), escape(&failure.text));
            let _ = write!(
                page,
                "<tr><td>{name}</td><td>{count}</td><td class=\"left\">{code}</td><td class=\"left\">{text}</td></tr>"
            );
        }
    }
    *page += "</table>";
}

/// What was counted of those who are not measured.
fn counts(page: &mut String, report: &Report) {
    if report.targets.iter().all(|target| target.all.all.counts.is_empty()) {
        return;
    }
    *page += "<h2>counted</h2><table><tr><th>target</th><th>count</th><th class=\"left\">what</th></tr>";
    for target in &report.targets {
        for (what, count) in &target.all.all.counts {
            let (name, what) = (escape(&target.name), escape(what));
            let _ = write!(page, "<tr><td>{name}</td><td>{count}</td><td class=\"left\">{what}</td></tr>");
        }
    }
    *page += "</table>";
}

type Line = Vec<(f64, f64)>;

fn plot_each(report: &Report, line: impl Fn(&super::TargetReport) -> Line) -> Vec<Line> {
    report.targets.iter().map(line).collect()
}

/// Percentiles by how many nines they have.
fn percentile_line(latencies: &Latencies) -> Line {
    let nines = (0..=80).map(|step| f64::from(step) / 20.0);
    nines.map(|nines| (nines, milliseconds(latencies.percentile(100.0 * (1.0 - 10_f64.powf(-nines)))))).collect()
}

/// One plot, a line for each target. `marks` are under the x axis; without, a few are made up.
fn plot(page: &mut String, title: &str, lines: &[Line], marks: &[(f64, &str)]) {
    let points = || lines.iter().flatten();
    let x_max = points().map(|(x, _)| *x).fold(0.0, f64::max);
    let highest = points().map(|(_, y)| *y).fold(0.0, f64::max);
    if x_max <= 0.0 || highest <= 0.0 {
        return;
    }
    let y_step = step(highest);
    let y_max = y_step * 4.0;
    let x_at = |x: f64| MARGIN + x / x_max * (WIDTH - 2.0 * MARGIN);
    let y_at = |y: f64| HEIGHT - MARGIN / 2.0 - y / y_max * (HEIGHT - MARGIN);
    let _ = write!(page, "<div><h3>{}</h3><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">", escape(title));
    for line in 0..=4 {
        let value = y_step * f64::from(line);
        let (y, end) = (y_at(value), WIDTH - MARGIN);
        let _ = write!(page, "<path class=\"grid\" d=\"M{MARGIN} {y:.1}H{end}\"/>");
        let _ = write!(page, "<text x=\"4\" y=\"{:.1}\">{}</text>", y + 4.0, short(value));
    }
    let made: Vec<(f64, String)> = match marks {
        [] => {
            let steps = (0..=4).map(|mark| step(x_max) * f64::from(mark));
            steps.filter(|x| *x <= x_max).map(|x| (x, format!("{x} s"))).collect()
        }
        marks => marks.iter().map(|(x, label)| (*x, (*label).to_owned())).collect(),
    };
    for (x, label) in made {
        let _ = write!(page, "<text x=\"{:.1}\" y=\"{}\">{}</text>", x_at(x) - 8.0, HEIGHT - 6.0, escape(&label));
    }
    for (place, line) in lines.iter().enumerate() {
        // Where there is nothing to be shown, the line has a gap.
        let parts = line.split(|(_, y)| y.is_nan()).filter(|part| !part.is_empty());
        let path: String = parts.fold(String::new(), |path, part| {
            let points: Vec<String> = part.iter().map(|(x, y)| format!("{:.1} {:.1}", x_at(*x), y_at(*y))).collect();
            path + "M" + &points.join("L")
        });
        if !path.is_empty() {
            let _ = write!(page, "<path class=\"plot\" stroke=\"{}\" d=\"{path}\"/>", colour(place));
        }
    }
    *page += "</svg></div>";
}

/// A round number, of which four reach a value.
fn step(highest: f64) -> f64 {
    let power = 10_f64.powf((highest / 4.0).log10().floor());
    let rounds = [1.0, 2.0, 2.5, 5.0].into_iter().map(|round| round * power);
    rounds.into_iter().find(|step| step * 4.0 >= highest).unwrap_or(10.0 * power)
}

fn colour(place: usize) -> String {
    format!("var(--c{})", place % COLOURS)
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.1}M", value / 1e6),
        value if value >= 1e4 => format!("{:.0}k", value / 1e3),
        value if value >= 10.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}

/// Names and texts come from outside.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::report;

    #[test]
    fn the_page_needs_nothing_and_shows_everything() {
        let page = html(&report());
        for outside in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<svg").count(), 4);
        assert_eq!(page.matches("class=\"plot\"").count(), 8, "a line for each target in each plot");
        assert!(page.contains("rate, multiple") && page.contains("x1.00 (1.00 to 1.00)"), "both are compared");
        assert!(page.contains("&lt;no&gt; leader &amp; more") && !page.contains("<no>"));
        assert!(page.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn axes_have_round_numbers() {
        let steps = [0.9, 1.0, 7.9, 8.0, 8.1, 31.0, 582.0, 1e6].map(step);
        assert_eq!(steps, [0.25, 0.25, 2.0, 2.0, 2.5, 10.0, 200.0, 250_000.0]);
    }
}
