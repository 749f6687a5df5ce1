//! The house's own rules: who may depend on whom, which way a module may look, which licences come in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What cargo knows of a manifest's packages and all that they may be built with.
fn metadata(manifest: &str) -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--all-features",
            "--manifest-path",
            manifest,
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Crates of ours that a crate of ours may be built from; tests may use more.
#[test]
fn crates_depend_in_one_direction() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("hanas-proto", &[][..]),
        ("hanas-models", &[]),
        ("hanas-device-core", &["hanas-proto"]),
        ("hanas-chip-runtime", &["hanas-proto", "hanas-device-core"]),
        ("hanas-agent", &["hanas-proto", "hanas-device-core"]),
        ("hanas", &["hanas-proto", "hanas-models"]),
        (
            "hanas-tests",
            &[
                "hanas-proto",
                "hanas-models",
                "hanas-device-core",
                "hanas-chip-runtime",
                "hanas-agent",
                "hanas",
            ],
        ),
    ]);
    let metadata = metadata("Cargo.toml");
    let mut seen = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let Some(allowed) = allowed.get(package["name"].as_str().unwrap()) else { continue };
        seen += 1;
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            let counts = name.starts_with("hanas") && dependency["kind"].is_null();
            assert!(!counts || allowed.contains(&name), "{} may not depend on {name}", package["name"]);
        }
    }
    assert_eq!(seen, 7);
}

/// The order in which data flows through the host; a module imports only from those before it.
const HOST: [&str; 11] =
    ["task", "link", "store", "profile", "latency", "space", "data", "search", "train", "report", "cli"];

#[test]
fn host_modules_look_only_to_their_left() {
    let source = root().join("host/src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    assert!(files.len() > 30, "the scan found the sources");
    for file in files {
        let relative = file.strip_prefix(&source).unwrap();
        if relative.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        let Some(place) = HOST.iter().position(|&name| name == module) else {
            assert!(["lib", "main"].contains(&module.as_str()), "{module} has no place in the flow");
            continue;
        };
        for line in std::fs::read_to_string(&file).unwrap().lines() {
            for (at, _) in line.match_indices("crate::") {
                let name: String =
                    line[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(used) = HOST.iter().position(|&other| other == name) else { continue };
                assert!(used <= place, "{}: {module} may not look at {name}", relative.display());
            }
        }
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Every dependency can be had under a licence of deny.toml's list.
#[test]
fn licences_are_on_the_list() {
    let deny: toml::Table = std::fs::read_to_string(root().join("deny.toml")).unwrap().parse().unwrap();
    let allow: BTreeSet<&str> =
        deny["licenses"]["allow"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    for (manifest, least) in [("Cargo.toml", 300), ("device-agent/firmware/Cargo.toml", 30)] {
        let metadata = metadata(manifest);
        let packages = metadata["packages"].as_array().unwrap();
        assert!(packages.len() > least, "the scan found the dependencies");
        for package in packages {
            let licence = package["license"].as_str().unwrap_or("none").replace('/', " OR ");
            assert!(satisfied(&licence, &allow), "{}: licence {licence} is not on the list", package["name"]);
        }
    }
    assert!(satisfied("(MIT OR GPL-3.0) AND Zlib", &allow));
    assert!(!satisfied("MIT AND GPL-3.0", &allow));
}

/// Whether an SPDX expression can be met from the list. `OR` binds less than `AND`.
fn satisfied(expression: &str, allow: &BTreeSet<&str>) -> bool {
    let expression = expression.trim();
    if let Some(parts) = split(expression, " OR ") {
        return parts.iter().any(|part| satisfied(part, allow));
    }
    if let Some(parts) = split(expression, " AND ") {
        return parts.iter().all(|part| satisfied(part, allow));
    }
    if let Some(inner) = expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        return satisfied(inner, allow);
    }
    allow.contains(expression)
}

/// Splits at an operator outside of parentheses; none where there is none.
fn split<'a>(expression: &'a str, operator: &str) -> Option<Vec<&'a str>> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, byte) in expression.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ if depth == 0 && expression[at..].starts_with(operator) => {
                parts.push(&expression[start..at]);
                start = at + operator.len();
            }
            _ => {}
        }
    }
    parts.push(&expression[start..]);
    (parts.len() > 1).then_some(parts)
}
