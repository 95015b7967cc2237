//! Public keys and signatures in the format of minisign. The cryptography is `minisign-verify`'s.

use minisign_verify::{PublicKey, Signature};

use super::FetchError;

/// Most keys of a root, and most signatures of a file.
pub const MAX_KEYS: usize = 16;
/// Largest signature file in bytes.
pub const MAX_SIGNATURE_BYTES: u64 = 16 * 1024;

/// Base64 of a key: 2 bytes of algorithm, 8 of key id, 32 of key. 42 bytes need no padding, so
/// that a key has one text only.
const KEY_CHARS: usize = 56;
/// Lines of a signature: comment, signature, trusted comment, signature of both.
const LINES: usize = 4;

/// A minisign public key.
#[derive(Clone, Debug)]
pub struct Key {
    text: String,
    id: u64,
    point: [u8; 32],
    key: PublicKey,
}

impl Key {
    /// Reads a key: its line of base64, or a whole `.pub` file. `name` stands for it in errors.
    ///
    /// # Errors
    /// [`FetchError::Key`] if it is none.
    pub fn parse(text: &str, name: &str) -> Result<Key, FetchError> {
        let bad = |reason: &str| FetchError::Key { name: name.into(), reason: reason.into() };
        let mut lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
        let mut line = lines.next().ok_or_else(|| bad("it is empty"))?;
        if line.starts_with("untrusted comment:") {
            line = lines.next().ok_or_else(|| bad("it ends after the comment"))?;
        }
        if lines.next().is_some() {
            return Err(bad("more follows the key; give one key"));
        }
        let bytes = decode(line).ok_or_else(|| {
            bad("56 characters of base64 are expected, as in the second line of minisign.pub")
        })?;
        if &bytes[..2] != b"Ed" {
            return Err(bad("its algorithm is not Ed25519"));
        }
        let key = PublicKey::from_base64(line).map_err(|e| bad(&e.to_string()))?;
        let mut id = [0; 8];
        id.copy_from_slice(&bytes[2..10]);
        let mut point = [0; 32];
        point.copy_from_slice(&bytes[10..]);
        Ok(Key { text: line.into(), id: u64::from_le_bytes(id), point, key })
    }

    /// The line of base64.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The id as minisign prints it: up to 16 hexadecimal digits.
    pub fn id(&self) -> String {
        format!("{:X}", self.id)
    }

    /// True if both are one key, whatever they call themselves.
    pub(super) fn same(&self, other: &Key) -> bool {
        self.point == other.point || self.id == other.id
    }
}

/// The signatures of one file, by one or several keys.
pub struct Signatures(Vec<Signature>);

impl Signatures {
    /// Reads a signature file: one signature as minisign writes it, or up to [`MAX_KEYS`] of
    /// them one after the other.
    ///
    /// # Errors
    /// [`FetchError::SignatureFormat`] if it is none.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Signatures, FetchError> {
        let bad = |reason: String| FetchError::SignatureFormat { name: name.into(), reason };
        if bytes.len() as u64 > MAX_SIGNATURE_BYTES {
            return Err(bad(format!("more than {MAX_SIGNATURE_BYTES} bytes")));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not text".into()))?;
        let lines: Vec<&str> = text.lines().collect();
        if lines.is_empty() || !lines.len().is_multiple_of(LINES) {
            return Err(bad(format!("{} lines, {LINES} are expected per key", lines.len())));
        }
        if lines.len() / LINES > MAX_KEYS {
            return Err(bad(format!("more than {MAX_KEYS} signatures")));
        }
        let block =
            |lines: &[&str]| Signature::decode(&lines.join("\n")).map_err(|e| bad(e.to_string()));
        Ok(Signatures(lines.chunks(LINES).map(block).collect::<Result<_, _>>()?))
    }

    /// How many of `keys` signed exactly `bytes`. A key counts once, however often it signed.
    pub fn count(&self, keys: &[Key], bytes: &[u8]) -> usize {
        // Only what minisign writes since 0.10, over the hash: old signatures are over the bytes.
        let signed = |key: &Key| self.0.iter().any(|s| key.key.verify(bytes, s, false).is_ok());
        keys.iter().filter(|key| signed(key)).count()
    }
}

/// Checks that `key` signed `bytes`, for a file that has no index, such as one that was copied.
///
/// # Errors
/// [`FetchError::Signatures`] if it did not, [`FetchError::SignatureFormat`] if `signature` is
/// none.
pub fn verify(key: &Key, bytes: &[u8], signature: &[u8], name: &str) -> Result<(), FetchError> {
    let keys = std::slice::from_ref(key);
    match Signatures::parse(signature, name)?.count(keys, bytes) {
        0 => Err(FetchError::Signatures { name: name.into(), valid: 0, keys: 1, threshold: 1 }),
        _ => Ok(()),
    }
}

/// 42 bytes from 56 characters.
fn decode(text: &str) -> Option<Vec<u8>> {
    if text.len() != KEY_CHARS {
        return None;
    }
    let value = |b: u8| -> Option<u32> {
        Some(u32::from(match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        }))
    };
    let mut out = Vec::with_capacity(KEY_CHARS / 4 * 3);
    for four in text.as_bytes().chunks(4) {
        let mut group = 0;
        for &b in four {
            group = group << 6 | value(b)?;
        }
        out.extend_from_slice(&group.to_be_bytes()[1..]);
    }
    Some(out)
}
