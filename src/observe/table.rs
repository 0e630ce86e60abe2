//! Columns of text.

use std::fmt;

/// A table, printed with aligned columns or as CSV.
#[derive(Debug)]
pub(super) struct Table {
    /// A line above the table; empty for none.
    pub(super) title: String,
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&'static str]) -> Table {
        Table { title: String::new(), head: head.to_vec(), rows: Vec::new() }
    }

    /// Adds a row. What comes from clients moves no cursor.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.head.len(), "a row has a cell for each column");
        let plain =
            |cell: String| if cell.chars().any(char::is_control) { cell.escape_default().to_string() } else { cell };
        self.rows.push(cells.into_iter().map(plain).collect());
    }

    pub(super) fn csv(&self) -> String {
        let cell = |cell: &str| {
            if cell.contains([',', '"', '\n']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell.to_owned() }
        };
        let line = |cells: Vec<String>| cells.join(",") + "\n";
        let head = line(self.head.iter().map(|name| cell(name)).collect());
        let rows = self.rows.iter().map(|row| line(row.iter().map(|text| cell(text)).collect()));
        head + &rows.collect::<String>()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.title.is_empty() {
            writeln!(f, "{}", self.title)?;
        }
        let cells = |at: usize| self.rows.iter().map(move |row| row[at].as_str());
        let numeric = |text: &str| text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        let widths: Vec<_> = (self.head.iter().enumerate())
            .map(|(at, head)| cells(at).chain([*head]).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        let right: Vec<_> = (0..self.head.len()).map(|at| !self.rows.is_empty() && cells(at).all(numeric)).collect();
        let head: Vec<String> = self.head.iter().map(|&name| name.to_owned()).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            for (at, cell) in row.iter().enumerate() {
                let width = widths[at];
                line += &if right[at] { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Bytes with the unit that leaves few digits.
pub(crate) fn bytes(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0}B") } else { format!("{value:.1}{}", units[unit]) }
}

/// A rate or a count: one digit behind the point while it is small.
pub(super) fn count(value: f64) -> String {
    if value < 100.0 && value.fract() != 0.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_commas_quoted() {
        let mut table = Table::new(&["NAME", "COUNT"]);
        table.row(["a,b".to_owned(), "7".to_owned()]);
        table.row(["long \u{1b}[31m".to_owned(), "1234".to_owned()]);
        assert_eq!(table.to_string(), "NAME             COUNT\na,b                  7\nlong \\u{1b}[31m   1234\n");
        assert_eq!(table.csv(), "NAME,COUNT\n\"a,b\",7\nlong \\u{1b}[31m,1234\n");
        assert_eq!([0.0, 1023.0, 1536.0, 5e9].map(bytes), ["0B", "1023B", "1.5KiB", "4.7GiB"]);
    }
}
