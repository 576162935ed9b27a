//! Reads the configuration file: TOML or YAML by its extension, keys named like the flags.

use std::path::Path;

use serde_json::Value;

use crate::failure::Failure;
use crate::flags::{self, Flag, Kind};
use crate::nearest::nearest;

/// etcd's own files keep TLS settings in these two tables; the second column is put before the key.
const SECTIONS: [(&str, &str); 2] = [("client-transport-security", ""), ("peer-transport-security", "peer-")];

/// Keys inside those tables that differ from the flag's name (without `peer-`).
const SECTION_KEYS: [(&str, &str); 2] =
    [("allowed-cn", "cert-allowed-cn"), ("allowed-hostname", "cert-allowed-hostname")];

/// The settings of a file: the flag's name, the key as written (for messages), and the value as text.
pub fn read(path: &str) -> Result<Vec<(&'static str, String, String)>, Failure> {
    let extension = Path::new(path).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let parse = match extension {
        "toml" => from_toml,
        "yaml" | "yml" | "json" => from_yaml,
        _ => {
            return Err(Failure::wrong_call(format!(
                "--config-file: extension of {path:?}, expected .toml, .yaml, .yml or .json"
            )));
        }
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::wrong_call(format!("--config-file: cannot read {path:?}: {error}")))?;
    let root = parse(&text).map_err(|fault| Failure::wrong_call(format!("{path}: {fault}")))?;
    let table = match root {
        Value::Object(table) => table,
        Value::Null => return Ok(Vec::new()),
        _ => return Err(Failure::wrong_call(format!("{path}: expected keys and values"))),
    };
    let mut found = Vec::new();
    for (key, value) in table {
        match (SECTIONS.iter().find(|(section, _)| *section == key), value) {
            (Some((_, prefix)), Value::Object(inner)) => {
                for (inner_key, value) in inner {
                    let name = SECTION_KEYS
                        .iter()
                        .find(|(short, _)| *short == inner_key)
                        .map_or(inner_key.as_str(), |(_, long)| long);
                    // Clients' allowed names are flags of their own in etcd.
                    let name = match (name, prefix.is_empty()) {
                        ("cert-allowed-hostname", true) => "client-cert-allowed-hostname".to_string(),
                        _ => format!("{prefix}{name}"),
                    };
                    let key = format!("{key}.{inner_key}");
                    found.extend(setting(path, &name, key, &value)?);
                }
            }
            (Some(_), _) => {
                return Err(Failure::wrong_call(format!("{path}: {key}: expected keys and values")));
            }
            (None, value) => found.extend(setting(path, &key.clone(), key, &value)?),
        }
    }
    Ok(found)
}

fn from_toml(text: &str) -> Result<Value, String> {
    toml::from_str(text).map_err(|error| error.to_string().trim_end().to_string())
}

fn from_yaml(text: &str) -> Result<Value, String> {
    // By way of YAML's own value type, which refuses a key that stands twice.
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
    serde_json::to_value(value).map_err(|error| error.to_string())
}

/// One key. Nothing where its value is empty, which leaves the setting alone as in etcd.
fn setting(
    path: &str,
    name: &str,
    key: String,
    value: &Value,
) -> Result<Option<(&'static str, String, String)>, Failure> {
    let Some(flag) = flags::find(name) else {
        let fault = Failure::wrong_call(format!("{path}: {key}: there is no setting of this name"));
        return Err(match nearest(name, flags::all().map(|flag| flag.name)) {
            Some(meant) => fault.hint(format!("is {meant:?} meant?")),
            None => fault.hint("docs/config.md lists them all"),
        });
    };
    if flag.name == "config-file" {
        return Err(Failure::wrong_call(format!("{path}: {key}: a file cannot name another file")));
    }
    let text =
        as_text(flag, value).map_err(|fault| Failure::wrong_call(format!("{path}: {key}: {fault}")))?;
    Ok(Some(text).filter(|text| !text.is_empty()).map(|text| (flag.name, key, text)))
}

fn as_text(flag: &Flag, value: &Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) if flag.kind != Kind::Bool => Err(format!("{value} is not a {}", flag.value_name())),
        Value::Bool(value) => Ok(value.to_string()),
        // etcd reads bare numbers of durations in its file as nanoseconds.
        Value::Number(number) if flag.kind == Kind::Duration => Ok(format!("{number}ns")),
        Value::Number(number) => Ok(number.to_string()),
        Value::Array(parts) => {
            let parts = parts.iter().map(|part| as_text(flag, part)).collect::<Result<Vec<_>, _>>()?;
            Ok(parts.join(","))
        }
        // etcd takes feature gates as text only; a table of them is what people try.
        Value::Object(_) => Err("expected a value, not a table".into()),
    }
}
