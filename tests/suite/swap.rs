//! Tests: swap.
