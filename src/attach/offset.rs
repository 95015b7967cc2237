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
    /// To every place of a convolution's output, by its number in the network.
    Conv(usize),
}

/// `y + b` at the site. Never by way of the bias initializer: exporters drop biases that are zero.
pub(super) fn insert(
    context: &mut Context<'_>,
    site: &OffsetSite,
    tensor: &str,
) -> Result<(), GraphError> {
    let conv = matches!(site, OffsetSite::Conv(_));
    let sites = &context.backbone.sites;
    let output = match site {
        OffsetSite::Linear(layer, role) => sites.linear(*layer, *role).map(|l| &l.output),
        OffsetSite::Conv(i) => sites.cnn.as_ref().and_then(|c| c.convs.get(*i)).map(|c| &c.output),
        OffsetSite::Norm(name) => sites.norms.iter().find(|n| n.name == *name).map(|n| &n.output),
    };
    let output = output.cloned().ok_or_else(|| GraphError::Undefined(format!("{site:?}")))?;
    let b = context.tensor(tensor)?;
    context.insert_after(&output, |g, y| {
        let b = match conv {
            true => {
                let channels = g.ints(&[-1, 1, 1]);
                g.op("Reshape", &[b, channels], Attrs::none())?
            }
            false => b,
        };
        g.op("Add", &[y, b], Attrs::none())
    })
}
