//! What a person sees while the nodes pull: a bar per node, or plain lines where no terminal is.

#![allow(clippy::print_stdout, reason = "the demo speaks to a person")]

use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::testkit::Counter;

/// Between two plain lines.
const LINE_SECONDS: f64 = 10.0;
const TEMPLATE: &str = "  {prefix:7} {wide_bar:.cyan/dim} {bytes:>10} {bytes_per_sec:>12} {msg}";

/// Shows how much of the image each node has received.
pub(super) struct Progress {
    image_bytes: u64,
    bars: Vec<ProgressBar>,
    next_line: f64,
}

impl Progress {
    /// For so many nodes and an image of this size.
    pub(super) fn start(nodes: u16, image_bytes: u64) -> Self {
        let mut bars = Vec::new();
        if std::io::stdout().is_terminal() {
            let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(10));
            let style = ProgressStyle::with_template(TEMPLATE)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            for number in 1..=nodes {
                let bar = multi.add(ProgressBar::new(image_bytes).with_style(style.clone()));
                bar.set_prefix(format!("node{number}"));
                bars.push(bar);
            }
        }
        Self { image_bytes, bars, next_line: LINE_SECONDS }
    }

    /// The nodes' counters since the clock's start, in their order.
    pub(super) fn show(&mut self, seconds: f64, counters: &[Counter]) {
        for (bar, counter) in self.bars.iter().zip(counters) {
            // Headers make it a little more than the image.
            bar.set_position(counter.to_host.min(self.image_bytes));
        }
        if self.bars.is_empty() && seconds >= self.next_line {
            self.next_line = seconds + LINE_SECONDS;
            println!("  {}", self.line(seconds, counters));
        }
    }

    /// All nodes have answered.
    pub(super) fn finish(&self) {
        self.bars.iter().for_each(ProgressBar::finish);
    }

    fn line(&self, seconds: f64, counters: &[Counter]) -> String {
        // The last counter is the registry's.
        let nodes = &counters[..counters.len().saturating_sub(1)];
        let parts = nodes.iter().enumerate().map(|(number, counter)| {
            let share = counter.to_host.min(self.image_bytes) * 100 / self.image_bytes.max(1);
            format!("node{} {share:3} %", number + 1)
        });
        format!("{seconds:4.0} s  {}", parts.collect::<Vec<_>>().join("  "))
    }
}

/// One line of what happens now.
pub(super) fn say(line: &str) {
    println!("» {line}");
}
