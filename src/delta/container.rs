//! The safetensors container: bytes to named tensors and back.
//!
//! Stricter than the format asks: no duplicate keys, no holes, no overlaps, no trailing bytes, no
//! empty tensors, and every limit is checked before memory is taken for what it limits. The
//! writer is deterministic, so that one delta has one digest.

use std::collections::BTreeMap;
use std::fmt;

use half::f16;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{DeltaError, MAX_FILE_BYTES, MAX_HEADER_BYTES, MAX_RANK, MAX_TENSORS, Metadata};
use crate::tensor::{DType, Tensor, byte_len};

/// Bytes of the header length at the start of the file.
const LENGTH_BYTES: usize = 8;
const METADATA_KEY: &str = "__metadata__";
const MAX_NAME_BYTES: usize = 128;

/// The strings under `__metadata__`.
pub(super) type Strings = BTreeMap<String, String>;

/// Reads a whole file. `file` names it in errors.
pub(super) fn decode(
    bytes: &[u8],
    file: &str,
) -> Result<(Strings, BTreeMap<String, Tensor>), DeltaError> {
    let (header, data) = split(bytes, file)?;
    let data_at = (bytes.len() - data.len()) as u64;
    if header.tensors.len() > MAX_TENSORS {
        return Err(DeltaError::TooManyTensors { file: file.into(), count: header.tensors.len() });
    }
    // Holes and overlaps show once the ranges are in the order of the bytes.
    let mut entries: Vec<(&String, &Info)> = header.tensors.iter().collect();
    entries.sort_by_key(|(_, info)| info.data_offsets);
    let mut tensors = BTreeMap::new();
    let mut at = 0;
    for (name, info) in entries {
        let (dtype, shape, end) = check(name, info, at as u64, file)?;
        let Some(bytes) = usize::try_from(end).ok().and_then(|end| data.get(at..end)) else {
            let (have, want) = (bytes.len() as u64, data_at.saturating_add(end));
            return Err(DeltaError::Truncated { file: file.into(), have, want });
        };
        at += bytes.len();
        if let Some((index, value)) = first_non_finite(dtype, bytes) {
            let tensor = name.clone();
            return Err(DeltaError::NotFinite { file: file.into(), tensor, index, value });
        }
        let tensor =
            Tensor::from_bytes(dtype, &shape, bytes).map_err(|_| size(name, info, file))?;
        tensors.insert(name.clone(), tensor);
    }
    if at != data.len() {
        return Err(DeltaError::Trailing { file: file.into(), bytes: (data.len() - at) as u64 });
    }
    Ok((header.metadata, tensors))
}

/// Length of the header that the first bytes of a file of `have` bytes promise.
pub(super) fn header_bytes(start: &[u8], have: u64, file: &str) -> Result<u64, DeltaError> {
    let truncated = |want| DeltaError::Truncated { file: file.into(), have, want };
    let length = start.first_chunk::<LENGTH_BYTES>().ok_or(truncated(LENGTH_BYTES as u64))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES as u64 {
        return Err(DeltaError::HeaderLength { file: file.into(), bytes: length });
    }
    Ok(length)
}

/// The metadata of a file; its tensors need not be there.
pub(super) fn metadata(bytes: &[u8], file: &str) -> Result<Metadata, DeltaError> {
    Metadata::from_strings(split(bytes, file)?.0.metadata, file)
}

/// Writes a whole file: widest elements first so that all are aligned, then by name.
pub(super) fn encode(
    metadata: &Strings,
    tensors: &BTreeMap<String, Tensor>,
    file: &str,
) -> Result<Vec<u8>, DeltaError> {
    let mut ordered: Vec<(&String, &Tensor)> = tensors.iter().collect();
    ordered.sort_by_key(|(_, t)| std::cmp::Reverse(t.dtype().size()));
    let mut infos = Vec::with_capacity(ordered.len());
    let mut at = 0;
    for (name, tensor) in &ordered {
        let end = at + tensor.bytes().len() as u64;
        let shape = tensor.shape().iter().map(|&d| d as u64).collect();
        let dtype = match tensor.dtype() {
            DType::F16 => "F16",
            DType::F32 => "F32",
            DType::I64 => "I64",
            other => {
                let (tensor, dtype) = ((*name).clone(), other.to_string());
                return Err(DeltaError::Type { file: file.into(), tensor, dtype });
            }
        };
        infos.push((*name, Info { dtype: dtype.into(), shape, data_offsets: (at, end) }));
        at = end;
    }
    let mut header = serde_json::to_vec(&Written { metadata, tensors: &infos })
        .map_err(|e| DeltaError::Header { file: file.into(), reason: e.to_string() })?;
    header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');
    if header.len() > MAX_HEADER_BYTES {
        return Err(DeltaError::HeaderLength { file: file.into(), bytes: header.len() as u64 });
    }
    let total = (LENGTH_BYTES + header.len()) as u64 + at;
    if total > MAX_FILE_BYTES {
        return Err(DeltaError::TooLarge { file: file.into(), bytes: total });
    }
    let mut out = Vec::with_capacity(total as usize);
    out.extend((header.len() as u64).to_le_bytes());
    out.extend(header);
    for (_, tensor) in ordered {
        out.extend(tensor.bytes());
    }
    Ok(out)
}

/// One tensor in the header.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

struct Header {
    metadata: Strings,
    tensors: BTreeMap<String, Info>,
}

/// Cuts the file into its header and its tensor bytes.
fn split<'a>(bytes: &'a [u8], file: &str) -> Result<(Header, &'a [u8]), DeltaError> {
    let have = bytes.len() as u64;
    if have > MAX_FILE_BYTES {
        return Err(DeltaError::TooLarge { file: file.into(), bytes: have });
    }
    let truncated = |want| DeltaError::Truncated { file: file.into(), have, want };
    let length = header_bytes(bytes, have, file)?;
    let (text, data) = bytes[LENGTH_BYTES..]
        .split_at_checked(length as usize)
        .ok_or_else(|| truncated(LENGTH_BYTES as u64 + length))?;
    let bad = |reason: String| DeltaError::Header { file: file.into(), reason };
    let text = std::str::from_utf8(text).map_err(|e| bad(format!("not UTF-8: {e}")))?;
    if !text.starts_with('{') {
        return Err(bad("it does not start with `{`".into()));
    }
    let header = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    Ok((header, data))
}

/// Checks one tensor of the header and returns its type, its shape and where it ends. `at` is
/// where the tensor before it ended.
fn check(
    name: &str,
    info: &Info,
    at: u64,
    file: &str,
) -> Result<(DType, Vec<usize>, u64), DeltaError> {
    let (file, tensor) = (|| file.to_string(), || name.to_string());
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(plain) {
        let tensor = name.chars().take(MAX_NAME_BYTES).collect();
        return Err(DeltaError::TensorName { file: file(), tensor });
    }
    if info.shape.len() > MAX_RANK {
        let rank = info.shape.len();
        return Err(DeltaError::Rank { file: file(), tensor: tensor(), rank });
    }
    let dtype = match info.dtype.as_str() {
        "F16" => DType::F16,
        "F32" => DType::F32,
        "I64" => DType::I64,
        other => {
            let dtype = other.chars().take(16).collect::<String>().escape_debug().to_string();
            return Err(DeltaError::Type { file: file(), tensor: tensor(), dtype });
        }
    };
    let (begin, end) = info.data_offsets;
    let offsets =
        |reason| DeltaError::Offsets { file: file(), tensor: tensor(), begin, end, reason };
    if end < begin {
        return Err(offsets("the range runs backwards"));
    }
    if begin < at {
        return Err(offsets("the range overlaps the tensor before it"));
    }
    if begin > at {
        return Err(offsets("the range leaves a hole before it"));
    }
    let shape: Option<Vec<usize>> = info.shape.iter().map(|&d| usize::try_from(d).ok()).collect();
    let want = shape.as_ref().and_then(|s| byte_len(dtype, s)).filter(|&n| n > 0);
    let (Some(shape), Some(want)) = (shape, want) else {
        return Err(size(name, info, &file()));
    };
    if want as u64 != end - begin {
        return Err(size(name, info, &file()));
    }
    Ok((dtype, shape, end))
}

fn size(name: &str, info: &Info, file: &str) -> DeltaError {
    DeltaError::Size {
        file: file.into(),
        tensor: name.into(),
        dtype: info.dtype.clone(),
        shape: info.shape.clone(),
        bytes: info.data_offsets.1.saturating_sub(info.data_offsets.0),
    }
}

/// Position and value of the first NaN or infinity.
fn first_non_finite(dtype: DType, bytes: &[u8]) -> Option<(usize, f32)> {
    let bad = |(i, v): (usize, f32)| (!v.is_finite()).then_some((i, v));
    match dtype {
        DType::F16 => bytes
            .chunks_exact(2)
            .map(|c| bytemuck::pod_read_unaligned::<f16>(c).to_f32())
            .enumerate()
            .find_map(bad),
        DType::F32 => {
            bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned::<f32>).enumerate().find_map(bad)
        }
        _ => None,
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Header, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut metadata = None;
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let in_tensor = |e| A::Error::custom(format!("`{}`: {e}", name.escape_debug()));
                    let twice = if name == METADATA_KEY {
                        let UniqueStrings(strings) = map.next_value().map_err(in_tensor)?;
                        metadata.replace(strings).is_some()
                    } else {
                        let info: Info = map.next_value().map_err(in_tensor)?;
                        tensors.insert(name.clone(), info).is_some()
                    };
                    if twice {
                        return Err(in_tensor(A::Error::custom("the key appears twice")));
                    }
                }
                Ok(Header { metadata: metadata.unwrap_or_default(), tensors })
            }
        }
        from.deserialize_map(Entries)
    }
}

/// The metadata: an object of strings in which no key appears twice.
struct UniqueStrings(Strings);

impl<'de> Deserialize<'de> for UniqueStrings {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<UniqueStrings, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = UniqueStrings;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueStrings, A::Error> {
                let mut all = Strings::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if all.contains_key(&key) {
                        return Err(A::Error::custom(format!("key {key:?} appears twice")));
                    }
                    all.insert(key, value);
                }
                Ok(UniqueStrings(all))
            }
        }
        from.deserialize_map(Entries)
    }
}

/// The header on its way out: metadata first, then the tensors in the order of their bytes.
struct Written<'a> {
    metadata: &'a Strings,
    tensors: &'a [(&'a String, Info)],
}

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = to.serialize_map(Some(1 + self.tensors.len()))?;
        map.serialize_entry(METADATA_KEY, self.metadata)?;
        for (name, info) in self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}
