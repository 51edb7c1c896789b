//! What `mantissa formats` says: the floating-point formats with a name, by their numbers.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::precision::Format;

const TITLES: [&str; 10] = [
    "format",
    "bits",
    "exponent",
    "mantissa",
    "bias",
    "largest",
    "min normal",
    "min subnormal",
    "epsilon",
    "here",
];

/// The table, and what else can be asked for.
pub(super) fn table() -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(TITLES);
    for format in Format::NAMED {
        table.add_row(row(format));
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if (1..TITLES.len() - 1).contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().into()).collect();
    format!(
        "{}\n\nnative: stored in its own width; emulated: stored in f32, every result rounded.\n\
         Any eXmY with 2 to 8 exponent and 1 to 23 mantissa bits can be emulated, such as e5m10; its largest exponent is for\n\
         infinity and NaN. fp6-… and fp4-… are the elements of the OCP's microscaling formats, without their block scales: all\n\
         their codes are numbers, so that fp4-e2m1 reaches to 6, and e2m1 to 3.\n\
         Overflow: infinity; in fp8-e4m3 NaN; in fp6-… and fp4-… the largest value. With -sat behind it (fp8-e4m3-sat, e5m2-sat)\n\
         fp8-… and eXmY saturate too: the largest value, as in NVIDIA's conversions, and in PyTorch's to e4m3 from 2.12 on.\n",
        lines.join("\n")
    )
}

fn row(format: Format) -> [String; 10] {
    [
        format.to_string(),
        format.bits().to_string(),
        format.exponent_bits().to_string(),
        format.mantissa_bits().to_string(),
        format.bias().to_string(),
        number(format.max_finite()),
        number(format.min_normal()),
        number(format.min_subnormal()),
        number(format.epsilon()),
        if format.is_native() { "native".to_owned() } else { "emulated".to_owned() },
    ]
}

/// As it is where it is short, else with four significant digits.
fn number(value: f64) -> String {
    let plain = value.to_string();
    if plain.len() <= 8 { plain } else { format!("{value:.3e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The numbers are those of PyTorch:
    //   for d in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
    //       i = torch.finfo(d); print(i.bits, i.max, i.tiny, i.smallest_normal, i.eps)
    // of NVIDIA's definition of TF32: the exponent of f32, 10 bits of mantissa; and of OCP Microscaling Formats 1.0, tables 4
    // and 5 (fp6-… and fp4-…). The smallest subnormal is the smallest normal times epsilon.
    #[test]
    fn the_table_lists_every_named_format() {
        assert_eq!(
            table(),
            "\
format    bits  exponent  mantissa  bias   largest  min normal  min subnormal   epsilon  here
f32         32         8        23   127  3.403e38   1.175e-38      1.401e-45  1.192e-7  native
tf32        19         8        10   127  3.401e38   1.175e-38      1.148e-41  9.766e-4  emulated
f16         16         5        10    15     65504    6.104e-5       5.960e-8  9.766e-4  native
bf16        16         8         7   127  3.390e38   1.175e-38      9.184e-41  7.812e-3  native
fp8-e4m3     8         4         3     7       448    0.015625       1.953e-3     0.125  emulated
fp8-e5m2     8         5         2    15     57344    6.104e-5       1.526e-5      0.25  emulated
fp6-e3m2     6         3         2     3        28        0.25         0.0625      0.25  emulated
fp6-e2m3     6         2         3     1       7.5           1          0.125     0.125  emulated
fp4-e2m1     4         2         1     1         6           1            0.5       0.5  emulated

native: stored in its own width; emulated: stored in f32, every result rounded.
Any eXmY with 2 to 8 exponent and 1 to 23 mantissa bits can be emulated, such as e5m10; its largest exponent is for
infinity and NaN. fp6-… and fp4-… are the elements of the OCP's microscaling formats, without their block scales: all
their codes are numbers, so that fp4-e2m1 reaches to 6, and e2m1 to 3.
Overflow: infinity; in fp8-e4m3 NaN; in fp6-… and fp4-… the largest value. With -sat behind it (fp8-e4m3-sat, e5m2-sat)
fp8-… and eXmY saturate too: the largest value, as in NVIDIA's conversions, and in PyTorch's to e4m3 from 2.12 on.
"
        );
    }
}
