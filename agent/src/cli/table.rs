//! Tables and numbers as people read them.

use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// A table without lines; the columns `right` hold numbers.
pub(super) fn table(header: &[&str], right: std::ops::Range<usize>) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.iter().copied());
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The table without blanks at its lines' ends.
pub(super) fn printed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// `20.1 MiB`
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    // What would print as 1024.0 is one of the next unit.
    while value >= 1023.95 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1024.0, next);
    }
    format!("{value:.1} {unit}")
}

/// `42 %`; whole only when it is whole.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let percent = u128::from(part) * 100 / u128::from(whole);
    format!("{percent} %")
}

/// `3h 2m 5s`
pub(super) fn seconds(count: u64) -> String {
    humantime::format_duration(Duration::from_secs(count)).to_string()
}

/// `1 peer`, `2 peers`
pub(super) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_say_them() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!((percent(999, 1000), percent(0, 0)), ("99 %".into(), "-".into()));
        assert_eq!((counted(1, "peer"), counted(0, "peer")), ("1 peer".into(), "0 peers".into()));
        assert_eq!(seconds(3725), "1h 2m 5s");
    }
}
