//! Tests: prepare.
