//! The memory that operands are packed into and sums are made in. Each thread keeps its own for its next product.

use std::cell::RefCell;

use super::super::element::Element;
use super::super::parallel::alone;
use crate::memory::{self, OutOfMemory};
use crate::units::Bytes;

/// What a cache moves at a time.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Line([u32; 16]);

thread_local! {
    /// What this thread has and does not use. The memory of a product is the last, that of a product's tasks before it.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Hands `work` that many words, whose values mean nothing.
///
/// # Errors
/// When there is no memory for them.
pub(crate) fn with_space<R>(
    words: usize,
    work: impl FnOnce(&mut [u32]) -> R,
) -> Result<R, OutOfMemory> {
    let lines = words.div_ceil(16);
    let mut space = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if space.len() < lines {
        space = memory::work_space(|| {
            drop(space);
            memory::filled(Line::default(), lines)
        })?;
    }
    let result = work(&mut words_of(&mut space)[..words]);
    memory::work_space(|| FREE.with_borrow_mut(|free| free.push(space)));
    Ok(result)
}

fn words_of(lines: &mut [Line]) -> &mut [u32] {
    // SAFETY: a line is sixteen words without gaps.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 16) }
}

/// Words as f32 values of the same bits.
pub(crate) fn as_f32_mut(words: &mut [u32]) -> &mut [f32] {
    // SAFETY: both are four bytes, aligned alike, and all bits are values of both.
    unsafe { &mut *(std::ptr::from_mut(words) as *mut [f32]) }
}

/// As [`as_f32_mut`].
pub(crate) fn as_f32(words: &[u32]) -> &[f32] {
    // SAFETY: as there.
    unsafe { &*(std::ptr::from_ref(words) as *const [f32]) }
}

/// Words as values of an element type: one or two a word.
pub(crate) fn as_elements_mut<T: Element>(words: &mut [u32]) -> &mut [T] {
    let len = size_of_val(words) / size_of::<T>();
    // SAFETY: element types are f32, f16 and bf16: no larger than a word, aligned to no more, and all bits are values of them.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), len) }
}

/// As [`as_elements_mut`].
pub(crate) fn as_elements<T: Element>(words: &[u32]) -> &[T] {
    let len = size_of_val(words) / size_of::<T>();
    // SAFETY: as there.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), len) }
}

/// The memory into which the products of `work` pack their operands, with this thread alone: with more threads each has some of
/// its own. None where memory is not measured.
///
/// # Errors
/// Those of `work`.
pub fn work_space(
    work: impl FnOnce() -> candle_core::Result<()>,
) -> candle_core::Result<Option<Bytes>> {
    let kept = FREE.take();
    let before = memory::work_space_of_this_thread();
    let outcome = alone(work);
    let after = memory::work_space_of_this_thread();
    memory::work_space(|| drop(FREE.replace(kept)));
    let grown = after.zip(before).map(|(after, before)| Bytes(after.0.saturating_sub(before.0)));
    outcome.map(|()| grown)
}
