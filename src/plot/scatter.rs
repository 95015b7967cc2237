use super::Axis;
use super::Unit;
use super::labels::{Area, place};
use super::scale::Scale;
use super::svg::{Anchor, COLOURS, FAINT, GRID, INK, Svg};

/// A named point.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// Place along the logarithmic axis: above 0.
    pub x: f64,
    /// Height.
    pub y: f64,
    /// Half the length of its error bar.
    pub error: Option<f64>,
}

/// Named points over a logarithmic axis, with error bars.
#[derive(Clone, Debug, PartialEq)]
pub struct Scatter {
    /// Written above.
    pub title: String,
    /// The logarithmic axis.
    pub x: Axis,
    /// The linear axis.
    pub y: Axis,
    /// The points.
    pub points: Vec<Point>,
}

const SIZE: (f64, f64) = (780.0, 500.0);
const FRAME: Area = Area(84.0, 48.0, 752.0, 436.0);
const NAME_SIZE: f64 = 13.0;

impl Scatter {
    /// The picture.
    pub fn svg(&self) -> String {
        let mut svg = Svg::new(SIZE.0, SIZE.1);
        let shown = |p: &&Point| p.x.is_finite() && p.x > 0.0 && p.y.is_finite();
        let points: Vec<&Point> = self.points.iter().filter(shown).collect();
        let bar = |p: &Point| p.error.filter(|e| e.is_finite()).unwrap_or(0.0).abs();
        let x = Scale::log(points.iter().map(|p| p.x), (FRAME.0, FRAME.2));
        let ends = points.iter().flat_map(|p| [p.y - bar(p), p.y + bar(p)]);
        let y = Scale::linear(ends, (FRAME.3, FRAME.1));
        let y = match self.y.unit {
            // A little above 100 %, so that a point there is not cut.
            Unit::Percent if points.iter().all(|p| (0.0..=1.0).contains(&p.y)) => {
                y.within(-0.02, 1.02)
            }
            _ => y,
        };
        self.axes(&mut svg, &x, &y);

        let mut taken = vec![];
        let mut names = vec![];
        for (i, p) in points.iter().enumerate() {
            let (Some(px), Some(py)) = (x.at(p.x), y.at(p.y)) else { continue };
            let colour = COLOURS[i % COLOURS.len()];
            let (low, high) = (p.y - bar(p), p.y + bar(p));
            if let (true, Some(low), Some(high)) = (bar(p) > 0.0, y.at(low), y.at(high)) {
                let (low, high) = (low.min(FRAME.3), high.max(FRAME.1));
                svg.line((px, low), (px, high), colour, 1.5);
                for end in [low, high] {
                    svg.line((px - 4.0, end), (px + 4.0, end), colour, 1.5);
                }
                taken.push(Area(px - 3.0, high, px + 3.0, low));
            }
            let hint = format!(
                "{}: {} at {}",
                p.name,
                self.y.unit.text(p.y, 0.001),
                self.x.unit.text(p.x, 1.0)
            );
            svg.circle((px, py), 5.0, colour, &hint);
            // Counts more than a bar does.
            taken.extend([Area(px - 6.0, py - 6.0, px + 6.0, py + 6.0); 3]);
            names.push((p.name.as_str(), (px, py), colour));
        }
        let wanted: Vec<_> = names.iter().map(|n| (n.0, n.1)).collect();
        for ((name, point, colour), to) in names.iter().zip(place(&wanted, NAME_SIZE, FRAME, taken))
        {
            if let Some(end) = to.leader {
                svg.line(*point, end, colour, 0.7);
            }
            svg.name(to.at, NAME_SIZE, to.anchor, name);
        }
        svg.finish()
    }

    fn axes(&self, svg: &mut Svg, x: &Scale, y: &Scale) {
        svg.title((FRAME.0, 28.0), &self.title);
        for (at, text) in x.ticks(self.x.unit) {
            svg.line((at, FRAME.1), (at, FRAME.3), GRID, 1.0);
            svg.text((at, FRAME.3 + 19.0), 12.0, Anchor::Middle, FAINT, &text);
        }
        for (at, text) in y.ticks(self.y.unit) {
            svg.line((FRAME.0, at), (FRAME.2, at), GRID, 1.0);
            svg.text((FRAME.0 - 8.0, at + 4.0), 12.0, Anchor::End, FAINT, &text);
        }
        svg.line((FRAME.0, FRAME.3), (FRAME.2, FRAME.3), INK, 1.0);
        svg.line((FRAME.0, FRAME.1), (FRAME.0, FRAME.3), INK, 1.0);
        let middle = ((FRAME.0 + FRAME.2) / 2.0, (FRAME.1 + FRAME.3) / 2.0);
        let below = (middle.0, SIZE.1 - 20.0);
        svg.text(below, 13.0, Anchor::Middle, INK, &self.x.title);
        svg.turned((22.0, middle.1), 13.0, Anchor::Middle, INK, -90.0, &self.y.title);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, texts};
    use super::*;

    fn scatter(points: Vec<Point>) -> Scatter {
        Scatter {
            title: "A & B".into(),
            x: Axis { title: "delta".into(), unit: Unit::Bytes },
            y: Axis { title: "accuracy".into(), unit: Unit::Percent },
            points,
        }
    }

    fn point(name: &str, x: f64, y: f64, error: Option<f64>) -> Point {
        Point { name: name.into(), x, y, error }
    }

    #[test]
    fn every_name_title_and_tick_is_there() {
        let svg = scatter(vec![
            point("lora", 2e4, 0.8, Some(0.03)),
            point("<linear>", 6e3, 0.7, None),
            point("bias", 2e5, 0.99, Some(0.2)),
        ])
        .svg();
        check(&svg);
        let texts = texts(&svg);
        for want in ["A &amp; B", "delta", "accuracy", "lora", "&lt;linear&gt;", "bias", "10 KB"] {
            assert!(texts.iter().any(|t| t == want), "{want}: {texts:?}");
        }
        assert_eq!(svg.matches("<circle").count(), 3);
    }

    #[test]
    fn nothing_and_what_is_not_finite_do_no_harm() {
        check(&scatter(vec![]).svg());
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let svg = scatter(vec![
            point("a", nan, 0.5, None),
            point("b", 10.0, inf, Some(0.1)),
            point("c", 0.0, 0.5, None),
            point("d", -4.0, 0.5, None),
            point("e", 100.0, 0.5, Some(nan)),
            point("f", 100.0, 0.5, Some(inf)),
        ])
        .svg();
        check(&svg);
        assert_eq!(svg.matches("<circle").count(), 2);
        check(
            &scatter(vec![point("g", 1e-300, 1e300, Some(1e300)), point("h", 1e300, -1e300, None)])
                .svg(),
        );
    }
}
