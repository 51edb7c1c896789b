//! JUnit's XML: a suite a variant, a test case a metric. What is not judged is skipped; if nothing was, that is an error. The
//! last suite's output is the summary.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::regression::judge::{Finding, Judgement, Outcome, Verdict};

pub(super) fn render(judgement: &Judgement) -> Result<String, String> {
    let mut report = Report::new(format!("mantissa {}", judgement.experiment));
    let mut variants: Vec<&str> = Vec::new();
    for finding in &judgement.findings {
        if variants.last() != Some(&finding.key.variant.as_str()) {
            variants.push(&finding.key.variant);
        }
    }
    for variant in variants {
        let mut suite = TestSuite::new(variant);
        let findings = judgement.findings.iter().filter(|finding| finding.key.variant == variant);
        suite.add_test_cases(findings.map(|finding| case(finding, judgement.strict)));
        report.add_test_suite(suite);
    }
    let mut suite = TestSuite::new("check");
    suite.add_test_case(whole(judgement));
    suite.set_system_out(judgement.summary());
    report.add_test_suite(suite);
    let text = report.to_string().map_err(|error| error.to_string())?;
    Ok(without_total_of_skipped(&text))
}

/// The text without `skipped` of `testsuites`, which Jenkins' schema does not know: its xUnit plugin refuses such a file. The
/// attribute's value ends at the next quotation mark, and no value before it has one.
fn without_total_of_skipped(text: &str) -> String {
    let attribute = " skipped=\"";
    let found = text.split_once(attribute).and_then(|(before, rest)| {
        let (_, after) = rest.split_once('"')?;
        let is_of_the_whole = !before.contains("<testsuite ");
        is_of_the_whole.then(|| format!("{before}{after}"))
    });
    found.unwrap_or_else(|| text.to_owned())
}

fn case(finding: &Finding, strict: bool) -> TestCase {
    let status = match finding.verdict {
        Verdict::Passed | Verdict::Allowed(_) => TestCaseStatus::success(),
        Verdict::Failed => failure(&finding.why),
        Verdict::Inconclusive if strict => failure(&finding.why),
        Verdict::Inconclusive | Verdict::NotJudged => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(format!("{}: {}", finding.verdict.name(), finding.why));
            status
        }
    };
    let seed = finding.key.seed.map(|seed| format!(" seed-{seed}")).unwrap_or_default();
    let mut case = TestCase::new(format!("{}{seed}", finding.key.metric.name()), status);
    case.set_classname(format!("mantissa.{}", finding.key.variant));
    if let Verdict::Allowed(_) = finding.verdict {
        case.set_system_out(finding.sentence());
    }
    case
}

fn failure(why: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(why);
    status
}

/// The check as a whole: an error where it saw nothing.
fn whole(judgement: &Judgement) -> TestCase {
    let status = if judgement.outcome() == Outcome::NothingJudged {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_message(format!("nothing could be judged. {}", judgement.notes.join(" ")));
        status
    } else {
        TestCaseStatus::success()
    };
    let mut case = TestCase::new("something was judged", status);
    case.set_classname("mantissa");
    if !judgement.notes.is_empty() {
        case.set_system_out(judgement.notes.join("\n"));
    }
    case
}
