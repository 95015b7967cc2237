//! Where the names of points go so that they do not cover each other.

use super::svg::{Anchor, text_width};

/// A rectangle: left, top, right, bottom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area(pub f64, pub f64, pub f64, pub f64);

impl Area {
    fn overlap(&self, other: &Area) -> f64 {
        let w = self.2.min(other.2) - self.0.max(other.0);
        let h = self.3.min(other.3) - self.1.max(other.1);
        if w > 0.0 && h > 0.0 { w * h } else { 0.0 }
    }

    /// How much of it lies outside of `other`.
    fn outside(&self, other: &Area) -> f64 {
        (self.2 - self.0) * (self.3 - self.1) - self.overlap(other)
    }
}

/// Where a name is written.
pub(super) struct Placed {
    pub at: (f64, f64),
    pub anchor: Anchor,
    /// Where a line to the point ends, if the name is not beside it.
    pub leader: Option<(f64, f64)>,
}

/// Directions in the order in which they are tried.
const DIRECTIONS: [(f64, f64); 8] = [
    (1.0, 0.0),
    (-1.0, 0.0),
    (0.7, -0.8),
    (0.7, 0.8),
    (-0.7, -0.8),
    (-0.7, 0.8),
    (0.0, -1.0),
    (0.0, 1.0),
];

/// Places a name for every point inside `frame`; `taken` is what they should not cover.
pub(super) fn place(
    names: &[(&str, (f64, f64))],
    size: f64,
    frame: Area,
    mut taken: Vec<Area>,
) -> Vec<Placed> {
    let mut placed = Vec::with_capacity(names.len());
    for &(name, (x, y)) in names {
        let w = text_width(name, size);
        let mut best: Option<(f64, Placed, Area)> = None;
        for (ring, distance) in [9.0, 20.0, 34.0, 50.0].into_iter().enumerate() {
            for (n, (dx, dy)) in DIRECTIONS.into_iter().enumerate() {
                let (tx, ty) = (x + dx * distance, y + dy * distance);
                let (anchor, left) = match dx {
                    d if d > 0.0 => (Anchor::Start, tx),
                    d if d < 0.0 => (Anchor::End, tx - w),
                    _ => (Anchor::Middle, tx - w / 2.0),
                };
                let area = Area(left, ty - 0.55 * size, left + w, ty + 0.55 * size);
                let covered: f64 = taken.iter().map(|t| t.overlap(&area)).sum();
                let cost = covered + 20.0 * area.outside(&frame) + 12.0 * ring as f64 + n as f64;
                if best.as_ref().is_none_or(|b| cost < b.0) {
                    let leader = (ring > 0).then_some((tx - dx * 2.0, ty - dy * 0.5 * size));
                    // The baseline is below the middle of the letters.
                    let at = (tx, ty + 0.35 * size);
                    best = Some((cost, Placed { at, anchor, leader }, area));
                }
            }
        }
        if let Some((_, place, area)) = best {
            taken.push(area);
            placed.push(place);
        }
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_near_points_do_not_cover_each_other() {
        let points: Vec<(String, (f64, f64))> =
            (0..6).map(|i| (format!("method-{i}"), (200.0 + i as f64, 150.0 + i as f64))).collect();
        let names: Vec<(&str, (f64, f64))> = points.iter().map(|p| (p.0.as_str(), p.1)).collect();
        let placed = place(&names, 12.0, Area(0.0, 0.0, 400.0, 300.0), vec![]);
        let areas: Vec<Area> = placed
            .iter()
            .zip(&names)
            .map(|(p, (name, _))| {
                let w = text_width(name, 12.0);
                let left = match p.anchor {
                    Anchor::Start => p.at.0,
                    Anchor::Middle => p.at.0 - w / 2.0,
                    Anchor::End => p.at.0 - w,
                };
                Area(left, p.at.1 - 10.0, left + w, p.at.1)
            })
            .collect();
        for (i, a) in areas.iter().enumerate() {
            assert!(areas[..i].iter().all(|b| a.overlap(b) < 1.0), "{areas:?}");
        }
    }
}
