use std::path::Path;

use crate::Error;
use crate::delta::{Delta, DeltaError, Metadata};
use crate::methods::{self, Settings};

/// What deltas may take on this device. Nothing is limited unless it is said here; what is over a
/// limit is refused before its tensors are read.
///
/// ```
/// use edge_tune::runtime::Budget;
///
/// let budget = Budget { max_rank: Some(16), ..Budget::of_bytes(4 << 20) };
/// assert_eq!(budget.max_resident_bytes, 4 << 20);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Largest file of one delta.
    pub max_delta_bytes: u64,
    /// Bytes of the tensors of all resident deltas.
    pub max_resident_bytes: usize,
    /// Number of resident deltas.
    pub max_resident: usize,
    /// Largest rank of LoRA and width of an adapter's bottleneck.
    pub max_rank: Option<usize>,
    /// Most rows of a prompt or prefix in one layer.
    pub max_prompt: Option<usize>,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget {
            max_delta_bytes: u64::MAX,
            max_resident_bytes: usize::MAX,
            max_resident: usize::MAX,
            max_rank: None,
            max_prompt: None,
        }
    }
}

impl From<usize> for Budget {
    fn from(bytes: usize) -> Budget {
        Budget::of_bytes(bytes)
    }
}

impl Budget {
    /// A limit on the bytes of all resident deltas alone.
    pub fn of_bytes(bytes: usize) -> Budget {
        Budget { max_resident_bytes: bytes, ..Budget::default() }
    }

    /// Reads a delta that is within the limits on one delta. Of any other, only the header is
    /// read.
    ///
    /// # Errors
    /// [`DeltaError::Budget`], or whatever is wrong with the file.
    pub fn read(&self, path: &Path) -> Result<Delta, Error> {
        let name = path.display().to_string();
        let (metadata, bytes) = Delta::read_header(path)?;
        self.check(&metadata, bytes, &name)?;
        let delta = Delta::read(path)?;
        // The file may be another one by now.
        self.check(delta.metadata(), delta.file_bytes(), &name)?;
        Ok(delta)
    }

    /// Checks what a delta of `bytes` says about itself against the limits on one delta; `file`
    /// names it in errors.
    ///
    /// # Errors
    /// [`DeltaError::Budget`] naming the limit.
    pub fn check(&self, metadata: &Metadata, bytes: u64, file: &str) -> Result<(), DeltaError> {
        let over = |what, have, most| {
            let file = file.to_owned();
            Err(DeltaError::Budget { file, what, have, most })
        };
        if bytes > self.max_delta_bytes {
            return over("bytes", bytes, self.max_delta_bytes);
        }
        for (what, names, most) in [
            ("of rank", &["rank", "bottleneck"][..], self.max_rank),
            ("rows of a prompt", &["rows"], self.max_prompt),
        ] {
            let Some(most) = most else { continue };
            let values = names.iter().filter_map(|name| setting(metadata, name));
            if let Some(have) = values.max().filter(|have| *have > most as u64) {
                return over(what, have, most as u64);
            }
        }
        Ok(())
    }
}

/// The number that a delta's method goes by: its setting, or the default of the method. What has
/// none, or is refused later, is not limited.
fn setting(metadata: &Metadata, name: &str) -> Option<u64> {
    let method = methods::find(&metadata.method).ok()?;
    let settings = Settings::from_json(method, &metadata.config).ok()?;
    settings.text(name).ok()?.parse().ok()
}
