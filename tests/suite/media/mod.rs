//! Tests: pictures, sounds and arrays as input, and data sets of files.

mod arrays;
#[cfg(feature = "image")]
mod pictures;
mod sets;
mod sounds;
mod specs;

#[cfg(not(feature = "image"))]
#[test]
fn what_was_left_out_of_the_build_is_named() {
    use edge_tune::data::{Dataset, Picture};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.zip");
    std::fs::write(&path, b"PK\x05\x06").unwrap();
    for error in
        [Dataset::open(&path).unwrap_err(), Picture::decode(b"\x89PNG", &path).unwrap_err()]
    {
        assert_eq!(error.code(), "data.not-built");
        assert!(error.to_string().contains("set.zip: built without the feature \"image\""));
    }
}
