//! Embeddings: rows of a table by number, and their gradients.

#[cfg(feature = "cuda")]
mod cuda;

use std::ops::Range;

use candle_core::{Error, Result, Tensor};

use super::element::{Element, by_dtype};
use super::host::{Unwritten, View, build, expect_shape, view};
use super::parallel::{CHUNK, for_each, vectorized};

/// Most tasks that a table with few rows is cut into.
const TASKS: usize = 16;

/// The tables that an embedding adds up.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, EmbeddingTables};
///
/// let tokens = Tensor::new(&[[1.0_f32], [2.0]], &Device::Cpu)?;
/// let positions = Tensor::new(&[[10.0_f32], [20.0]], &Device::Cpu)?;
/// let tables = EmbeddingTables { tokens: &tokens, positions: Some(&positions), types: None };
/// let y = ops::embedding(&Tensor::new(&[[1_u32, 0]], &Device::Cpu)?, &tables)?;
/// assert_eq!(ops::to_f32(&y)?, [2.0 + 10.0, 1.0 + 20.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingTables<'a> {
    /// V × D: a row for each token.
    pub tokens: &'a Tensor,
    /// P × D with P ≥ T: the row of position t is added to token t.
    pub positions: Option<&'a Tensor>,
    /// The type of each token, N × T, u32, and a row for each type, K × D.
    pub types: Option<(&'a Tensor, &'a Tensor)>,
}

/// `y[n, t] = tokens[ids[n, t]] + positions[t] + types[type of n, t]`, added in f32 in this order, rounded once. ids: N × T, u32;
/// result: N × T × D.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops::{self, EmbeddingTables};
///
/// let tokens = Tensor::new(&[[0.0_f32, 0.0], [1.0, 2.0], [3.0, 4.0]], &Device::Cpu)?;
/// let tables = EmbeddingTables { tokens: &tokens, positions: None, types: None };
/// let y = ops::embedding(&Tensor::new(&[[2_u32, 1]], &Device::Cpu)?, &tables)?;
/// assert_eq!(y.to_vec3::<f32>()?, [[[3.0, 4.0], [1.0, 2.0]]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// When a tensor is not contiguous, not of these shapes and types, or an id has no row. A GPU does not look at ids.
pub fn embedding(ids: &Tensor, tables: &EmbeddingTables<'_>) -> Result<Tensor> {
    let ((n, length), (rows, width)) = (ids.dims2()?, tables.tokens.dims2()?);
    if let Some(positions) = tables.positions {
        let (most, _) = positions.dims2()?;
        expect_shape("the table of positions", positions, &[most, width])?;
        if most < length {
            let text =
                format!("a sequence of {length} has more positions than the table's {most} rows");
            return Err(Error::Msg(text).bt());
        }
    }
    if let Some((types, table)) = tables.types {
        expect_shape("the types of tokens", types, &[n, length])?;
        expect_shape("the table of types", table, &[table.dim(0)?, width])?;
    }
    on_gpu!(ids => cuda::embedding(ids, tables));
    let ids = ids_below(ids, rows)?;
    let types = match tables.types {
        Some((types, table)) => Some((ids_below(types, table.dim(0)?)?, table)),
        None => None,
    };
    by_dtype!(tables.tokens.dtype(), T => {
        let tokens = view::<T>(tables.tokens)?;
        let positions = tables.positions.map(view::<T>).transpose()?;
        let types = match types {
            Some((types, table)) => Some((types, view::<T>(table)?)),
            None => None,
        };
        let together = (CHUNK / width.max(1)).max(1);
        build::<T>((n, length, width), |y| {
            let tasks = y.chunks(together * width.max(1)).collect();
            for_each(tasks, |task, y: Unwritten<'_, T>| vectorized!({
                let (mut sum, mut wide) = (vec![0.0; width], vec![0.0; width]);
                for (place, y) in (task * together..).zip(y.blocks(width.max(1))) {
                    T::widen(row(&tokens, ids[place] as usize, width), &mut sum);
                    let position = positions.as_deref().map(|table| row(table, place % length, width));
                    let kind = types
                        .as_ref()
                        .map(|(types, table)| row(table, types[place] as usize, width));
                    for added in [position, kind].into_iter().flatten() {
                        for (sum, added) in sum.iter_mut().zip(T::widened(added, &mut wide)) {
                            *sum += added;
                        }
                    }
                    T::narrow(&sum, y);
                }
            }));
        })
    })
}

/// Row `index` of a table.
#[inline(always)]
fn row<T>(table: &[T], index: usize, width: usize) -> &[T] {
    &table[index * width..(index + 1) * width]
}

/// The gradient of [`embedding`] with respect to a table by whose `ids` rows were taken: each of its `rows` is the f32 sum of the
/// gradients of its occurrences, in their order, rounded once; 0 where there is none. dy: N × T × D, ids: N × T; result: rows × D.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// // Token 1 occurs twice, token 0 does not.
/// let ids = Tensor::new(&[[1_u32, 1]], &Device::Cpu)?;
/// let dy = Tensor::new(&[[[5.0_f32], [7.0]]], &Device::Cpu)?;
/// assert_eq!(ops::to_f32(&ops::embedding_backward(&dy, &ids, 2)?)?, [0.0, 12.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`embedding`].
pub fn embedding_backward(dy: &Tensor, ids: &Tensor, rows: usize) -> Result<Tensor> {
    let (n, length, width) = dy.dims3()?;
    expect_shape("the ids of an embedding", ids, &[n, length])?;
    on_gpu!(dy => cuda::embedding_backward(dy, ids, rows));
    let ids = ids_below(ids, rows)?;
    let occurrences = Occurrences::of(&ids, rows);
    sums(dy, (rows, width), |row| occurrences.of_row(row).iter().map(|place| *place as usize))
}

/// The gradient of [`embedding`] with respect to the table of positions, of `rows` rows, as [`embedding_backward`]: of row t the sum
/// over N of the gradients at position t.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use mantissa::ops;
///
/// // Two sequences of one token each.
/// let dy = Tensor::new(&[[[5.0_f32]], [[7.0]]], &Device::Cpu)?;
/// assert_eq!(ops::to_f32(&ops::position_backward(&dy, 2)?)?, [12.0, 0.0]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// As [`embedding`].
pub fn position_backward(dy: &Tensor, rows: usize) -> Result<Tensor> {
    let (n, length, width) = dy.dims3()?;
    on_gpu!(dy => cuda::position_backward(dy, rows));
    sums(dy, (rows, width), |row| {
        let sequences = if row < length { n } else { 0 };
        (0..sequences).map(move |sequence| sequence * length + row)
    })
}

/// A table of which each row is the sum of those rows of dy that `places` names.
fn sums<I: Iterator<Item = usize>>(
    dy: &Tensor,
    (rows, width): (usize, usize),
    places: impl Fn(usize) -> I + Sync + Send,
) -> Result<Tensor> {
    by_dtype!(dy.dtype(), T => {
        let dy = view::<T>(dy)?;
        // A few rows, such as those of types, may have most of the work: then each is a task.
        let together = (CHUNK / width.max(1)).min(rows.div_ceil(TASKS)).max(1);
        build::<T>((rows, width), |table| {
            let tasks = table.chunks(together * width.max(1)).collect();
            for_each(tasks, |task, table: Unwritten<'_, T>| vectorized!({
                let (mut sum, mut wide) = (vec![0.0; width], vec![0.0; width]);
                for (index, target) in (task * together..).zip(table.blocks(width.max(1))) {
                    sum.fill(0.0);
                    for place in places(index) {
                        let dy = T::widened(row(&dy, place, width), &mut wide);
                        for (sum, dy) in sum.iter_mut().zip(dy) {
                            *sum += dy;
                        }
                    }
                    T::narrow(&sum, target);
                }
            }));
        })
    })
}

/// Where each id occurs, in order.
struct Occurrences {
    places: Vec<u32>,
    /// Where the occurrences of each id start among the places, and the end.
    starts: Vec<u32>,
}

impl Occurrences {
    /// Those of ids that are below `rows`: a counting sort, which keeps the order.
    fn of(ids: &[u32], rows: usize) -> Self {
        let mut starts = vec![0_u32; rows + 1];
        for id in ids {
            starts[*id as usize + 1] += 1;
        }
        for row in 0..rows {
            starts[row + 1] += starts[row];
        }
        let (mut places, mut next) = (vec![0; ids.len()], starts.clone());
        for (place, id) in (0..).zip(ids) {
            let next = &mut next[*id as usize];
            places[*next as usize] = place;
            *next += 1;
        }
        Self { places, starts }
    }

    fn of_row(&self, row: usize) -> &[u32] {
        let range: Range<usize> = self.starts[row] as usize..self.starts[row + 1] as usize;
        &self.places[range]
    }
}

/// The ids, if each is below the number of rows.
fn ids_below(ids: &Tensor, rows: usize) -> Result<View<'_, u32>> {
    let (_, length) = ids.dims2()?;
    let values = view::<u32>(ids)?;
    match values.iter().position(|id| *id as usize >= rows) {
        None => Ok(values),
        Some(place) => {
            let (sequence, position, id) = (place / length, place % length, values[place]);
            let text = format!(
                "id {id} at position {position} of sequence {sequence} is not below {rows}, the number of the table's rows"
            );
            Err(Error::Msg(text).bt())
        }
    }
}
