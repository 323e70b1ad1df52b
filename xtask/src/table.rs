//! A table as aligned text, or as Markdown.

/// Rows of cells under a header. The first column is flush left, the others right.
#[derive(Debug, Clone)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug, Clone)]
enum Row {
    Cells(Vec<String>),
    /// A name, and a text across the other columns.
    Note(String, String),
}

impl Table {
    /// An empty table.
    pub fn new(header: &[&str]) -> Table {
        Table { header: header.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty.
    pub fn row(&mut self, mut cells: Vec<String>) {
        cells.resize(self.header.len(), String::new());
        self.rows.push(Row::Cells(cells));
    }

    /// Adds a row that is a name and one text.
    pub fn note(&mut self, name: &str, text: &str) {
        self.rows.push(Row::Note(name.to_string(), text.replace('\n', " ")));
    }

    /// The text, columns two spaces apart.
    pub fn text(&self) -> String {
        let widths = self.widths();
        let mut lines = vec![aligned(&self.header, &widths)];
        lines.push(widths.iter().map(|&w| "-".repeat(w)).collect::<Vec<_>>().join("  "));
        for row in &self.rows {
            lines.push(match row {
                Row::Cells(cells) => aligned(cells, &widths),
                Row::Note(name, text) => format!("{name:w$}  {text}", w = widths[0]),
            });
        }
        lines.iter().map(|l| format!("{}\n", l.trim_end())).collect()
    }

    /// The same as a Markdown table.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            format!("| {} |\n", cells.iter().map(|c| c.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
        };
        let mut text = line(&self.header);
        let rule = self.header.iter().enumerate().map(|(i, _)| if i == 0 { "---" } else { "---:" });
        text += &format!("| {} |\n", rule.collect::<Vec<_>>().join(" | "));
        for row in &self.rows {
            let cells = match row {
                Row::Cells(cells) => cells.clone(),
                Row::Note(name, note) => {
                    let mut cells = vec![name.clone(), note.clone()];
                    cells.resize(self.header.len(), String::new());
                    cells
                }
            };
            text += &line(&cells);
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.header.iter().map(|c| c.chars().count()).collect();
        for row in &self.rows {
            match row {
                Row::Cells(cells) => {
                    widths.iter_mut().zip(cells).for_each(|(w, c)| *w = (*w).max(c.chars().count()));
                }
                Row::Note(name, _) => widths[0] = widths[0].max(name.chars().count()),
            }
        }
        widths
    }
}

fn aligned(cells: &[String], widths: &[usize]) -> String {
    let cell = |(i, (c, &w)): (usize, (&String, &usize))| {
        if i == 0 { format!("{c:w$}") } else { format!("{c:>w$}") }
    };
    cells.iter().zip(widths).enumerate().map(cell).collect::<Vec<_>>().join("  ")
}

/// An integer with commas between groups of three digits.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut t = Table::new(&["method", "bytes", "x"]);
        t.row(vec!["a".into(), "1,000".into(), "1".into()]);
        t.row(vec!["longer".into(), "7".into()]);
        t.note("bad", "failed:\nwhy | how");
        t
    }

    #[test]
    fn columns_are_aligned() {
        let expected = "\
method  bytes  x
------  -----  -
a       1,000  1
longer      7
bad     failed: why | how
";
        assert_eq!(table().text(), expected);
    }

    #[test]
    fn markdown_has_as_many_cells_everywhere() {
        let text = table().markdown();
        let cells: Vec<usize> = text.lines().map(|l| l.replace("\\|", "").matches('|').count()).collect();
        assert_eq!(cells, [4; 5]);
        assert!(text.contains("why \\| how"));
    }

    #[test]
    fn thousands() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_724_320), "1,724,320");
    }
}
