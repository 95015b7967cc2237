use super::Axis;
use super::scale::{Scale, Unit};
use super::svg::{Anchor, COLOURS, FAINT, GRID, INK, Svg, text_width};

/// A named curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Step and value, by step.
    pub points: Vec<(f64, f64)>,
}

/// Curves on one scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What they show.
    pub y: Axis,
    /// The curves.
    pub series: Vec<Series>,
}

/// Learning curves: panels one above the other over the same steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Lines {
    /// Written above.
    pub title: String,
    /// Written below.
    pub x_title: String,
    /// The panels, from above.
    pub panels: Vec<Panel>,
}

const WIDTH: f64 = 780.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 752.0;
const TOP: f64 = 48.0;
const PANEL: f64 = 200.0;
const BETWEEN: f64 = 30.0;
const BELOW: f64 = 64.0;
/// Most points of a curve that are drawn.
const MOST_POINTS: usize = 1000;
/// Up to so many points each get a mark.
const MARKED: usize = 60;

impl Lines {
    /// The picture.
    pub fn svg(&self) -> String {
        let count = self.panels.len().max(1) as f64;
        let height = TOP + count * PANEL + (count - 1.0) * BETWEEN + BELOW;
        let mut svg = Svg::new(WIDTH, height);
        svg.title((LEFT, 28.0), &self.title);
        let all = self.panels.iter().flat_map(|p| &p.series).flat_map(|s| &s.points);
        let steps: Vec<f64> = all.filter(|p| p.1.is_finite()).map(|p| p.0).collect();
        let last = steps.iter().copied().filter(|s| s.is_finite()).fold(0.0, f64::max);
        let x = Scale::linear(steps.into_iter(), (LEFT, RIGHT)).within(0.0, last.max(1.0));
        let ticks = x.ticks(Unit::Number);
        // A name has one colour in all panels.
        let mut names: Vec<&str> = vec![];
        for (i, panel) in self.panels.iter().enumerate() {
            let top = TOP + i as f64 * (PANEL + BETWEEN);
            let bottom = top + PANEL;
            for (at, _) in &ticks {
                svg.line((*at, top), (*at, bottom), GRID, 1.0);
            }
            let values = panel.series.iter().flat_map(|s| &s.points).map(|p| p.1);
            let y = Scale::linear(values, (bottom, top));
            let y = match panel.y.unit {
                Unit::Percent => y.within(-0.02, 1.02),
                _ => y,
            };
            for (at, text) in y.ticks(panel.y.unit) {
                svg.line((LEFT, at), (RIGHT, at), GRID, 1.0);
                svg.text((LEFT - 8.0, at + 4.0), 12.0, Anchor::End, FAINT, &text);
            }
            svg.line((LEFT, bottom), (RIGHT, bottom), INK, 1.0);
            svg.line((LEFT, top), (LEFT, bottom), INK, 1.0);
            let middle = (22.0, (top + bottom) / 2.0);
            svg.turned(middle, 13.0, Anchor::Middle, INK, -90.0, &panel.y.title);
            let mut legend = RIGHT;
            for series in &panel.series {
                let known = names.iter().position(|n| *n == series.name);
                let number = known.unwrap_or_else(|| {
                    names.push(&series.name);
                    names.len() - 1
                });
                let colour = COLOURS[number % COLOURS.len()];
                curve(&mut svg, series, &x, &y, colour);
                // From the right, above the panel, where no curve is.
                svg.text((legend, top - 7.0), 12.0, Anchor::End, colour, &series.name);
                legend -= text_width(&series.name, 12.0) + 18.0;
            }
        }
        let bottom = height - BELOW;
        for (at, text) in &ticks {
            svg.text((*at, bottom + 19.0), 12.0, Anchor::Middle, FAINT, text);
        }
        let below = ((LEFT + RIGHT) / 2.0, height - 18.0);
        svg.text(below, 13.0, Anchor::Middle, INK, &self.x_title);
        svg.finish()
    }
}

/// A curve; it is interrupted where a value is not finite.
fn curve(svg: &mut Svg, series: &Series, x: &Scale, y: &Scale, colour: &str) {
    let points = thinned(&series.points);
    let place = |&(s, v): &(f64, f64)| Some((x.at(s)?, y.at(v)?));
    let placed: Vec<Option<(f64, f64)>> = points.iter().map(place).collect();
    for part in placed.split(Option::is_none) {
        let part: Vec<(f64, f64)> = part.iter().flatten().copied().collect();
        if part.len() > 1 {
            svg.polyline(&part, colour, 1.6);
        }
        if part.len() == 1 || points.len() <= MARKED {
            for p in part {
                svg.circle(p, 2.6, colour, "");
            }
        }
    }
}

/// Means of neighbours where there are more points than the paper can show.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let of = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |c: &[(f64, f64)]| {
        let n = c.len() as f64;
        (c.iter().map(|p| p.0 / n).sum(), c.iter().map(|p| p.1 / n).sum())
    };
    points.chunks(of).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, texts};
    use super::*;

    fn lines(series: Vec<Series>) -> Lines {
        let panel =
            |title: &str, unit, series| Panel { y: Axis { title: title.into(), unit }, series };
        Lines {
            title: "lora on <intents>".into(),
            x_title: "step".into(),
            panels: vec![
                panel("loss", Unit::Number, series.clone()),
                panel("accuracy", Unit::Percent, series),
            ],
        }
    }

    fn series(name: &str, points: Vec<(f64, f64)>) -> Series {
        Series { name: name.into(), points }
    }

    #[test]
    fn every_title_and_name_is_there() {
        let svg = lines(vec![
            series("train", vec![(1.0, 0.9), (2.0, 0.5), (3.0, 0.4)]),
            series("held & out", vec![(3.0, 0.7)]),
        ])
        .svg();
        check(&svg);
        let texts = texts(&svg);
        for want in
            ["lora on &lt;intents&gt;", "step", "loss", "accuracy", "train", "held &amp; out"]
        {
            assert!(texts.iter().any(|t| t == want), "{want}: {texts:?}");
        }
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 8));
    }

    #[test]
    fn nothing_and_what_is_not_finite_do_no_harm() {
        check(&lines(vec![]).svg());
        check(&lines(vec![series("none", vec![])]).svg());
        check(&Lines { title: String::new(), x_title: String::new(), panels: vec![] }.svg());
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let points = vec![(1.0, 1.0), (2.0, 0.5), (3.0, nan), (4.0, 0.2), (5.0, 0.1), (nan, 1.0)];
        let svg = lines(vec![series("s", points), series("t", vec![(inf, 1.0), (1.0, inf)])]).svg();
        check(&svg);
        assert_eq!(svg.matches("<polyline").count(), 4, "two parts in each panel");
    }

    #[test]
    fn long_curves_are_thinned() {
        let points: Vec<_> = (0..100_000).map(|i| (i as f64, 1.0 / (1 + i) as f64)).collect();
        let thin = thinned(&points);
        assert!(thin.len() <= MOST_POINTS && thin.len() > MOST_POINTS / 2);
        check(&lines(vec![series("s", points)]).svg());
    }
}
