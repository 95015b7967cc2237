use super::Sites;
use crate::graph::Graph;

impl Sites {
    /// Makes sure that every site is in `graph`, with the rank and width that attachments count on.
    ///
    /// # Errors
    /// The first site that is not, and why. It is empty where the numbers alone cannot be right.
    pub fn check(&self, graph: &Graph) -> Result<(), (String, String)> {
        let heads = match self.heads {
            0 => self.layers.is_empty() && self.cnn.is_some(),
            heads => self.width.is_multiple_of(heads),
        };
        if !heads || self.width == 0 {
            let reason = format!("{} heads do not divide a width of {}", self.heads, self.width);
            return Err((String::new(), reason));
        }
        let value = |name: &String| {
            graph.find(name).ok_or_else(|| (name.clone(), "there is no such value".to_owned()))
        };
        let rank = |name: &String, want: &[usize]| {
            let have = graph.rank(value(name)?);
            let reason = || format!("{have} dimensions, expected {want:?}");
            if want.contains(&have) { Ok(()) } else { Err((name.clone(), reason())) }
        };
        let width = |name: &String, want: usize| match graph.width(value(name)?) {
            Some(have) if have == want => Ok(()),
            have => Err((name.clone(), format!("its width is {have:?}, expected {want}"))),
        };
        let channels = |name: &String, want: usize| {
            rank(name, &[4])?;
            let have = graph.shape(value(name)?)[1].constant();
            let reason = || format!("it has {have:?} channels, expected {want}");
            if have == Some(want) { Ok(()) } else { Err((name.clone(), reason())) }
        };
        match &self.cnn {
            Some(cnn) => {
                channels(&self.hidden, self.width)?;
                for c in &cnn.convs {
                    channels(&c.input, c.inputs)?;
                    channels(&c.output, c.outputs)?;
                }
                for b in &cnn.blocks {
                    channels(&b.input, b.inputs)?;
                    channels(&b.branch, b.outputs)?;
                    channels(&b.output, b.outputs)?;
                }
            }
            None => {
                for name in [&self.tokens.value, &self.hidden] {
                    rank(name, &[3])?;
                    width(name, self.width)?;
                }
            }
        }
        rank(&self.input, &[2, 3, 4])?;
        for name in
            [Some(&self.input), self.mask.as_ref(), self.types.as_ref()].into_iter().flatten()
        {
            if !graph.inputs.contains(&value(name)?) {
                return Err((name.clone(), "it is no input".to_owned()));
            }
        }
        for name in [&self.mask, &self.types, &self.pooled].into_iter().flatten() {
            rank(name, &[2])?;
        }
        if let Some(p) = &self.positions {
            width(&p.value, self.width)?;
            value(&p.indices)?;
        }
        for l in &self.layers {
            rank(&l.keys, &[4])?;
            rank(&l.values, &[4])?;
            for name in [&l.input, &l.attention_output, &l.ffn_output] {
                width(name, self.width)?;
            }
            for (mask, _) in &l.masks {
                value(mask)?;
            }
        }
        for l in &self.linears {
            width(&l.input, l.inputs)?;
            width(&l.output, l.outputs)?;
        }
        self.norms.iter().try_for_each(|n| width(&n.output, self.width))
    }
}
