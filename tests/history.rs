//! `mantissa history` from outside: what is added, found and refused, and that nothing is lost.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use mantissa::history::{Filter, History};
use mantissa::record::Results;
use mantissa::regression::{Key, Measured};
use mantissa::{report, store};
use rand::{RngExt as _, SeedableRng as _};

/// An experiment of a second: two variants of one seed, and nothing timed.
const TINY: [&str; 11] = [
    "experiment",
    "--device=cpu",
    "--set=name=\"tiny\"",
    "--set=data.train=64",
    "--set=data.test=40",
    "--set=model.hidden=[16]",
    "--set=train={steps=8,batch=16,optimizer={kind=\"sgd\",lr=0.1}}",
    "--set=measure={census_every=3,timing_blocks=0}",
    "--variants=fp32,fp16-mixed",
    "--seeds=1",
    "--quiet",
];

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("mantissa"));
    command.current_dir(folder).env("MANTISSA_ISA", "portable").args(arguments);
    command
}

fn mantissa(folder: &Path, arguments: &[&str]) -> Ran {
    let output = command(folder, arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The results of the tiny experiment, as JSON.
fn results() -> &'static str {
    static RESULTS: OnceLock<String> = OnceLock::new();
    RESULTS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let ran = mantissa(folder.path(), &[&TINY[..], &["--out=run"]].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        String::from_utf8(store::read(&folder.path().join("run/results.json")).unwrap()).unwrap()
    })
}

/// Those results as of commit number `number`, with as many lost updates, and changed further.
fn of_commit(number: usize, lost: u64, change: impl FnOnce(&mut Results)) -> Results {
    let mut results: Results = serde_json::from_str(results()).unwrap();
    results.environment.git = Some(format!("commit-{number:04}"));
    results.environment.started =
        format!("2026-01-{:02}T{:02}:00:00Z", 1 + number / 24, number % 24);
    results.variants[1].numerics.updates.lost = lost;
    change(&mut results);
    results
}

/// A folder that holds results.
fn save(at: &Path, name: &str, results: &Results) {
    let json = serde_json::to_vec(results).unwrap();
    store::write(&at.join(name).join("results.json"), &json).unwrap();
}

/// Values of one set of results: of 2 variants 5 of a seed, 8 counts of roles, lost updates and 2 of memory.
const VALUES: usize = 2 * (5 + 8 + 1 + 2);

/// The values of a series, by its key.
fn values(at: &Path, key: &str) -> Vec<Measured> {
    let key: Key = key.parse().unwrap();
    let all = History::open(at).unwrap().series(&Filter::default()).unwrap();
    let mut of_key = all.into_iter().filter(|series| series.key == key);
    let points = of_key.next().unwrap().points;
    assert!(of_key.next().is_none(), "{key} has two series");
    points.into_iter().map(|point| point.value).collect()
}

#[test]
fn results_are_added_once_shown_drawn_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (number, lost) in [7, 7, 7, 9, 9].into_iter().enumerate() {
        save(at, "run", &of_commit(number, lost, |_| ()));
        let ran = mantissa(at, &["history", "add", "run"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(
            ran.stdout,
            format!("history.db: {VALUES} values of commit-000{number} added\n")
        );
    }
    let again = mantissa(at, &["history", "add", "run"]);
    assert_eq!(again.stdout, "history.db: has these results (commit-0004); nothing added\n");
    assert_eq!(again.code, Some(0));

    let show = mantissa(at, &["history", "show"]);
    assert_eq!(show.code, Some(0), "{}", show.stderr);
    let changed: Vec<&str> = show.stdout.lines().filter(|line| line.contains('→')).collect();
    assert_eq!(changed.len(), 1, "{}", show.stdout);
    let row: Vec<&str> = changed[0].split_whitespace().collect();
    assert_eq!(row.join(" "), "fp16-mixed/lost_updates 5 7 9 7 → 9 (+28.6%) at commit-0003");
    assert_eq!(show.stdout.lines().last(), Some(&*format!("{VALUES} series, of which 1 changed.")));

    let export = mantissa(at, &["history", "export"]);
    assert_eq!(export.stdout.lines().count(), 1 + 5 * VALUES);
    let lost = export.stdout.lines().filter(|line| line.contains(",fp16-mixed,lost_updates,,"));
    let lost: Vec<&str> = lost.map(|line| line.rsplit(',').next().unwrap()).collect();
    assert_eq!(lost, ["7", "7", "7", "9", "9"]);

    // Drawn: what changed, or what is asked for.
    for (arguments, drawn) in [
        (&["--out"][..], 1),
        (&["--out=reports/history", "--metric=final_loss", "--metric=test_accuracy"], 2),
        (&["--out=reports/history", "--variant=fp16-mixed", "--metric=lost_updates"], 1),
    ] {
        let ran = mantissa(at, &[&["history", "show"], arguments].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.stdout.ends_with("page: reports/history/history.html\n"), "{}", ran.stdout);
        let figures = store::list(&at.join("reports/history/figures")).unwrap();
        assert_eq!(figures.len(), 4 * drawn, "{figures:?}");
        let page = store::read(&at.join("reports/history/history.html")).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert_eq!(page.matches("<figure id=\"figure-trend-").count(), drawn);
        assert!(page.contains("commit-0000"));
    }
    store::write(&at.join("theirs/history.html"), b"theirs").unwrap();
    let ran = mantissa(at, &["history", "show", "--out=theirs"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("nothing says that mantissa wrote it"));
}

/// Of another plan, data, arithmetic or machine nothing compares, and times depend on more than the rest.
#[test]
fn series_of_unlike_fingerprints_are_not_joined() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("below/history.db");
    let mut history = History::make(&file).unwrap();
    let changes: [fn(&mut Results); 5] = [
        |_| (),
        |results| results.plan.train.steps = 9,
        |results| results.data.as_mut().unwrap().digest = "other".to_owned(),
        |results| results.environment.product_paths = vec!["f32: other".to_owned()],
        |results| results.environment.device_name = "other".to_owned(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let added = history.add(&of_commit(number, 7, change)).unwrap();
        assert_eq!((added.values, added.left_out), (VALUES, 0));
    }
    let all = history.series(&Filter::default()).unwrap();
    let lost = all.iter().filter(|series| series.key.to_string() == "fp32/lost_updates");
    let mut points: Vec<usize> = lost.map(|series| series.points.len()).collect();
    points.sort_unstable();
    // Exact metrics do not depend on the machine: the first and the last are one series.
    assert_eq!(points, [1, 1, 1, 2]);
}

/// Commits that were added late have their place by the time at which they ran.
#[test]
fn points_stand_in_the_order_of_their_experiments() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.db");
    for number in [2, 0, 3, 1] {
        History::make(&file).unwrap().add(&of_commit(number, number as u64, |_| ())).unwrap();
    }
    let expected = [0, 1, 2, 3].map(Measured::Count);
    assert_eq!(values(&file, "fp16-mixed/lost_updates"), expected);
    // What is not finite stays that, and a text a text.
    let diverged = of_commit(4, 4, |results| results.variants[0].runs[0].final_loss = None);
    History::make(&file).unwrap().add(&diverged).unwrap();
    assert_eq!(values(&file, "fp32/final_loss/seed-0")[4], Measured::NotFinite);
    assert!(matches!(values(&file, "fp32/weights_digest/seed-0")[4], Measured::Text(_)));
}

#[test]
fn eight_writers_at_once_lose_nothing() {
    const WRITERS: usize = 8;
    const EACH: usize = 4;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for number in 0..WRITERS * EACH {
        save(at, &format!("run-{number}"), &of_commit(number, number as u64, |_| ()));
    }
    let write = |writer: usize| {
        for number in (0..EACH).map(|turn| writer * EACH + turn) {
            let ran = mantissa(at, &["history", "add", &format!("run-{number}")]);
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        }
    };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || write(writer));
        }
    });
    let expected: Vec<Measured> = (0..WRITERS * EACH).map(|n| Measured::Count(n as u64)).collect();
    assert_eq!(values(&at.join("history.db"), "fp16-mixed/lost_updates"), expected);
}

/// Writers are killed at random points. Each time what is there is whole adds, and all that were acknowledged.
#[test]
fn a_hundred_killed_writers_leave_whole_adds_only() {
    const TIMES: usize = 100;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let file = at.join("history.db");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    save(at, "run", &of_commit(0, 0, |_| ()));
    let started = std::time::Instant::now();
    assert_eq!(mantissa(at, &["history", "add", "run"]).code, Some(0));
    let mut whole = started.elapsed();
    let (mut acknowledged, mut killed) = (1, 0);
    for number in 1..=20 * TIMES {
        if killed == TIMES {
            break;
        }
        save(at, "run", &of_commit(number, number as u64, |_| ()));
        let started = std::time::Instant::now();
        let mut writer = command(at, &["history", "add", "run"]);
        let mut writer: Child = writer.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole.mul_f64(rng.random_range(0.0..1.0)));
        writer.kill().unwrap();
        let was_killed = !writer.wait().unwrap().success();
        killed += usize::from(was_killed);
        acknowledged += usize::from(!was_killed);
        if !was_killed {
            // Those that end too soon to be killed say how long a write takes by now.
            whole = whole.min(started.elapsed());
        }

        let all = History::open(&file).unwrap().series(&Filter::default()).unwrap();
        assert_eq!(all.len(), VALUES);
        let adds = all[0].points.len();
        assert!(all.iter().all(|series| series.points.len() == adds), "a part of an add");
        // A write may be in before its writer says so.
        assert!((acknowledged..=acknowledged + killed).contains(&adds), "{acknowledged} {adds}");
    }
    let check = rusqlite::Connection::open(&file).unwrap();
    let check: String = check.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    assert_eq!(killed, TIMES);
}

/// What stands in the place of a history, its exit code for `show` and for `add`, and what is told.
type Bad = (&'static str, fn(&Path), i32, i32, &'static str);

const BAD: [Bad; 9] = [
    ("missing", |_| (), 4, 0, "no history is there; add results with `mantissa history add DIR`"),
    ("empty", |file| store::write(file, b"").unwrap(), 4, 0, "no history is there"),
    (
        "text",
        |file| store::write(file, &b"a text, and no database\n".repeat(50)).unwrap(),
        2,
        2,
        "is no database, no history of mantissa; give another file, or move this one away",
    ),
    ("folder", |file| std::fs::create_dir(file).unwrap(), 2, 2, "is a folder, no history"),
    (
        "foreign",
        |file| execute(file, "CREATE TABLE theirs (x)"),
        2,
        2,
        "is a database of another program, no history of mantissa",
    ),
    (
        "newer",
        |file| {
            History::make(file).unwrap();
            execute(file, "PRAGMA user_version = 2");
        },
        4,
        4,
        "schema 2 is newer than this program's 1; use the mantissa that wrote it, or a newer one",
    ),
    (
        "no version",
        |file| {
            History::make(file).unwrap();
            execute(file, "PRAGMA user_version = -1");
        },
        2,
        2,
        "is damaged (it has no schema -1); restore it from a copy",
    ),
    (
        "cut",
        |file| {
            History::make(file).unwrap().add(&of_commit(0, 0, |_| ())).unwrap();
            let bytes = store::read(file).unwrap();
            store::write(file, &bytes[..bytes.len() / 2]).unwrap();
        },
        2,
        2,
        "is damaged (database disk image is malformed)",
    ),
    (
        "no table",
        |file| {
            History::make(file).unwrap();
            execute(file, "DROP TABLE point; DROP TABLE run");
        },
        2,
        2,
        "is damaged (no such table: ",
    ),
];

fn execute(file: &Path, sql: &str) {
    rusqlite::Connection::open(file).unwrap().execute_batch(sql).unwrap();
}

#[test]
fn what_is_no_history_is_refused_by_name_and_left_as_it_is() {
    for (name, make, show, add, said) in BAD {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let file = at.join("history.db");
        save(at, "run", &of_commit(0, 0, |_| ()));
        make(&file);
        let before = store::read(&file).ok();
        for (arguments, code) in [
            (&["history", "show"][..], show),
            (&["history", "export"], show),
            (&["history", "add", "run"], add),
        ] {
            let ran = mantissa(at, arguments);
            assert_eq!(ran.code, Some(code), "{name}: {arguments:?}: {}", ran.stderr);
            if code != 0 {
                assert!(ran.stderr.starts_with("mantissa: history.db: "), "{name}: {}", ran.stderr);
                assert!(ran.stderr.contains(said), "{name}: {}", ran.stderr);
                assert_eq!(ran.stderr.lines().count(), 1, "{name}: {}", ran.stderr);
                assert_eq!(store::read(&file).ok(), before, "{name}");
            }
        }
        // No journal, no lock.
        assert_eq!(
            store::list(at).unwrap(),
            ["history.db", "run"].map(|name| at.join(name)),
            "{name}"
        );
    }
}

#[test]
fn wrong_usage_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    save(at, "run", &of_commit(0, 0, |_| ()));
    // A file in the place of a folder stands for a folder that cannot be written.
    store::write(&at.join("file"), b"").unwrap();
    let ran = mantissa(at, &["history", "add", "run", "--history=file/history.db"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("mantissa: file: cannot make the folder: "), "{}", ran.stderr);
    assert_eq!(mantissa(at, &["history", "add", "run"]).code, Some(0));
    for (arguments, said) in [
        (&["show", "--metric=speed"][..], "no such metric; known: diverged, test_accuracy"),
        (&["show", "--variant=fp64"], "it has the variants fp16-mixed and fp32, and the metrics "),
        (&["add", "none"], "results.json: not found"),
    ] {
        let ran = mantissa(at, &[&["history"], arguments].concat());
        assert_eq!(ran.code, Some(2), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{arguments:?}: {}", ran.stderr);
    }
    let mut partial: Results = report::load_results(&at.join("run")).unwrap();
    partial.complete = false;
    save(at, "run", &partial);
    assert_eq!(mantissa(at, &["history", "add", "run"]).code, Some(3));
}
