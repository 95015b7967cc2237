//! Values on the command line.

use std::time::Duration;

use edge_tune::data::{Augment, Crop};

/// Bytes: `64M`, `1.5G`, `262144`. K, M and G are powers of 1024.
pub fn bytes(text: &str) -> Result<usize, String> {
    let upper = text.trim().to_ascii_uppercase();
    let unit = upper.trim_end_matches('B').trim_end_matches('I');
    let (number, factor) = match unit.chars().last() {
        Some('K') => (&unit[..unit.len() - 1], 1u64 << 10),
        Some('M') => (&unit[..unit.len() - 1], 1 << 20),
        Some('G') => (&unit[..unit.len() - 1], 1 << 30),
        _ => (unit, 1),
    };
    let value: f64 =
        number.trim().parse().map_err(|_| "expected a size such as 256M".to_owned())?;
    match value * factor as f64 {
        v if v.is_finite() && (1.0..=1e15).contains(&v) => Ok(v as usize),
        _ => Err("expected a size such as 256M".to_owned()),
    }
}

/// A time: `90s`, `5m`, `1h`, `500ms`; plain numbers are seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => f64::NAN,
    };
    let value = number.trim().parse().unwrap_or(f64::NAN) * seconds;
    match value.is_finite() && value > 0.0 && value < 1e9 {
        true => Ok(Duration::from_secs_f64(value)),
        false => Err("expected a time such as 60s or 5m".to_owned()),
    }
}

/// `key=value`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((k, v)) if !k.trim().is_empty() => Ok((k.trim().to_owned(), v.trim().to_owned())),
        _ => Err("expected NAME=VALUE, such as rank=8".to_owned()),
    }
}

/// Views of pictures: `flip`, `crop`, `crop=0.8`, `shift=4`, separated by commas.
pub fn augment(text: &str) -> Result<Augment, String> {
    let bad = || "expected flip, crop, crop=AREA or shift=PIXELS, such as flip,crop".to_owned();
    let mut augment = Augment::default();
    for part in text.split(',') {
        let (name, value) = part.trim().split_once('=').unwrap_or((part.trim(), ""));
        let taken = augment.crop != Crop::None;
        match (name, value) {
            ("flip", "") => augment.flip = true,
            ("crop", "") if !taken => augment.crop = Crop::Resized(0.5),
            ("crop", v) if !taken => augment.crop = Crop::Resized(v.parse().map_err(|_| bad())?),
            ("shift", v) if !taken => augment.crop = Crop::Padded(v.parse().map_err(|_| bad())?),
            ("crop" | "shift", _) => return Err("crop and shift exclude each other".to_owned()),
            _ => return Err(bad()),
        }
    }
    augment.validate().map_err(|e| e.to_string())?;
    Ok(augment)
}

/// Bytes for people: `1.4 KB`, with powers of 1000.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{:.1} KB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_of_pictures() {
        let both = Augment { flip: true, crop: Crop::Resized(0.5) };
        assert_eq!(augment("flip, crop"), Ok(both));
        assert_eq!(augment("crop=0.8").map(|a| a.crop), Ok(Crop::Resized(0.8)));
        assert_eq!(augment("shift=4").map(|a| (a.flip, a.crop)), Ok((false, Crop::Padded(4))));
        let wrong = ["", "turn", "flip=1", "crop=2", "crop=x", "shift", "crop,shift=2", "shift=-1"];
        assert!(wrong.iter().all(|t| augment(t).is_err()));
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!(bytes("256M"), Ok(256 << 20));
        assert_eq!(bytes("1.5 GiB"), Ok(3 << 29));
        assert_eq!(bytes("4096"), Ok(4096));
        assert!(["", "M", "-1M", "0", "nan", "12X"].iter().all(|t| bytes(t).is_err()));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert!(["", "s", "0s", "-3s", "5 weeks"].iter().all(|t| duration(t).is_err()));
        assert_eq!(pair("rank = 8"), Ok(("rank".into(), "8".into())));
        assert!(pair("rank").is_err() && pair("=8").is_err());
        assert_eq!(size(999) + &size(1_400) + &size(23_000_000), "999 B1.4 KB23.0 MB");
    }
}
