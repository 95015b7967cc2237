//! All integration tests, in one binary so that the engine is linked once.

mod attach;
mod backbones;
mod bad_input;
mod cli;
mod data;
mod delta;
mod engine;
mod memory;
mod methods;
mod prepare;
mod store;
mod support;
mod swap;
mod train;
mod vjp;
