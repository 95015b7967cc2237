//! Does a delta fit a backbone and its method?

use std::collections::HashMap;

use half::f16;

use super::{Delta, DeltaError};

/// A tensor that a method has, or may have, on a backbone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name of the tensor.
    pub name: String,
    /// Its exact shape.
    pub shape: Vec<usize>,
    /// What its elements are.
    pub values: Values,
    /// The delta may leave it out.
    pub optional: bool,
    /// The first dimension is the number of labels. Gives a clearer error than a wrong shape.
    pub per_label: bool,
}

/// What the elements of a [`TensorSpec`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Real numbers: F16 or F32.
    Real,
    /// Counts: I64.
    Count,
}

impl TensorSpec {
    /// A tensor of real numbers that must be there.
    pub fn new(name: impl Into<String>, shape: &[usize]) -> TensorSpec {
        TensorSpec {
            name: name.into(),
            shape: shape.to_vec(),
            values: Values::Real,
            optional: false,
            per_label: false,
        }
    }

    /// The same, holding counts.
    pub fn counts(self) -> TensorSpec {
        TensorSpec { values: Values::Count, ..self }
    }

    /// The same, but the delta may leave it out.
    pub fn optional(self) -> TensorSpec {
        TensorSpec { optional: true, ..self }
    }

    /// The same, with one row per label.
    pub fn per_label(self) -> TensorSpec {
        TensorSpec { per_label: true, ..self }
    }
}

impl Delta {
    /// Checks that the delta was trained on the backbone with digest `backbone` and holds exactly
    /// the tensors of `expected`.
    ///
    /// # Errors
    /// The first difference found; the delta must not be used then.
    pub fn validate(&self, backbone: &str, expected: &[TensorSpec]) -> Result<(), DeltaError> {
        self.check_backbone(backbone)?;
        let file = || self.name().to_string();
        let metadata = self.metadata();
        let method = || metadata.method.clone();
        let specs: HashMap<&str, &TensorSpec> =
            expected.iter().map(|s| (s.name.as_str(), s)).collect();
        if let Some(tensor) = self.tensors().keys().find(|n| !specs.contains_key(n.as_str())) {
            let tensor = tensor.clone();
            return Err(DeltaError::UnknownTensor { file: file(), tensor, method: method() });
        }
        for spec in expected {
            let name = || spec.name.clone();
            let Some(tensor) = self.tensor(&spec.name) else {
                if spec.optional {
                    continue;
                }
                let (tensor, method) = (name(), method());
                return Err(DeltaError::MissingTensor { file: file(), tensor, method });
            };
            let (have, want) = match spec.values {
                Values::Real => (tensor.dtype().is_float(), "f16 or f32"),
                Values::Count => (!tensor.dtype().is_float(), "i64"),
            };
            if !have {
                let have = tensor.dtype();
                return Err(DeltaError::WrongType { file: file(), tensor: name(), have, want });
            }
            let (rows, labels) = (tensor.shape().first().copied(), metadata.labels.len());
            if spec.per_label && rows != Some(labels) {
                let rows = rows.unwrap_or(0);
                return Err(DeltaError::LabelCount { file: file(), tensor: name(), rows, labels });
            }
            if tensor.shape() != spec.shape {
                let (have, want) = (tensor.shape().to_vec(), spec.shape.clone());
                return Err(DeltaError::WrongShape { file: file(), tensor: name(), have, want });
            }
            // Deltas are served in f16: what is finite in the file must be so there.
            let rounded = |v: &f32| f16::from_f32(*v).is_finite();
            let values = tensor.to_f32();
            if spec.values == Values::Real
                && let Some(index) = values.iter().position(|v| !rounded(v))
            {
                let value = values[index];
                return Err(DeltaError::Range { file: file(), tensor: name(), index, value });
            }
        }
        Ok(())
    }

    /// Checks that the delta was trained on the backbone with digest `backbone`. Its settings mean
    /// nothing on another one.
    ///
    /// # Errors
    /// [`DeltaError::WrongBackbone`].
    pub fn check_backbone(&self, backbone: &str) -> Result<(), DeltaError> {
        let have = &self.metadata().backbone;
        if have != backbone {
            let (file, have, want) = (self.name().to_string(), have.clone(), backbone.to_string());
            return Err(DeltaError::WrongBackbone { file, have, want });
        }
        Ok(())
    }
}
