use crate::Error;
use crate::backbone::Backbone;
use crate::data::{Encoded, TextEncoder, batch};
use crate::engine::EngineError;
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

/// One input in the form a backbone takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// A tokenized text.
    Text(Encoded),
    /// Pixels f32 `[C, H, W]`, or sound features f32 `[T, F]`.
    Dense(Tensor),
}

impl Sample {
    /// Its tokens; 1 for an input of fixed size.
    pub fn tokens(&self) -> usize {
        match self {
            Sample::Text(text) => text.ids.len().max(1),
            Sample::Dense(_) => 1,
        }
    }
}

impl From<Encoded> for Sample {
    fn from(text: Encoded) -> Sample {
        Sample::Text(text)
    }
}

/// Most tokens of an input under a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// The inputs of one run over `rows` rows: texts are padded to the longest, and with fewer than
/// `rows` samples the rest are rows of padding.
///
/// # Errors
/// [`Error::Engine`] if samples are of different kinds or sizes.
pub fn encode_batch(
    backbone: &Backbone,
    samples: &[&Sample],
    rows: usize,
) -> Result<Inputs, Error> {
    let rows = rows.max(samples.len());
    let longest = samples.iter().map(|s| s.tokens()).max().unwrap_or(1);
    let (mut texts, mut dense) = (Vec::new(), Vec::new());
    for sample in samples {
        match sample {
            Sample::Text(text) => texts.push(text.clone()),
            Sample::Dense(tensor) => dense.push(tensor),
        }
    }
    if let Some(first) = dense.first() {
        let shape: Vec<usize> = [rows].iter().chain(first.shape()).copied().collect();
        let mut all: Vec<f32> = Vec::with_capacity(shape.iter().product());
        for tensor in &dense {
            if tensor.shape() != first.shape() || !texts.is_empty() {
                let (have, want) = (tensor.shape(), first.shape());
                return Err(EngineError::Input {
                    name: backbone.sites().input.clone(),
                    reason: format!("inputs of one run differ in shape: {have:?} and {want:?}"),
                }
                .into());
            }
            all.extend_from_slice(tensor.as_slice()?);
        }
        all.resize(shape.iter().product(), 0.0);
        return Ok(Inputs { data: Tensor::new(&shape, &all)?, mask: None, types: None });
    }
    texts.resize(rows, Encoded { ids: vec![], type_ids: vec![] });
    let b = batch(&texts, longest, backbone.manifest().pad_id)?;
    Ok(Inputs { data: b.input_ids, mask: Some(b.attention_mask), types: Some(b.token_type_ids) })
}
