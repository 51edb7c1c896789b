//! The rules of `ARCHITECTURE.md`, checked on the text of `src/`: who imports whom, who knows tensors, who prints, who
//! writes. Unit tests inside the modules are exempt.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The code of each module of the crate, by the module's name: its file and those below its folder.
fn modules() -> BTreeMap<String, Vec<(String, String)>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    let mut modules: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for file in files {
        let place = file.strip_prefix(&source).unwrap();
        let first = place.components().next().unwrap().as_os_str();
        let name = Path::new(first).file_stem().unwrap().to_str().unwrap();
        let place = place.to_str().unwrap().to_owned();
        if name != "lib" && !place.ends_with("/tests.rs") && !place.contains("/tests/") {
            let text = String::from_utf8(std::fs::read(&file).unwrap()).unwrap();
            modules.entry(name.to_owned()).or_default().push((place, code(&text)));
        }
    }
    modules
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// A file without its comments and without the unit tests at its end.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines().map(|line| {
        let comment = line.trim_start().starts_with("//");
        let code = line.split(" // ").next();
        code.filter(|_| !comment).unwrap_or_default()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules of the `floors` block, top first.
fn floors() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let page = String::from_utf8(std::fs::read(page).unwrap()).unwrap();
    let (_, block) = page.split_once("```floors\n").expect("a block of floors");
    let (block, _) = block.split_once("```").expect("the end of the block");
    block.split_whitespace().map(str::to_owned).collect()
}

/// The modules that the code of a file names from the crate's root on, alone or in a list in braces.
fn imports(file: &str, code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let supers = "super::".repeat(file.trim_end_matches("/mod.rs").split('/').count());
    for root in ["crate::", "mantissa::", &supers] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || "_$:".contains(c)) {
                continue;
            }
            let rest = &code[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(list) => found.extend(top_level_names(list)),
                None => found.extend(first_name(rest)),
            }
        }
    }
    found
}

/// The first name of each item of a `use` list, whose opening brace is before `list`.
fn top_level_names(list: &str) -> Vec<String> {
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' if depth == 0 => {
                names.extend(first_name(&list[start..i]));
                start = i + 1;
            }
            '}' => {
                names.extend(first_name(&list[start..i]));
                break;
            }
            _ => {}
        }
    }
    names
}

fn first_name(path: &str) -> Option<String> {
    let path = path.trim_start();
    let end = path.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(path.len());
    (end > 0).then(|| path[..end].to_owned())
}

#[test]
fn imports_are_found_wherever_they_stand() {
    let code = code(
        "//! crate::report\nuse crate::record::{Results, Role};\nuse crate::{data, spec::{Plan, Pool}, units::Bytes};\n\
         let x: crate::store::StoreError = mantissa::cli::run(); // crate::train\n$crate::model::X\n\
         use super::stats;\nuse super::super::memory;\n#[cfg(test)]\nmod tests {\nuse crate::layers;\n}",
    );
    let always = ["cli", "data", "record", "spec", "store", "units"];
    for (file, through_super) in [
        ("claims.rs", vec!["stats", "super"]),
        ("claims/mod.rs", vec!["stats", "super"]),
        ("claims/table.rs", vec!["memory"]),
        ("claims/table/row.rs", vec![]),
    ] {
        let expected = always.into_iter().chain(through_super).map(str::to_owned);
        assert_eq!(imports(file, &code), expected.collect(), "{file}");
    }
}

#[test]
fn every_module_has_its_floor() {
    let floors: BTreeSet<_> = floors().into_iter().collect();
    let modules: BTreeSet<_> = modules().into_keys().collect();
    assert_eq!(floors, modules);
}

#[test]
fn no_module_imports_upwards() {
    let floors = floors();
    let height = |name: &str| floors.iter().position(|floor| floor == name);
    let mut upward = Vec::new();
    for (module, files) in modules() {
        for (file, code) in files {
            for imported in imports(&file, &code) {
                // Macros and items of the crate's root have no floor.
                if imported != module
                    && height(&imported).is_some_and(|at| Some(at) < height(&module))
                {
                    upward.push(format!("src/{file} imports {imported}"));
                }
            }
        }
    }
    assert_eq!(upward, [""; 0]);
}

/// Where, outside `allowed`, code holds one of the words.
fn found(words: &[&str], looked_at: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (module, files) in modules() {
        if looked_at(&module) {
            for (file, code) in files {
                let held = words.iter().filter(|word| code.contains(**word));
                found.extend(held.map(|word| format!("src/{file} holds {word}")));
            }
        }
    }
    found
}

#[test]
fn reports_verdicts_formats_and_plain_data_know_no_tensor() {
    let plain = ["report", "claims", "stats", "record", "spec", "precision"];
    let crates = ["candle_core", "candle_nn"];
    assert_eq!(found(&crates, |module| plain.contains(&module)), [""; 0]);
}

#[test]
fn the_engine_does_not_know_what_a_spec_says_of_data_and_models() {
    let engine = ["train", "model", "layers", "ops", "numerics"];
    assert_eq!(found(&["DataPlan", "ModelPlan"], |name| engine.contains(&name)), [""; 0]);
}

#[test]
fn only_the_commands_print() {
    let prints = ["println!", "print!(", "eprint!(", "stdout()", "stderr()"];
    assert_eq!(found(&prints, |module| module != "cli"), [""; 0]);
}

#[test]
fn only_the_store_writes() {
    let writes = [
        "File::create",
        "OpenOptions",
        "fs::write",
        "fs::rename",
        "fs::remove",
        "create_dir",
        "tempfile::",
    ];
    assert_eq!(found(&writes, |module| module != "store"), [""; 0]);
}

#[test]
fn only_the_store_opens_files() {
    let opens = ["File::open", "File::options", "fs::read(", "fs::read_to_string"];
    assert_eq!(found(&opens, |module| module != "store"), [""; 0]);
}

#[test]
fn only_the_store_opens_databases_and_only_the_history_writes_through_them() {
    assert_eq!(found(&["Connection::open"], |module| module != "store"), [""; 0]);
    assert_eq!(found(&["rusqlite"], |module| !["store", "history"].contains(&module)), [""; 0]);
}
