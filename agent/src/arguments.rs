//! Command lines that are wrong end as wrong configurations do: one line and exit 64.

use std::io::Write as _;
use std::process::ExitCode;

use longshore_settings::EXIT_CONFIG;

/// Prints what clap wants printed; an error's first line only.
pub(crate) fn parse<T>(parsed: Result<T, clap::Error>) -> Result<T, ExitCode> {
    let error = match parsed {
        Ok(parsed) => return Ok(parsed),
        Err(error) => error,
    };
    if !error.use_stderr() {
        // --help and --version.
        let _closed = error.print();
        return Err(ExitCode::SUCCESS);
    }
    let rendered = error.render().to_string();
    let words = rendered.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let words = words.strip_prefix("error: ").unwrap_or(words);
    let _closed = writeln!(std::io::stderr(), "config: {words} (see --help)");
    Err(ExitCode::from(EXIT_CONFIG))
}
