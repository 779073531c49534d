//! What the documents name exists.

use std::path::Path;

/// `crate::file::test` in backticks, in a table of docs/bad-input.md.
#[test]
fn every_test_that_bad_input_md_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("docs/bad-input.md")).unwrap();
    let named: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with('|'))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter(|name| name.matches("::").count() == 2)
        .collect();
    assert!(named.len() > 80, "only {} names were found", named.len());
    for name in named {
        let [krate, file, test] = name.split("::").collect::<Vec<_>>()[..] else {
            panic!("{name}");
        };
        let sources = root.join("crates").join(krate);
        assert!(
            holds(&sources, file, &format!("fn {test}(")),
            "there is no {name}"
        );
    }
}

/// Whether a file or module of this name below `folder` holds the text.
fn holds(folder: &Path, module: &str, text: &str) -> bool {
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let named = path.file_stem().is_some_and(|stem| stem == module)
                || path.ends_with(format!("{module}/tests.rs"));
            if named && std::fs::read_to_string(&path).is_ok_and(|source| source.contains(text)) {
                return true;
            }
        }
    }
    false
}
