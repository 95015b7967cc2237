//! All integration tests, in one binary so that the engine is linked once.

mod attach;
mod attacks;
mod backbones;
mod bad_input;
mod budget;
mod calibrate;
mod cli;
mod compare;
mod crash;
mod data;
mod delta;
mod doctor;
mod engine;
mod engine_choice;
mod explain;
#[cfg(feature = "pull")]
mod fetch;
mod follow;
mod fused;
mod fuzz;
mod int8;
mod lifecycle;
mod media;
mod memory;
mod methods;
#[cfg(feature = "image")]
mod pictures;
mod prepacked;
mod prepare;
mod processes;
mod store;
mod support;
mod swap;
mod train;
mod truncated;
mod vjp;
