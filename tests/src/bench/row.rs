//! What a bench says: rows of ours beside the baseline, as JSON and as a table.

use serde_json::{Value, json};

/// Repeated measurements of one side.
#[derive(Debug, Clone)]
pub struct Series {
    /// What was measured.
    pub id: &'static str,
    values: Vec<f64>,
}

impl Series {
    /// Of at least one value.
    ///
    /// # Panics
    /// Without any.
    pub fn new(id: &'static str, mut values: Vec<f64>) -> Series {
        assert!(!values.is_empty(), "{id}: nothing was measured");
        values.sort_by(f64::total_cmp);
        Series { id, values }
    }

    /// The middle one, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let n = self.values.len();
        (self.values[(n - 1) / 2] + self.values[n / 2]) / 2.0
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.values[0]
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.values[self.values.len() - 1]
    }

    fn json(&self) -> Value {
        json!({
            "median": rounded(self.median()), "min": rounded(self.min()), "max": rounded(self.max()),
            "n": self.values.len(),
        })
    }

    fn text(&self) -> String {
        format!("{} ({}–{})", short(self.median()), short(self.min()), short(self.max()))
    }
}

/// What must be reached.
#[derive(Debug, Clone, Default)]
pub struct Goal {
    /// In words; `None` when nothing is promised.
    pub text: Option<&'static str>,
    /// Whether it is.
    pub met: Option<bool>,
}

impl Goal {
    /// Promised, and judged.
    pub fn new(text: &'static str, met: bool) -> Goal {
        Goal { text: Some(text), met: Some(met) }
    }
}

/// One line of the report.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its id.
    pub id: &'static str,
    /// The unit of both sides.
    pub unit: &'static str,
    /// More is better.
    pub higher: bool,
    /// The stack.
    pub ours: Series,
    /// What it stands beside; `None` where the kernel has nothing of the kind.
    pub baseline: Option<Series>,
    /// What must be reached.
    pub goal: Goal,
    /// Further figures by name.
    pub more: Vec<(&'static str, Value)>,
}

impl Row {
    /// Ours by the baseline's, of medians.
    pub fn ratio(&self) -> Option<f64> {
        let baseline = self.baseline.as_ref()?.median();
        (baseline > 0.0).then(|| self.ours.median() / baseline)
    }

    fn json(&self) -> Value {
        let baseline = self.baseline.as_ref().map(|series| {
            let mut value = series.json();
            value["id"] = series.id.into();
            value
        });
        let mut row = json!({
            "id": self.id,
            "unit": self.unit,
            "better": if self.higher { "higher" } else { "lower" },
            "ours": self.ours.json(),
            "baseline": baseline,
            "ratio": self.ratio().map(rounded),
            "goal": self.goal.text,
            "met": self.goal.met,
        });
        for (name, value) in &self.more {
            row[*name] = value.clone();
        }
        row
    }
}

/// To four digits.
pub fn rounded(value: f64) -> Value {
    let digits = 3 - value.abs().max(1e-9).log10().floor() as i32;
    let scale = 10f64.powi(digits.clamp(-9, 9));
    json!((value * scale).round() / scale)
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{:.2} M", value / 1e6),
        v if v >= 1e4 => format!("{:.1} k", value / 1e3),
        v if v >= 100.0 || v.fract() == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The report of `rows` as JSON.
pub fn json(rows: &[Row]) -> Value {
    json!({ "schema": 1, "rows": rows.iter().map(Row::json).collect::<Vec<_>>() })
}

/// The report of `rows` as a Markdown table.
pub fn table(rows: &[Row]) -> String {
    let mut text = "| id | unit | ours: median (min–max) | baseline | its median | ratio | goal | met |\n\
                    |---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for row in rows {
        let baseline = row.baseline.as_ref();
        let extra: Vec<String> = row.more.iter().map(|(name, value)| format!("{name} {value}")).collect();
        text += &format!(
            "| {} | {}, {} is better | {} | {} | {} | {}{} | {} | {} |\n",
            row.id,
            row.unit,
            if row.higher { "higher" } else { "lower" },
            row.ours.text(),
            baseline.map_or("–", |series| series.id),
            baseline.map_or("–".into(), Series::text),
            row.ratio().map_or("–".into(), |ratio| format!("{ratio:.2}")),
            if extra.is_empty() { String::new() } else { format!("; {}", extra.join("; ")) },
            row.goal.text.unwrap_or("–"),
            match row.goal.met {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "–",
            },
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: &[f64], baseline: &[f64]) -> Row {
        Row {
            id: "tcp_tap_to",
            unit: "Gbit/s",
            higher: true,
            ours: Series::new("stack", ours.to_vec()),
            baseline: Some(Series::new("forwarder", baseline.to_vec())),
            goal: Goal::new("≥ 1", false),
            more: vec![("veth_ratio", rounded(0.512_345))],
        }
    }

    #[test]
    fn a_row_has_the_fixed_shape() {
        let value = json(&[row(&[3.0, 1.0, 2.0], &[4.0, 4.0])]);
        let wanted = json!({"schema": 1, "rows": [{
            "id": "tcp_tap_to", "unit": "Gbit/s", "better": "higher",
            "ours": {"median": 2.0, "min": 1.0, "max": 3.0, "n": 3},
            "baseline": {"id": "forwarder", "median": 4.0, "min": 4.0, "max": 4.0, "n": 2},
            "ratio": 0.5, "goal": "≥ 1", "met": false, "veth_ratio": 0.5123,
        }]});
        assert_eq!(value, wanted);
    }

    #[test]
    fn nothing_to_compare_with_is_no_ratio() {
        assert_eq!(row(&[1.0], &[0.0]).ratio(), None);
        assert_eq!(row(&[0.0], &[2.0]).ratio(), Some(0.0));
    }

    #[test]
    fn the_table_has_a_line_for_each_row() {
        let text = table(&[row(&[1_234_567.0], &[12_345.0]), row(&[0.5], &[0.0])]);
        assert_eq!(text.lines().count(), 4);
        assert!(text.contains("| 1.23 M (1.23 M–1.23 M) | forwarder | 12.3 k"), "{text}");
    }
}
