//! Folders of images: one folder a class, PNG and JPEG files in it.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{DynamicImage, ImageFormat, ImageReader};
use rayon::prelude::*;

use super::dataset::{Dataset, Images, Split};
use super::{DataError, held_out, malformed};
use crate::memory;
use crate::spec::{TestShare, limits};
use crate::store;

/// Loads `train` and `test` in a folder, or the classes in the folder itself, of which a share becomes the test split. With
/// `resize`, every image is resized to that height and width.
pub(super) fn load(
    folder: &Path,
    resize: Option<[usize; 2]>,
    share: Option<TestShare>,
) -> Result<Dataset, DataError> {
    let train_folder = if share.is_some() { folder.to_owned() } else { folder.join("train") };
    let names = class_names(&train_folder)?;
    let classes: BTreeMap<&str, u32> = names.iter().map(String::as_str).zip(0..).collect();
    let train_files = files(&train_folder, &classes)?;
    let first = train_files.first().map(|(path, _)| path.as_path());
    let Some(first) = first else {
        return Err(DataError::Empty { split: "train" });
    };
    let like = Like { path: first, size: decode(first, resize)?.size() };
    let (shape, outputs) = (like.size, classes.len());
    let all = Split::from(read(&train_files, like, resize)?);
    let [train, test] = if let Some(share) = share {
        held_out::split(folder, &all, (shape, outputs), share)?
    } else {
        let test_folder = folder.join("test");
        for name in class_names(&test_folder)? {
            if !classes.contains_key(name.as_str()) {
                let found = "a class that the training images lack".to_owned();
                let expected = "one of the folders in train";
                return Err(malformed(&test_folder.join(name), found, expected));
            }
        }
        [all, read(&files(&test_folder, &classes)?, like, resize)?.into()]
    };
    Ok(Dataset { shape, outputs, train, test })
}

/// The names of the folders in a folder, sorted. Names that begin with a dot are hidden, and left out.
fn class_names(folder: &Path) -> Result<Vec<String>, DataError> {
    let paths = visible(folder)?;
    let folders = paths.iter().filter(|path| path.is_dir());
    let names: Vec<String> = folders.map(|path| name(path)).collect();
    if names.is_empty() {
        let found = if folder.is_dir() { "holds no folder" } else { "is not a folder" };
        return Err(malformed(folder, found.to_owned(), "one folder of images for each class"));
    }
    if names.len() > limits::WIDTH {
        let found = format!("holds {} folders", names.len());
        return Err(malformed(folder, found, format!("at most {} classes", limits::WIDTH)));
    }
    Ok(names)
}

/// The images of each class that is there, and their labels.
fn files(folder: &Path, classes: &BTreeMap<&str, u32>) -> Result<Vec<(PathBuf, u32)>, DataError> {
    let mut files = Vec::new();
    for class in visible(folder)?.iter().filter(|path| path.is_dir()) {
        let images = visible(class)?;
        if images.is_empty() {
            return Err(malformed(class, "holds no image".to_owned(), "PNG or JPEG files"));
        }
        let label = classes.get(name(class).as_str()).copied().unwrap_or_default();
        files.extend(images.into_iter().map(|path| (path, label)));
    }
    Ok(files)
}

/// What is in a folder, sorted, but for hidden files.
fn visible(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = store::list(folder)?;
    paths.retain(|path| !name(path).starts_with('.'));
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What every image must be like: the first one.
#[derive(Clone, Copy)]
struct Like<'a> {
    path: &'a Path,
    size: [usize; 3],
}

/// An image of one or three channels.
struct Decoded(DynamicImage);

impl Decoded {
    /// Channels, height and width.
    fn size(&self) -> [usize; 3] {
        let channels = if self.0.color().has_color() { 3 } else { 1 };
        [channels, self.0.height() as usize, self.0.width() as usize]
    }

    /// Writes the pixels channel after channel. Alpha is left out, and 16 bits a channel become 8.
    fn write(self, out: &mut [u8]) {
        let [channels, height, width] = self.size();
        let pixels = match channels {
            1 => self.0.into_luma8().into_raw(),
            _ => self.0.into_rgb8().into_raw(),
        };
        for (channel, plane) in out.chunks_exact_mut(height * width).enumerate() {
            let values = pixels.iter().skip(channel).step_by(channels);
            plane.iter_mut().zip(values).for_each(|(out, value)| *out = *value);
        }
    }
}

/// Decodes all images, on all cores.
fn read(
    files: &[(PathBuf, u32)],
    like: Like<'_>,
    resize: Option<[usize; 2]>,
) -> Result<Images, DataError> {
    let each = like.size.iter().product::<usize>();
    let no_memory = |error: memory::OutOfMemory| {
        let error = std::io::Error::new(std::io::ErrorKind::OutOfMemory, error.to_string());
        store::cannot_read(like.path)(error)
    };
    let mut pixels = memory::filled(0, each.saturating_mul(files.len())).map_err(no_memory)?;
    let decoded = pixels.par_chunks_exact_mut(each).zip(files).map(|(out, (path, _))| {
        let image = decode(path, resize)?;
        if image.size() != like.size {
            return Err(DataError::Mismatch {
                first: like.path.to_owned(),
                second: path.clone(),
                difference: differ(like.size, image.size()),
            });
        }
        image.write(out);
        Ok(())
    });
    // The first in the order of the files, whichever thread comes first.
    let outcomes: Vec<Result<(), DataError>> = decoded.collect();
    outcomes.into_iter().collect::<Result<(), _>>()?;
    Ok(Images { pixels, labels: files.iter().map(|(_, label)| *label).collect() })
}

fn decode(path: &Path, resize: Option<[usize; 2]>) -> Result<Decoded, DataError> {
    let bytes = store::read(path)?;
    let format = image::guess_format(&bytes).ok();
    let Some(format) = format.filter(|f| [ImageFormat::Png, ImageFormat::Jpeg].contains(f)) else {
        let found = "is neither PNG nor JPEG".to_owned();
        return Err(malformed(path, found, "images alone in the folder of a class"));
    };
    let image = ImageReader::with_format(Cursor::new(bytes), format).decode().map_err(|error| {
        let found = format!("cannot be decoded ({error})");
        malformed(path, found, "a whole PNG or JPEG file")
    })?;
    Ok(Decoded(match resize {
        Some([height, width]) => {
            image.resize_exact(width as u32, height as u32, FilterType::Triangle)
        }
        None => image,
    }))
}

/// In what two images differ.
fn differ(first: [usize; 3], second: [usize; 3]) -> String {
    let words = |[channels, height, width]: [usize; 3]| {
        let colour = if channels == 1 { "grey" } else { "RGB" };
        format!("{colour}, {height} × {width}")
    };
    let hint = if first[0] == second[0] { "; give resize = [height, width]" } else { "" };
    format!("{} and {}{hint}", words(first), words(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PNG or JPEG file of these pixels, height × width × channels.
    fn file(format: ImageFormat, [height, width]: [u32; 2], pixels: &[u8]) -> Vec<u8> {
        let grey = pixels.len() == (height * width) as usize;
        let image = if grey {
            image::GrayImage::from_raw(width, height, pixels.to_vec()).map(DynamicImage::from)
        } else {
            image::RgbImage::from_raw(width, height, pixels.to_vec()).map(DynamicImage::from)
        };
        let mut bytes = Cursor::new(Vec::new());
        image.unwrap().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn png(size: [u32; 2], pixels: &[u8]) -> Vec<u8> {
        file(ImageFormat::Png, size, pixels)
    }

    fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            store::write(&folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    #[test]
    fn classes_are_the_folders_in_alphabetical_order() {
        let pixels: Vec<u8> = (0..18).collect();
        let folder = folder(&[
            ("train/dog/a.png", png([2, 3], &pixels)),
            ("train/cat/z.png", png([2, 3], &[9; 18])),
            ("train/cat/.hidden", b"x".to_vec()),
            ("test/dog/1.jpg", file(ImageFormat::Jpeg, [2, 3], &[128; 18])),
        ]);
        let data = load(folder.path(), None, None).unwrap();
        data.check().unwrap();
        assert_eq!((data.shape, data.outputs), ([3, 2, 3], 2));
        assert_eq!((data.train.labels(), data.test.labels()), (&[0, 1][..], &[1][..]));
        // Red, then green, then blue.
        let planes: Vec<u8> = (0..3).flat_map(|c| (0..6).map(move |i| 3 * i + c)).collect();
        assert_eq!(data.train.pixels(), [&[9; 18][..], &planes].concat());
        // One grey value: what JPEG loses is nothing of it, or a unit.
        assert!(data.test.pixels().iter().all(|pixel| pixel.abs_diff(128) <= 1));
    }

    #[test]
    fn a_share_is_held_out_and_images_are_resized() {
        let images =
            [("a/1.png", [1, 1]), ("a/2.png", [2, 2]), ("b/1.png", [4, 2]), ("b/2.png", [3, 3])];
        let images =
            images.map(|(name, size)| (name, png(size, &vec![7; (size[0] * size[1]) as usize])));
        let folder = folder(&images);
        let share = Some(TestShare { share: 0.25, seed: 3 });
        let data = load(folder.path(), Some([2, 3]), share).unwrap();
        data.check().unwrap();
        assert_eq!((data.shape, data.outputs, data.samples()), ([1, 2, 3], 2, [3, 1]));
        assert_eq!(data.train.pixels(), [7; 18]);
    }

    #[test]
    fn what_is_no_folder_of_images_is_named() {
        let (grey, rgb) = (png([1, 2], &[1, 2]), png([1, 2], &[1; 6]));
        let good = [("train/a/1.png", grey.clone()), ("test/a/1.png", grey.clone())];
        let cut = grey[..grey.len() - 20].to_vec();
        let table: [(&[(&str, Vec<u8>)], &str); 8] = [
            (
                &[("train/a/2.png", png([2, 1], &[1, 2]))],
                "train/a/1.png and train/a/2.png do not belong together: grey, 1 × 2 and grey, 2 × 1; give resize = [height, width]",
            ),
            (
                &[("test/a/2.png", rgb)],
                "train/a/1.png and test/a/2.png do not belong together: grey, 1 × 2 and RGB, 1 × 2",
            ),
            (&[("train/a/2.png", cut)], "train/a/2.png: cannot be decoded ("),
            (
                &[("train/a/notes.txt", b"words".to_vec())],
                "train/a/notes.txt: is neither PNG nor JPEG; expected images alone in the folder of a class",
            ),
            (&[("train/b/.keep", vec![])], "train/b: holds no image; expected PNG or JPEG files"),
            (
                &[("test/b/.keep", vec![]), ("train/b/1.png", grey.clone())],
                "test/b: holds no image; expected PNG or JPEG files",
            ),
            (
                &[("test/b/1.png", grey.clone())],
                "test/b: a class that the training images lack; expected one of the folders in train",
            ),
            (&[("train/b/1.png/x", vec![])], "cannot read"),
        ];
        for (files, message) in table {
            let folder = folder(&[&good[..], files].concat());
            let error = load(folder.path(), None, None).unwrap_err().to_string();
            let error = error.replace(&format!("{}/", folder.path().display()), "");
            assert!(error.contains(message), "{error}");
        }
        let nothing = tempfile::tempdir().unwrap();
        let error = load(nothing.path(), None, None).unwrap_err().to_string();
        assert!(
            error.ends_with("train: is not a folder; expected one folder of images for each class"),
            "{error}"
        );
        let share = Some(TestShare { share: 0.5, seed: 0 });
        let error = load(nothing.path(), None, share).unwrap_err().to_string();
        assert!(
            error.ends_with(": holds no folder; expected one folder of images for each class"),
            "{error}"
        );
    }
}
