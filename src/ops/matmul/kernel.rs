//! Kernels: what multiplies a panel of the left operand by one of the right, and which of them each instruction set has.

use candle_core::DType;

use super::super::element::Element;
use super::isa::Isa;
use super::pack::{Order, Pairs};
use super::portable;
#[cfg(test)]
use super::twin;
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512};

/// Columns that stand next to each other wherever a kernel of f32 reads them.
pub(crate) const LANES: usize = 8;

/// Most groups of columns of a kernel of f32.
pub(crate) const MOST_GROUPS: usize = 6;

/// What a kernel of f32 multiplies: `depth` steps of some rows by columns that stay where they are: those of group `g` at step `k`
/// are the [`LANES`] values from `groups[g] + steps[k]` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WideTask {
    pub(crate) depth: usize,
    pub(crate) left: Left,
    pub(crate) groups: *const *const f32,
    pub(crate) steps: *const usize,
    /// What is read soon after: each step may ask the processor for the next 64 bytes from here on. Nothing need be there.
    pub(crate) ahead: *const f32,
}

/// The rows of a panel of the left operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    /// The first value of the first row.
    pub(crate) start: *const f32,
    /// From one row to the next, and from one step of the depth to the next, in values.
    pub(crate) row: usize,
    pub(crate) step: usize,
}

/// Where a tile of sums is, row after row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sums {
    pub(crate) to: *mut f32,
    /// From one row to the next, in values.
    pub(crate) pitch: usize,
    /// Whether the product is added to what is there.
    pub(crate) add: bool,
}

/// A kernel of f32. Each of its results is a chain of fused multiply-adds along the depth, from 0, which is added to the sum that is
/// there: the same bits on every instruction set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wide {
    /// Rows of a tile.
    pub(crate) rows: usize,
    /// Groups of columns of a tile.
    pub(crate) groups: usize,
    /// Multiplies.
    ///
    /// # Safety
    /// The processor has the kernel's instructions; the task has a value on the left for each of `rows` rows and each step, and
    /// [`LANES`] on the right for each group and step, and the sums have `rows` rows of `groups` groups.
    pub(crate) tile: unsafe fn(&WideTask, Sums),
}

impl Wide {
    pub(crate) fn columns(&self) -> usize {
        self.groups * LANES
    }
}

/// What a kernel of pairs multiplies: packed panels over so many pairs of the depth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PairTask {
    pub(crate) steps: usize,
    pub(crate) left: *const u32,
    pub(crate) right: *const u32,
}

/// A kernel of pairs of bf16, with sums in f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paired {
    pub(crate) left: Pairs,
    pub(crate) right: Pairs,
    /// Multiplies.
    ///
    /// # Safety
    /// The processor has the kernel's instructions and [`Paired::enter`] was called on this thread; the panels have the form of `left`
    /// and `right`, and the sums as many rows and columns.
    pub(crate) tile: unsafe fn(PairTask, Sums),
    /// Called by a thread before its first tile.
    pub(crate) enter: fn(),
    /// Called by a thread after its last.
    pub(crate) leave: fn(),
}

/// How products of one format are computed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path {
    /// Operands widened to f32 where they are not.
    Wide,
    /// Operands in pairs of bf16.
    Paired(&'static Paired),
}

/// How products are computed on an instruction set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels {
    pub(crate) f32: &'static [Wide],
    pub(crate) f16: Path,
    pub(crate) bf16: Path,
    names: Names,
}

/// What the paths are called.
#[derive(Clone, Copy, Debug)]
struct Names {
    f32: &'static str,
    f16: &'static str,
    bf16: &'static str,
}

impl Kernels {
    /// Those of an instruction set, which must be there when they are called.
    pub(crate) fn of(isa: Isa) -> Self {
        let widened = |wide: &'static [Wide], f32, f16| Self {
            f32: wide,
            f16: Path::Wide,
            bf16: Path::Wide,
            names: Names { f32, f16, bf16: f16 },
        };
        #[cfg(target_arch = "x86_64")]
        match isa {
            Isa::Portable => {}
            Isa::Avx2 => return widened(&avx2::WIDE, "FMA of AVX2", "widened to f32, FMA of AVX2"),
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => {
                let wide =
                    widened(&avx512::WIDE, "FMA of AVX-512", "widened to f32, FMA of AVX-512");
                return match isa {
                    Isa::Avx512Bf16 => Self {
                        bf16: Path::Paired(&avx512::DOT),
                        names: Names { bf16: "dot products of AVX512-BF16", ..wide.names },
                        ..wide
                    },
                    Isa::Amx => Self {
                        f16: Path::Paired(&amx::F16),
                        bf16: Path::Paired(&amx::BF16),
                        names: Names {
                            f16: "four exact products of bf16 by AMX-BF16",
                            bf16: "AMX-BF16",
                            ..wide.names
                        },
                        ..wide
                    },
                    _ => wide,
                };
            }
        }
        _ = isa;
        widened(&portable::WIDE, "portable", "widened to f32, portable")
    }

    /// Those that compute in ordinary arithmetic what AVX512-BF16 does.
    #[cfg(test)]
    pub(crate) fn twin_of_dot() -> Self {
        Self { bf16: Path::Paired(&twin::DOT), ..Self::of(Isa::Portable) }
    }

    /// Those that compute in ordinary arithmetic what AMX does.
    #[cfg(test)]
    pub(crate) fn twin_of_amx() -> Self {
        let (f16, bf16) = (Path::Paired(&twin::AMX_F16), Path::Paired(&twin::AMX_BF16));
        Self { f16, bf16, ..Self::of(Isa::Portable) }
    }

    /// All that can run here, by name.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<(&'static str, Self)> {
        let here = Isa::ALL.into_iter().filter(|isa| isa.is_here());
        let mut kernels: Vec<_> = here.map(|isa| (isa.name(), Self::of(isa))).collect();
        kernels.push(("the twin of AVX512-BF16", Self::twin_of_dot()));
        kernels.push(("the twin of AMX", Self::twin_of_amx()));
        kernels
    }

    /// How products of a type are computed.
    pub(crate) fn path<T: Element>(&self) -> Path {
        match T::DTYPE {
            DType::F16 => self.f16,
            DType::BF16 => self.bf16,
            _ => Path::Wide,
        }
    }

    /// The first kernel of f32 that computes, beside those of so many rows and columns, hardly more sums than another would.
    pub(crate) fn wide(&self, rows: usize, columns: usize) -> Wide {
        let sums = |wide: &Wide| {
            rows.next_multiple_of(wide.rows) * columns.next_multiple_of(wide.columns())
        };
        let fewest = self.f32.iter().map(sums).min().unwrap_or(0);
        let first = self.f32.iter().find(|wide| sums(wide) <= fewest + fewest / 32);
        *first.unwrap_or(&portable::WIDE[0])
    }

    /// How the products of each format that tensors are stored in are computed: format and path.
    pub(crate) fn paths(&self) -> [(&'static str, &'static str); 3] {
        [("f32", self.names.f32), ("f16", self.names.f16), ("bf16", self.names.bf16)]
    }
}

/// The forms of the kernel of AVX512-BF16 and of its twin.
pub(crate) const DOT_FORM: (Pairs, Pairs) = (
    Pairs { width: 12, block: 1, order: Order::Steps },
    Pairs { width: 32, block: 1, order: Order::Steps },
);

/// The forms of the kernels of AMX and of their twins: two tiles of rows, and two of columns.
pub(crate) const AMX_FORM: (Pairs, Pairs) = (
    Pairs { width: 32, block: 16, order: Order::Rows },
    Pairs { width: 32, block: 16, order: Order::Steps },
);
