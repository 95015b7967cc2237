//! Looks up error codes in `docs/errors.md`, which is part of the library.
//!
//! ```
//! use edge_tune::explain;
//!
//! assert!(explain::section("delta.not-finite").unwrap().contains("Do: calibrate again"));
//! assert_eq!(explain::near("delta.finite")[0], "delta.not-finite");
//! ```

const PAGE: &str = include_str!("../docs/errors.md");
/// Suggestions for a code that does not exist.
const NEAR: usize = 5;

/// The codes that are explained, in the order of the page.
pub fn codes() -> impl Iterator<Item = &'static str> {
    sections().map(|(code, _)| code)
}

/// What a code means, its likely cause, and what to do.
pub fn section(code: &str) -> Option<&'static str> {
    sections().find(|(c, _)| *c == code).map(|(_, text)| text)
}

/// The codes that look most like `code`, the best first.
pub fn near(code: &str) -> Vec<&'static str> {
    let code: String = code.chars().take(64).collect::<String>().to_lowercase();
    let (room, name) = code.split_once('.').unwrap_or(("", &code));
    let mut all: Vec<(usize, &str)> = codes()
        .map(|c| match c.contains(name) && name.len() > 2 {
            // Nearer than the number of changed letters says.
            true => (usize::from(!c.starts_with(room)), c),
            false => (1 + distance(&code, c), c),
        })
        .collect();
    all.sort();
    all.into_iter().take(NEAR).map(|(_, c)| c).collect()
}

fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    PAGE.split("\n## ").skip(1).filter_map(|s| {
        let (code, text) = s.split_once('\n')?;
        // The heading of the next group belongs to no section.
        Some((code, text.split("\n# ").next().unwrap_or(text).trim()))
    })
}

/// How many letters must be changed, added or left out to get from one text to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
