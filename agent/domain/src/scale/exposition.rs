//! The text page on which programs show their metrics, as Prometheus reads it: one sample a line.

use serde_json::Value;

/// The sum of the samples of `metric` that have all `labels`; `None` where there is none. What is no sample is passed
/// over, and so is what is no number (`NaN` of a summary that saw nothing).
pub fn sum(page: &str, metric: &str, labels: &[(String, String)]) -> Option<f64> {
    let samples = page.lines().filter_map(|line| sample(line.trim(), metric, labels));
    samples.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

/// The number in a Prometheus server's answer to an instant query: a scalar, or the sum of a vector. `None` is an empty
/// vector; the error says what the answer is instead.
pub fn answer(document: &Value) -> Result<Option<f64>, String> {
    let result = &document["data"]["result"];
    let number = |sample: &Value| -> Option<f64> {
        let value: f64 = sample[1].as_str()?.parse().ok()?;
        value.is_finite().then_some(value)
    };
    let samples = match document["data"]["resultType"].as_str() {
        Some("scalar") => vec![number(result)],
        Some("vector") => {
            let samples = result.as_array().map(Vec::as_slice).unwrap_or_default();
            samples.iter().map(|sample| number(&sample["value"])).collect()
        }
        Some(other) => {
            return Err(format!("the query gives a {other}, and not a vector or a scalar"));
        }
        None => return Err("the answer is not that of a Prometheus server".to_owned()),
    };
    let whole: Option<Vec<f64>> = samples.into_iter().collect();
    let numbers = whole.ok_or("the query gives what is no number")?;
    Ok((!numbers.is_empty()).then(|| numbers.iter().sum()))
}

/// The value of a line that is a sample of `metric` with all `labels`.
fn sample(line: &str, metric: &str, labels: &[(String, String)]) -> Option<f64> {
    let rest = line.strip_prefix(metric)?;
    let (given, rest) = match rest.strip_prefix('{') {
        Some(rest) => self::labels(rest)?,
        None => (Vec::new(), rest.starts_with([' ', '\t']).then_some(rest)?),
    };
    if !labels.iter().all(|label| given.contains(label)) {
        return None;
    }
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    value.is_finite().then_some(value)
}

/// The labels up to the closing brace, and what follows it: `a="b",c="d"}`.
pub(super) fn labels(mut text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut found = Vec::new();
    loop {
        text = text.trim_start_matches([' ', ',']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((found, rest));
        }
        let (name, rest) = text.split_once('=')?;
        let mut value = String::new();
        let mut chars = rest.trim_start().strip_prefix('"')?.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => match chars.next()? {
                    'n' => value.push('\n'),
                    char => value.push(char),
                },
                char => value.push(char),
            }
        }
        found.push((name.trim().to_owned(), value));
        text = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP jobs Jobs that wait.\n# TYPE jobs gauge\n\
        jobs{queue=\"a\",zone=\"x, y\"} 3\njobs{queue=\"b\"} 4 1700000000000\n\
        jobs_total 9\nup 1e2\nodd{queue=\"a\\\"}\"} 5\nlost NaN\nbroken{queue=\"a\n";

    #[track_caller]
    fn check(metric: &str, wanted: &[(&str, &str)], expected: Option<f64>) {
        let wanted: Vec<(String, String)> =
            wanted.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(sum(PAGE, metric, &wanted), expected, "{metric} {wanted:?}");
    }

    #[track_caller]
    fn answered(result: &str, expected: Result<Option<f64>, &str>) {
        let text = format!(r#"{{"status": "success", "data": {{{result}}}}}"#);
        let document = serde_json::from_str(&text).unwrap();
        assert_eq!(answer(&document), expected.map_err(str::to_owned), "{result}");
    }

    #[test]
    fn the_answer_to_a_query_is_added_up() {
        let vector = |samples: &str| format!(r#""resultType": "vector", "result": [{samples}]"#);
        let one = r#"{"metric": {"a": "b"}, "value": [1.5, "3"]}"#;
        answered(&vector(&format!("{one}, {one}")), Ok(Some(6.0)));
        answered(&vector(""), Ok(None));
        answered(r#""resultType": "scalar", "result": [1.5, "2.5"]"#, Ok(Some(2.5)));
        let nan = r#"{"metric": {}, "value": [1.5, "NaN"]}"#;
        answered(&vector(nan), Err("the query gives what is no number"));
        let matrix = "the query gives a matrix, and not a vector or a scalar";
        answered(r#""resultType": "matrix", "result": []"#, Err(matrix));
        answered("", Err("the answer is not that of a Prometheus server"));
    }

    #[test]
    fn the_samples_of_a_metric_are_added_up() {
        check("jobs", &[], Some(7.0));
        check("jobs", &[("queue", "a")], Some(3.0));
        check("jobs", &[("zone", "x, y"), ("queue", "a")], Some(3.0));
        check("jobs", &[("queue", "c")], None);
        check("jobs_total", &[], Some(9.0));
        check("up", &[], Some(100.0));
        check("odd", &[("queue", "a\"}")], Some(5.0));
        check("lost", &[], None);
        check("broken", &[], None);
        check("job", &[], None);
    }
}
