//! Overflow and underflow by role, as shares of the values looked at.

use crate::record::{Counts, Numerics, Role};
use crate::report::table::Table;
use crate::report::text;

use super::{Arrange, Axis, Figure, Look, Mark, Panel, Swatch, Tick, room_for, variant_keys};

/// The counts of one role.
type OfRole = fn(&Numerics) -> Counts;

/// One of the counts.
type OfCounts = fn(Counts) -> u64;

/// The roles of the census, in the order of a step.
const ROLES: [(Role, OfRole); 4] = [
    (Role::Weights, |numerics| numerics.weights),
    (Role::Activations, |numerics| numerics.activations),
    (Role::ActivationGradients, |numerics| numerics.activation_gradients),
    (Role::WeightGradients, |numerics| numerics.weight_gradients),
];

/// What is counted.
const KINDS: [(&str, OfCounts); 2] =
    [("overflow", |counts| counts.overflow), ("underflow", |counts| counts.underflow)];

/// How far left of the smallest decade 0 stands, in decades.
const ZERO: f64 = 0.7;

/// The figure.
pub(super) fn figure(table: &Table) -> Figure {
    let counted = |name: &str| {
        let mut rows = table.rows.iter();
        rows.any(|row| row.name == name && row.counts.elements > 0)
    };
    let lowest = shares(table).into_iter().map(f64::log10).fold(-4.0, f64::min).floor();
    Figure {
        file: "overflow-underflow",
        title: "Overflow and underflow by role".to_owned(),
        subtitle: "Share of the values looked at on census steps, on a logarithmic axis; left of the dashed line: exactly 0.".to_owned(),
        alt: alt(table),
        room: room_for(table.rows.len() * ROLES.len(), 14.0),
        arrange: Arrange::Beside,
        legend: variant_keys(table, Swatch::Point, counted),
        panels: KINDS
            .map(|(name, count)| panel(table, name, count, lowest))
            .to_vec(),
        notes: Vec::new(),
    }
}

/// Every share above 0.
fn shares(table: &Table) -> Vec<f64> {
    let mut shares = Vec::new();
    for row in &table.rows {
        for (_, role) in ROLES {
            let counts = role(&row.numerics);
            for (_, count) in KINDS {
                if count(counts) > 0 {
                    shares.push(count(counts) as f64 / counts.elements.max(1) as f64);
                }
            }
        }
    }
    shares
}

fn panel(table: &Table, name: &str, count: OfCounts, lowest: f64) -> Panel {
    let zero = lowest - ZERO;
    let mut marks = vec![Mark::Divider { x: lowest - ZERO / 2.0 }];
    marks.extend((1..ROLES.len()).map(|role| Mark::Separator { y: role as f64 - 0.5 }));
    let lanes = table.rows.len() as f64;
    for (role, (_, counts)) in ROLES.iter().enumerate() {
        for (index, row) in table.rows.iter().enumerate() {
            let counts = counts(&row.numerics);
            if counts.elements == 0 {
                continue;
            }
            let look = Look::of(index);
            let lane = (index as f64 - (lanes - 1.0) / 2.0) * 0.8 / lanes;
            let y = role as f64 + lane;
            let number = count(counts);
            let share = number as f64 / counts.elements as f64;
            let x = if number == 0 { zero } else { share.log10() };
            if number > 0 {
                marks.push(Mark::Line {
                    points: vec![(lowest - ZERO / 2.0, y), (x, y)],
                    look: Look { dash: &[], ..look },
                });
            }
            marks.push(Mark::Point { at: (x, y), look });
        }
    }
    let mut x = Axis::decades("share of values (log scale)", (zero - ZERO / 2.0, 0.0), percent);
    x.ticks.retain(|tick| tick.at >= lowest);
    x.ticks.push(Tick { at: zero, label: "0".to_owned() });
    let roles = ROLES.map(|(role, _)| text::role(role).to_owned()).to_vec();
    let none = table.rows.iter().all(|row| row.counts.elements == 0);
    Panel {
        title: name.to_owned(),
        x,
        y: Axis::categories(roles),
        marks,
        gutter: Vec::new(),
        empty: none.then(|| "No census was taken.".to_owned()),
        weight: 1.0,
    }
}

/// 10 to a power, in percent.
fn percent(exponent: i32) -> String {
    match exponent + 2 {
        power @ 0..=2 => format!("{}%", 10_u32.pow(power.unsigned_abs())),
        power @ -3..0 => {
            let decimals = power.unsigned_abs() as usize;
            format!("{:.decimals$}%", 10.0_f64.powi(power))
        }
        power => format!("10{}%", text::raised(power)),
    }
}

fn alt(table: &Table) -> String {
    let rows = table.rows.iter().map(|row| {
        if row.counts.elements == 0 {
            return format!("{}: not counted", row.label());
        }
        let roles = ROLES.map(|(role, counts)| {
            let counts = counts(&row.numerics);
            format!(
                "{} {} overflow and {} underflow of {}",
                text::role(role),
                text::count(counts.overflow),
                text::count(counts.underflow),
                text::count(counts.elements)
            )
        });
        format!("{}: {}", row.label(), roles.join(", "))
    });
    let rows: Vec<String> = rows.collect();
    format!("Overflow and underflow by role. {}.", rows.join("; "))
}
