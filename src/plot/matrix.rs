use super::svg::{Anchor, FAINT, GRID, INK, Svg, text_width};

/// A confusion matrix: a row for every true class, a column for every predicted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Written above.
    pub title: String,
    /// The classes.
    pub labels: Vec<String>,
    /// Counts by row and column.
    pub counts: Vec<Vec<usize>>,
}

/// Right answers.
const RIGHT: [f64; 3] = [0.0, 90.0, 156.0];
/// Wrong ones.
const WRONG: [f64; 3] = [190.0, 72.0, 0.0];

impl Matrix {
    /// The picture. A cell is coloured by its share of the row: right answers blue, wrong ones
    /// red; empty cells stay white.
    pub fn svg(&self) -> String {
        let n = self.labels.len();
        let cell = (620.0 / n.max(1) as f64).clamp(12.0, 46.0);
        let size = (0.42 * cell).clamp(7.0, 13.0);
        let widest = self.labels.iter().map(|l| text_width(l, size)).fold(0.0, f64::max);
        // Column labels rise to the right at 45 degrees.
        let slope = std::f64::consts::FRAC_1_SQRT_2;
        let (left, top) = (widest + 54.0, widest * slope + 84.0);
        let side = cell * n as f64;
        let width = (left + side + widest * slope + 24.0).max(400.0);
        let mut svg = Svg::new(width, top + side + 24.0);
        svg.title((18.0, 28.0), &self.title);
        svg.text((left + side / 2.0, 52.0), 12.0, Anchor::Middle, FAINT, "predicted class");
        svg.turned((22.0, top + side / 2.0), 12.0, Anchor::Middle, FAINT, -90.0, "true class");
        for (i, label) in self.labels.iter().enumerate() {
            let middle = (i as f64 + 0.5) * cell;
            svg.text((left - 8.0, top + middle + 0.35 * size), size, Anchor::End, INK, label);
            let above = (left + middle + 0.25 * size, top - 8.0);
            svg.turned(above, size, Anchor::Start, INK, -45.0, label);
        }
        for (i, row) in self.counts.iter().enumerate().take(n) {
            let all: usize = row.iter().fold(0, |a, b| a.saturating_add(*b));
            for (k, &count) in row.iter().enumerate().take(n).filter(|(_, c)| **c > 0) {
                let share = count as f64 / all as f64;
                let at = (left + k as f64 * cell, top + i as f64 * cell);
                let hint = format!("{} as {}: {count}", self.labels[i], self.labels[k]);
                let colour = shade(if i == k { RIGHT } else { WRONG }, share);
                svg.rect(at, (cell, cell), &colour, &hint);
                let ink = if share > 0.5 { "white" } else { INK };
                let text = count.to_string();
                // Long numbers are made to fit.
                let size = size.min(size * 0.9 * cell / text_width(&text, size));
                let middle = (at.0 + cell / 2.0, at.1 + cell / 2.0 + 0.36 * size);
                svg.text(middle, size, Anchor::Middle, ink, &text);
            }
        }
        for i in 0..=n {
            let d = i as f64 * cell;
            svg.line((left + d, top), (left + d, top + side), GRID, 1.0);
            svg.line((left, top + d), (left + side, top + d), GRID, 1.0);
        }
        svg.finish()
    }
}

/// White for 0 to the full colour for 1; small shares can still be seen.
fn shade(full: [f64; 3], share: f64) -> String {
    let strength = 0.12 + 0.88 * share.clamp(0.0, 1.0);
    let [r, g, b] = full.map(|c| (255.0 + (c - 255.0) * strength).round() as u8);
    format!("#{r:02x}{g:02x}{b:02x}")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, texts};
    use super::*;

    fn matrix(labels: &[&str], counts: Vec<Vec<usize>>) -> Matrix {
        let labels = labels.iter().map(|l| l.to_string()).collect();
        Matrix { title: "intents".into(), labels, counts }
    }

    #[test]
    fn every_label_stands_twice_and_every_count_once() {
        let svg =
            matrix(&["on", "off", "a<b & c"], vec![vec![7, 0, 1], vec![2, 5, 0], vec![0, 0, 31]])
                .svg();
        check(&svg);
        let texts = texts(&svg);
        let times = |want: &str| texts.iter().filter(|t| *t == want).count();
        for label in ["on", "off", "a&lt;b &amp; c"] {
            assert_eq!(times(label), 2, "{label}: {texts:?}");
        }
        for count in ["7", "1", "2", "5", "31"] {
            assert_eq!(times(count), 1, "{count}: {texts:?}");
        }
        assert_eq!((times("intents"), times("0")), (1, 0));
    }

    #[test]
    fn nothing_odd_shapes_and_large_numbers_do_no_harm() {
        check(&matrix(&[], vec![]).svg());
        check(&matrix(&["a", "b"], vec![]).svg());
        check(&matrix(&["a"], vec![vec![0]]).svg());
        check(&matrix(&["a"], vec![vec![1, 2, 3], vec![4]]).svg());
        check(&matrix(&["a", "b"], vec![vec![usize::MAX, usize::MAX], vec![1]]).svg());
        let many: Vec<String> = (0..200).map(|i| format!("class {i}")).collect();
        let labels: Vec<&str> = many.iter().map(String::as_str).collect();
        check(&matrix(&labels, vec![vec![1; 200]; 200]).svg());
    }
}
