//! edge-tune: one frozen, quantized backbone, memory-mapped; hundreds of tiny per-task deltas,
//! hot-swapped and trained on the device.
//!
//! # Guide
//!
//! A **backbone** is a directory made once from an ONNX export by [`backbone::prepare`]: its int8
//! weights are mapped, never copied. A **delta** is one task: a safetensors file of 10 to 500 KB
//! that holds what a tuning **method** trained (prompts, prefixes, biases, adapters, LoRA, heads),
//! bound to the backbone by its digest. A [`runtime::Model`] is a loaded backbone with any number
//! of resident deltas; swapping between them passes other tensors to the same program.
//!
//! ## Predict
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use edge_tune::engine::tract::TractEngine;
//! use edge_tune::runtime::Model;
//!
//! let engine = Arc::new(TractEngine::with_threads(2));
//! let model = Model::open(Path::new("models/minilm-l6"), engine)?;
//! model.apply(Path::new("intents.safetensors"))?; // validate, self-test, make active
//! let answer = model.predict("could you dim the lights")?;
//! println!("{} (generation {})", answer.label, answer.generation);
//! # Ok::<(), edge_tune::Error>(())
//! ```
//!
//! ## Swap
//!
//! Other threads may predict meanwhile: each prediction uses the one generation it started with
//! and returns its number. A delta that is refused leaves the old one active.
//!
//! ```no_run
//! # use std::path::Path;
//! # use edge_tune::delta::Delta;
//! # fn swap(model: &edge_tune::runtime::Model) -> Result<(), edge_tune::Error> {
//! let weather = model.load(&Delta::read(Path::new("weather.safetensors"))?)?;
//! let music = model.load(&Delta::read(Path::new("music.safetensors"))?)?;
//! let generation = model.swap(&weather);
//! model.compare_and_swap(generation, &music)?; // refused if somebody else swapped meanwhile
//! # Ok(())
//! # }
//! ```
//!
//! ## Calibrate
//!
//! Training runs on the same engine over the same mapped weights; only the delta's tensors get
//! gradients.
//!
//! ```no_run
//! # use std::path::Path;
//! # fn train(model: &edge_tune::runtime::Model) -> Result<(), edge_tune::Error> {
//! use edge_tune::data::Dataset;
//! use edge_tune::methods::{self, Settings};
//! use edge_tune::train::{Options, Task, calibrate};
//!
//! let data = Dataset::open("examples/home-intents.csv")?;
//! let few = data.shots(&data.split("train")?, 8, 0)?;
//! let (train, validation) = data.holdout(&few, 0.25, 0)?;
//! let method = methods::find("lora")?;
//! let settings = Settings::resolve(method, [("rank", "4")])?;
//! let task = Task::new(model, method, settings, &data, &train, &validation)?.named("intents");
//! let options = Options { max_ram: Some(200 << 20), ..Options::default() };
//! let (delta, report) = calibrate(&task, &options, &mut ())?;
//! println!("validation accuracy {:?}", report.validation_accuracy);
//! delta.write(Path::new("intents.safetensors"))?;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/home_intents.rs` does all of this on real input.
//!
//! ## Rooms
//!
//! Data flows one way: [`backbone`] -> [`graph`] -> [`attach`] -> [`autodiff`] -> [`engine`] ->
//! [`runtime`] and [`train`]. [`methods`] says what a method trains and where it attaches,
//! [`delta`] is the file, [`store`] the device's directory of installed deltas, [`data`] reads
//! labelled input, `fetch` (feature `pull`) gets signed deltas over the network, [`plot`] draws
//! results. Every error has a stable code: [`Error::code`].

pub mod attach;
pub mod autodiff;
pub mod backbone;
pub mod data;
pub mod delta;
pub mod engine;
mod error;
pub mod explain;
#[cfg(feature = "pull")]
pub mod fetch;
mod fs;
#[doc(hidden)]
pub mod fuzzing;
pub mod graph;
pub mod methods;
mod parallel;
pub mod plot;
pub mod runtime;
pub mod store;
pub mod tensor;
pub mod train;

pub use error::Error;
