//! The table of `dqlited status`: a row for each figure, a column for each member.

use serde_json::{Map, Value};

/// Turns a value of the answer into what stands in the table.
type Show = fn(&Value) -> String;

/// The rows, with the fields of the answer that they show.
const ROWS: [(&str, &str, Show); 14] = [
    ("name", "name", plain),
    ("member id", "member_id", plain),
    ("cluster id", "cluster_id", plain),
    ("leader", "leader", leader),
    ("term", "term", plain),
    ("revision", "revision", plain),
    ("compact revision", "compact_revision", plain),
    ("committed index", "committed_index", plain),
    ("applied index", "applied_index", plain),
    ("visible index", "visible_index", plain),
    ("durable index", "durable_index", plain),
    ("database size", "db_size_bytes", bytes),
    ("of it in use", "db_in_use_bytes", bytes),
    ("uptime", "uptime_seconds", uptime),
];

/// The members' answers side by side.
pub fn render(members: &[(String, Map<String, Value>)]) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    rows.push(row("endpoint", members, |(endpoint, _)| endpoint.clone()));
    rows.push(row("version", members, |(_, answer)| show(answer, "version", plain)));
    for (title, field, as_text) in ROWS {
        rows.push(row(title, members, |(_, answer)| show(answer, field, as_text)));
    }
    let columns = members.len() + 1;
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

type Member = (String, Map<String, Value>);

fn row(title: &str, members: &[Member], cell: impl Fn(&Member) -> String) -> Vec<String> {
    std::iter::once(title.to_string()).chain(members.iter().map(cell)).collect()
}

fn show(answer: &Map<String, Value>, field: &str, as_text: Show) -> String {
    answer.get(field).map_or_else(|| "-".to_string(), as_text)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

fn leader(value: &Value) -> String {
    if value.is_null() { "none".into() } else { plain(value) }
}

fn bytes(value: &Value) -> String {
    let Some(bytes) = value.as_u64() else {
        return plain(value);
    };
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut shown = bytes as f64;
    while shown >= 1024.0 && unit + 1 < UNITS.len() {
        shown /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{shown:.1} {}", UNITS[unit]) }
}

fn uptime(value: &Value) -> String {
    let Some(seconds) = value.as_f64().filter(|seconds| *seconds >= 0.0) else {
        return plain(value);
    };
    let seconds = seconds as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_stand_under_their_member_as_people_read_them() {
        let answer = json!({
            "member_id": "8e9e05c52164694d", "cluster_id": "cdf818194e3a8c32", "name": "default",
            "version": "0.1.0", "revision": 7, "compact_revision": -1, "term": 2, "leader": null,
            "committed_index": 12, "applied_index": 12, "visible_index": 11, "durable_index": 9,
            "db_size_bytes": 3_250_586, "db_in_use_bytes": 512, "uptime_seconds": 3725,
        });
        let Value::Object(answer) = answer else { unreachable!() };
        let text = render(&[("http://127.0.0.1:2379".into(), answer), ("http://b:1".into(), Map::new())]);
        let expected = "\
endpoint          http://127.0.0.1:2379  http://b:1
version           0.1.0                  -
name              default                -
member id         8e9e05c52164694d       -
cluster id        cdf818194e3a8c32       -
leader            none                   -
term              2                      -
revision          7                      -
compact revision  -1                     -
committed index   12                     -
applied index     12                     -
visible index     11                     -
durable index     9                      -
database size     3.1 MiB                -
of it in use      512 B                  -
uptime            1h2m                   -
";
        assert_eq!(text, expected);
        assert_eq!(
            (uptime(&json!(59)), uptime(&json!(61)), uptime(&json!(90_000))),
            ("59s".into(), "1m1s".into(), "1d1h".into())
        );
    }
}
