use std::io::Cursor;
use std::path::Path;

use edge_tune::data::{Augment, Crop, DataError, ImageSpec, Interpolation, Picture, Resize};
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ExtendedColorType, ImageBuffer, ImageFormat, Luma, Rgb, Rgba};

use crate::support::{draws, fixture};

fn decode(bytes: &[u8]) -> Result<Picture, DataError> {
    Picture::decode(bytes, Path::new("set/cat.png"))
}

fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    picture.into().write_to(&mut out, format).unwrap();
    out.into_inner()
}

/// A picture whose pixels all differ from their neighbours.
fn scene(width: u32, height: u32) -> ImageBuffer<Rgb<u8>, Vec<u8>> {
    ImageBuffer::from_fn(width, height, |x, y| {
        Rgb([(x * 37 + y * 11) as u8, (x * x + 7 * y) as u8, (x * y * 13 + 5) as u8])
    })
}

fn refused(bytes: &[u8], code: &str, message: &str) {
    let error = decode(bytes).unwrap_err();
    let shown = error.to_string();
    assert_eq!(error.code(), code, "{shown}");
    assert!(shown.contains(message) && shown.contains("set/cat.png"), "{shown}");
}

/// What PIL makes of the fixtures: see tools/fixtures/images.py.
#[test]
fn pixels_are_those_of_pil() {
    let folder = fixture("images");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let golden = read("golden.safetensors");
    let golden = safetensors::SafeTensors::deserialize(&golden).unwrap();
    let cases: serde_json::Value = serde_json::from_slice(&read("cases.json")).unwrap();
    for name in cases["pictures"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        let picture = Picture::decode(&read(name), Path::new(name)).unwrap();
        for (number, case) in cases["cases"].as_array().unwrap().iter().enumerate() {
            let spec =
                ImageSpec::from_json(case.to_string().as_bytes(), Path::new("case")).unwrap();
            let have = spec.tensor(&picture).unwrap();
            let want = golden.tensor(&format!("{name}/{number}")).unwrap();
            assert_eq!(have.shape(), want.shape());
            let area = spec.size[0] * spec.size[1];
            let values = have.as_slice::<f32>().unwrap();
            let pixel = |i: usize| {
                let value = values[i] * spec.std[i / area] + spec.mean[i / area];
                f64::from(value * 255.0)
            };
            let off: Vec<f64> =
                want.data().iter().enumerate().map(|(i, &v)| pixel(i) - f64::from(v)).collect();
            let mean = off.iter().map(|d| d.abs()).sum::<f64>() / off.len() as f64;
            let most = off.iter().fold(0.0f64, |a, d| a.max(d.abs()));
            // Decoders of lossy formats may differ by rounding; scaling may not.
            let lossy = name.ends_with("jpg") || name == "lossy.webp";
            let (on_average, at_most) = if lossy { (0.6, 4.0) } else { (1e-3, 1e-3) };
            assert!(mean < on_average && most < at_most, "{name}/{number}: {mean} {most}");
            if name == "wide.png" {
                let want = golden.tensor(&format!("normalised/{number}")).unwrap();
                let want: Vec<f32> =
                    want.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
                assert!(values.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5));
            }
        }
    }
}

#[test]
fn every_kind_of_pixel_becomes_rgb() {
    let plain = scene(9, 7);
    let pixels = plain.as_raw();
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let picture = decode(&encoded(plain.clone(), format)).unwrap();
        assert_eq!((picture.width(), picture.height(), picture.pixels()), (9, 7, &pixels[..]));
    }
    // Alpha is dropped, not blended.
    let alpha = ImageBuffer::from_fn(9, 7, |x, y| {
        let [r, g, b] = plain.get_pixel(x, y).0;
        Rgba([r, g, b, (x * 20) as u8])
    });
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        assert_eq!(decode(&encoded(alpha.clone(), format)).unwrap().pixels(), pixels);
    }
    let fine = ImageBuffer::from_fn(9, 7, |x, y| {
        Rgb(plain.get_pixel(x, y).0.map(|v| u16::from(v) * 257 + if v < 250 { 100 } else { 0 }))
    });
    assert_eq!(decode(&encoded(fine, ImageFormat::Png)).unwrap().pixels(), pixels);
    let fine = ImageBuffer::from_fn(256, 1, |x, _| Luma([x as u16 * 257]));
    let grey: Vec<u8> = (0..=255).flat_map(|v| [v; 3]).collect();
    assert_eq!(decode(&encoded(fine, ImageFormat::Png)).unwrap().pixels(), grey);
    let coarse = ImageBuffer::from_fn(256, 1, |x, _| Luma([x as u8]));
    assert_eq!(decode(&encoded(coarse.clone(), ImageFormat::Png)).unwrap().pixels(), grey);
    let jpeg = decode(&encoded(coarse, ImageFormat::Jpeg)).unwrap();
    assert!(jpeg.pixels().iter().zip(&grey).all(|(a, b)| a.abs_diff(*b) < 4));
}

#[test]
fn one_pixel_is_a_picture() {
    let dot: ImageBuffer<Rgb<u8>, _> = ImageBuffer::from_pixel(1, 1, Rgb([255, 0, 128]));
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
        let picture = decode(&encoded(dot.clone(), format)).unwrap();
        for interpolation in
            [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic]
        {
            for resize in [Resize::Stretch, Resize::ShortestSide(8)] {
                let mut spec = ImageSpec::square(8, [0.0; 3], [1.0; 3]);
                (spec.interpolation, spec.resize) = (interpolation, resize);
                let tensor = spec.tensor(&picture).unwrap();
                let red = &tensor.as_slice::<f32>().unwrap()[..64];
                assert!(red.iter().all(|&v| v > 0.97), "{format:?} {red:?}");
            }
        }
    }
}

#[test]
fn an_orientation_is_applied() {
    let upright = scene(6, 4);
    // A JPEG that is stored turned by each of the eight ways must look alike.
    for orientation in 1..=8u8 {
        let picture = DynamicImage::from(upright.clone());
        let stored = match orientation {
            1 => picture,
            2 => picture.fliph(),
            3 => picture.rotate180(),
            4 => picture.flipv(),
            5 => picture.rotate90().fliph(),
            6 => picture.rotate270(),
            7 => picture.rotate270().fliph(),
            _ => picture.rotate90(),
        };
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, 100).encode_image(&stored.to_rgb8()).unwrap();
        let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
        let mut head = vec![0xff, 0xe1, 0, exif.len() as u8 + 2];
        head.extend(exif);
        bytes.splice(2..2, head);
        let picture = decode(&bytes).unwrap();
        assert_eq!((picture.width(), picture.height()), (6, 4), "{orientation}");
        let near = picture.pixels().iter().zip(upright.as_raw());
        let off: u32 = near.map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
        assert!(off < 72 * 16, "{orientation}: {off}");
    }
}

/// A PNG that claims a size, without pixels.
fn claim(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |name: &[u8], data: &[u8]| {
        bytes.extend((data.len() as u32).to_be_bytes());
        let body = [name, data].concat();
        let mut crc = !0u32;
        for &byte in &body {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            }
        }
        bytes.extend(body);
        bytes.extend((!crc).to_be_bytes());
    };
    let mut head = [width.to_be_bytes(), height.to_be_bytes()].concat();
    head.extend([8, 2, 0, 0, 0]);
    chunk(b"IHDR", &head);
    chunk(b"IDAT", &[0x78, 0x9c, 3, 0, 0, 0, 0, 1]);
    chunk(b"IEND", &[]);
    bytes
}

#[test]
fn huge_pictures_are_refused_before_they_are_decoded() {
    refused(&claim(20_000, 20_000), "data.picture-size", "20000 x 20000 pixels");
    refused(&claim(20_000, 1), "data.picture-size", "16384 pixels a side");
    refused(&claim(1, 16_385), "data.picture-size", "scale it down");
    refused(&claim(8_000, 8_000), "data.picture-size", "50 megapixels");
    // Within the limits it is the missing pixels that are the fault.
    refused(&claim(5_000, 5_000), "data.picture", "damaged");
    let mut jpeg = encoded(scene(8, 8), ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    refused(&jpeg, "data.picture-size", "65535 x 65535 pixels");
}

#[test]
fn other_files_are_refused_by_what_they_are() {
    for (bytes, message) in [
        (b"".as_slice(), "is empty"),
        (b"just some text, long enough to be looked at", "is no picture"),
        (b"GIF89a\x01\0\x01\0\0\0\0;", "the format GIF; PNG, JPEG or WebP"),
        (b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0", "the format BMP"),
        (b"II*\0\x08\0\0\0", "the format TIFF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "the format HEIF"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1heic", "the format AVIF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no picture"),
        (b"\x89PNG", "is no picture"),
    ] {
        refused(bytes, "data.picture-format", message);
    }
    let cmyk = std::fs::read(fixture("images/cmyk.jpg")).unwrap();
    refused(&cmyk, "data.picture-format", "a CMYK JPEG; PNG, JPEG or WebP is needed (in RGB");
}

#[test]
fn a_file_that_is_cut_short_is_refused() {
    let progressive = std::fs::read(fixture("images/sampled.jpg")).unwrap();
    let lossy = std::fs::read(fixture("images/lossy.webp")).unwrap();
    let files = [
        encoded(scene(40, 30), ImageFormat::Png),
        encoded(scene(40, 30), ImageFormat::Jpeg),
        encoded(scene(40, 30), ImageFormat::WebP),
        progressive,
        lossy,
    ];
    for whole in files {
        assert!(decode(&whole).is_ok());
        for cut in [whole.len() * 9 / 10, whole.len() / 2, 30, 12, 9] {
            let Err(error) = decode(&whole[..cut]) else {
                panic!("{cut} of {} bytes of {:?}", whole.len(), &whole[..4]);
            };
            assert!(matches!(error.code(), "data.picture" | "data.picture-format"), "{error}");
        }
    }
    // What follows the end of a JPEG is not looked at.
    let mut jpeg = encoded(scene(8, 8), ImageFormat::Jpeg);
    jpeg.extend(b"trailing bytes");
    assert!(decode(&jpeg).is_ok());
}

#[test]
fn damaged_files_never_panic() {
    let mut below = draws(20);
    for name in ["tall.jpg", "sampled.jpg", "palette.png", "lossy.webp", "lossless.webp"] {
        let whole = std::fs::read(fixture("images").join(name)).unwrap();
        for _ in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..=below(4) {
                let at = below(bytes.len());
                bytes[at] = below(256) as u8;
            }
            if let Ok(picture) = decode(&bytes) {
                assert!(!picture.pixels().is_empty());
            }
        }
    }
}

#[test]
fn long_strips_are_scaled_only_where_they_are_seen() {
    let strip = Picture::new(16_384, 1, vec![9; 16_384 * 3]).unwrap();
    let mut spec = ImageSpec::square(224, [0.0; 3], [1.0; 3]);
    spec.resize = Resize::ShortestSide(256);
    let tensor = spec.tensor(&strip).unwrap();
    assert!(tensor.as_slice::<f32>().unwrap().iter().all(|&v| (v - 9.0 / 255.0).abs() < 1e-6));
    assert!(Picture::new(2, 2, vec![0; 11]).is_none() && Picture::new(0, 2, vec![]).is_none());
}

#[test]
fn augmentation_depends_on_the_seed_and_stream_alone() {
    let picture = decode(&encoded(scene(40, 30), ImageFormat::Png)).unwrap();
    let spec = ImageSpec::square(16, [0.5; 3], [0.5; 3]);
    for crop in [Crop::None, Crop::Padded(4), Crop::Resized(0.3)] {
        let augment = Augment { flip: true, crop };
        let view = |seed, stream| augment.tensor(&picture, &spec, seed, stream).unwrap();
        let bytes = |seed, stream| view(seed, stream).bytes().to_vec();
        assert_eq!(view(1, 2).shape(), [3, 16, 16]);
        assert_eq!(bytes(1, 2), bytes(1, 2));
        let mut seen: Vec<_> =
            (0..16).map(|s| bytes(7, s)).chain((0..16).map(|s| bytes(s, 7))).collect();
        seen.sort();
        seen.dedup();
        let least = if crop == Crop::None { 2 } else { 16 };
        assert!(seen.len() >= least, "{crop:?}: {} views", seen.len());
    }
    let still = Augment::default().tensor(&picture, &spec, 3, 4).unwrap();
    assert_eq!(still.bytes(), spec.tensor(&picture).unwrap().bytes());
}

#[test]
fn views_are_mirrored_moved_and_cut() {
    let spec = ImageSpec::square(8, [0.0; 3], [1.0; 3]);
    // The red of a pixel is its column, the green its row.
    let pixels = (0..64).flat_map(|i| [i as u8 % 8 * 20 + 10, i as u8 / 8 * 20 + 10, 77]).collect();
    let picture = Picture::new(8, 8, pixels).unwrap();
    let view = |augment: Augment, stream| {
        let tensor = augment.tensor(&picture, &spec, 5, stream).unwrap();
        tensor
            .as_slice::<f32>()
            .unwrap()
            .iter()
            .map(|v| (v * 255.0).round() as i32)
            .collect::<Vec<_>>()
    };
    let straight = view(Augment::default(), 0);
    let flip = Augment { flip: true, crop: Crop::None };
    let mut mirrored = 0;
    for stream in 0..200 {
        let have = view(flip, stream);
        if have != straight {
            mirrored += 1;
            let turned = have.chunks(8).flat_map(|row| row.iter().rev().copied());
            assert_eq!(turned.collect::<Vec<_>>(), straight);
        }
    }
    assert!((70..130).contains(&mirrored), "{mirrored} of 200");

    for stream in 0..50 {
        let have = view(Augment { flip: false, crop: Crop::Padded(2) }, stream);
        // The blue of the original is 77; what came into view is black.
        let inside = have[128..].iter().filter(|&&v| v == 77).count();
        assert!([36, 42, 48, 49, 56, 64].contains(&inside), "{inside}");
        assert_eq!(have[128..].iter().filter(|&&v| v == 0).count(), 64 - inside);

        let have = view(Augment { flip: false, crop: Crop::Resized(0.5) }, stream);
        let (red, green) = (&have[..8], &have[64..128]);
        assert!(red.windows(2).all(|w| w[0] <= w[1]), "{red:?}");
        let (wide, tall) = (red[7] - red[0] + 20, green[56] - green[0] + 20);
        assert!(wide * tall >= 160 * 160 * 2 / 5, "{wide} x {tall}");
    }
    for crop in
        [Crop::Resized(0.0), Crop::Resized(f64::NAN), Crop::Resized(1.1), Crop::Padded(9999)]
    {
        let error = Augment { flip: false, crop }.tensor(&picture, &spec, 0, 0).unwrap_err();
        assert_eq!(error.code(), "data.spec");
    }
    let whole = Augment { flip: false, crop: Crop::Resized(1.0) };
    for picture in [Picture::new(1, 500, vec![3; 1500]), Picture::new(1, 1, vec![3; 3])] {
        assert!(whole.tensor(&picture.unwrap(), &spec, 0, 0).is_ok());
    }
}

#[test]
fn a_grey_backbone_gets_one_channel() {
    let mut bytes = Vec::new();
    let grey: Vec<u8> = (0..64).map(|v| v * 4).collect();
    let mut encoder = Cursor::new(&mut bytes);
    image::write_buffer_with_format(
        &mut encoder,
        &grey,
        8,
        8,
        ExtendedColorType::L8,
        ImageFormat::Png,
    )
    .unwrap();
    let picture = decode(&bytes).unwrap();
    let spec = ImageSpec {
        channels: 1,
        mean: vec![0.0],
        std: vec![1.0 / 255.0],
        ..ImageSpec::square(8, [0.0; 3], [1.0; 3])
    };
    let tensor = spec.tensor(&picture).unwrap();
    assert_eq!(tensor.shape(), [1, 8, 8]);
    let values = tensor.as_slice::<f32>().unwrap();
    assert!(values.iter().zip(&grey).all(|(a, b)| (a - f32::from(*b)).abs() < 1e-3));
}
