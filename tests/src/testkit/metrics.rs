//! The Prometheus text form, as far as tests ask for it: sums of samples by name and label.

use std::collections::BTreeMap;

use super::error::{LabError, Result};

/// One reading of a program's metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Reads the exposition format; a line that is none is an error, not skipped.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines
            .map(|line| {
                sample(line)
                    .ok_or_else(|| LabError::Unexpected(format!("not a metric's sample: {line}")))
            })
            .collect::<Result<_>>()?;
        Ok(Self { samples })
    }

    /// Sum over all label sets, rounded down; 0 when the program does not have it.
    pub fn sum(&self, name: &str) -> u64 {
        self.sum_where(name, |_| true)
    }

    /// As [`Metrics::sum`], of the samples with this label.
    pub fn sum_with(&self, name: &str, label: &str, value: &str) -> u64 {
        self.sum_where(name, |labels| labels.get(label).is_some_and(|found| found == value))
    }

    /// Whether the program has the metric at all.
    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.name == name)
    }

    fn sum_where(&self, name: &str, keep: impl Fn(&BTreeMap<String, String>) -> bool) -> u64 {
        let chosen =
            self.samples.iter().filter(|sample| sample.name == name && keep(&sample.labels));
        let sum: f64 = chosen.map(|sample| sample.value).sum();
        // Counters of bytes stay far below 2^53, where f64 is exact.
        sum.max(0.0) as u64
    }
}

/// `name{label="value",…} value`
fn sample(line: &str) -> Option<Sample> {
    let (head, rest) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, value) = split_labels(rest)?;
            ((name, labels), value)
        }
        None => {
            let (name, value) = line.split_once(' ')?;
            ((name, BTreeMap::new()), value)
        }
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: head.0.to_owned(), labels: head.1, value })
}

/// The labels up to the closing brace, and what follows it.
fn split_labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (key, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(characters.next()?.1),
                (_, other) => value.push(other),
            }
        };
        labels.insert(key.to_owned(), value);
        rest = &after[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_labels_and_by_one_label() {
        let text = "# HELP x y\n# TYPE x counter\nx_total{why=\"permit\"} 10\n\
                    x_total{why=\"stall\",a=\"}\\\"\"} 2\nplain 3.0\n# EOF\n";
        let metrics = Metrics::parse(text).expect("the format");
        assert_eq!(metrics.sum("x_total"), 12);
        assert_eq!(metrics.sum_with("x_total", "why", "stall"), 2);
        assert_eq!(metrics.sum("plain"), 3);
        assert_eq!(metrics.sum("absent"), 0);
        assert!(metrics.has("plain") && !metrics.has("absent"));
    }

    #[test]
    fn what_is_no_sample_is_refused() {
        assert!(Metrics::parse("<html>").is_err());
        assert!(Metrics::parse("x{a=\"b\" 1").is_err());
    }
}
