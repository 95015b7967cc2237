use crate::Error;
use crate::backbone::Backbone;
use crate::data::{Encoded, TextEncoder, batch};
use crate::methods::Plan;
use crate::tensor::Tensor;

/// The data inputs of one run.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Token ids i64 `[B, S]` or pixels f32 `[B, C, H, W]`.
    pub data: Tensor,
    /// 1 for tokens, 0 for padding, i64 `[B, S]`; text only.
    pub mask: Option<Tensor>,
    /// Segments i64 `[B, S]`; text only.
    pub types: Option<Tensor>,
}

/// Most tokens of an input under a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLimit(pub usize);

impl InputLimit {
    /// The backbone's own limit, less the positions that prompt rows take.
    pub fn new(backbone: &Backbone, plan: &Plan) -> InputLimit {
        let m = backbone.manifest();
        let offset = if m.family == "roberta" { 2 } else { 0 };
        let rows = m.sites.positions.as_ref().map_or(usize::MAX, |p| p.rows);
        let room = rows.saturating_sub(offset + plan.position_rows);
        InputLimit(m.max_length.min(room).max(1))
    }

    /// Token ids of `text` within the limit.
    ///
    /// # Errors
    /// [`Error::Data`] if the tokenizer fails.
    pub fn encode(self, encoder: &TextEncoder, text: &str) -> Result<Encoded, Error> {
        let mut encoded = encoder.encode(text)?;
        encoded.cut(self.0);
        Ok(encoded)
    }
}

/// Pads texts to `pad_to` tokens as the inputs of one run; with fewer than `rows` texts the rest
/// are rows of padding.
///
/// # Errors
/// [`Error::Data`] if a text is longer than `pad_to`.
pub fn encode_batch(
    backbone: &Backbone,
    texts: &[&Encoded],
    pad_to: usize,
    rows: usize,
) -> Result<Inputs, Error> {
    let mut texts: Vec<Encoded> = texts.iter().map(|&e| e.clone()).collect();
    texts.resize(rows.max(texts.len()), Encoded { ids: vec![], type_ids: vec![] });
    let b = batch(&texts, pad_to, backbone.manifest().pad_id)?;
    Ok(Inputs { data: b.input_ids, mask: Some(b.attention_mask), types: Some(b.token_type_ids) })
}
