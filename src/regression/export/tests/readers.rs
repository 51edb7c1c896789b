//! What reads the forms in tests: JUnit's XML by its schema, OpenMetrics by its grammar.

use std::collections::BTreeSet;

/// An element of JUnit's XML, the attributes that it has and may have, and what may be in it.
type Element =
    (&'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

/// The schema of Jenkins' xUnit plugin, junit-10.xsd, as far as it concerns what is written here. The plugin refuses a file
/// that does not keep it. To hold a file against the schema itself, with Python's package xmlschema:
///
/// ```python
/// xmlschema.XMLSchema("junit-10.xsd").validate("junit.xml")
/// ```
const JUNIT: [Element; 7] = [
    ("testsuites", &[], &["name", "tests", "failures", "errors"], &["testsuite"]),
    (
        "testsuite",
        &["name", "tests", "failures", "errors"],
        &["skipped"],
        &["testcase", "system-out"],
    ),
    ("testcase", &["name"], &["classname"], &["skipped", "error", "failure", "system-out"]),
    ("skipped", &[], &["type", "message"], &[]),
    ("error", &[], &["type", "message"], &[]),
    ("failure", &[], &["type", "message"], &[]),
    ("system-out", &[], &[], &[]),
];

/// What of a text in XML does not keep [`JUNIT`]. In XML no value of an attribute has a `<`, and here none has a `>`.
pub(super) fn junit_faults(text: &str) -> Vec<String> {
    let (mut open, mut faults) = (Vec::new(), Vec::new());
    for tag in text.split('<').skip(2).filter_map(|part| part.split('>').next()) {
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{tag}");
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap();
        let Some((_, required, optional, _)) = JUNIT.iter().find(|element| element.0 == name)
        else {
            faults.push(format!("element {name}"));
            continue;
        };
        let parent = open.last().map(|open| JUNIT.iter().find(|element| element.0 == *open));
        let is_child = parent.is_none_or(|parent| parent.unwrap().3.contains(&name));
        let attributes: Vec<&str> =
            tag.split('"').step_by(2).filter_map(|part| part.trim().strip_suffix('=')).collect();
        let attributes: Vec<&str> =
            attributes.iter().map(|part| part.rsplit(' ').next().unwrap()).collect();
        let is_known = |name: &&&str| required.contains(*name) || optional.contains(*name);
        let unknown = attributes.iter().filter(|attribute| !is_known(attribute));
        faults.extend(unknown.map(|attribute| format!("{name} has {attribute}")));
        let missing = required.iter().filter(|attribute| !attributes.contains(*attribute));
        faults.extend(missing.map(|attribute| format!("{name} lacks {attribute}")));
        if !is_child {
            faults.push(format!("{name} in {:?}", open.last()));
        }
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert_eq!(open, [""; 0], "{text}");
    faults
}

/// A sample's family and labels.
pub(super) type Sample = (String, Vec<(String, String)>);

/// Whether a text is a name as this program gives them.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// Labels behind their opening brace, and what follows the closing one.
fn read_labels(text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut chars = text.chars();
    let mut labels = Vec::new();
    loop {
        let label: String = chars.by_ref().take_while(|c| *c != '=').collect();
        if !is_name(&label) || chars.next() != Some('"') {
            return None;
        }
        let mut value = String::new();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => match chars.next()? {
                    'n' => value.push('\n'),
                    c @ ('\\' | '"') => value.push(c),
                    _ => return None,
                },
                c => value.push(c),
            }
        }
        labels.push((label, value));
        match chars.next()? {
            ',' => {}
            '}' => return Some((labels, chars.as_str())),
            _ => return None,
        }
    }
}

/// Reads OpenMetrics 1.0 of gauges by its grammar, strictly: families whole, descriptors before samples and once, the unit in
/// the name, labels escaped, no sample twice, numbers, `# EOF` at the end.
pub(super) fn read_openmetrics(text: &str) -> Result<Vec<Sample>, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("no # EOF")?;
    let (mut family, mut families, mut samples) = (String::new(), BTreeSet::new(), Vec::new());
    for line in body.split_terminator('\n') {
        let wrong = |why: &str| Err(format!("{why}: {line}"));
        if let Some(rest) = line.strip_prefix("# ") {
            let parts: Vec<&str> = rest.splitn(3, ' ').collect();
            let [keyword, name, value] = parts[..] else { return wrong("descriptor") };
            match keyword {
                "TYPE" if value == "gauge" && families.insert(name.to_owned()) => {
                    name.clone_into(&mut family);
                }
                "UNIT" if name == family && name.ends_with(&format!("_{value}")) => {}
                "HELP" if name == family => {}
                _ => return wrong("descriptor"),
            }
            continue;
        }
        let name_end = line.find('{').ok_or("no labels")?;
        let (name, rest) = line.split_at(name_end);
        if name != family || !is_name(name) {
            return wrong("family");
        }
        let (labels, number) = read_labels(&rest[1..]).ok_or(line)?;
        let number = number.strip_prefix(' ').and_then(|text| text.parse::<f64>().ok());
        let sample = (name.to_owned(), labels);
        if number.is_none() || samples.contains(&sample) {
            return wrong("sample");
        }
        samples.push(sample);
    }
    Ok(samples)
}
