//! Tests: vjp.
