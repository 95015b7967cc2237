use std::path::Path;

use edge_tune::data::{ArraySpec, AudioSpec, ImageSpec, Interpolation, MediaSpec, Place, Resize};

fn read(json: &str) -> Result<ImageSpec, String> {
    ImageSpec::from_json(json.as_bytes(), Path::new("preprocessor_config.json")).map_err(|e| {
        assert_eq!(e.code(), "data.spec");
        let shown = e.to_string();
        assert!(shown.contains("preprocessor_config.json"), "{shown}");
        shown
    })
}

#[test]
fn configurations_of_hugging_face_are_followed() {
    let clip = read(
        r#"{"crop_size": {"height": 224, "width": 224}, "do_center_crop": true,
            "do_convert_rgb": true, "do_normalize": true, "do_rescale": true, "do_resize": true,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_processor_type": "CLIPImageProcessor",
            "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3,
            "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 224}}"#,
    )
    .unwrap();
    assert_eq!(clip.size, [224, 224]);
    assert_eq!(clip.resize, Resize::ShortestSide(224));
    assert_eq!(clip.interpolation, Interpolation::Bicubic);
    assert!((clip.mean[0] - 0.481_454_66).abs() < 1e-6 && (clip.std[2] - 0.275_777).abs() < 1e-5);

    // As older versions write it.
    let old = read(
        r#"{"crop_size": 224, "do_center_crop": true, "do_normalize": true, "do_resize": true,
            "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5], "resample": 3, "size": 256}"#,
    );
    assert_eq!(old.unwrap().resize, Resize::ShortestSide(256));
    let vit = read(
        r#"{"do_normalize": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5], "resample": 2, "size": 224}"#,
    );
    let mut want = ImageSpec::square(224, [0.5; 3], [0.5; 3]);
    assert_eq!(vit.unwrap(), want);
    let resnet = r#"{"crop_pct": 0.875, "do_resize": true, "do_normalize": true,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 3,
        "size": {"shortest_edge": 224}}"#;
    want.interpolation = Interpolation::Bicubic;
    want.resize = Resize::ShortestSide(256);
    assert_eq!(read(resnet).unwrap(), want);
    let large = read(&resnet.replace("\"shortest_edge\": 224", "\"shortest_edge\": 384")).unwrap();
    assert_eq!((large.size, large.resize), ([384, 384], Resize::Stretch));

    // Values in -1..1 by rescaling alone, values in 0..255, a grey model.
    let scale = |more: &str| read(&format!(r#"{{"size": {{"height": 8, "width": 6}}, {more}}}"#));
    let spec = scale(r#""rescale_factor": 0.00784313725490196, "do_normalize": false"#).unwrap();
    assert_eq!((spec.size, spec.mean[0]), ([8, 6], 0.0));
    assert!((spec.std[0] - 0.5).abs() < 1e-6);
    let spec = scale(r#""do_rescale": false, "image_mean": [51], "image_std": [255]"#).unwrap();
    assert_eq!(spec.channels, 1);
    assert!((spec.mean[0] - 0.2).abs() < 1e-6 && (spec.std[0] - 1.0).abs() < 1e-6);
}

#[test]
fn what_cannot_be_followed_is_named() {
    let with = |more: &str| {
        format!(r#"{{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], {more}}}"#)
    };
    let size = r#""size": {"height": 8, "width": 8}"#;
    for (json, message) in [
        ("{".to_owned(), "not JSON"),
        ("[]".to_owned(), "not a JSON object"),
        ("{}".to_owned(), "no size"),
        (with(r#""size": "large""#), "height and width"),
        (with(r#""size": {"shortest_edge": 8}"#), "without a crop"),
        (with(r#""size": {"shortest_edge": 8, "longest_edge": 16}"#), "longest_edge"),
        (with(r#""size": {"shortest_edge": 8}, "crop_size": "x""#), "crop_size \"x\""),
        (with(r#""size": {"shortest_edge": 8}, "crop_size": 9"#), "shortest side of 8"),
        (with(&format!(r#"{size}, "crop_size": 4"#)), "stretched"),
        (with(&format!(r#"{size}, "resample": 1"#)), "resample 1"),
        (with(&format!(r#"{size}, "do_resize": false"#)), "do_resize"),
        (with(&format!(r#"{size}, "do_flip_channel_order": true"#)), "do_flip_channel_order"),
        (with(&format!(r#"{size}, "do_pad": true"#)), "do_pad"),
        (with(&format!(r#"{size}, "rescale_factor": -1"#)), "rescale_factor"),
        (with(r#""size": 100000"#), "1 to 4096"),
        (with(r#""size": 0"#), "1 to 4096"),
        (format!(r#"{{{size}, "image_mean": [0, 0], "image_std": [1, 1]}}"#), "2 channels"),
        (format!(r#"{{{size}, "image_mean": [0, 0, 0], "image_std": [1, 1]}}"#), "2 deviations"),
        (format!(r#"{{{size}, "image_mean": [0], "image_std": [0]}}"#), "std positive"),
        (format!(r#"{{{size}, "image_mean": [0], "image_std": ["x"]}}"#), "no number"),
        (format!(r#"{{{size}, "do_normalize": true}}"#), "needs image_mean"),
        // Our own form.
        (r#"{"size": [8, 8]}"#.to_owned(), "mean"),
        (r#"{"size": [8, 8], "mean": [0], "std": [1]}"#.to_owned(), "1 means"),
        (r#"{"size": [8, 8], "mean": [0], "std": [1], "chanels": 1}"#.to_owned(), "chanels"),
    ] {
        let shown = read(&json).unwrap_err();
        assert!(shown.contains(message), "{json}: {shown}");
    }
}

#[test]
fn specifications_survive_json() {
    let image = ImageSpec {
        size: [64, 48],
        resize: Resize::ShortestSide(72),
        interpolation: Interpolation::Bicubic,
        channels: 1,
        mean: vec![0.5],
        std: vec![0.25],
    };
    let json = serde_json::to_string(&image).unwrap();
    assert_eq!(read(&json).unwrap(), image);
    let audio = AudioSpec { sample_rate: 16_000, samples: 16_000, place: Place::Centre };
    let array = ArraySpec { shape: vec![98, 40] };
    for (spec, shape) in [
        (MediaSpec::Image(image), vec![1, 64, 48]),
        (MediaSpec::Audio(audio), vec![16_000]),
        (MediaSpec::Array(array), vec![98, 40]),
    ] {
        assert!(spec.validate().is_ok());
        assert_eq!(spec.shape(), shape);
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<MediaSpec>(&json).unwrap(), spec, "{json}");
    }
    let short: MediaSpec = serde_json::from_str(
        r#"{"kind": "image", "size": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]}"#,
    )
    .unwrap();
    assert_eq!(short, MediaSpec::Image(ImageSpec::square(8, [0.0; 3], [1.0; 3])));
}
