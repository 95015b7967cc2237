//! TODO(autodiff)
