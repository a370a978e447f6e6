//! Looks values of a scale rule up: in its `auth`, its metadata, and the environment of the first container.

use std::collections::BTreeMap;

use super::Unreadable;
use crate::document::{EnvValue, ScaleAuth, Template};
use crate::replica::Secret;

/// Ends a key whose value names a variable of the first container.
const FROM_ENV: &str = "fromenv";

/// The values of a rule.
pub(super) struct Metadata<'a> {
    given: &'a BTreeMap<String, String>,
    auth: &'a [ScaleAuth],
    template: &'a Template,
    secrets: &'a BTreeMap<String, Secret>,
}

impl<'a> Metadata<'a> {
    pub(super) fn new(
        given: &'a BTreeMap<String, String>,
        auth: &'a [ScaleAuth],
        template: &'a Template,
        secrets: &'a BTreeMap<String, Secret>,
    ) -> Self {
        Self { given, auth, template, secrets }
    }

    /// An error about `key`, as it was written where it was.
    pub(super) fn wrong(&self, key: &str, problem: impl Into<String>) -> Unreadable {
        let written = self.given.keys().find(|written| written.eq_ignore_ascii_case(key));
        let key = written.map_or(key, String::as_str).to_owned();
        Unreadable::Metadata { key, problem: problem.into() }
    }

    /// The value of `key`. Empty is not given.
    pub(super) fn secret(&self, key: &str) -> Result<Option<Secret>, Unreadable> {
        let found = self.auth.iter().find(|auth| auth.trigger_parameter.eq_ignore_ascii_case(key));
        if let Some(auth) = found {
            return self.value_of(key, &auth.secret_ref).map(Some);
        }
        if let Some(value) = self.plain(key) {
            return Ok(Some(Secret(value.to_owned())));
        }
        match self.plain(&format!("{key}{FROM_ENV}")) {
            Some(variable) => self.variable(key, variable).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>, Unreadable> {
        let found = self.secret(key)?.map(|Secret(text)| text.trim().to_owned());
        Ok(found.filter(|text| !text.is_empty()))
    }

    pub(super) fn required(&self, key: &str) -> Result<String, Unreadable> {
        self.text(key)?.ok_or_else(|| self.wrong(key, "it is missing"))
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, Unreadable> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let flag = text.to_ascii_lowercase().parse();
        flag.map(Some).map_err(|_| self.wrong(key, "it is true or false"))
    }

    /// A number that is not negative.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, Unreadable> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let number: Option<f64> = text.parse().ok();
        let number = number.filter(|number| number.is_finite() && 0.0 <= *number);
        number.map(Some).ok_or_else(|| self.wrong(key, "it is a number, 0 or more"))
    }

    /// A number above 0.
    pub(super) fn target(&self, key: &str, usual: Option<f64>) -> Result<f64, Unreadable> {
        let number = self.number(key)?.or(usual).ok_or_else(|| self.wrong(key, "it is missing"))?;
        if 0.0 < number { Ok(number) } else { Err(self.wrong(key, "it is a number above 0")) }
    }

    /// Everything but `key`, and `auth` among it. A key that ends with `FromEnv` keeps its name and has the variable's
    /// value: programs that were written for KEDA look there.
    pub(super) fn all_but(&self, key: &str) -> Result<BTreeMap<String, Secret>, Unreadable> {
        let mut all = BTreeMap::new();
        for (name, value) in self.given {
            let lower = name.to_ascii_lowercase();
            let stem = lower.strip_suffix(FROM_ENV);
            if stem.unwrap_or(&lower).eq_ignore_ascii_case(key) {
                continue;
            }
            let value = match stem {
                Some(_) => self.variable(name, value)?,
                None => Secret(value.clone()),
            };
            all.insert(name.clone(), value);
        }
        for ScaleAuth { secret_ref, trigger_parameter } in self.auth {
            if !trigger_parameter.eq_ignore_ascii_case(key) {
                let value = self.value_of(trigger_parameter, secret_ref)?;
                all.insert(trigger_parameter.clone(), value);
            }
        }
        Ok(all)
    }

    fn plain(&self, key: &str) -> Option<&'a str> {
        let found = self.given.iter().find(|(written, _)| written.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The value of a variable of the first container; of two with one name the last wins, as in the container.
    fn variable(&self, key: &str, name: &str) -> Result<Secret, Unreadable> {
        let container = self.template.containers.first();
        let variables = container.map(|container| container.env.as_slice()).unwrap_or_default();
        match variables.iter().rev().find(|variable| variable.name == name).map(|v| &v.value) {
            Some(EnvValue::Plain(text)) => Ok(Secret(text.clone())),
            Some(EnvValue::Secret(secret)) => self.value_of(key, secret),
            None => {
                let problem = format!("the first container has no variable {name:?}");
                Err(self.wrong(key, problem))
            }
        }
    }

    fn value_of(&self, key: &str, secret: &str) -> Result<Secret, Unreadable> {
        let found = self.secrets.get(secret).cloned();
        found.ok_or_else(|| self.wrong(key, format!("the secret {secret:?} has no value")))
    }
}
