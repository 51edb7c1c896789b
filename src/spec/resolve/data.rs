//! The `[data]` of a spec.

use std::path::{Path, PathBuf};

use super::{Checked, defaults, limits, real, refuse, whole};
use crate::hub;
use crate::spec::typed::{DataSpec, PlainTextSpec, TextSpec};
use crate::spec::{
    Augment, DataPlan, IdxTest, NpyTest, TableTest, TestShare, TextFiles, TextTest, TokensPlan,
};

/// Height and width of an image of CIFAR.
pub(super) const CIFAR_SIDE: usize = 32;

pub(super) fn resolve(spec: DataSpec) -> Checked<DataPlan> {
    Ok(match spec {
        DataSpec::Digits { train, test, seed } => {
            let (train, test) =
                (train.unwrap_or(defaults::DIGITS_TRAIN), test.unwrap_or(defaults::DIGITS_TEST));
            DataPlan::Digits {
                train: whole("data.train", train, 1..=limits::DIGITS)?,
                test: whole("data.test", test, 1..=limits::DIGITS)?,
                seed: seed.unwrap_or(defaults::DIGITS_SEED),
            }
        }
        DataSpec::Idx { train_images, train_labels, test_images, test_labels, held_out } => {
            let test = idx_test((test_images, test_labels), held_out)?;
            DataPlan::Idx { train_images, train_labels, test }
        }
        DataSpec::Cifar10 { path, augment } => {
            DataPlan::Cifar10 { path, augment: cropped(augment)? }
        }
        DataSpec::Cifar100 { path, augment } => {
            DataPlan::Cifar100 { path, augment: cropped(augment)? }
        }
        DataSpec::ImageFolder { path, resize, test_share, seed, augment } => {
            let (resize, test) = (size(resize)?, share(test_share, seed)?);
            DataPlan::ImageFolder { path, resize, test, augment }
        }
        DataSpec::Npy {
            archive,
            train_inputs,
            train_targets,
            test_inputs,
            test_targets,
            test_share,
            seed,
            task,
        } => {
            let test = npy_test((test_inputs, test_targets), share(test_share, seed)?)?;
            let task = task.unwrap_or(defaults::TASK);
            DataPlan::Npy { archive, train_inputs, train_targets, test, task }
        }
        DataSpec::Csv { train, test, test_share, seed, target, features, task } => {
            if features.as_ref().is_some_and(|features| features.contains(&target)) {
                return refuse("data.features", format!("lists the target, {target:?}; remove it"));
            }
            let test = table_test(test, share(test_share, seed)?)?;
            DataPlan::Csv { train, test, target, features, task: task.unwrap_or(defaults::TASK) }
        }
        DataSpec::Text(spec) => text(spec)?,
        DataSpec::PlainText(spec) => plain_text(spec)?,
    })
}

fn plain_text(spec: PlainTextSpec) -> Checked<DataPlan> {
    let PlainTextSpec { train, test, test_share, length, tokenizer, vocabulary } = spec;
    let test = match (test, share(test_share, None)?) {
        (Some(path), None) => TextTest::File(path),
        (None, Some(share)) => TextTest::Last(share.share),
        _ => {
            return refuse("data", "give either test or test_share for the test split");
        }
    };
    hub_file("data.train", &train)?;
    if let TextTest::File(path) = &test {
        hub_file("data.test", path)?;
    }
    tokenizer.iter().try_for_each(|path| hub_file("data.tokenizer", path))?;
    let tokens = match (tokenizer, vocabulary) {
        (None, None) => TokensPlan::Characters,
        (Some(path), None) => TokensPlan::Tokenizer(path),
        (None, Some(size)) => {
            TokensPlan::Made(whole("data.vocabulary", size, 256..=limits::VOCABULARY)?)
        }
        (Some(_), Some(_)) => {
            return refuse("data.vocabulary", "is that of the tokenizer; remove this key");
        }
    };
    let length = length.unwrap_or(defaults::LENGTH);
    let length = whole("data.length", length, 2..=limits::LENGTH)?;
    Ok(DataPlan::PlainText { train, test, length, tokens })
}

fn text(spec: TextSpec) -> Checked<DataPlan> {
    let TextSpec { source, train, test, test_share, seed, text, target, .. } = spec;
    let TextSpec { length, tokenizer, vocabulary, .. } = spec;
    if let (Some(_), Some(_)) = (&tokenizer, vocabulary) {
        return refuse("data.vocabulary", "is that of the tokenizer; remove this key");
    }
    let length = length.unwrap_or(defaults::LENGTH);
    let vocabulary = vocabulary.unwrap_or(defaults::VOCABULARY);
    tokenizer.iter().try_for_each(|path| hub_file("data.tokenizer", path))?;
    Ok(DataPlan::Text {
        files: text_files(source, (train, test), share(test_share, seed)?)?,
        text: text.unwrap_or_else(|| defaults::TEXT.to_owned()),
        target: target.unwrap_or_else(|| defaults::TEXT_TARGET.to_owned()),
        length: whole("data.length", length, 8..=limits::LENGTH)?,
        tokenizer,
        vocabulary: whole("data.vocabulary", vocabulary, 256..=limits::VOCABULARY)?,
    })
}

fn text_files(
    source: Option<PathBuf>,
    files: (Option<PathBuf>, Option<PathBuf>),
    test_share: Option<TestShare>,
) -> Checked<TextFiles> {
    match (source, files) {
        (Some(source), (None, None)) => {
            hub_repository("data.source", &source)?;
            Ok(TextFiles::Source { source, test_share })
        }
        (Some(_), _) => refuse("data.source", "has both splits; remove data.train and data.test"),
        (None, (Some(train), test)) => {
            let test = table_test(test, test_share)?;
            hub_file("data.train", &train)?;
            if let TableTest::File(path) = &test {
                hub_file("data.test", path)?;
            }
            Ok(TextFiles::Named { train, test })
        }
        (None, (None, _)) => refuse("data", "give train, or source"),
    }
}

/// A name of the hub, where the path is one, that names a file.
fn hub_file(key: &str, path: &Path) -> Checked<()> {
    match hub::Name::of(path) {
        None => Ok(()),
        Some(Ok(name)) if name.file.is_some() => Ok(()),
        Some(Ok(name)) => refuse(key, format!("\"{name}\" names no file; add /FILE")),
        Some(Err(what)) => refuse(key, what),
    }
}

/// A name of the hub, where the path is one, that names a whole repository.
pub(super) fn hub_repository(key: &str, path: &Path) -> Checked<()> {
    match hub::Name::of(path) {
        None => Ok(()),
        Some(Ok(name)) if name.file.is_none() => Ok(()),
        Some(Ok(name)) => refuse(key, format!("\"{name}\" names a file; give hub:OWNER/NAME")),
        Some(Err(what)) => refuse(key, what),
    }
}

fn table_test(test: Option<PathBuf>, share: Option<TestShare>) -> Checked<TableTest> {
    match (test, share) {
        (Some(path), None) => Ok(TableTest::File(path)),
        (None, Some(share)) => Ok(TableTest::Share(share)),
        _ => refuse("data", "give either test or test_share for the test split"),
    }
}

fn idx_test(
    files: (Option<PathBuf>, Option<PathBuf>),
    held_out: Option<usize>,
) -> Checked<IdxTest> {
    match (files, held_out) {
        ((Some(images), Some(labels)), None) => Ok(IdxTest::Files { images, labels }),
        ((None, None), Some(held_out)) => {
            Ok(IdxTest::HeldOut(whole("data.held_out", held_out, 1..=usize::MAX)?))
        }
        _ => refuse(
            "data",
            "give either test_images and test_labels, or held_out, for the test split",
        ),
    }
}

fn npy_test(
    files: (Option<PathBuf>, Option<PathBuf>),
    share: Option<TestShare>,
) -> Checked<NpyTest> {
    match (files, share) {
        ((Some(inputs), Some(targets)), None) => Ok(NpyTest::Files { inputs, targets }),
        ((None, None), Some(share)) => Ok(NpyTest::Share(share)),
        _ => refuse(
            "data",
            "give either test_inputs and test_targets, or test_share, for the test split",
        ),
    }
}

/// The share of the samples to test on, where one is given.
fn share(share: Option<f64>, seed: Option<u64>) -> Checked<Option<TestShare>> {
    let Some(share) = share else {
        return match seed {
            None => Ok(None),
            Some(_) => {
                refuse("data.seed", "chooses the samples of test_share; give both or neither")
            }
        };
    };
    let share =
        real("data.test_share", share, "over 0 and below 1", |share| share > 0.0 && share < 1.0)?;
    Ok(Some(TestShare { share, seed: seed.unwrap_or(defaults::SHARE_SEED) }))
}

/// Height and width.
fn size(resize: Option<Vec<usize>>) -> Checked<Option<[usize; 2]>> {
    const KEY: &str = "data.resize";
    let Some(sizes) = resize else {
        return Ok(None);
    };
    let [height, width] = sizes[..] else {
        return refuse(KEY, format!("lists {} numbers; give height and width", sizes.len()));
    };
    whole(&format!("{KEY}[0]"), height, 1..=limits::WIDTH)?;
    whole(&format!("{KEY}[1]"), width, 1..=limits::WIDTH)?;
    Ok(Some([height, width]))
}

/// More padding than this, and a crop could miss the image.
fn cropped(augment: Augment) -> Checked<Augment> {
    whole("data.augment.crop", augment.crop, 0..=CIFAR_SIDE - 1)?;
    Ok(augment)
}

#[cfg(test)]
mod tests {
    use crate::spec::{
        DEFAULT, DataPlan, NpyTest, Overrides, Plan, TableTask, TableTest, TestShare, TextFiles,
        TextTest, TokensPlan,
    };

    /// The default experiment on these data.
    fn read(data: &str, others: &[&str]) -> Result<Plan, String> {
        let mut set = vec![format!("data={data}")];
        set.extend(others.iter().map(ToString::to_string));
        let overrides = Overrides { set, ..Overrides::default() };
        Plan::read("default.toml", DEFAULT, &overrides).map_err(|error| error.what)
    }

    #[test]
    fn own_data_has_its_defaults() {
        let share = |share| TestShare { share, seed: 0 };
        let found = |data| read(data, &[]).unwrap().data;
        assert_eq!(
            found("{kind='csv',train='t.csv',target='y',test_share=0.2}"),
            DataPlan::Csv {
                train: "t.csv".into(),
                test: TableTest::Share(share(0.2)),
                target: "y".to_owned(),
                features: None,
                task: TableTask::Classification,
            }
        );
        assert_eq!(
            found(
                "{kind='npy',train_inputs='x',train_targets='y',test_inputs='a',test_targets='b',task='regression'}"
            ),
            DataPlan::Npy {
                archive: None,
                train_inputs: "x".into(),
                train_targets: "y".into(),
                test: NpyTest::Files { inputs: "a".into(), targets: "b".into() },
                task: TableTask::Regression,
            }
        );
        let images = found("{kind='image-folder',path='p',resize=[4,5],test_share=0.5,seed=7}");
        let DataPlan::ImageFolder { resize, test, .. } = images else { panic!("{images:?}") };
        assert_eq!((resize, test), (Some([4, 5]), Some(TestShare { share: 0.5, seed: 7 })));
    }

    #[test]
    fn plain_text_has_its_defaults() {
        let found = |data: &str| read(data, &["model={kind='decoder',size='tiny'}"]).unwrap().data;
        assert_eq!(
            found("{kind='plain-text',train='a.txt',test_share=0.1}"),
            DataPlan::PlainText {
                train: "a.txt".into(),
                test: TextTest::Last(0.1),
                length: 256,
                tokens: TokensPlan::Characters,
            }
        );
        assert_eq!(
            found("{kind='plain-text',train='a',test='b',length=16,vocabulary=1000}"),
            DataPlan::PlainText {
                train: "a".into(),
                test: TextTest::File("b".into()),
                length: 16,
                tokens: TokensPlan::Made(1000),
            }
        );
    }

    /// A plan is what results hold.
    #[test]
    fn texts_of_a_source_survive_the_results_file() {
        let model = "model={kind='encoder',size='tiny'}";
        let source = |test_share| TextFiles::Source { source: "hub:a/b@c".into(), test_share };
        let share = TestShare { share: 0.5, seed: 3 };
        let test = TableTest::File("hub:a/b/c.csv".into());
        for (data, expected) in [
            ("source='hub:a/b@c'", source(None)),
            ("source='hub:a/b@c',test_share=0.5,seed=3", source(Some(share))),
            (
                "train='a.csv',test='hub:a/b/c.csv'",
                TextFiles::Named { train: "a.csv".into(), test },
            ),
        ] {
            let plan = read(&format!("{{kind='text',{data}}}"), &[model]).unwrap();
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan, "{text}");
            assert_eq!(toml::from_str::<Plan>(&toml::to_string(&plan).unwrap()).unwrap(), plan);
            let DataPlan::Text { files, .. } = plan.data else { panic!("{data}") };
            assert_eq!(files, expected);
        }
    }

    /// A checkpoint's texts become its tokens.
    #[test]
    fn texts_of_a_checkpoint_take_its_tokenizer() {
        let model = "model={kind='pretrained',folder='bert'}";
        let texts = "{kind='text',train='a.csv',test='b.csv'";
        let tokenizer = |data: &str| {
            let DataPlan::Text { tokenizer, .. } = read(data, &[model]).unwrap().data else {
                panic!("{data}");
            };
            tokenizer
        };
        assert_eq!(tokenizer(&format!("{texts}}}")), Some("bert/tokenizer.json".into()));
        assert_eq!(tokenizer(&format!("{texts},tokenizer='t.json'}}")), Some("t.json".into()));
        let plain = read("{kind='plain-text',train='a',test='b'}", &[model]).unwrap().data;
        let DataPlan::PlainText { tokens, .. } = plain else { panic!("{plain:?}") };
        assert_eq!(tokens, TokensPlan::Tokenizer("bert/tokenizer.json".into()));
        assert_eq!(
            read(&format!("{texts},vocabulary=500}}"), &[model]).unwrap_err(),
            "data.vocabulary: is that of the checkpoint; remove this key"
        );
    }

    #[test]
    fn own_data_that_cannot_be_is_an_error() {
        let csv = "{kind='csv',train='t.csv',target='y'";
        let npy = "{kind='npy',train_inputs='x',train_targets='y'";
        let images = "{kind='image-folder',path='p'";
        let share = "data.test_share: is";
        for (data, message) in [
            (
                format!("{csv}}}"),
                "data: give either test or test_share for the test split".to_owned(),
            ),
            (
                format!("{csv},test='a',test_share=0.5}}"),
                "data: give either test or test_share for the test split".to_owned(),
            ),
            (format!("{csv},test_share=0}}"), format!("{share} 0; must be over 0 and below 1")),
            (format!("{csv},test_share=1.0}}"), format!("{share} 1; must be over 0 and below 1")),
            (
                format!("{csv},test='a',seed=1}}"),
                "data.seed: chooses the samples of test_share; give both or neither".to_owned(),
            ),
            (
                format!("{csv},test='a',features=['x','y']}}"),
                "data.features: lists the target, \"y\"; remove it".to_owned(),
            ),
            (
                format!("{npy},test_inputs='a'}}"),
                "data: give either test_inputs and test_targets, or test_share, for the test split"
                    .to_owned(),
            ),
            (
                format!("{images},resize=[3]}}"),
                "data.resize: lists 1 numbers; give height and width".to_owned(),
            ),
            (
                format!("{images},resize=[3,0]}}"),
                "data.resize[1]: is 0; must be 1 to 65536".to_owned(),
            ),
        ] {
            assert_eq!(read(&data, &[]).unwrap_err(), message, "{data}");
        }
        let regression = format!("{csv},test='a',task='regression'}}");
        assert_eq!(
            read(&regression, &["train.label_smoothing=0.1"]).unwrap_err(),
            "train.label_smoothing: smooths labels, and a regression has none; remove it"
        );
        assert_eq!(
            read(&regression, &["measure.error_margin=1"]).unwrap_err(),
            "measure.error_margin: is 1; must be over 0 and below 1"
        );
    }
}
