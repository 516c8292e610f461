use std::collections::BTreeSet;

use crate::support::Desk;

#[test]
fn all_61_formulations_are_listed_with_what_they_are() {
    let table = Desk::new().succeed("formulations");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 62);
    // Columns stand below each other.
    let column = |word: &str| lines[0].find(word).unwrap();
    for line in &lines[1..] {
        for head in ["path", "prediction", "density", "weight"] {
            let at = column(head);
            assert!(line[..at].ends_with("  ") && !line[at..].starts_with(' '), "{head}: {line}");
        }
    }
    let row = lines.iter().find(|line| line.starts_with("edm(-1.20,1.20) ")).unwrap();
    for part in ["x0 + b eps", "F: ", "logit sigma ~ N(-1.20, 1.20^2)", "N(lambda; 2.40, 2.40^2) (e^-lambda + 0.5^2)"] {
        assert!(row.contains(part), "no {part:?} in {row}");
    }
}

#[test]
fn the_json_list_has_one_object_a_line() {
    let json = Desk::new().succeed("formulations --json");
    let mut names = BTreeSet::new();
    for line in json.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let row = row.as_object().unwrap();
        let keys: Vec<&str> = row.keys().map(String::as_str).collect();
        assert_eq!(keys, ["density", "name", "path", "prediction", "weight"], "{line}");
        assert!(row.values().all(|value| value.as_str().is_some_and(|text| !text.is_empty())), "{line}");
        names.insert(row["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(names.len(), 61);
    assert!(names.contains("rf/lognorm(0.00,1.00)") && names.contains("v/cos"));
}
