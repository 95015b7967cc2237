//! The default engine: pure Rust, over tract.
