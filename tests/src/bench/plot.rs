//! Throughput over time with kills marked, as an SVG of its own: no script, no font but the reader's.

use std::fmt::Write;
use std::time::Duration;

/// What had come by when.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Since the beginning.
    pub at: Duration,
    /// Bytes echoed so far.
    pub bytes: u64,
}

/// Size of the picture and of its margins, in its own units.
const SIZE: (f64, f64) = (960.0, 320.0);
const LEFT: f64 = 60.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 40.0;
/// The longest time shown.
const SHOWN: Duration = Duration::from_secs(24);
/// Throughput is the mean of so long.
const GRAIN: f64 = 0.02;

/// A role's colour.
fn colour(role: &str) -> &'static str {
    match role {
        "nicd" => "#1b7837",
        "netd" => "#b2182b",
        "sockd" => "#e08214",
        _ => "#762a83",
    }
}

/// Mean Gbit/s both ways together in steps of [`GRAIN`]: time and rate.
fn rates(samples: &[Sample]) -> Vec<(f64, f64)> {
    let mut rates = Vec::new();
    let Some(mut from) = samples.first() else { return rates };
    for sample in samples.iter().take_while(|sample| sample.at <= SHOWN) {
        let time = (sample.at - from.at).as_secs_f64();
        if time >= GRAIN {
            let bits = (sample.bytes - from.bytes) as f64 * 16.0;
            rates.push((sample.at.as_secs_f64(), bits / time / 1e9));
            from = sample;
        }
    }
    rates
}

/// Draws the first [`SHOWN`] of it.
pub fn svg(samples: &[Sample], kills: &[(Duration, &str)]) -> String {
    let rates = rates(samples);
    let end = rates.last().map_or(1.0, |(at, _)| at.ceil());
    let top = rates.iter().map(|(_, rate)| *rate).fold(1.0, f64::max).ceil();
    let x = |at: f64| LEFT + at / end * (SIZE.0 - LEFT - RIGHT);
    let y = |rate: f64| SIZE.1 - BOTTOM - rate / top * (SIZE.1 - TOP - BOTTOM);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        SIZE.0, SIZE.1
    );
    let mut line = |words: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{words}");
    };
    line(format_args!(
        "<text x=\"{LEFT}\" y=\"16\" font-size=\"13\">Throughput of 64 of 1000 connections (Gbit/s, both ways \
         together) while processes are killed</text>"
    ));
    for (n, role) in ["nicd", "netd", "sockd", "supervisor"].into_iter().enumerate() {
        let at = LEFT + n as f64 * 110.0;
        let ink = colour(role);
        line(format_args!("<rect x=\"{at}\" y=\"25\" width=\"3\" height=\"12\" fill=\"{ink}\"/>"));
        line(format_args!("<text x=\"{}\" y=\"36\" fill=\"{ink}\">kill -9 {role}</text>", at + 8.0));
    }
    for step in 0..=4 {
        let rate = top * f64::from(step) / 4.0;
        let (at, label) = (y(rate), format!("{rate:.2}"));
        line(format_args!(
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\">{label}</text>",
            SIZE.0 - RIGHT,
            LEFT - 6.0,
            at + 4.0
        ));
    }
    for second in (0..=end as u32).step_by(2) {
        line(format_args!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{second} s</text>",
            x(second.into()),
            SIZE.1 - BOTTOM + 18.0
        ));
    }
    for (at, role) in kills.iter().filter(|(at, _)| at.as_secs_f64() <= end) {
        line(format_args!(
            "<path d=\"M{:.1} {TOP}V{}\" stroke=\"{}\" stroke-width=\"1.5\"/>",
            x(at.as_secs_f64()),
            SIZE.1 - BOTTOM,
            colour(role)
        ));
    }
    let points: Vec<String> =
        rates.iter().map(|(at, rate)| format!("{:.1},{:.1}", x(*at), y(*rate))).collect();
    line(format_args!(
        "<polyline fill=\"none\" stroke=\"#2166ac\" stroke-width=\"1\" points=\"{}\"/>",
        points.join(" ")
    ));
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_shows_as_zero_and_a_kill_as_a_mark() {
        // 62.5 MB/s back is 1 Gbit/s both ways; nothing between 1.0 and 1.2 s.
        let sample = |n: u64| {
            let flowing = if (100..120).contains(&n) {
                100
            } else if n < 100 {
                n
            } else {
                n - 20
            };
            Sample { at: Duration::from_millis(n * 10), bytes: flowing * 625_000 }
        };
        let samples: Vec<Sample> = (0..300).map(sample).collect();
        let rates = rates(&samples);
        let at = |time: f64| rates.iter().find(|(at, _)| *at >= time).expect("in range").1;
        assert!((at(0.5) - 1.0).abs() < 0.01, "{}", at(0.5));
        assert!(at(1.1) < 0.01, "{}", at(1.1));
        let text = svg(&samples, &[(Duration::from_millis(1000), "netd")]);
        assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"));
        assert_eq!(text.matches("stroke-width=\"1.5\"").count(), 1);
    }

    #[test]
    fn nothing_seen_is_an_empty_picture() {
        assert!(svg(&[], &[]).contains("polyline"));
    }
}
