//! A small check of well-formed XML.

/// Panics unless `xml` is one element, everything in it closed, quoted and escaped.
pub(super) fn check(xml: &str) {
    let mut open: Vec<String> = vec![];
    let mut rest = xml.trim_end();
    let mut roots = 0;
    while let Some(at) = rest.find('<') {
        let (text, tag) = rest.split_at(at);
        entities(text);
        assert!(text.trim().is_empty() || !open.is_empty(), "text outside of the root: {text:?}");
        let end = tag.find('>').unwrap_or_else(|| panic!("an open tag: {tag:.60}"));
        let inner = &tag[1..end];
        rest = &tag[end + 1..];
        if let Some(name) = inner.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        let (inner, closed) = match inner.strip_suffix('/') {
            Some(inner) => (inner, true),
            None => (inner, false),
        };
        let (name, attributes) = inner.split_once(' ').unwrap_or((inner, ""));
        assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()), "{name:?}");
        check_attributes(attributes);
        roots += usize::from(open.is_empty());
        if !closed {
            open.push(name.to_owned());
        }
    }
    assert!(rest.is_empty() && open.is_empty() && roots == 1, "{open:?} {rest:?} {roots}");
    let legal = |c: char| c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}') || c == '\n';
    assert!(xml.chars().all(legal));
    assert!(!xml.contains("NaN") && !xml.contains("inf"), "{xml}");
}

fn check_attributes(mut text: &str) {
    let mut seen = vec![];
    while !text.trim().is_empty() {
        let (name, rest) = text.trim_start().split_once("=\"").expect("name=\"");
        let (value, rest) = rest.split_once('"').expect("a closing quote");
        assert!(!seen.contains(&name), "{name} twice");
        seen.push(name);
        entities(value);
        text = rest;
    }
}

fn entities(text: &str) {
    for part in text.split('&').skip(1) {
        let name = part.split_once(';').map(|p| p.0);
        assert!(matches!(name, Some("amp" | "lt" | "gt" | "quot")), "&{part}");
    }
    assert!(!text.contains('>'), "{text:?}");
}

/// The contents of all `text` elements, without their markup.
pub(super) fn texts(xml: &str) -> Vec<String> {
    let inside = |part: &str| {
        let text = part.split_once('>')?.1.split_once("</text>")?.0;
        Some(text.replace("<title>", "").replace("</title>", ""))
    };
    xml.split("<text").skip(1).filter_map(inside).collect()
}
