//! The few shapes that results are printed in.

/// One row of facts in every shape that etcdutl has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The object, on one line.
    pub json: String,
    /// Names of columns.
    pub head: Vec<&'static str>,
    /// One cell for each.
    pub row: Vec<String>,
    /// Names and values, exact where the row rounds.
    pub fields: Vec<(&'static str, String)>,
}

/// A shape, by etcdutl's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Values with commas.
    Simple,
    /// A box.
    Table,
    /// JSON.
    Json,
    /// A line for each value.
    Fields,
}

impl Facts {
    /// Prints them.
    #[must_use]
    pub fn print(&self, shape: Shape) -> String {
        match shape {
            Shape::Simple => self.row.join(", ") + "\n",
            Shape::Json => format!("{}\n", self.json),
            Shape::Table => boxed(&self.head, std::slice::from_ref(&self.row)),
            Shape::Fields => self.fields.iter().map(|(name, value)| format!("\"{name}\" : {value}\n")).collect(),
        }
    }
}

/// A table in a box, as etcd's tools draw it: names in capitals and centred, cells to the right.
#[must_use]
pub fn boxed(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..head.len())
        .map(|at| rows.iter().map(|row| width(&row[at])).chain([width(head[at])]).max().unwrap_or(0))
        .collect();
    let rule = |left: char, middle: char, right: char| {
        let lines: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", lines.join(&middle.to_string()))
    };
    let line = |cells: Vec<String>| format!("│{}│\n", cells.join("│"));
    let mut out = rule('┌', '┬', '┐');
    out += &line(head.iter().zip(&widths).map(|(name, width)| format!(" {:^width$} ", name.to_uppercase())).collect());
    out += &rule('├', '┼', '┤');
    for row in rows {
        out += &line(row.iter().zip(&widths).map(|(cell, width)| format!(" {cell:>width$} ")).collect());
    }
    out + &rule('└', '┴', '┘')
}

/// A table of plain columns for people: numbers to the right, the rest to the left.
#[must_use]
pub fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    let shape: Vec<(usize, bool)> = (0..head.len())
        .map(|at| {
            let widest = rows.iter().map(|row| width(&row[at])).chain([width(head[at])]).max().unwrap_or(0);
            (widest, !rows.is_empty() && rows.iter().all(|row| is_number(&row[at])))
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = (cells.zip(&shape))
            .map(|(cell, (width, right))| if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") })
            .collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut out = line(&mut head.iter().copied());
    for row in rows {
        out += &line(&mut row.iter().map(String::as_str));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_have_etcdutls_shapes() {
        let facts = Facts {
            json: "{\"hash\":3636043224,\"revision\":6}".into(),
            head: vec!["hash", "revision"],
            row: vec!["3636043224".into(), "6".into()],
            fields: vec![("Hash", "3636043224".into()), ("Revision", "6".into())],
        };
        assert_eq!(facts.print(Shape::Simple), "3636043224, 6\n");
        assert_eq!(facts.print(Shape::Json), "{\"hash\":3636043224,\"revision\":6}\n");
        assert_eq!(facts.print(Shape::Fields), "\"Hash\" : 3636043224\n\"Revision\" : 6\n");
        let boxed = "┌────────────┬──────────┐\n\
                     │    HASH    │ REVISION │\n\
                     ├────────────┼──────────┤\n\
                     │ 3636043224 │        6 │\n\
                     └────────────┴──────────┘\n";
        assert_eq!(facts.print(Shape::Table), boxed);
    }

    #[test]
    fn columns_of_numbers_stand_right() {
        let rows = [vec!["a".into(), "7".into()], vec!["bcd".into(), "100".into()]];
        assert_eq!(columns(&["KEY", "N"], &rows), "KEY    N\na      7\nbcd  100\n");
    }
}
