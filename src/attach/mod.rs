//! TODO(attach)
