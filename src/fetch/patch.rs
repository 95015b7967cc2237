//! Patches: from one version of a delta to the next, in fewer bytes than the whole.
//!
//! Two ways to write one, and the shorter is taken. `bsdiff` finds what was moved and what stayed:
//! best where a head grew or few tensors changed. Training further changes every value a little,
//! though, and then nothing stays: the second way writes how far each value moved, in steps of its
//! 16-bit words, low and high bytes apart. Both are lossless for any files and compressed with
//! zlib; the digest of the result decides.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use sha2::{Digest, Sha256};

use super::FetchError;
use crate::delta::MAX_HEADER_BYTES;

/// Largest file that patches are made from or for.
pub const MAX_PATCHED_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes before the compressed part.
pub const PATCH_HEADER_BYTES: usize = 81;

const MAGIC: &[u8; 8] = b"ETPATCH1";
const BSDIFF: u8 = 1;
const WORDS: u8 = 2;

/// What a patch says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Digest of the file that it applies to.
    pub from: String,
    /// Digest of the file that it gives.
    pub to: String,
    /// Size of that file.
    pub bytes: u64,
    way: u8,
}

impl Header {
    /// Reads the header of a patch.
    ///
    /// # Errors
    /// [`FetchError::Patch`] if it is none.
    pub fn parse(patch: &[u8], name: &str) -> Result<Header, FetchError> {
        let head = patch.get(..PATCH_HEADER_BYTES).filter(|h| h.starts_with(MAGIC));
        let head = head.ok_or_else(|| bad(name, "it does not start like a patch"))?;
        let mut length = [0; 8];
        length.copy_from_slice(&head[73..]);
        let bytes = u64::from_le_bytes(length);
        if bytes > MAX_PATCHED_BYTES {
            return Err(bad(name, format!("it gives {bytes} bytes, too many")));
        }
        if ![BSDIFF, WORDS].contains(&head[8]) {
            return Err(bad(name, format!("way {} is not known", head[8])));
        }
        Ok(Header { from: hex(&head[9..41]), to: hex(&head[41..73]), bytes, way: head[8] })
    }
}

/// A patch that makes `new` of `old`. The same files always give the same patch.
///
/// # Errors
/// [`FetchError::Patch`] if one of them is larger than [`MAX_PATCHED_BYTES`].
pub fn make(old: &[u8], new: &[u8], name: &str) -> Result<Vec<u8>, FetchError> {
    if old.len().max(new.len()) as u64 > MAX_PATCHED_BYTES {
        return Err(bad(name, format!("files of at most {MAX_PATCHED_BYTES} bytes have patches")));
    }
    let failed = |e: std::io::Error| bad(name, e.to_string());
    let mut ways = vec![(BSDIFF, bsdiff_of(old, new).map_err(failed)?)];
    ways.extend(words_of(old, new).map_err(failed)?.map(|stream| (WORDS, stream)));
    let mut best: Option<Vec<u8>> = None;
    for (way, stream) in ways {
        let mut patch = Vec::with_capacity(PATCH_HEADER_BYTES);
        patch.extend_from_slice(MAGIC);
        patch.push(way);
        patch.extend_from_slice(&Sha256::digest(old));
        patch.extend_from_slice(&Sha256::digest(new));
        patch.extend_from_slice(&(new.len() as u64).to_le_bytes());
        let mut encoder = ZlibEncoder::new(patch, Compression::best());
        let patch = encoder.write_all(&stream).and_then(|()| encoder.finish()).map_err(failed)?;
        // What the reader's limits would refuse is not written.
        if best.as_ref().is_none_or(|b| patch.len() < b.len()) && apply(old, &patch, name).is_ok() {
            best = Some(patch);
        }
    }
    best.ok_or_else(|| bad(name, "these files are too different for one"))
}

/// The file that `patch` makes of `old`. Memory is taken for no more than the file that the
/// header announces, a few times.
///
/// # Errors
/// [`FetchError::Patch`] if the patch is damaged or for another file: nothing else comes out than
/// the file whose digest it names.
pub fn apply(old: &[u8], patch: &[u8], name: &str) -> Result<Vec<u8>, FetchError> {
    let header = Header::parse(patch, name)?;
    if hex(&Sha256::digest(old)) != header.from {
        return Err(bad(name, "it is for another file"));
    }
    let length = header.bytes as usize;
    let damaged = |e: std::io::Error| bad(name, format!("damaged: {e}"));
    let stream = ZlibDecoder::new(&patch[PATCH_HEADER_BYTES..]);
    let new = match header.way {
        BSDIFF => bsdiff_apply(old, &mut stream.take(stream_limit(length)), length),
        _ => words_apply(old, &mut stream.take(stream_limit(length)), length),
    }
    .map_err(damaged)?;
    match hex(&Sha256::digest(&new)) == header.to {
        true => Ok(new),
        false => Err(bad(name, "damaged: it gives another file than it says")),
    }
}

/// Most bytes to inflate for a file of `length`: a control block of 24 bytes for each 8 of the
/// file, and the file.
fn stream_limit(length: usize) -> u64 {
    4 * length as u64 + 4096
}

fn bsdiff_of(old: &[u8], new: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = Vec::new();
    bsdiff::diff(old, new, &mut stream)?;
    Ok(stream)
}

fn bsdiff_apply(old: &[u8], stream: &mut impl Read, length: usize) -> std::io::Result<Vec<u8>> {
    let mut new = Vec::new();
    bsdiff::patch(old, stream, &mut new)?;
    match new.len() == length {
        true => Ok(new),
        false => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// The headers as a `bsdiff`, then the low and the high bytes of how far each word moved. `None`
/// where the tensors do not take the same room.
///
/// ```text
/// u32 length of old header, u32 of new header, u32 of the bsdiff, bsdiff, low bytes, high bytes
/// ```
fn words_of(old: &[u8], new: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
    let (Some(a), Some(b)) = (header_end(old), header_end(new)) else { return Ok(None) };
    if old.len() - a != new.len() - b || !(old.len() - a).is_multiple_of(2) {
        return Ok(None);
    }
    let head = bsdiff_of(&old[..a], &new[..b])?;
    let mut stream = Vec::with_capacity(12 + head.len() + new.len() - b);
    for length in [a, b, head.len()] {
        stream.extend_from_slice(&(length as u32).to_le_bytes());
    }
    stream.extend_from_slice(&head);
    let moves = || {
        words(&old[a..]).zip(words(&new[b..])).map(|(x, y)| zigzag(place(y).wrapping_sub(place(x))))
    };
    stream.extend(moves().map(|m| m as u8));
    stream.extend(moves().map(|m| (m >> 8) as u8));
    Ok(Some(stream))
}

fn words_apply(old: &[u8], stream: &mut impl Read, length: usize) -> std::io::Result<Vec<u8>> {
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let mut number = || -> std::io::Result<usize> {
        let mut four = [0; 4];
        stream.read_exact(&mut four)?;
        Ok(u32::from_le_bytes(four) as usize)
    };
    let (a, b, head) = (number()?, number()?, number()?);
    let data = length.checked_sub(b).filter(|d| d.is_multiple_of(2)).ok_or_else(invalid)?;
    if old.len().checked_sub(a) != Some(data) {
        return Err(invalid());
    }
    let mut new = bsdiff_apply(&old[..a], &mut stream.take(head as u64), b)?;
    // Bounded by the old file, which is there.
    let mut planes = Vec::with_capacity(data);
    stream.take(data as u64 + 1).read_to_end(&mut planes)?;
    if planes.len() != data {
        return Err(invalid());
    }
    let (low, high) = planes.split_at(data / 2);
    new.reserve_exact(data);
    for ((x, low), high) in words(&old[a..]).zip(low).zip(high) {
        let moved = unzigzag(u16::from_le_bytes([*low, *high]));
        new.extend_from_slice(&unplace(place(x).wrapping_add(moved)).to_le_bytes());
    }
    Ok(new)
}

/// Where the tensors of a safetensors file begin.
fn header_end(file: &[u8]) -> Option<usize> {
    let mut length = [0; 8];
    length.copy_from_slice(file.get(..8)?);
    let length = usize::try_from(u64::from_le_bytes(length)).ok()?;
    let end = 8 + length.min(MAX_HEADER_BYTES + 1);
    (length <= MAX_HEADER_BYTES && end <= file.len()).then_some(end)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    bytes.chunks_exact(2).map(|w| u16::from_le_bytes([w[0], w[1]]))
}

/// Place of an f16 in the order of numbers, so that neighbours have places that follow each other,
/// across zero too.
fn place(word: u16) -> u16 {
    if word & 0x8000 == 0 { word | 0x8000 } else { !word }
}

fn unplace(place: u16) -> u16 {
    if place & 0x8000 == 0 { !place } else { place & 0x7fff }
}

/// Small numbers of either sign to small numbers.
fn zigzag(moved: u16) -> u16 {
    (moved << 1) ^ (((moved as i16) >> 15) as u16)
}

fn unzigzag(code: u16) -> u16 {
    (code >> 1) ^ (code & 1).wrapping_neg()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn bad(name: &str, reason: impl Into<String>) -> FetchError {
    FetchError::Patch { name: name.into(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_and_every_move_comes_back() {
        for word in 0..=u16::MAX {
            assert_eq!(unplace(place(word)), word);
            assert_eq!(unzigzag(zigzag(word)), word);
        }
        // 1.0 and its neighbours; zero and the smallest number below it.
        assert_eq!(place(0x3c01) - place(0x3c00), 1);
        assert_eq!(place(0x0000) - place(0x8000), 1);
        assert_eq!((zigzag(1), zigzag(1u16.wrapping_neg())), (2, 1));
    }
}
