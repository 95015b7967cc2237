//! PNG, JPEG and WebP files as pixels.

use std::io::Cursor;
use std::path::Path;

use ::image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, guess_format};

use super::{MAX_PIXELS, MAX_SIDE, Picture};
use crate::data::DataError;
use crate::data::tokenizer::contained;

/// Most memory that a decoder takes, in bytes: 50 megapixels in 16-bit RGBA.
const MAX_DECODER_BYTES: u64 = 8 * MAX_PIXELS;

pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<Picture, DataError> {
    let damaged = |reason: String| DataError::Picture { path: path.to_owned(), reason };
    let other = |found: String| DataError::PictureFormat { path: path.to_owned(), found };
    let format = match guess_format(bytes) {
        Ok(f @ (ImageFormat::Png | ImageFormat::WebP)) => f,
        Ok(f @ ImageFormat::Jpeg) => {
            match jpeg_components(bytes) {
                Some(1 | 3) => f,
                // The decoder inverts the colours of some of these.
                Some(4) => return Err(other("a CMYK JPEG".to_owned())),
                Some(n) => return Err(damaged(format!("{n} colour components"))),
                None => return Err(damaged("the file ends early".to_owned())),
            }
        }
        Ok(f) => return Err(other(format!("a file of the format {}", name(f)))),
        Err(_) if bytes.is_empty() => return Err(other("empty".to_owned())),
        Err(_) if is_heif(bytes) => return Err(other("a file of the format HEIF".to_owned())),
        Err(_) => return Err(other("no picture".to_owned())),
    };
    let size = |width, height| DataError::PictureSize { path: path.to_owned(), width, height };

    let (width, height) = contained(|| {
        let decoder = decoder(bytes, format).map_err(|e| e.to_string())?;
        Ok(decoder.dimensions())
    })
    .map_err(damaged)?;
    if width > MAX_SIDE || height > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(size(width, height));
    }
    let picture = contained(|| {
        let read = || {
            let mut decoder = decoder(bytes, format)?;
            // A broken EXIF block is no reason to refuse the picture.
            let orientation = decoder.orientation().ok();
            let mut picture = DynamicImage::from_decoder(decoder)?;
            if let Some(orientation) = orientation {
                picture.apply_orientation(orientation);
            }
            Ok(picture.into_rgb8())
        };
        read().map_err(|e: ::image::ImageError| e.to_string())
    })
    .map_err(damaged)?;
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Picture::new(width, height, picture.into_raw())
        .ok_or_else(|| damaged("it has no pixels".to_owned()))
}

fn decoder(bytes: &[u8], format: ImageFormat) -> ::image::ImageResult<impl ImageDecoder> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    reader.into_decoder()
}

fn name(format: ImageFormat) -> String {
    format.extensions_str().first().unwrap_or(&"unknown").to_uppercase()
}

/// HEIC and its relatives, as phones write them.
fn is_heif(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(b"ftyp")
        && matches!(bytes.get(8..12), Some(b"heic" | b"heix" | b"hevc" | b"mif1" | b"msf1"))
}

/// The number of colour components of a JPEG, `None` if it ends before its end marker: the
/// decoder fills what is missing with grey.
fn jpeg_components(bytes: &[u8]) -> Option<u8> {
    let mut components = None;
    let mut rest = bytes.get(2..)?;
    loop {
        let at = rest.iter().position(|&b| b == 0xff)?;
        rest = rest.get(at..)?;
        let at = rest.iter().position(|&b| b != 0xff)?;
        let marker = *rest.get(at)?;
        rest = rest.get(at + 1..)?;
        match marker {
            // Those without a length.
            0x00 | 0x01 | 0xd0..=0xd8 => continue,
            0xd9 => return None,
            _ => {}
        }
        let length = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
        // Start of a frame, less DHT, JPG and DAC of the same range.
        if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
            components = Some(*rest.get(7)?);
        }
        rest = rest.get(length..)?;
        if marker == 0xda {
            // In what is coded, 0xff is never followed by 0xd9.
            let ended = rest.windows(2).any(|w| w == [0xff, 0xd9]);
            return components.filter(|_| ended);
        }
    }
}
