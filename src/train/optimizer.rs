//! Optimizers over flat f32 tensors, with the arithmetic of `torch.optim`.

use std::collections::BTreeMap;

use super::TrainError;

/// An update rule and its hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Adam with decoupled weight decay (Loshchilov & Hutter, 2019, arXiv:1711.05101).
    AdamW {
        /// Decay rate of the gradient average, usually 0.9.
        beta1: f64,
        /// Decay rate of the squared gradient average, usually 0.999.
        beta2: f64,
        /// Added to the denominator, usually 1e-8.
        eps: f64,
        /// Share of a tensor that a step at learning rate 1 removes.
        weight_decay: f64,
    },
    /// Stochastic gradient descent with heavy-ball momentum (Polyak, 1964), undamped; the decay
    /// is added to the gradient.
    Sgd {
        /// Share of the last step that is kept, usually 0.9.
        momentum: f64,
        /// Share of the tensor that is added to its gradient.
        weight_decay: f64,
    },
}

impl Rule {
    /// AdamW with the usual rates 0.9, 0.999 and eps 1e-8.
    pub fn adamw(weight_decay: f64) -> Rule {
        Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay }
    }

    fn check(self) -> Result<(), TrainError> {
        let share = "it must be at least 0 and below 1";
        let positive = "it must be above 0 and finite";
        let decay = "it must be at least 0 and finite";
        let ensure = |ok: bool, name, value, want| {
            if ok { Ok(()) } else { Err(TrainError::Setting { name, value, want }) }
        };
        let weight_decay = match self {
            Rule::AdamW { beta1, beta2, eps, weight_decay } => {
                ensure((0.0..1.0).contains(&beta1), "beta1", beta1, share)?;
                ensure((0.0..1.0).contains(&beta2), "beta2", beta2, share)?;
                ensure(eps > 0.0 && eps.is_finite(), "eps", eps, positive)?;
                weight_decay
            }
            Rule::Sgd { momentum, weight_decay } => {
                ensure((0.0..1.0).contains(&momentum), "momentum", momentum, share)?;
                weight_decay
            }
        };
        let ok = weight_decay >= 0.0 && weight_decay.is_finite();
        ensure(ok, "weight_decay", weight_decay, decay)
    }

    /// Whether the rule averages squared gradients too.
    fn has_second_moment(self) -> bool {
        matches!(self, Rule::AdamW { .. })
    }
}

/// A tensor that an [`Optimizer`] updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    /// Name, unique among the tensors.
    pub name: String,
    /// Elements.
    pub len: usize,
    /// Whether weight decay applies; usually not to biases and norms.
    pub decay: bool,
}

/// Running averages of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Of the gradient (AdamW), or the momentum buffer (SGD).
    pub first: Vec<f32>,
    /// Of the squared gradient; empty for SGD.
    pub second: Vec<f32>,
}

/// What an optimizer remembers between steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerState {
    /// Steps taken.
    pub step: u64,
    /// Running averages by tensor name.
    pub moments: BTreeMap<String, Moments>,
}

/// Updates a fixed list of tensors by a [`Rule`].
#[derive(Clone, Debug)]
pub struct Optimizer {
    rule: Rule,
    step: u64,
    params: Vec<(ParamSpec, Moments)>,
}

impl Optimizer {
    /// An optimizer that has taken no step.
    ///
    /// # Errors
    /// [`TrainError::Setting`] if a hyper-parameter of `rule` is out of range.
    pub fn new(rule: Rule, params: &[ParamSpec]) -> Result<Optimizer, TrainError> {
        rule.check()?;
        let with_moments = |p: &ParamSpec| {
            let second = if rule.has_second_moment() { p.len } else { 0 };
            (p.clone(), Moments { first: vec![0.0; p.len], second: vec![0.0; second] })
        };
        Ok(Optimizer { rule, step: 0, params: params.iter().map(with_moments).collect() })
    }

    /// Takes one step: updates `values` by `grads`, both in the order of the specs.
    ///
    /// # Errors
    /// A tensor is missing or has another size; nothing is changed then.
    pub fn step(
        &mut self,
        lr: f32,
        values: &mut [Vec<f32>],
        grads: &[Vec<f32>],
    ) -> Result<(), TrainError> {
        self.check_sizes("parameter", values)?;
        self.check_sizes("gradient", grads)?;
        self.step += 1;
        let tensors = self.params.iter_mut().zip(values).zip(grads);
        for (((spec, moments), value), grad) in tensors {
            match self.rule {
                Rule::AdamW { beta1, beta2, eps, weight_decay } => {
                    let decay = if spec.decay { weight_decay } else { 0.0 };
                    AdamStep::new(lr, self.step, beta1, beta2, eps, decay)
                        .apply(value, grad, moments);
                }
                Rule::Sgd { momentum, weight_decay } => {
                    let decay = if spec.decay { weight_decay as f32 } else { 0.0 };
                    let momentum = momentum as f32;
                    for ((p, &g), m) in value.iter_mut().zip(grad).zip(&mut moments.first) {
                        *m = momentum * *m + (g + decay * *p);
                        *p -= lr * *m;
                    }
                }
            }
        }
        Ok(())
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Bytes of the running averages.
    pub fn bytes(&self) -> usize {
        let floats: usize = self.params.iter().map(|(_, m)| m.first.len() + m.second.len()).sum();
        floats * size_of::<f32>()
    }

    /// A copy of what the optimizer remembers.
    pub fn state(&self) -> OptimizerState {
        let moments = self.params.iter().map(|(p, m)| (p.name.clone(), m.clone())).collect();
        OptimizerState { step: self.step, moments }
    }

    /// Goes on from `state`.
    ///
    /// # Errors
    /// The state belongs to other tensors or another rule; nothing is changed then.
    pub fn restore(&mut self, mut state: OptimizerState) -> Result<(), TrainError> {
        let mut restored = Vec::with_capacity(self.params.len());
        for (spec, own) in &self.params {
            let tensor = || spec.name.clone();
            let moments = state
                .moments
                .remove(&spec.name)
                .ok_or_else(|| TrainError::StateTensor { tensor: tensor(), problem: "lacks" })?;
            for (new, old) in [(&moments.first, &own.first), (&moments.second, &own.second)] {
                if new.len() != old.len() {
                    return Err(TrainError::TensorSize {
                        what: "moment",
                        tensor: tensor(),
                        have: new.len(),
                        want: old.len(),
                    });
                }
            }
            restored.push((spec.clone(), moments));
        }
        if let Some(tensor) = state.moments.into_keys().next() {
            return Err(TrainError::StateTensor { tensor, problem: "has an unknown" });
        }
        self.params = restored;
        self.step = state.step;
        Ok(())
    }

    fn check_sizes(&self, what: &'static str, tensors: &[Vec<f32>]) -> Result<(), TrainError> {
        if tensors.len() != self.params.len() {
            return Err(TrainError::TensorCount { have: tensors.len(), want: self.params.len() });
        }
        match self.params.iter().zip(tensors).find(|((spec, _), t)| t.len() != spec.len) {
            Some(((spec, _), t)) => Err(TrainError::TensorSize {
                what,
                tensor: spec.name.clone(),
                have: t.len(),
                want: spec.len,
            }),
            None => Ok(()),
        }
    }
}

/// The scalars of one AdamW step, computed in f64 as torch does.
struct AdamStep {
    keep: f32,
    blend1: f32,
    beta2: f32,
    blend2: f32,
    size: f32,
    bias2_sqrt: f32,
    eps: f32,
}

impl AdamStep {
    fn new(lr: f32, step: u64, beta1: f64, beta2: f64, eps: f64, decay: f64) -> AdamStep {
        // Past the range of i32 both corrections are 1 anyway.
        let t = i32::try_from(step).unwrap_or(i32::MAX);
        AdamStep {
            keep: (1.0 - f64::from(lr) * decay) as f32,
            blend1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            blend2: (1.0 - beta2) as f32,
            size: (f64::from(lr) / (1.0 - beta1.powi(t))) as f32,
            bias2_sqrt: (1.0 - beta2.powi(t)).sqrt() as f32,
            eps: eps as f32,
        }
    }

    fn apply(&self, value: &mut [f32], grad: &[f32], moments: &mut Moments) {
        let averages = moments.first.iter_mut().zip(&mut moments.second);
        for ((p, &g), (m, v)) in value.iter_mut().zip(grad).zip(averages) {
            *m += self.blend1 * (g - *m);
            *v = self.beta2 * *v + self.blend2 * g * g;
            *p = *p * self.keep - self.size * *m / (v.sqrt() / self.bias2_sqrt + self.eps);
        }
    }
}

/// Scales all gradients so that their joint L2 norm is at most `max_norm`, and returns the norm
/// before (Pascanu et al., 2013, arXiv:1211.5063).
///
/// A norm that is not finite changes nothing: the caller should skip the step.
pub fn clip_global_norm(grads: &mut [Vec<f32>], max_norm: f32) -> f32 {
    let squares: f64 = grads.iter().flatten().map(|&g| f64::from(g) * f64::from(g)).sum();
    let norm = squares.sqrt();
    if norm.is_finite() && norm > f64::from(max_norm) {
        let scale = (f64::from(max_norm) / norm) as f32;
        grads.iter_mut().flatten().for_each(|g| *g *= scale);
    }
    norm as f32
}
