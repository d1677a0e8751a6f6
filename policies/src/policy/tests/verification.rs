//! The sections `[sources.….verification]`.

use super::*;

#[test]
fn verification_turns_the_gate_on_unless_the_policy_says_no() {
    let text = NIGHTLY.replacen("monthly = 12 }", "monthly = 12, gate_verified = false }", 1);
    assert!(!source(&parsed(&text), "app").retention.gate_verified);
}

#[test]
fn checks_have_names_of_their_own() {
    let check = "{ name = \"orders exist\", sql = \"select true\", expect = \"t\" }";
    let text = problems_with("checks = [", &format!("checks = [{check}, "));
    assert!(text.contains("checks[1].name: must be a name of its own, got \"orders exist\" again"), "{text}");
}

#[test]
fn expectations_are_a_text_or_a_range() {
    let between = |at_least, at_most| Expectation::Between { at_least, at_most };
    assert!(Expectation::Equals("t".to_owned()).is_met_by("t"));
    assert!(!Expectation::Equals("1".to_owned()).is_met_by("1.0"));
    assert!(between(Some(1.0), None).is_met_by("12"));
    assert!(!between(Some(1.0), Some(2.5)).is_met_by("2.6"));
    assert!(!between(None, None).is_met_by("many"));
    let text = problems_with("expect = \"t\"", "expect = \"t\", at_least = 3");
    assert!(text.contains("checks[0].expect: must be left out beside"), "{text}");
    let text = problems_with("expect = \"t\"", "at_least = 3, at_most = 2");
    assert!(text.contains("checks[0].at_most: must not be below"), "{text}");
}

#[test]
fn no_exception_stands_in_for_the_proof_itself() {
    let exception = |check: &str| {
        format!("exceptions = [{{ check = '{check}', reason = \"r\", until = \"2027-03-31\" }}]\nchecks = [")
    };
    let text = problems_with("checks = [", &exception("tables"));
    assert!(text.contains("exceptions[0].check: must be none of signature"), "{text}");
    let text = problems_with("checks = [", &exception("orders add up"));
    assert!(
        text.contains("exceptions[0].check: must be the name of one of `checks`, or one of selection"),
        "{text}"
    );
    for (named, reported) in [
        ("collation versions", "collation versions"),
        ("orders exist", "check \"orders exist\""),
        ("check \"orders exist\"", "check \"orders exist\""),
    ] {
        let policy = parsed(&NIGHTLY.replacen("checks = [", &exception(named), 1));
        let found = source(&policy, "app").verification.unwrap().exceptions;
        assert_eq!((&*found[0].check, found[0].until), (reported, jiff::civil::date(2027, 3, 31)));
    }
}
