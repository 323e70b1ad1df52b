//! Labels in a file of their own: an `.npy` array of integers, or text.
//!
//! Text has one line an image: `name label`, or only `label` for pictures in the order of their sorted names;
//! the first line decides which. Name and label are separated by a tab, else by a comma, else by blanks; the
//! last one in the line counts, so that names may have blanks. A label is the name of a class or its number
//! from 0. Empty lines and lines that begin with `#` are passed over; a line of headings is not known as such
//! and is an error.

use crate::npy::Use;
use crate::{Error, Result, arrays, npy, npz};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The longest text: 256 MiB.
const LIMIT: u64 = 1 << 28;

/// What a label file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) path: PathBuf,
    /// The line of each label and the image's name; empty if the labels have no names.
    pub(crate) names: Vec<(usize, String)>,
    /// Class numbers.
    pub(crate) numbers: Vec<i64>,
    /// Number of classes.
    pub(crate) classes: usize,
    /// The names of the classes, if they have some.
    pub(crate) class_names: Vec<String>,
}

impl Labels {
    /// The labels of images that are in order and have no names.
    pub(crate) fn nameless(self) -> Result<Vec<i64>> {
        match self.names.first() {
            None => Ok(self.numbers),
            Some((line, name)) => {
                let why =
                    format!("images in an array have no names; write the label alone, without `{name}`");
                Err(Error::LabelFile { path: self.path, line: *line, why })
            }
        }
    }
}

/// Reads a label file. `classes` are the known names, if there are some.
pub(crate) fn read(path: &Path, classes: Option<&[String]>) -> Result<Labels> {
    let file = std::fs::File::open(path).map_err(Error::read(path))?;
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(Error::read(path))?;
    let bad = |why: String| Error::Format { file: path.display().to_string(), why };
    if npy::is_npy(&bytes) {
        let numbers = arrays::labels(&npz::read_npy(path, Use::Labels)?)?;
        let class_names = classes.map(<[String]>::to_vec).unwrap_or_default();
        let most = numbers.iter().max().map_or(0, |&n| usize::try_from(n).map_or(0, |n| n.saturating_add(1)));
        let classes = if class_names.is_empty() { most } else { class_names.len() };
        return Ok(Labels { path: path.to_path_buf(), names: Vec::new(), numbers, classes, class_names });
    }
    if bytes.len() as u64 > LIMIT {
        return Err(bad(format!("is longer than {LIMIT} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| bad("is neither UTF-8 text nor an .npy array".into()))?;
    parse(&text, path, classes)
}

/// A line, its number from 1 and its two fields.
struct Line<'a> {
    number: usize,
    name: Option<&'a str>,
    label: &'a str,
}

pub(crate) fn parse(text: &str, path: &Path, classes: Option<&[String]>) -> Result<Labels> {
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let lines = lines.map(|(index, line)| (index + 1, line.trim()));
    let lines: Vec<Line> =
        lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#')).map(|(n, l)| fields(n, l)).collect();
    let Some(first) = lines.first() else {
        return Err(Error::Format { file: path.display().to_string(), why: "has no labels".into() });
    };
    let named = first.name.is_some();
    let bad =
        |line: &Line, why: String| Error::LabelFile { path: path.to_path_buf(), line: line.number, why };
    if let Some(odd) = lines.iter().find(|line| line.name.is_some() != named) {
        let form = if named { "`name label`" } else { "a label alone" };
        return Err(bad(odd, format!("is not {form} as line {} is", first.number)));
    }

    let class_names = match classes {
        Some(classes) => classes.to_vec(),
        None if number(first.label).is_some() => Vec::new(),
        None => {
            let mut names: Vec<String> = lines.iter().map(|line| line.label.to_string()).collect();
            names.sort();
            names.dedup();
            names
        }
    };
    let most = if class_names.is_empty() { usize::from(u16::MAX) } else { class_names.len() };
    // looked up in a sorted list: there may be thousands of names and a million lines
    let sorted = positions(&class_names);
    let mut numbers = Vec::with_capacity(lines.len());
    for line in &lines {
        let by_name =
            sorted.binary_search_by(|(name, _)| (*name).cmp(line.label)).ok().map(|at| sorted[at].1);
        let found = by_name.or_else(|| number(line.label).filter(|&n| n < most));
        let Some(found) = found else {
            return Err(match number(line.label) {
                Some(n) => bad(line, format!("label {n} is not below {most}")),
                None if class_names.is_empty() => {
                    let why =
                        format!("label `{}` is not a number as that of line {}", line.label, first.number);
                    bad(line, why)
                }
                None => {
                    bad(line, format!("`{}` is not one of the {} classes", line.label, class_names.len()))
                }
            });
        };
        numbers.push(found as i64);
    }
    let classes = match class_names.len() {
        0 => numbers.iter().max().map_or(0, |&n| n as usize + 1),
        count => count,
    };
    let names = lines.iter().filter_map(|line| Some((line.number, line.name?.to_string()))).collect();
    Ok(Labels { path: path.to_path_buf(), names, numbers, classes, class_names })
}

/// Names with their positions, sorted by name.
fn positions(names: &[String]) -> Vec<(&str, usize)> {
    let mut positions: Vec<(&str, usize)> = names.iter().map(String::as_str).zip(0..).collect();
    positions.sort_unstable();
    positions
}

fn number(label: &str) -> Option<usize> {
    label.parse().ok()
}

fn fields(number: usize, line: &str) -> Line<'_> {
    let parts = line.rsplit_once('\t').or_else(|| line.rsplit_once(','));
    match parts.or_else(|| line.rsplit_once(char::is_whitespace)) {
        Some((name, label)) => Line { number, name: Some(unquoted(name)), label: unquoted(label) },
        None => Line { number, name: None, label: unquoted(line) },
    }
}

/// Without blanks and the quotes of a spreadsheet around it.
fn unquoted(field: &str) -> &str {
    let field = field.trim();
    field.strip_prefix('"').and_then(|f| f.strip_suffix('"')).unwrap_or(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str, classes: Option<&[&str]>) -> Result<Labels> {
        let classes = classes.map(|names| names.iter().map(|n| n.to_string()).collect::<Vec<_>>());
        super::parse(text, Path::new("labels.txt"), classes.as_deref())
    }

    fn why(text: &str, classes: Option<&[&str]>) -> String {
        parse(text, classes).unwrap_err().to_string()
    }

    #[test]
    fn names_and_labels_by_any_separator() {
        let text =
            "\u{feff}# comment\n\na b.jpg\tgolden retriever\r\nc.jpg,cat\n\"d.jpg\",\"cat\"\ne f.jpg cat\n";
        let labels = parse(text, None).unwrap();
        let names: Vec<(usize, &str)> =
            labels.names.iter().map(|(line, name)| (*line, name.as_str())).collect();
        assert_eq!(names, [(3, "a b.jpg"), (4, "c.jpg"), (5, "d.jpg"), (6, "e f.jpg")]);
        assert_eq!(labels.class_names, ["cat", "golden retriever"]);
        assert_eq!((labels.numbers, labels.classes), (vec![1, 0, 0, 0], 2));
    }

    #[test]
    fn labels_alone_are_numbers_or_names() {
        let numbers = parse("3\n0\n", None).unwrap();
        assert_eq!((numbers.numbers, numbers.classes, numbers.class_names.len()), (vec![3, 0], 4, 0));
        let names = parse("dog\ncat\n1\n", Some(&["cat", "dog"])).unwrap();
        assert_eq!((names.numbers, names.classes), (vec![1, 0, 1], 2));
        // a name that looks like a number is a name
        assert_eq!(parse("3\n5\n", Some(&["5", "3"])).unwrap().numbers, [1, 0]);
    }

    #[test]
    fn errors_name_the_line() {
        assert!(why("a.jpg 1\n\nb.jpg two\n", None).starts_with("labels.txt, line 3: label `two`"));
        assert!(
            why("a.jpg cat\nb.jpg bird\n", Some(&["cat"])).contains("line 2: `bird` is not one of the 1")
        );
        assert!(why("1\n7\n", Some(&["a", "b"])).contains("line 2: label 7 is not below 2"));
        assert!(why("1\n70000\n", None).contains("line 2: label 70000 is not below 65535"));
        assert!(why("1\na.jpg 2\n", None).contains("line 2: is not a label alone as line 1 is"));
        assert!(why("a.jpg 2\n1\n", None).contains("line 2: is not `name label`"));
        assert!(why("# nothing\n", None).contains("has no labels"));
        let named = parse("a.jpg 1\n", None).unwrap().nameless().unwrap_err();
        assert!(named.to_string().contains("line 1: images in an array have no names"));
        assert!(read(Path::new("no/labels"), None).unwrap_err().to_string().starts_with("no/labels"));
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text in "(?s).{0,80}", known: bool) {
            if let Ok(labels) = parse(&text, known.then_some(&["a", "1"])) {
                prop_assert!(labels.numbers.iter().all(|&n| n >= 0 && (n as usize) < labels.classes));
            }
        }
    }
}
