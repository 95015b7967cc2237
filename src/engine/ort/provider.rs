//! Execution providers: what in ONNX Runtime runs the nodes.

use std::fmt;
use std::num::NonZeroUsize;

use ort::AsPointer;
use ort::ep::{self, ExecutionProvider};
use ort::session::builder::SessionBuilder;

use crate::engine::Compute;

/// Who runs forward programs, in place of the operators that share the mapped weights. What a provider
/// cannot run, ONNX Runtime's own kernels do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Provider {
    /// ONNX Runtime's own kernels.
    Cpu,
    Xnnpack,
    CoreMl,
    Nnapi,
    Qnn,
    Cuda,
    OpenVino,
    DirectMl,
    WebGpu,
}

impl Provider {
    /// All that have a name here.
    pub const ALL: [Provider; 9] = [
        Provider::Cpu,
        Provider::Xnnpack,
        Provider::CoreMl,
        Provider::Nnapi,
        Provider::Qnn,
        Provider::Cuda,
        Provider::OpenVino,
        Provider::DirectMl,
        Provider::WebGpu,
    ];

    /// A short name, such as `xnnpack`.
    pub fn name(self) -> &'static str {
        match self {
            Provider::Cpu => "cpu",
            Provider::Xnnpack => "xnnpack",
            Provider::CoreMl => "coreml",
            Provider::Nnapi => "nnapi",
            Provider::Qnn => "qnn",
            Provider::Cuda => "cuda",
            Provider::OpenVino => "openvino",
            Provider::DirectMl => "directml",
            Provider::WebGpu => "webgpu",
        }
    }

    /// The provider of that name.
    pub fn find(name: &str) -> Option<Provider> {
        Provider::ALL.into_iter().find(|p| p.name() == name)
    }

    /// Whether the loaded library was built with it.
    pub(super) fn available(self) -> bool {
        let there = match self {
            Provider::Cpu => return true,
            Provider::Xnnpack => ep::XNNPACK::is_available(),
            Provider::CoreMl => ep::CoreML::is_available(),
            Provider::Nnapi => ep::NNAPI::is_available(),
            Provider::Qnn => ep::QNN::is_available(),
            Provider::Cuda => ep::CUDA::is_available(),
            Provider::OpenVino => ep::OpenVINO::is_available(),
            Provider::DirectMl => ep::DirectML::is_available(),
            Provider::WebGpu => WebGpu::is_available(),
        };
        there.unwrap_or(false)
    }

    /// Whether it runs products with constant floats alone. Stored integers then become floats when a
    /// session is made, which takes four times the memory; otherwise nothing would run on it.
    pub(super) fn wants_floats(self) -> bool {
        matches!(self, Provider::Xnnpack | Provider::CoreMl | Provider::Nnapi)
    }

    /// Adds it to a session; fails where it does not start. Those with threads of their own get
    /// `threads`.
    pub(super) fn add(
        self,
        mut builder: SessionBuilder,
        threads: usize,
        compute: Compute,
    ) -> ort::Result<SessionBuilder> {
        let to = &mut builder;
        match self {
            // Always there, behind all others.
            Provider::Cpu => Ok(()),
            Provider::Xnnpack => {
                let threads = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
                ep::XNNPACK::default().with_intra_op_num_threads(threads).register(to)
            }
            Provider::CoreMl => {
                // The older format has products of matrices alone, not of batches.
                let format = ep::coreml::ModelFormat::MLProgram;
                ep::CoreML::default().with_model_format(format).register(to)
            }
            Provider::Nnapi => ep::NNAPI::default().register(to),
            Provider::Qnn => ep::QNN::default().register(to),
            Provider::Cuda => ep::CUDA::default().register(to),
            Provider::OpenVino => {
                let openvino = ep::OpenVINO::default().with_num_threads(threads);
                match compute {
                    // Or it rounds x to int8 where weights are stored as integers, also with FP32.
                    Compute::F32 => openvino.with_precision("ACCURACY").register(to),
                    Compute::Int8 => openvino.register(to),
                }
            }
            Provider::DirectMl => ep::DirectML::default().register(to),
            Provider::WebGpu => WebGpu.register(to),
        }?;
        Ok(builder)
    }
}

/// Added by its name: the crate's own needs another crate to build.
struct WebGpu;

impl ExecutionProvider for WebGpu {
    const NAME: &'static str = "WebGpuExecutionProvider";

    fn register(&self, builder: &mut SessionBuilder) -> ort::Result<()> {
        let append = ort::api().SessionOptionsAppendExecutionProvider;
        // SAFETY: the options and the name live through the call, and there are no settings to read.
        unsafe {
            let none = std::ptr::null();
            let status = append(builder.ptr_mut(), c"WebGPU".as_ptr(), none, none, 0);
            ort::Error::result_from_status(status)
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
