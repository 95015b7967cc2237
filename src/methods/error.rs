/// A method or its settings do not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MethodError {
    /// There is no such method.
    #[error("no method `{name}`; there are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// All names.
        known: String,
    },
    /// The method has no such setting.
    #[error("method `{method}` has no setting `{name}`; it has: {known}")]
    UnknownSetting {
        /// The method.
        method: String,
        /// What was set.
        name: String,
        /// All names.
        known: String,
    },
    /// A setting has a value that cannot be.
    #[error("setting `{name}` is `{value}`; expected {expected}")]
    Setting {
        /// The setting.
        name: String,
        /// Its value.
        value: String,
        /// What it may be.
        expected: String,
    },
    /// The backbone lacks what the method needs.
    #[error("method `{method}` needs {needs}, which the backbone `{backbone}` does not have")]
    Backbone {
        /// The method.
        method: &'static str,
        /// What is missing.
        needs: String,
        /// The backbone's name.
        backbone: String,
    },
    /// There are more classes than the method can tell apart.
    #[error("{classes} classes; this method takes at most {most}")]
    Classes {
        /// Number of classes.
        classes: usize,
        /// Most it takes.
        most: usize,
    },
}

impl MethodError {
    /// A stable short code.
    pub fn code(&self) -> &'static str {
        match self {
            MethodError::Unknown { .. } => "method.unknown",
            MethodError::UnknownSetting { .. } => "method.unknown-setting",
            MethodError::Setting { .. } => "method.setting",
            MethodError::Backbone { .. } => "method.backbone",
            MethodError::Classes { .. } => "method.classes",
        }
    }
}
