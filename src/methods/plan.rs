//! What a method does on one backbone.

use std::collections::HashMap;

use crate::attach::Attachment;
use crate::graph::sites::Role;
use crate::graph::{Graph, GraphError, ValueId};

/// Defaults for training, tuned for few shots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyperparameters {
    /// Peak learning rate of AdamW.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Passes over the data.
    pub epochs: usize,
}

/// How a delta's tensors come about.
pub enum Training {
    /// By gradient descent on [`Plan::tensors`].
    Direct,
    /// By gradient descent on other tensors, from which [`Plan::tensors`] are computed.
    Through(Box<dyn Reparameterisation>),
    /// In closed form from the features of the rows.
    Features,
}

/// Trains other tensors than those that are served, and disappears afterwards.
pub trait Reparameterisation: Send + Sync {
    /// What is trained.
    fn tensors(&self) -> Vec<TensorSpec>;

    /// Adds the nodes that compute served tensors from trained ones; both by name.
    ///
    /// # Errors
    /// [`GraphError`] if a tensor is missing.
    fn expand(
        &self,
        graph: &mut Graph,
        trained: &HashMap<String, ValueId>,
    ) -> Result<HashMap<String, ValueId>, GraphError>;
}

/// What a method does on one backbone.
pub struct Plan {
    /// The tensors of the delta file.
    pub tensors: Vec<TensorSpec>,
    /// What they become.
    pub attachments: Vec<Attachment>,
    /// How they are found.
    pub training: Training,
    /// Rows that the method puts in front of the tokens' positions: inputs get shorter by that.
    pub position_rows: usize,
    /// While training, only the classes of the rows compete: what was learned of others stays.
    pub mask_classes: bool,
    /// Weight of the pull between a query and the keys that it chose; see
    /// [`Attachment::Pool`].
    pub pull: f32,
}

/// A tensor of a delta.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Name in the file.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// How it starts.
    pub init: Init,
    /// Whether weight decay applies: to matrices, not to biases.
    pub decay: bool,
    /// What it is for.
    pub purpose: Purpose,
}

/// What a tensor of a delta is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It is trained, by gradients or in closed form, and prediction reads it.
    Trained,
    /// It is computed once from the rows, and prediction reads it.
    Fixed,
    /// Whole numbers that prediction reads: i64 in the file, up to 2048 of them apart in f16.
    Numbers,
    /// Whole numbers that are only for going on with more rows: i64 in the file.
    Counts,
}

/// How a tensor starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Zeros.
    Zeros,
    /// Uniform in +-1/sqrt(fan in): the default of a torch linear layer.
    FanIn(usize),
    /// Normal with standard deviation 1: the default of a torch embedding.
    Normal,
    /// Ones.
    Ones,
    /// Rows of real activations at the token site.
    TokenRows,
    /// Rows of real activations at the input of a block.
    LayerRows(usize),
    /// Rows of real keys of a layer.
    Keys(usize),
    /// Rows of real values of a layer.
    Values(usize),
    /// The frozen weight of a linear layer.
    LinearWeight(usize, Role),
    /// Its bias.
    LinearBias(usize, Role),
    /// The frozen gain of a normalisation, by its position among the sites.
    NormWeight(usize),
    /// Its shift.
    NormBias(usize),
    /// The frozen kernels of a convolution, by its number.
    ConvWeight(usize),
    /// Its bias.
    ConvBias(usize),
    /// The class-mean classifier on the untrained features: weight, bias.
    HeadWeight,
    /// See [`Init::HeadWeight`].
    HeadBias,
    /// Mean feature of every class, each feature of unit length.
    ClassMeans,
    /// The same, scaled to unit length.
    UnitClassMeans,
    /// Number of rows of every class.
    ClassCounts,
    /// The feature of every row, of unit length.
    RowFeatures,
    /// The class number of every row.
    RowLabels,
    /// Queries of random rows.
    Queries,
    /// The weight of the cache beside the class vectors, chosen on the rows held out; this without
    /// any.
    CacheWeight(f32),
    /// How sharply the cache tells features apart; see [`Init::CacheWeight`].
    CacheSharpness(f32),
}

impl TensorSpec {
    pub(super) fn new(name: impl Into<String>, shape: &[usize], init: Init) -> TensorSpec {
        TensorSpec {
            name: name.into(),
            shape: shape.to_vec(),
            init,
            decay: shape.len() > 1,
            purpose: Purpose::Trained,
        }
    }

    /// The same for something else than training.
    pub(super) fn purpose(self, purpose: Purpose) -> TensorSpec {
        TensorSpec { purpose, ..self }
    }

    /// The same without weight decay.
    pub(super) fn no_decay(self) -> TensorSpec {
        TensorSpec { decay: false, ..self }
    }

    /// True if the first dimension is the number of classes, or of rows: it grows with more data.
    pub fn grows(&self) -> bool {
        self.per_class() || matches!(self.init, Init::RowFeatures | Init::RowLabels)
    }

    /// True if the first dimension is the number of classes.
    pub fn per_class(&self) -> bool {
        use Init::{ClassCounts, ClassMeans, HeadBias, HeadWeight, UnitClassMeans};
        matches!(self.init, HeadWeight | HeadBias | ClassMeans | UnitClassMeans | ClassCounts)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Plan {
    /// A plan whose tensors are trained as they are.
    pub(super) fn new(tensors: Vec<TensorSpec>, attachments: Vec<Attachment>) -> Plan {
        Plan {
            tensors,
            attachments,
            training: Training::Direct,
            position_rows: 0,
            mask_classes: false,
            pull: 0.0,
        }
    }

    /// Number of values in the delta file.
    pub fn parameters(&self) -> usize {
        self.tensors.iter().map(TensorSpec::len).sum()
    }

    /// The tensors that gradient descent changes.
    pub fn trained(&self) -> Vec<TensorSpec> {
        match &self.training {
            Training::Through(r) => {
                let head = self.tensors.iter().filter(|t| t.name.starts_with("head.")).cloned();
                r.tensors().into_iter().chain(head).collect()
            }
            Training::Direct => {
                let trained = |t: &&TensorSpec| t.purpose == Purpose::Trained;
                self.tensors.iter().filter(trained).cloned().collect()
            }
            Training::Features => vec![],
        }
    }

    /// The tensors that a training graph takes: those that are trained, then those that are fixed.
    pub fn given(&self) -> Vec<TensorSpec> {
        let mut given = self.trained();
        if !matches!(self.training, Training::Through(_)) {
            let direct = !given.is_empty();
            let rest = self.served().filter(|t| !direct || t.purpose != Purpose::Trained);
            given.extend(rest.cloned());
        }
        given
    }

    /// The tensors that prediction reads.
    pub fn served(&self) -> impl Iterator<Item = &TensorSpec> {
        self.tensors.iter().filter(|t| t.purpose != Purpose::Counts)
    }
}
