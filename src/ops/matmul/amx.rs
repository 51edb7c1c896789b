//! The kernels of AMX: Intel's matrix units, by their instructions, since the compiler's functions for them are not stable.
//!
//! A tile is 16 rows of 64 bytes. `tdpbf16ps` adds to a tile of 16 × 16 f32 sums the product of 16 rows of 32 bf16 and of 32 rows of
//! 16, which stand in pairs. What it computes, to the bit, is written down as [`super::twin`].

use std::arch::asm;
use std::sync::OnceLock;

use super::kernel::{AMX_FORM, PairTask, Paired, Sums};

pub(super) static BF16: Paired =
    Paired { left: AMX_FORM.0, right: AMX_FORM.1, tile: bf16, enter: configure, leave: release };

pub(super) static F16: Paired =
    Paired { left: AMX_FORM.0, right: AMX_FORM.1, tile: f16, enter: configure, leave: release };

/// Words of a block of one part of either panel: 32 rows or columns of 16 pairs.
const BLOCK: usize = 512;

/// Whether the processor has AMX-BF16 and the operating system lets this process use it. Linux wants to be asked.
pub(super) fn is_here() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| has_instructions() && is_enabled() && is_permitted())
}

/// By Intel's manual, CPUID's leaf 7: AMX-BF16 is bit 22 and AMX-TILE bit 24 of EDX.
fn has_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & (1 << 22 | 1 << 24) == 1 << 22 | 1 << 24
}

/// Whether the operating system saves the tiles' configuration and data: bits 17 and 18 of XCR0.
fn is_enabled() -> bool {
    #[target_feature(enable = "xsave")]
    fn enabled_states() -> u64 {
        // SAFETY: register 0 is there wherever XSAVE is enabled.
        unsafe { std::arch::x86_64::_xgetbv(0) }
    }
    // SAFETY: the detection of AVX2 has found that the operating system has enabled XSAVE.
    is_x86_feature_detected!("avx2") && unsafe { enabled_states() } & (3 << 17) == 3 << 17
}

/// Asks Linux for the tiles' data. Other systems have not said how to ask.
fn is_permitted() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const REQUEST: libc::c_long = 0x1023;
        const TILE_DATA: libc::c_long = 18;
        // SAFETY: this request takes the number of a state, and no address.
        unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

/// The tiles' sizes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row of each tile.
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight tiles are whole.
static WHOLE: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

fn configure() {
    // SAFETY: these kernels are chosen only where AMX is there; the configuration is of palette 1.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const WHOLE, options(nostack, readonly)) };
}

fn release() {
    // SAFETY: as in `configure`.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// The four tiles of sums, before the products.
macro_rules! sums_in {
    () => {
        "test {add:e}, {add:e}
         jz 2f
         tileloadd tmm0, [{sums} + {pitch}]
         tileloadd tmm1, [{sums} + {pitch} + 64]
         tileloadd tmm2, [{below} + {pitch}]
         tileloadd tmm3, [{below} + {pitch} + 64]
         jmp 3f
         2:
         tilezero tmm0
         tilezero tmm1
         tilezero tmm2
         tilezero tmm3
         3:"
    };
}

/// The products of the two tiles of rows in tmm4 and tmm5 with the two of columns in tmm6 and tmm7.
macro_rules! multiply {
    () => {
        "tdpbf16ps tmm0, tmm4, tmm6
         tdpbf16ps tmm1, tmm4, tmm7
         tdpbf16ps tmm2, tmm5, tmm6
         tdpbf16ps tmm3, tmm5, tmm7"
    };
}

/// The four tiles of sums, after the products.
macro_rules! sums_out {
    () => {
        "tilestored [{sums} + {pitch}], tmm0
         tilestored [{sums} + {pitch} + 64], tmm1
         tilestored [{below} + {pitch}], tmm2
         tilestored [{below} + {pitch} + 64], tmm3"
    };
}

/// Runs the instructions of a kernel over all blocks. `$body` is what one block does.
macro_rules! tiles {
    ($task:ident, $sums:ident, $parts:literal, $body:expr) => {
        // SAFETY: the caller's promise: panels of so many blocks, sums of 32 rows of 32, and configured tiles.
        unsafe {
            asm!(
                sums_in!(),
                "4:",
                $body,
                "add {left}, {step}",
                "add {right}, {step}",
                "dec {count}",
                "jnz 4b",
                sums_out!(),
                add = in(reg) u32::from($sums.add),
                sums = in(reg) $sums.to,
                below = in(reg) $sums.to.add(16 * $sums.pitch),
                pitch = in(reg) 4 * $sums.pitch,
                left = inout(reg) $task.left => _,
                right = inout(reg) $task.right => _,
                rows = in(reg) 64_usize,
                columns = in(reg) 128_usize,
                step = in(reg) 4 * BLOCK * $parts,
                count = inout(reg) $task.steps / 16 => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    };
}

/// See [`Paired::tile`].
unsafe fn bf16(task: PairTask, sums: Sums) {
    tiles!(
        task,
        sums,
        1_usize,
        concat!(
            "tileloadd tmm6, [{right} + {columns}]
             tileloadd tmm7, [{right} + {columns} + 64]
             tileloadd tmm4, [{left} + {rows}]
             tileloadd tmm5, [{left} + {rows} + 1024]\n",
            multiply!()
        )
    );
}

/// See [`Paired::tile`]. With operands of two parts: high × high, high × low, low × low, low × high.
unsafe fn f16(task: PairTask, sums: Sums) {
    tiles!(
        task,
        sums,
        2_usize,
        concat!(
            "tileloadd tmm6, [{right} + {columns}]
             tileloadd tmm7, [{right} + {columns} + 64]
             tileloadd tmm4, [{left} + {rows}]
             tileloadd tmm5, [{left} + {rows} + 1024]\n",
            multiply!(),
            "\ntileloadd tmm6, [{right} + {columns} + 2048]
             tileloadd tmm7, [{right} + {columns} + 2112]\n",
            multiply!(),
            "\ntileloadd tmm4, [{left} + {rows} + 2048]
             tileloadd tmm5, [{left} + {rows} + 3072]\n",
            multiply!(),
            "\ntileloadd tmm6, [{right} + {columns}]
             tileloadd tmm7, [{right} + {columns} + 64]\n",
            multiply!()
        )
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes of Intel's manual: 64 bytes, of which 16 are followed by the columns, and 48 by the rows.
    #[test]
    fn the_configuration_is_as_the_processor_reads_it() {
        assert_eq!(size_of::<Configuration>(), 64);
        assert_eq!(std::mem::offset_of!(Configuration, bytes), 16);
        assert_eq!(std::mem::offset_of!(Configuration, rows), 48);
        assert_eq!(BLOCK, AMX_FORM.0.width * AMX_FORM.0.block);
        assert_eq!(BLOCK, AMX_FORM.1.width * AMX_FORM.1.block);
        // Where there is none, asking does no harm.
        assert_eq!(is_here(), is_here());
    }
}
