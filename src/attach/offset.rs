use super::Context;
use crate::graph::sites::Role;
use crate::graph::{Attrs, Graph, GraphError, ValueId};

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

/// `y + b` at the site. Never in place of the bias initializer: exporters drop biases that are zero.
pub(super) fn insert(
    context: &mut Context<'_>,
    site: &OffsetSite,
    tensor: &str,
) -> Result<(), GraphError> {
    let sites = &context.backbone.sites;
    let output = match site {
        OffsetSite::Linear(layer, role) => sites.linear(*layer, *role).map(|l| &l.output),
        OffsetSite::Conv(i) => sites.cnn.as_ref().and_then(|c| c.convs.get(*i)).map(|c| &c.output),
        OffsetSite::Norm(name) => sites.norms.iter().find(|n| n.name == *name).map(|n| &n.output),
    };
    let output = output.cloned().ok_or_else(|| GraphError::Undefined(format!("{site:?}")))?;
    let b = context.tensor(tensor)?;
    if let OffsetSite::Conv(_) = site {
        return add_to_bias(context.graph, &output, b);
    }
    context.insert_after(&output, |g, y| g.op("Add", &[y, b], Attrs::none()))
}

/// A convolution adds its bias while it runs; a second addition would pass over the whole map
/// again.
fn add_to_bias(g: &mut Graph, output: &str, offset: ValueId) -> Result<(), GraphError> {
    let y = crate::backbone::site(g, output)?;
    let missing = || GraphError::Undefined(output.to_owned());
    let n = g.index().producer(y).filter(|&n| g.nodes[n].op == "Conv").ok_or_else(missing)?;
    let bias = match g.nodes[n].inputs.get(2).copied().flatten() {
        Some(old) => g.op("Add", &[old, offset], Attrs::none())?,
        None => offset,
    };
    g.nodes[n].inputs.resize(2, None);
    g.nodes[n].inputs.push(Some(bias));
    g.sort()
}
