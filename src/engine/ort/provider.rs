//! Execution providers: what in ONNX Runtime runs the nodes.

use std::fmt;

use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};

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
            Provider::WebGpu => ep::WebGPU::is_available(),
        };
        there.unwrap_or(false)
    }

    /// What a session asks for; it fails where the provider does not start.
    pub(super) fn dispatch(self) -> ExecutionProviderDispatch {
        let dispatch = match self {
            Provider::Cpu => ep::CPU::default().build(),
            Provider::Xnnpack => ep::XNNPACK::default().build(),
            Provider::CoreMl => ep::CoreML::default().build(),
            Provider::Nnapi => ep::NNAPI::default().build(),
            Provider::Qnn => ep::QNN::default().build(),
            Provider::Cuda => ep::CUDA::default().build(),
            Provider::OpenVino => ep::OpenVINO::default().build(),
            Provider::DirectMl => ep::DirectML::default().build(),
            Provider::WebGpu => ep::WebGPU::default().build(),
        };
        dispatch.error_on_failure()
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
