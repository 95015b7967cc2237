//! One arena for the intermediate values of all sessions.
//!
//! By default each session keeps an arena of its own, which grows to the next power of two. The
//! crate has no safe calls for another one.

use std::ffi::CStr;
use std::ptr;

use ort::AsPointer;
use ort::environment::Environment;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::sys::OrtStatusPtr;

/// Grow by what is asked for.
const AS_REQUESTED: i32 = 1;
/// The default of ONNX Runtime.
const DEFAULT: i32 = -1;

/// Gives `environment` an arena for the sessions that ask for it.
pub(super) fn register(environment: &Environment) -> Result<(), String> {
    let place =
        MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Arena, MemoryType::Default);
    let place = place.map_err(|e| e.to_string())?;
    let api = ort::api();
    let mut arena = ptr::null_mut();
    // SAFETY: `arena` is a place for the result, which is released below.
    check(unsafe { (api.CreateArenaCfg)(0, AS_REQUESTED, DEFAULT, DEFAULT, &mut arena) })?;
    // SAFETY: all three live through the call, which copies what it keeps; an environment may be
    // changed through a shared pointer, as the crate itself does.
    let registered = unsafe {
        (api.CreateAndRegisterAllocator)(environment.ptr().cast_mut(), place.ptr(), arena)
    };
    // SAFETY: made above, and used no more.
    unsafe { (api.ReleaseArenaCfg)(arena) };
    check(registered)
}

/// The message of a status that is not fine.
fn check(status: OrtStatusPtr) -> Result<(), String> {
    if status.0.is_null() {
        return Ok(());
    }
    let api = ort::api();
    // SAFETY: the status is not null, its message is a string that lives as long, and it is
    // released once.
    unsafe {
        let message =
            CStr::from_ptr((api.GetErrorMessage)(status.0)).to_string_lossy().into_owned();
        (api.ReleaseStatus)(status.0);
        Err(message)
    }
}
