//! Every secret that this board's files tell: so that it is taken out of whatever else repeats it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::looks::{is_secret_name, login};
use crate::doctor::Board;

/// An environment variable's value of this length is taken for a secret; a shorter one may be a word of every line.
const LONG: usize = 8;

/// Files of others that have passwords of registries.
const OTHERS: &[&str] = &["/etc/containerd/config.toml", "/root/.docker/config.json"];

/// Where registries are configured for containerd, one folder each.
const HOSTS: &str = "/etc/containerd/certs.d";

/// The secrets that are known, in no order.
pub(super) fn known(board: &Board, config: &str) -> Vec<String> {
    let mqtt = &board.config.mqtt;
    let state = &board.config.state.dir;
    let mut known = Vec::new();
    let mut whole = vec![mqtt.password_file.clone(), mqtt.key.clone()];
    whole.extend(["key", "device.key"].map(|name| state.join(name).display().to_string()));
    for path in whole.iter().filter(|path| !path.is_empty()) {
        let Ok(bytes) = board.bytes(path) else { continue };
        match std::str::from_utf8(&bytes) {
            Ok(text) => known.extend(text.lines().map(str::to_owned)),
            Err(_) => {
                known.extend([hex::encode(&bytes), STANDARD.encode(&bytes)]);
                known.push(URL_SAFE_NO_PAD.encode(&bytes));
            }
        }
    }
    known.extend(logins(config));
    for text in [config.to_owned()].into_iter().chain(others(board)) {
        known.extend(logins(&text));
        if let Some(value) = read(&text) {
            gather(&value, &mut known);
        }
    }
    let dir = &board.config.apps.dir;
    for name in board.names(dir) {
        let text = board.text(dir.join(name)).unwrap_or_default();
        known.extend(logins(&text));
        match serde_saphyr::from_str::<Value>(&text) {
            Ok(document) => {
                gather(&document, &mut known);
                values(&document, &mut known);
            }
            // What cannot be read as a document may have secrets all the same.
            Err(_) => known.extend(after_value(&text)),
        }
    }
    known
}

fn others(board: &Board) -> Vec<String> {
    let hosts = board.names(HOSTS).into_iter().map(|host| format!("{HOSTS}/{host}/hosts.toml"));
    let paths = OTHERS.iter().map(|path| (*path).to_owned()).chain(hosts);
    paths.filter_map(|path| board.text(path)).collect()
}

/// TOML or JSON.
fn read(text: &str) -> Option<Value> {
    let toml = text.parse::<toml::Table>().ok().and_then(|table| serde_json::to_value(table).ok());
    toml.or_else(|| serde_json::from_str(text).ok())
}

/// The passwords in URLs, as they stand and decoded.
fn logins(text: &str) -> Vec<String> {
    let logins = text.split("://").skip(1).filter_map(login);
    let passwords =
        logins.map(|login| login.split_once(':').map_or(login, |(_, password)| password));
    passwords.flat_map(|password| [password.to_owned(), super::wipe::decoded(password)]).collect()
}

/// Values of keys that are called so.
fn gather(value: &Value, known: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let (true, Value::String(text)) = (is_secret_name(name), value) {
                    known.push(text.clone());
                    known.extend(login_of(text));
                }
                gather(value, known);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| gather(item, known)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}

/// The password in a registry's `auth`, which is `user:password` as base64.
fn login_of(auth: &str) -> Option<String> {
    let bytes = STANDARD_NO_PAD.decode(auth.trim_end_matches('=')).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

/// The values of a document's secrets and variables.
fn values(document: &Value, known: &mut Vec<String>) {
    match document {
        Value::Object(fields) => {
            for (name, list) in fields {
                for item in list.as_array().into_iter().flatten() {
                    let Some(text) = item.get("value").and_then(scalar) else { continue };
                    let called = item.get("name").and_then(Value::as_str).unwrap_or_default();
                    if name == "secrets" || LONG <= text.len() || is_secret_name(called) {
                        known.push(text);
                    }
                }
                values(list, known);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| values(item, known)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}

/// A value that YAML took for a number is a text all the same.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What stands behind each `value:`.
fn after_value(text: &str) -> Vec<String> {
    let values = text.lines().filter_map(|line| line.split_once("value:").map(|(_, value)| value));
    values.map(|value| value.trim().trim_matches(['"', '\'']).to_owned()).collect()
}
