//! Hugging Face's `preprocessor_config.json` as an [`ImageSpec`].

use serde_json::Value;

use super::{ImageSpec, Interpolation, Resize};

/// Follows the fields of `config`, or says which cannot be followed.
pub(super) fn spec(config: &Value) -> Result<ImageSpec, String> {
    if !config.is_object() {
        return Err("not a JSON object".to_owned());
    }
    let flag =
        |name: &str, default: bool| config.get(name).and_then(Value::as_bool).unwrap_or(default);
    for name in ["do_flip_channel_order", "do_pad", "do_image_splitting", "do_color_quantize"] {
        if flag(name, false) {
            return Err(format!("{name} is not supported: write an image specification by hand"));
        }
    }
    if !flag("do_resize", true) {
        return Err("do_resize is false: pictures of any size cannot be used".to_owned());
    }
    let (size, resize) = sizes(config, flag("do_center_crop", config.get("crop_size").is_some()))?;

    // (v * factor - mean) / std for v in 0..255, written for v / 255.
    let factor = match flag("do_rescale", true) {
        true => number(config, "rescale_factor")?.unwrap_or(1.0 / 255.0),
        false => 1.0,
    };
    let scale = 255.0 * factor;
    let normalize = flag("do_normalize", config.get("image_mean").is_some());
    let list = |name: &str, default: f64| match config.get(name).filter(|_| normalize) {
        None => Ok(vec![default; 3]),
        Some(Value::Array(list)) => list
            .iter()
            .map(|v| v.as_f64().ok_or_else(|| format!("{name} holds {v}, which is no number")))
            .collect(),
        Some(v) => v.as_f64().map(|v| vec![v; 3]).ok_or_else(|| format!("{name} is no list")),
    };
    if normalize && (config.get("image_mean").is_none() || config.get("image_std").is_none()) {
        return Err("do_normalize needs image_mean and image_std".to_owned());
    }
    let scaled = |list: Vec<f64>| list.into_iter().map(|v| (v / scale) as f32).collect::<Vec<_>>();
    let mean = scaled(list("image_mean", 0.0)?);
    let std = scaled(list("image_std", 1.0)?);
    Ok(ImageSpec {
        size,
        resize,
        interpolation: resample(config)?,
        channels: mean.len(),
        mean,
        std,
    })
}

fn resample(config: &Value) -> Result<Interpolation, String> {
    match config.get("resample") {
        None => Ok(Interpolation::Bilinear),
        // PIL's numbers.
        Some(v) => match v.as_u64() {
            Some(0) => Ok(Interpolation::Nearest),
            Some(2) => Ok(Interpolation::Bilinear),
            Some(3) => Ok(Interpolation::Bicubic),
            _ => Err(format!("resample {v}: 0 (nearest), 2 (bilinear) or 3 (bicubic) is needed")),
        },
    }
}

/// The size of the result and how it is reached.
fn sizes(config: &Value, crop: bool) -> Result<([usize; 2], Resize), String> {
    let size = config.get("size").ok_or("there is no size")?;
    let crop_size = match config.get("crop_size").filter(|_| crop) {
        Some(v) => Some(square(v).ok_or_else(|| format!("crop_size {v} is no size"))?),
        None => None,
    };
    // An old file's plain number is the shortest side if a crop follows.
    let shortest = match size.as_u64() {
        Some(_) if !crop => None,
        Some(n) => Some(n),
        None => size.get("shortest_edge").and_then(Value::as_u64),
    };
    let Some(shortest) = shortest.map(|n| n as usize) else {
        let have = square(size).ok_or_else(|| {
            format!("size {size}: height and width, or shortest_edge alone, is needed")
        })?;
        return match crop_size {
            None => Ok((have, Resize::Stretch)),
            Some(want) if want == have => Ok((have, Resize::Stretch)),
            Some(want) => Err(format!(
                "size {have:?} with crop_size {want:?}: a crop of a stretched picture is not supported"
            )),
        };
    };
    if size.get("longest_edge").is_some() {
        return Err(format!("size {size}: longest_edge is not supported"));
    }
    match (crop_size, number(config, "crop_pct")?) {
        (Some(want), _) => Ok((want, Resize::ShortestSide(shortest))),
        // ConvNeXt: below 384 a part is cut out, from there on the picture is stretched.
        (None, Some(_)) if shortest >= 384 => Ok(([shortest; 2], Resize::Stretch)),
        (None, Some(part)) if part > 0.0 => {
            Ok(([shortest; 2], Resize::ShortestSide((shortest as f64 / part) as usize)))
        }
        (None, None) if crop => Ok(([shortest; 2], Resize::ShortestSide(shortest))),
        _ => Err(format!("size {size} without a crop: the result must have one size")),
    }
}

/// `{"height": h, "width": w}` or a plain number.
fn square(value: &Value) -> Option<[usize; 2]> {
    let side = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
    match side(value) {
        Some(n) => Some([n, n]),
        None => Some([side(value.get("height")?)?, side(value.get("width")?)?]),
    }
}

fn number(config: &Value, name: &str) -> Result<Option<f64>, String> {
    match config.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(v) => match v.as_f64().filter(|n| n.is_finite() && *n > 0.0) {
            Some(n) => Ok(Some(n)),
            None => Err(format!("{name} is {v}; a positive number is needed")),
        },
    }
}
