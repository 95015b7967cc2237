//! Tests: delta.
