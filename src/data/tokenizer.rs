//! Text as token ids, by the `tokenizer.json` of a backbone.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use tokenizers::tokenizer::{PostProcessor, Tokenizer};
use tokenizers::{TruncationDirection, TruncationParams, TruncationStrategy};

use super::DataError;
use crate::tensor::Tensor;

/// Text is cut after this many bytes per token that can be used (and never below
/// [`MIN_TEXT_BYTES`]) before it is tokenized, so that a huge text costs no more than a long one.
const BYTES_PER_TOKEN: usize = 64;
const MIN_TEXT_BYTES: usize = 16 << 10;

/// Largest `tokenizer.json` that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Turns texts into token ids. Loading the 30,522 entries of BERT's vocabulary takes 8 MB.
#[derive(Debug)]
pub struct TextEncoder {
    tokenizer: Tokenizer,
    max_length: usize,
    pad_id: i64,
}

/// A tokenized text with its special tokens, not padded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<i64>,
    /// Segment of each token; all 0 for a single text with most tokenizers.
    pub type_ids: Vec<i64>,
}

impl Encoded {
    /// Drops tokens in front of the closing special token until at most `limit` are left.
    pub fn cut(&mut self, limit: usize) {
        for row in [&mut self.ids, &mut self.type_ids] {
            if let (true, Some(&last)) = (row.len() > limit.max(1), row.last()) {
                row.truncate(limit.max(1));
                if let Some(end) = row.last_mut() {
                    *end = last;
                }
            }
        }
    }
}

/// Padded texts as graph inputs: three i64 tensors of `[B, S]`.
#[derive(Clone, Debug)]
pub struct TextBatch {
    /// Token ids, padded on the right.
    pub input_ids: Tensor,
    /// 1 for tokens, 0 for padding.
    pub attention_mask: Tensor,
    /// Segments, 0 for padding.
    pub token_type_ids: Tensor,
}

impl TextEncoder {
    /// Loads a `tokenizer.json`. Texts are cut to `max_length` tokens, special tokens included;
    /// the file's own truncation and padding settings are ignored.
    ///
    /// # Errors
    /// The file cannot be read or is not a tokenizer, or `max_length` leaves no room for a token
    /// beside the special ones.
    pub fn from_file(path: impl AsRef<Path>, max_length: usize) -> Result<TextEncoder, DataError> {
        let path = path.as_ref();
        let read = |source| DataError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(read)?.len() > MAX_FILE_BYTES {
            return Err(DataError::TooLarge { path: path.to_owned(), limit: MAX_FILE_BYTES });
        }
        let bytes = std::fs::read(path).map_err(read)?;
        TextEncoder::from_bytes(&bytes, path.to_owned(), max_length)
    }

    fn from_bytes(
        bytes: &[u8],
        path: PathBuf,
        max_length: usize,
    ) -> Result<TextEncoder, DataError> {
        let refused = |reason: String| DataError::Tokenizer { path: path.clone(), reason };
        // Broken syntax inside the decoder would make the tokenizers crate panic.
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(|e| refused(e.to_string()))?;
        let mut tokenizer = contained(|| Tokenizer::from_bytes(bytes).map_err(|e| e.to_string()))
            .map_err(refused)?;
        let special = tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if max_length <= special {
            return Err(DataError::MaxLength { max_length, special });
        }
        let pad_id = tokenizer
            .get_padding()
            .map(|p| p.pad_id)
            .or_else(|| ["[PAD]", "<pad>"].iter().find_map(|t| tokenizer.token_to_id(t)))
            .unwrap_or(0);
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(Some(TruncationParams {
                direction: TruncationDirection::Right,
                max_length,
                strategy: TruncationStrategy::LongestFirst,
                stride: 0,
            }))
            .map_err(|e| refused(e.to_string()))?;
        Ok(TextEncoder { tokenizer, max_length, pad_id: i64::from(pad_id) })
    }

    /// Token ids of `text` with special tokens, at most [`max_length`](TextEncoder::max_length):
    /// the text is cut, a closing special token stays.
    ///
    /// # Errors
    /// [`DataError::Encode`] if the tokenizer cannot represent the text.
    pub fn encode(&self, text: &str) -> Result<Encoded, DataError> {
        self.run(text, true)
    }

    /// Token ids of `text` alone, without special tokens: for templates and label words.
    ///
    /// # Errors
    /// [`DataError::Encode`] if the tokenizer cannot represent the text.
    pub fn encode_bare(&self, text: &str) -> Result<Vec<i64>, DataError> {
        Ok(self.run(text, false)?.ids)
    }

    /// The id of a token such as `[MASK]`.
    pub fn token_id(&self, token: &str) -> Option<i64> {
        self.tokenizer.token_to_id(token).map(i64::from)
    }

    /// The id that pads a batch.
    pub fn pad_id(&self) -> i64 {
        self.pad_id
    }

    /// Most tokens of a text, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Tokens of the vocabulary, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    fn run(&self, text: &str, special: bool) -> Result<Encoded, DataError> {
        let limit = self.max_length.saturating_mul(BYTES_PER_TOKEN).max(MIN_TEXT_BYTES);
        let text = prefix(text, limit);
        let encoding =
            contained(|| self.tokenizer.encode_fast(text, special).map_err(|e| e.to_string()))
                .map_err(|reason| DataError::Encode {
                    start: text.chars().take(40).collect(),
                    reason,
                })?;
        let wide = |ids: &[u32]| ids.iter().map(|&i| i64::from(i)).collect();
        Ok(Encoded { ids: wide(encoding.get_ids()), type_ids: wide(encoding.get_type_ids()) })
    }
}

/// Runs `work` of another crate that panics on some files that parse but contradict themselves
/// (tokenizers: a SentencePiece character map that points outside itself).
pub(super) fn contained<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // Nothing half-done is left behind: a panic drops the result, and encoding only reads.
    std::panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("the file contradicts itself".to_owned()))
}

/// The first `limit` bytes of `text`, less a character that would be cut.
fn prefix(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or(text)
}

/// Pads texts to `pad_to` tokens each; `pad_id` fills the ids.
///
/// # Errors
/// [`DataError::TooLong`] if a text has more than `pad_to` tokens.
pub fn batch(texts: &[Encoded], pad_to: usize, pad_id: i64) -> Result<TextBatch, DataError> {
    if let Some((index, e)) = texts.iter().enumerate().find(|(_, e)| e.ids.len() > pad_to) {
        return Err(DataError::TooLong { index, have: e.ids.len(), pad_to });
    }
    let padded = |row: &dyn Fn(&Encoded) -> Vec<i64>, fill: i64| {
        let mut all = Vec::with_capacity(texts.len() * pad_to);
        for (i, e) in texts.iter().enumerate() {
            all.extend(row(e).into_iter().take(pad_to));
            all.resize((i + 1) * pad_to, fill);
        }
        Tensor::new(&[texts.len(), pad_to], &all)
    };
    Ok(TextBatch {
        input_ids: padded(&|e| e.ids.clone(), pad_id)?,
        attention_mask: padded(&|e| vec![1; e.ids.len()], 0)?,
        token_type_ids: padded(&|e| e.type_ids.clone(), 0)?,
    })
}
