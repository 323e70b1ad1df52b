//! Text tables and numbers for people.

/// Digits in groups of three: `1,234,567`.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Columns under a head; those whose head begins with `>` are aligned at the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let right: Vec<bool> = head.iter().map(|h| h.starts_with('>')).collect();
    let head: Vec<String> = head.iter().map(|h| h.trim_start_matches('>').to_string()).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&head).chain(rows).filter_map(|r| r.get(column));
        cells.map(|c| c.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &Vec<String>| {
        let cell = |(at, text): (usize, &String)| {
            let pad = " ".repeat(widths[at].saturating_sub(text.chars().count()));
            if right[at] { format!("{pad}{text}") } else { format!("{text}{pad}") }
        };
        let cells: Vec<String> = cells.iter().take(head.len()).enumerate().map(cell).collect();
        cells.join("  ").trim_end().to_string()
    };
    std::iter::once(&head).chain(rows).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_three() {
        assert_eq!(
            [0, 12, 999, 1000, 1_234_567].map(grouped),
            ["0", "12", "999", "1,000", "1,234,567"].map(String::from)
        );
    }

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["conv".to_string(), "12".to_string()], vec!["f".to_string(), "3".to_string()]];
        assert_eq!(table(&["name", ">n"], &rows), "name   n\nconv  12\nf      3");
    }
}
