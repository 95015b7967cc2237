use super::Context;
use crate::graph::sites::Role;
use crate::graph::{Attrs, GraphError};

/// Where an offset is added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OffsetSite {
    /// To the output of a linear layer.
    Linear(usize, Role),
    /// To the output of the normalisation of that name.
    Norm(String),
}

/// `y + b` at the site. Never by way of the bias initializer: exporters drop biases that are zero.
pub(super) fn insert(
    context: &mut Context<'_>,
    site: &OffsetSite,
    tensor: &str,
) -> Result<(), GraphError> {
    let sites = &context.backbone.sites;
    let output = match site {
        OffsetSite::Linear(layer, role) => sites.linear(*layer, *role).map(|l| &l.output),
        OffsetSite::Norm(name) => sites.norms.iter().find(|n| n.name == *name).map(|n| &n.output),
    };
    let output = output.cloned().ok_or_else(|| GraphError::Undefined(format!("{site:?}")))?;
    let b = context.tensor(tensor)?;
    context.insert_after(&output, |g, y| g.op("Add", &[y, b], Attrs::none()))
}
