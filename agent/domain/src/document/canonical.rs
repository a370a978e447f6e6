//! A template as one text: ACA's shape, keys in order, every default written out.
//!
//! Two documents that mean the same template have the same text and so the same digest, however they were written.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::app::{
    Container, ContainerProbe, EnvValue, Extras, ProbeAction, Scale, ScaleRule, ScaleTrigger,
    Template, Volume, VolumeSource,
};
use super::fields::Fields;
use super::findings::{Expressions, Finding, Findings};
use super::node::Node;
use super::quantity;
use super::skerry;
use super::support::Place;
use super::template;
use crate::model::{Digest, RevisionSuffix};
use crate::probe::ProbeKind;

impl Template {
    /// The text. Reads back with [`Template::from_canonical`].
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        write_sorted(&mut text, &template_value(self));
        text
    }

    /// The digest of the text: a change of it is a new revision.
    pub fn digest(&self) -> Digest {
        Digest::of(self.canonical().as_bytes())
    }

    /// Reads what [`Template::canonical`] wrote.
    pub fn from_canonical(text: &str) -> Result<Self, Vec<Finding>> {
        let node = Node::read_json(text).map_err(|error| vec![error])?;
        let found = Findings::default();
        found.expressions.set(Expressions::Literal);
        let fields = Fields::of(&node, String::new(), Place::Template, &found);
        let template = fields.map(|mut fields| {
            let mut block = fields.inner("skerry", Place::Skerry);
            let extras = block.as_mut().map(skerry::extras).unwrap_or_default();
            Self { extras, ..template::read(fields) }
        });
        let refused = found.refused();
        match template {
            Some(template) if !refused => Ok(template),
            Some(_) | None => Err(found.into_lists().0),
        }
    }
}

/// Writes JSON with its keys in order, whatever order the map keeps.
fn write_sorted(out: &mut String, value: &Value) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            out.push('{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                if index != 0 {
                    out.push(',');
                }
                write_sorted(out, &Value::String(key.clone()));
                out.push(':');
                write_sorted(out, value);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index != 0 {
                    out.push(',');
                }
                write_sorted(out, item);
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&value.to_string());
        }
    }
}

fn template_value(template: &Template) -> Value {
    let mut value = json!({
        "revisionSuffix": template.revision_suffix.as_ref().map(RevisionSuffix::as_str),
        "terminationGracePeriodSeconds": template.termination_grace_period_secs,
        "initContainers": list(&template.init_containers, container_value),
        "containers": list(&template.containers, container_value),
        "scale": scale_value(&template.scale),
        "volumes": list(&template.volumes, volume_value),
        "serviceBinds": list(&template.service_binds, |bind| {
            json!({ "serviceId": bind.service_id, "name": bind.name })
        }),
    });
    // Only where there is something: the digests of other templates stay what they were.
    if template.extras != Extras::default() {
        value["skerry"] = extras_value(&template.extras);
    }
    value
}

fn extras_value(extras: &Extras) -> Value {
    let probes: serde_json::Map<String, Value> = extras
        .exec_probes
        .iter()
        .map(|(container, probes)| {
            let kinds: serde_json::Map<String, Value> = probes
                .iter()
                .map(|(kind, command)| {
                    (kind.to_string().to_lowercase(), json!({ "exec": { "command": command } }))
                })
                .collect();
            (container.clone(), Value::Object(kinds))
        })
        .collect();
    json!({
        "devices": list(&extras.devices, |device| json!({
            "hostPath": device.host_path,
            "containerPath": device.container_path,
            "permissions": device.permissions,
        })),
        "capabilities": { "add": extras.capabilities.add, "drop": extras.capabilities.drop },
        "probes": probes,
    })
}

fn list<T>(items: &[T], value: impl Fn(&T) -> Value) -> Value {
    items.iter().map(value).collect()
}

fn container_value(container: &Container) -> Value {
    json!({
        "name": container.name,
        "image": container.image,
        "command": container.command,
        "args": container.args,
        "env": list(&container.env, |variable| match &variable.value {
            EnvValue::Plain(text) => json!({ "name": variable.name, "value": text }),
            EnvValue::Secret(name) => json!({ "name": variable.name, "secretRef": name }),
        }),
        "resources": {
            "cpu": quantity::cpu_text(container.resources.cpu_millis),
            "memory": container.resources.memory_bytes.to_string(),
        },
        "volumeMounts": list(&container.volume_mounts, |mount| json!({
            "volumeName": mount.volume_name,
            "mountPath": mount.mount_path,
            "subPath": mount.sub_path,
        })),
        "probes": list(&container.probes, probe_value),
    })
}

fn probe_value(probe: &ContainerProbe) -> Value {
    let kind = match probe.kind {
        ProbeKind::Startup => "Startup",
        ProbeKind::Readiness => "Readiness",
        ProbeKind::Liveness => "Liveness",
    };
    let (action, ask) = match &probe.action {
        ProbeAction::Http { host, port, path, https, headers } => {
            let headers: Vec<Value> = headers
                .iter()
                .map(|(name, value)| json!({ "name": name, "value": value }))
                .collect();
            let scheme = if *https { "HTTPS" } else { "HTTP" };
            let ask = json!({
                "host": host, "port": port, "path": path, "scheme": scheme, "httpHeaders": headers,
            });
            ("httpGet", ask)
        }
        ProbeAction::Tcp { host, port } => ("tcpSocket", json!({ "host": host, "port": port })),
    };
    json!({
        "type": kind,
        action: ask,
        "initialDelaySeconds": probe.initial_delay_secs,
        "periodSeconds": probe.period_secs,
        "timeoutSeconds": probe.timeout_secs,
        "successThreshold": probe.success_threshold,
        "failureThreshold": probe.failure_threshold,
        "terminationGracePeriodSeconds": probe.termination_grace_period_secs,
    })
}

fn scale_value(scale: &Scale) -> Value {
    json!({
        "minReplicas": scale.min_replicas,
        "maxReplicas": scale.max_replicas,
        "cooldownPeriod": scale.cooldown_period_secs,
        "pollingInterval": scale.polling_interval_secs,
        "allowScalingRuleOverride": scale.allow_scaling_rule_override,
        "rules": list(&scale.rules, rule_value),
    })
}

fn rule_value(rule: &ScaleRule) -> Value {
    let auth = list(
        &rule.auth,
        |auth| json!({ "secretRef": auth.secret_ref, "triggerParameter": auth.trigger_parameter }),
    );
    let (kind, mut trigger) = match &rule.trigger {
        ScaleTrigger::Http { metadata } => ("http", json!({ "metadata": metadata })),
        ScaleTrigger::Tcp { metadata } => ("tcp", json!({ "metadata": metadata })),
        ScaleTrigger::Custom { kind, metadata } => {
            ("custom", json!({ "type": kind, "metadata": metadata }))
        }
        ScaleTrigger::AzureQueue { account_name, queue_name, queue_length } => {
            let queue = json!({
                "accountName": account_name, "queueName": queue_name, "queueLength": queue_length,
            });
            ("azureQueue", queue)
        }
    };
    trigger["auth"] = auth;
    trigger["identity"] = json!(rule.identity);
    json!({ "name": rule.name, kind: trigger })
}

fn volume_value(volume: &Volume) -> Value {
    let (storage_type, storage_name, secrets) = match &volume.source {
        VolumeSource::EmptyDir => ("EmptyDir", None, Vec::new()),
        VolumeSource::Secret { items } => {
            let item = |item: &super::SecretItem| json!({ "secretRef": item.secret_ref, "path": item.path });
            ("Secret", None, items.iter().map(item).collect())
        }
        VolumeSource::Storage { storage_name } => ("AzureFile", Some(storage_name), Vec::new()),
    };
    json!({
        "name": volume.name,
        "storageType": storage_type,
        "storageName": storage_name,
        "secrets": secrets,
        "mountOptions": volume.mount_options,
    })
}
