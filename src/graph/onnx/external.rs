use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::tensor::{DType, Tensor, byte_len};

/// External weights were refused.
#[derive(Debug, thiserror::Error)]
#[error("tensor `{tensor}`, external data `{location}`: {kind}")]
pub struct ExternalError {
    tensor: String,
    location: String,
    kind: Kind,
}

#[derive(Debug, thiserror::Error)]
enum Kind {
    #[error("the location must be a bare file name in the model's own folder")]
    Location,
    #[error("key `{0}` is not one of location, offset, length, checksum")]
    Key(String),
    #[error("`{0}` is not a whole number")]
    Number(String),
    #[error("the file is a link, a folder or a device; put the weights there as a plain file")]
    NotPlain,
    #[error("the file has {0} names (hard links) and may be another program's; copy it")]
    HardLink(u64),
    #[error(
        "bytes {offset}..{end} lie outside the file of {have} bytes; it was cut short or belongs to another model"
    )]
    TooShort { offset: u64, end: u64, have: u64 },
    #[error("the length is {have} bytes, shape and type need {want}")]
    Length { have: u64, want: u64 },
    #[error("this model may not have external data")]
    NoFolder,
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl ExternalError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match self.kind {
            Kind::Location => "onnx.external-path",
            Kind::Key(_) | Kind::Number(_) => "onnx.external-key",
            Kind::NotPlain | Kind::HardLink(_) => "onnx.external-link",
            Kind::TooShort { .. } | Kind::Length { .. } => "onnx.external-length",
            Kind::NoFolder => "onnx.external-none",
            Kind::Io(_) => "onnx.external-io",
        }
    }
}

/// Maps the files that hold a model's external weights.
///
/// The ONNX specification allows any relative path. Here a location must be a bare file name, so
/// that a model can never name a file outside its folder; and the file must be a plain one, so
/// that it cannot be a link that leads outside either.
#[derive(Default)]
pub struct ExternalData {
    folder: Option<PathBuf>,
    /// The files are of an export that is not trusted, and not bound by any digest.
    foreign: bool,
    maps: HashMap<String, Arc<Mmap>>,
}

impl ExternalData {
    /// External files lie in `folder`.
    pub fn in_folder(folder: &Path) -> ExternalData {
        ExternalData { folder: Some(folder.to_owned()), ..ExternalData::default() }
    }

    /// The same, which also refuses files with more than one name: an archive can make a hard link
    /// to a file of its reader.
    pub fn foreign(self) -> ExternalData {
        ExternalData { foreign: true, ..self }
    }

    /// External data is refused.
    pub fn none() -> ExternalData {
        ExternalData::default()
    }

    /// The tensor that the key-value pairs of a `TensorProto` describe.
    ///
    /// # Errors
    /// [`ExternalError`] naming tensor and file.
    pub fn tensor<'a>(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        entries: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Tensor, ExternalError> {
        let mut location = String::new();
        self.open(dtype, shape, entries, &mut location).map_err(|kind| ExternalError {
            tensor: name.to_owned(),
            location,
            kind,
        })
    }

    fn open<'a>(
        &mut self,
        dtype: DType,
        shape: &[usize],
        entries: impl Iterator<Item = (&'a str, &'a str)>,
        location: &mut String,
    ) -> Result<Tensor, Kind> {
        let number = |v: &str| v.parse::<u64>().map_err(|_| Kind::Number(v.to_owned()));
        let (mut offset, mut length) = (0, None);
        for (key, value) in entries {
            match key {
                "location" => *location = value.to_owned(),
                "offset" => offset = number(value)?,
                "length" => length = Some(number(value)?),
                "checksum" => {}
                other => return Err(Kind::Key(other.to_owned())),
            }
        }
        let map = self.map(location)?;
        let have = map.len() as u64;
        let want = byte_len(dtype, shape).map_or(u64::MAX, |n| n as u64);
        if let Some(length) = length
            && length != want
        {
            return Err(Kind::Length { have: length, want });
        }
        let end = offset.saturating_add(want);
        if end > have {
            return Err(Kind::TooShort { offset, end, have });
        }
        let start = offset as usize;
        if start.is_multiple_of(dtype.size()) {
            return Tensor::mapped(dtype, shape, map, start).map_err(|_| Kind::TooShort {
                offset,
                end,
                have,
            });
        }
        // Allowed by the format, though nobody writes it: an unaligned tensor is copied.
        Tensor::from_bytes(dtype, shape, &map[start..end as usize]).map_err(|_| Kind::TooShort {
            offset,
            end,
            have,
        })
    }

    fn map(&mut self, location: &str) -> Result<Arc<Mmap>, Kind> {
        if let Some(map) = self.maps.get(location) {
            return Ok(map.clone());
        }
        let folder = self.folder.as_ref().ok_or(Kind::NoFolder)?;
        let bare = !location.is_empty()
            && !location.starts_with('.')
            && !location.contains(['/', '\\', ':', '\0'])
            && Path::new(location).file_name().is_some_and(|n| n == location);
        if !bare {
            return Err(Kind::Location);
        }
        let file = open_plain(&folder.join(location))?.ok_or(Kind::NotPlain)?;
        #[cfg(unix)]
        if self.foreign {
            use std::os::unix::fs::MetadataExt;
            let names = file.metadata()?.nlink();
            if names > 1 {
                return Err(Kind::HardLink(names));
            }
        }
        let map = Arc::new(crate::fs::map_file(&file)?);
        self.maps.insert(location.to_owned(), map.clone());
        Ok(map)
    }
}

/// Opens a regular file without following a final symbolic link; `None` if it is anything else.
fn open_plain(path: &Path) -> std::io::Result<Option<File>> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    }
    if path.symlink_metadata()?.file_type().is_symlink() {
        return Ok(None);
    }
    let file = options.open(path)?;
    Ok(file.metadata()?.is_file().then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(dir: &Path, location: &str, extra: &[(&str, &str)]) -> Result<Tensor, &'static str> {
        let mut entries = vec![("location", location)];
        entries.extend_from_slice(extra);
        ExternalData::in_folder(dir)
            .tensor("w", DType::I8, &[4], entries.into_iter())
            .map_err(|e| e.code())
    }

    #[test]
    fn only_plain_files_of_the_same_folder() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("model");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(dir.path().join("secret"), [9; 8]).unwrap();
        std::fs::write(inner.join("w.bin"), [1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        std::fs::create_dir(inner.join("folder")).unwrap();
        let ok = load(&inner, "w.bin", &[("offset", "4"), ("length", "4")]).unwrap();
        assert_eq!(ok.bytes(), [5, 6, 7, 8]);
        for path in ["../secret", "./w.bin", "/etc/passwd", "", "..", "a/../w.bin", "C:w", "a\\b"] {
            assert_eq!(load(&inner, path, &[]).unwrap_err(), "onnx.external-path", "{path}");
        }
        assert_eq!(load(&inner, "gone", &[]).unwrap_err(), "onnx.external-io");
        assert_eq!(load(&inner, "folder", &[]).unwrap_err(), "onnx.external-link");
        for (k, v, code) in [
            ("offset", "5", "onnx.external-length"),
            ("offset", "18446744073709551615", "onnx.external-length"),
            ("offset", "-1", "onnx.external-key"),
            ("length", "3", "onnx.external-length"),
            ("length", "4611686018427387904", "onnx.external-length"),
            ("__class__", "x", "onnx.external-key"),
        ] {
            assert_eq!(load(&inner, "w.bin", &[(k, v)]).unwrap_err(), code, "{k}={v}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("../secret", inner.join("link")).unwrap();
            assert_eq!(load(&inner, "link", &[]).unwrap_err(), "onnx.external-link");
        }
    }
}
