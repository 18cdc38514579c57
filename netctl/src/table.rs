//! What every verb puts out: rows under a heading, or JSON.

use serde::Serialize;
use std::io::{self, Write};
use std::net::IpAddr;

/// How a verb's answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Columns for people.
    Table,
    /// One JSON document.
    Json,
}

/// Which addresses a verb shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Family {
    /// Of both families.
    #[default]
    Both,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

impl Family {
    /// Whether what has that address is shown.
    pub const fn shows(self, addr: IpAddr) -> bool {
        match self {
            Family::Both => true,
            Family::V4 => addr.is_ipv4(),
            Family::V6 => addr.is_ipv6(),
        }
    }
}

/// Columns of text, each as wide as its widest cell; the last one is not padded.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Table { rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// When it has not as many cells as there are headings.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.rows[0].len(), "a cell for each heading");
        self.rows.push(cells.into());
    }

    /// Writes it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let columns = self.rows[0].len();
        let width = |n: usize| self.rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            for (n, cell) in row.iter().enumerate() {
                match n + 1 == columns {
                    true => writeln!(out, "{cell}")?,
                    false => write!(out, "{cell:<width$}  ", width = widths[n])?,
                }
            }
        }
        Ok(())
    }
}

/// Writes a document and a newline.
///
/// # Errors
/// Those of `out`.
pub fn json(out: &mut impl Write, document: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, document)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["A", "LONG", "C"]);
        table.row(["1".into(), "2".into(), "three".into()]);
        table.row(["1234".into(), "5".into(), "6".into()]);
        let mut out = Vec::new();
        table.write(&mut out).expect("a vector");
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "A     LONG  C\n1     2     three\n1234  5     6\n"
        );
    }
}
