//! Where in a JSON document a number is: `valueLocation` of the rule type `metrics-api`.

use serde_json::Value;

/// The way to a value, as GJSON writes it: `queues.0.length`. Names and positions, between dots; a backslash makes a
/// dot part of a name, and `#` at the end is the length of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    text: String,
    steps: Vec<String>,
}

impl Location {
    /// Reads it; `None` where a step is empty.
    pub fn parse(text: &str) -> Option<Self> {
        let mut steps = vec![String::new()];
        let mut rest = text.chars();
        while let Some(char) = rest.next() {
            match char {
                '.' => steps.push(String::new()),
                '\\' => steps.last_mut()?.push(rest.next()?),
                char => steps.last_mut()?.push(char),
            }
        }
        let whole = steps.iter().all(|step| !step.is_empty());
        whole.then(|| Self { text: text.to_owned(), steps })
    }

    /// The number there: one of JSON's, or a text that holds one. The error says what is there instead.
    pub fn number(&self, document: &Value) -> Result<f64, String> {
        let mut at = document;
        for (index, step) in self.steps.iter().enumerate() {
            if step == "#"
                && index + 1 == self.steps.len()
                && let Value::Array(list) = at
            {
                let length = u32::try_from(list.len()).unwrap_or(u32::MAX);
                return Ok(length.into());
            }
            let next = match at {
                Value::Object(map) => map.get(step),
                Value::Array(list) => step.parse().ok().and_then(|index: usize| list.get(index)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
            };
            at = next.ok_or_else(|| format!("the answer has nothing at {}", self.text))?;
        }
        let number = match at {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        let number = number.filter(|number| number.is_finite());
        number.ok_or_else(|| format!("what the answer has at {} is no number", self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(location: &str, expected: Result<f64, &str>) {
        let document = serde_json::json!({
            "a": {"b": [{"c": 3}, {"c": "4.5"}], "d.e": 7}, "t": true, "nan": "NaN"
        });
        let found = Location::parse(location).expect("it parses").number(&document);
        assert_eq!(found, expected.map_err(str::to_owned), "{location}");
    }

    #[test]
    fn a_number_is_found_on_its_way_and_what_is_none_is_said() {
        check("a.b.0.c", Ok(3.0));
        check("a.b.1.c", Ok(4.5));
        check("a.b.#", Ok(2.0));
        check(r"a.d\.e", Ok(7.0));
        check("a.b.2.c", Err("the answer has nothing at a.b.2.c"));
        check("a.b.c", Err("the answer has nothing at a.b.c"));
        check("t", Err("what the answer has at t is no number"));
        check("nan", Err("what the answer has at nan is no number"));
        check("a", Err("what the answer has at a is no number"));
    }

    #[test]
    fn a_way_without_a_step_is_none() {
        for text in ["", ".a", "a..b", "a.", "a\\"] {
            assert_eq!(Location::parse(text), None, "{text}");
        }
    }
}
