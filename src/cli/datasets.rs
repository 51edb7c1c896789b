//! What `--mnist` and `--cifar10` mean: the data of a spec, as overrides of it.

use std::path::{Path, PathBuf};

use super::Failure;
use crate::store;

/// The keys of IDX data and the names of their files, each of which may end in `.gz`.
const IDX: [(&str, &str); 4] = [
    ("train_images", "train-images-idx3-ubyte"),
    ("train_labels", "train-labels-idx1-ubyte"),
    ("test_images", "t10k-images-idx3-ubyte"),
    ("test_labels", "t10k-labels-idx1-ubyte"),
];

/// What the folder of one of the two data sets changes in a spec. The default experiment is called as its data set, so that its
/// results have a folder of their own.
///
/// # Errors
/// When a file is missing, or a path is no text.
pub(super) fn overrides(
    (mnist, cifar10): (Option<&Path>, Option<&Path>),
    is_default: bool,
) -> Result<Vec<String>, Failure> {
    let (name, data) = match (mnist, cifar10) {
        (Some(folder), _) => ("mnist", idx(folder)?),
        (None, Some(folder)) => {
            ("cifar10", format!("data={{kind=\"cifar10\", path={}}}", quoted("--cifar10", folder)?))
        }
        (None, None) => return Ok(Vec::new()),
    };
    let name = is_default.then(|| format!("name={name}"));
    Ok([data].into_iter().chain(name).collect())
}

fn idx(folder: &Path) -> Result<String, Failure> {
    let mut data = "data={kind=\"idx\"".to_owned();
    for (key, name) in IDX {
        let plain = folder.join(name);
        let packed = folder.join(format!("{name}.gz"));
        let found: Option<PathBuf> =
            [plain, packed].into_iter().find(|path| store::is_file(path).unwrap_or(false));
        let Some(path) = found else {
            return Err(Failure::Input(format!(
                "--mnist {}: neither {name} nor {name}.gz is there; give the folder with the four files of MNIST",
                folder.display()
            )));
        };
        data += &format!(", {key}={}", quoted("--mnist", &path)?);
    }
    Ok(data + "}")
}

/// A path as a string of TOML.
fn quoted(option: &str, path: &Path) -> Result<String, Failure> {
    let no_text = || Failure::Input(format!("{option} {}: is not Unicode", path.display()));
    let text = path.to_str().ok_or_else(no_text)?;
    Ok(toml::Value::from(text).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{DEFAULT, DataPlan, IdxTest, Overrides, Plan};

    fn plan(set: Vec<String>) -> Plan {
        let overrides = Overrides { set, ..Overrides::default() };
        Plan::read("default.toml", DEFAULT, &overrides).unwrap()
    }

    #[test]
    fn mnist_is_four_files_packed_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("it's \"mine\"");
        let paths = IDX.map(|(_, name)| folder.join(name));
        for path in &paths[..3] {
            store::write(path, b"").unwrap();
        }
        let missing = overrides((Some(&folder), None), true).unwrap_err().to_string();
        let expected =
            "neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte.gz is there; give";
        assert!(missing.contains(expected), "{missing}");
        let packed = folder.join("t10k-labels-idx1-ubyte.gz");
        store::write(&packed, b"").unwrap();
        let found = plan(overrides((Some(&folder), None), true).unwrap());
        let [train_images, train_labels, images, _] = paths;
        let test = IdxTest::Files { images, labels: packed };
        assert_eq!(found.name, "mnist");
        assert_eq!(found.data, DataPlan::Idx { train_images, train_labels, test });
        // The name of somebody's own spec stays.
        let own = plan(overrides((Some(&folder), None), false).unwrap());
        assert_eq!((own.name.as_str(), own.data), ("digits", found.data));
    }

    #[test]
    fn cifar10_is_a_folder() {
        let found = plan(overrides((None, Some(Path::new("a b"))), true).unwrap());
        let augment = crate::spec::Augment::default();
        assert_eq!(found.data, DataPlan::Cifar10 { path: "a b".into(), augment });
        assert_eq!(found.name, "cifar10");
        assert_eq!(plan(overrides((None, None), true).unwrap()), plan(Vec::new()));
    }
}
