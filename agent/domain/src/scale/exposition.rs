//! The text page on which programs show their metrics, as Prometheus reads it: one sample a line.

/// The sum of the samples of `metric` that have all `labels`; `None` where there is none. What is no sample is passed
/// over, and so is what is no number (`NaN` of a summary that saw nothing).
pub fn sum(page: &str, metric: &str, labels: &[(String, String)]) -> Option<f64> {
    let samples = page.lines().filter_map(|line| sample(line.trim(), metric, labels));
    samples.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
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
