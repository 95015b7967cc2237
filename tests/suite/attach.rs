//! Tests: attach.
