use std::collections::BTreeMap;

use super::{COMMON_SETTINGS, Method, MethodError};

/// Something that can be set with `--set name=value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Its value if it is not set.
    pub default: &'static str,
    /// What it does, and what it may be.
    pub help: &'static str,
}

/// The settings of one method, all of them, as text. They are stored in the delta.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// The method's defaults with `overrides` put over them.
    ///
    /// # Errors
    /// [`MethodError::UnknownSetting`] listing what there is.
    pub fn resolve<'a>(
        method: &dyn Method,
        overrides: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Settings, MethodError> {
        let known: Vec<&Setting> = COMMON_SETTINGS.iter().chain(method.settings()).collect();
        let mut map: BTreeMap<String, String> =
            known.iter().map(|s| (s.name.to_owned(), s.default.to_owned())).collect();
        for (name, value) in overrides {
            match map.get_mut(name) {
                Some(v) => value.clone_into(v),
                None => {
                    return Err(MethodError::UnknownSetting {
                        method: method.name().to_owned(),
                        name: name.to_owned(),
                        known: known.iter().map(|s| s.name).collect::<Vec<_>>().join(", "),
                    });
                }
            }
        }
        Ok(Settings(map))
    }

    /// The same with another value for a setting that there is.
    pub(super) fn with(mut self, name: &str, value: String) -> Result<Settings, MethodError> {
        match self.0.get_mut(name) {
            Some(v) => *v = value,
            None => return Err(self.bad(name, "a setting of the method")),
        }
        Ok(self)
    }

    /// As the `config` of a delta.
    pub fn to_json(&self) -> serde_json::Value {
        self.0.iter().map(|(k, v)| (k.clone(), serde_json::Value::from(v.clone()))).collect()
    }

    /// From the `config` of a delta. Settings that are not text are refused.
    ///
    /// # Errors
    /// [`MethodError`] if a setting is unknown or not text.
    pub fn from_json(
        method: &dyn Method,
        config: &serde_json::Value,
    ) -> Result<Settings, MethodError> {
        let bad = |name: &str, value: &serde_json::Value| MethodError::Setting {
            name: name.to_owned(),
            value: value.to_string(),
            expected: "text".into(),
        };
        let empty = serde_json::Map::new();
        let map = match config {
            serde_json::Value::Object(map) => map,
            serde_json::Value::Null => &empty,
            other => return Err(bad("config", other)),
        };
        let pairs: Vec<(&str, &str)> = map
            .iter()
            .map(|(k, v)| v.as_str().map(|v| (k.as_str(), v)).ok_or_else(|| bad(k, v)))
            .collect::<Result<_, _>>()?;
        Settings::resolve(method, pairs)
    }

    pub(super) fn bad(&self, name: &str, expected: impl Into<String>) -> MethodError {
        MethodError::Setting {
            name: name.to_owned(),
            value: self.0.get(name).cloned().unwrap_or_default(),
            expected: expected.into(),
        }
    }

    /// A setting as text.
    ///
    /// # Errors
    /// [`MethodError::Setting`] if there is no such setting.
    pub fn text(&self, name: &str) -> Result<&str, MethodError> {
        self.0.get(name).map(String::as_str).ok_or_else(|| self.bad(name, "a value"))
    }

    /// A whole number in `range`.
    ///
    /// # Errors
    /// [`MethodError::Setting`] if it is not one.
    pub fn count(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, MethodError> {
        let n = self.text(name)?.parse().ok().filter(|n| range.contains(n));
        n.ok_or_else(|| {
            self.bad(name, format!("a whole number from {} to {}", range.start(), range.end()))
        })
    }

    /// A positive number.
    ///
    /// # Errors
    /// [`MethodError::Setting`] if it is not one.
    pub fn positive(&self, name: &str) -> Result<f32, MethodError> {
        let v = self.text(name)?.parse().ok().filter(|v: &f32| v.is_finite() && *v > 0.0);
        v.ok_or_else(|| self.bad(name, "a positive number"))
    }

    /// One of `choices`.
    ///
    /// # Errors
    /// [`MethodError::Setting`] listing them.
    pub fn choice(
        &self,
        name: &str,
        choices: &[&'static str],
    ) -> Result<&'static str, MethodError> {
        let v = self.text(name)?;
        let found = choices.iter().copied().find(|c| *c == v);
        found.ok_or_else(|| self.bad(name, format!("one of {}", choices.join(", "))))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// [`MethodError::Setting`] if it is neither.
    pub fn flag(&self, name: &str) -> Result<bool, MethodError> {
        Ok(self.choice(name, &["true", "false"])? == "true")
    }
}
