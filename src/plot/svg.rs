//! The elements that the plots are made of.

use std::fmt::Write;

/// Text and axes.
pub(super) const INK: &str = "#222222";
/// Less important text.
pub(super) const FAINT: &str = "#666666";
/// Lines behind the data.
pub(super) const GRID: &str = "#e4e4e4";
/// Colours that differ for the colour-blind too.
pub(super) const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#56b4e9", "#6a3d9a", "#444444"];

/// Where a text starts, is centred or ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn text(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

/// A picture in the making.
pub(super) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    pub fn new(width: f64, height: f64) -> Svg {
        Svg { width, height, body: String::new() }
    }

    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        let _ = writeln!(
            self.body,
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="{colour}" stroke-width="{width}"/>"#,
            from.0, from.1, to.0, to.1
        );
    }

    pub fn rect(&mut self, (x, y): (f64, f64), (w, h): (f64, f64), fill: &str, hint: &str) {
        let _ = write!(
            self.body,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{w:.1}" height="{h:.1}" fill="{fill}""#
        );
        self.close("rect", hint);
    }

    pub fn circle(&mut self, (x, y): (f64, f64), r: f64, fill: &str, hint: &str) {
        let _ = write!(self.body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="{r}" fill="{fill}""#);
        self.close("circle", hint);
    }

    /// Ends an element; the hint is shown under the pointer.
    fn close(&mut self, element: &str, hint: &str) {
        let _ = match hint {
            "" => writeln!(self.body, "/>"),
            _ => writeln!(self.body, "><title>{}</title></{element}>", escape(hint)),
        };
    }

    pub fn polyline(&mut self, points: &[(f64, f64)], colour: &str, width: f64) {
        let _ = write!(
            self.body,
            r#"<polyline fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round" points=""#
        );
        for (x, y) in points {
            let _ = write!(self.body, "{x:.1},{y:.1} ");
        }
        let _ = writeln!(self.body, "\"/>");
    }

    pub fn text(&mut self, at: (f64, f64), size: f64, anchor: Anchor, colour: &str, text: &str) {
        self.turned(at, size, anchor, colour, 0.0, text);
    }

    /// Text turned clockwise by `degrees` around its anchor.
    pub fn turned(
        &mut self,
        (x, y): (f64, f64),
        size: f64,
        anchor: Anchor,
        colour: &str,
        degrees: f64,
        text: &str,
    ) {
        let anchor = anchor.text();
        let _ = write!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size:.1}" text-anchor="{anchor}" fill="{colour}""#
        );
        if degrees != 0.0 {
            let _ = write!(self.body, r#" transform="rotate({degrees} {x:.1} {y:.1})""#);
        }
        self.words(text, LONGEST);
    }

    /// A text that stays readable over lines.
    pub fn name(&mut self, (x, y): (f64, f64), size: f64, anchor: Anchor, text: &str) {
        let anchor = anchor.text();
        let _ = write!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" font-size="{size:.1}" text-anchor="{anchor}" fill="{INK}" stroke="white" stroke-width="3" stroke-linejoin="round" paint-order="stroke""#
        );
        self.words(text, LONGEST);
    }

    /// What the picture is, in its upper left corner.
    pub fn title(&mut self, (x, y): (f64, f64), text: &str) {
        let _ = write!(self.body, r#"<text x="{x:.1}" y="{y:.1}" font-size="16" fill="{INK}""#);
        let room = (self.width - x) / 9.0;
        self.words(text, room as usize);
    }

    /// Ends a text element.
    fn words(&mut self, text: &str, longest: usize) {
        let shown = short(text, longest);
        let _ = write!(self.body, ">{}", escape(&shown));
        if shown != text {
            let _ = write!(self.body, "<title>{}</title>", escape(text));
        }
        let _ = writeln!(self.body, "</text>");
    }

    /// The file.
    pub fn finish(self) -> String {
        let Svg { width: w, height: h, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w:.0}\" height=\"{h:.0}\" \
             viewBox=\"0 0 {w:.0} {h:.0}\" font-family=\"Helvetica, Arial, sans-serif\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
        )
    }
}

/// Most characters of a label; the whole text becomes its hint.
const LONGEST: usize = 40;

fn short(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        None => text.to_owned(),
        Some(_) => text.chars().take(longest.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// About how wide a label is drawn.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let of = |c: char| match c {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | '.' | ',' | ' ' | '\'' | '-' => 0.36,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.88,
        c if c.is_ascii_uppercase() => 0.7,
        c if c.is_ascii() => 0.56,
        c if (c as u32) < 0x1100 => 0.65,
        _ => 1.0,
    };
    short(text, LONGEST).chars().map(of).sum::<f64>() * size
}

/// Text as XML holds it; what XML cannot hold is replaced.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check, texts};
    use super::*;

    #[test]
    fn any_text_makes_valid_xml() {
        let hostile = "a<b> & \"c\" ]]> \u{0} \u{1b}[31m \u{ffff} \n </text><script>";
        let mut svg = Svg::new(10.0, 10.0);
        svg.text((0.0, 0.0), 10.0, Anchor::Start, INK, hostile);
        svg.rect((0.0, 0.0), (1.0, 1.0), INK, hostile);
        let out = svg.finish();
        check(&out);
        assert!(!out.contains("<script") && !out.contains('\u{0}'));
    }

    #[test]
    fn long_text_is_cut_and_kept_as_a_hint() {
        let long = "é".repeat(100);
        let mut svg = Svg::new(10.0, 10.0);
        svg.text((0.0, 0.0), 10.0, Anchor::End, INK, &long);
        let out = svg.finish();
        check(&out);
        assert!(out.contains(&format!("<title>{long}</title>")));
        assert!(texts(&out)[0].chars().count() <= LONGEST + 100);
        assert!(text_width(&long, 10.0) < 300.0);
    }
}
