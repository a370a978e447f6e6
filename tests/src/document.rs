//! App documents in few words.

use serde_json::{Value, json};

/// An app document under construction. JSON is YAML, so it is sent as JSON.
#[derive(Debug, Clone)]
pub struct Document(pub Value);

impl Document {
    /// One container with the test app's image, and ingress on its port.
    pub fn new(image: &str) -> Self {
        Self(json!({
            "properties": {
                "configuration": { "ingress": { "external": true, "targetPort": 8080 } },
                "template": {
                    "containers": [{
                        "name": "main",
                        "image": image,
                        "resources": { "cpu": 0.25, "memory": "128Mi" },
                    }],
                    "scale": { "minReplicas": 1, "maxReplicas": 1 },
                },
            },
        }))
    }

    /// Sets the value at `pointer`, which starts below `properties`: `/template/scale/minReplicas`. What is missing on
    /// the way is made; a number is a place in a list, and the place past the end appends.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        *place(&mut self.0["properties"], pointer) = value.into();
        self
    }

    /// Sets a key of the top-level `skerry` block.
    #[must_use]
    pub fn skerry(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0["skerry"][key] = value.into();
        self
    }

    /// Sets something of the first container: `/command`.
    #[must_use]
    pub fn main(self, pointer: &str, value: impl Into<Value>) -> Self {
        self.set(&format!("/template/containers/0{pointer}"), value)
    }

    /// Adds a variable to the first container.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        let list = place(&mut self.0["properties"], "/template/containers/0/env");
        let entry = json!({ "name": key, "value": value });
        if let Value::Array(entries) = list {
            entries.push(entry);
        } else {
            *list = json!([entry]);
        }
        self
    }

    /// Sets how many replicas there are.
    #[must_use]
    pub fn replicas(self, count: u32) -> Self {
        self.set("/template/scale/minReplicas", count).set("/template/scale/maxReplicas", count)
    }

    /// Takes the ingress away.
    #[must_use]
    pub fn without_ingress(mut self) -> Self {
        self.0["properties"]["configuration"] = json!({});
        self
    }

    /// What is sent.
    pub fn text(&self) -> String {
        self.0.to_string()
    }
}

impl From<Document> for String {
    fn from(document: Document) -> Self {
        document.text()
    }
}

fn place<'a>(mut at: &'a mut Value, pointer: &str) -> &'a mut Value {
    for step in pointer.split('/').skip(1) {
        at = match (step.parse::<usize>(), at) {
            (Ok(index), Value::Array(entries)) => {
                if index == entries.len() {
                    entries.push(Value::Null);
                }
                &mut entries[index]
            }
            (Ok(0), empty @ Value::Null) => {
                *empty = json!([null]);
                &mut empty[0]
            }
            (_, object) => &mut object[step],
        };
    }
    at
}
