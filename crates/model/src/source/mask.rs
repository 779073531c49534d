//! E-mail addresses and phone numbers in text ─► `[email]`, `[phone]`.
//!
//! Two strictnesses. *Free text* is written by people: every run of seven or more digits that is no
//! date and no price is taken for a phone number, since masking an order number costs less than
//! keeping a phone number. A *token* (one word of machine characters: an id, a language tag, a
//! platform) is only taken for a phone number when the whole of it is written as one, else ids made
//! of digits would be lost.

use std::{borrow::Cow, ops::Range, sync::LazyLock};

use regex::Regex;

const EMAIL: &str = "[email]";
const PHONE: &str = "[phone]";

/// Fewest digits of a phone number.
const PHONE_DIGITS: usize = 7;

/// The address sign may be percent-encoded, also twice, or full-width; the local part may be quoted.
/// Characters that are not seen (`Cf`: joiners, marks of direction) hide nothing.
static EMAIL_ADDRESS: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r#"(?x)
        (?: [\p{L}\p{N}\p{M}\p{Cf}!\#$%&'*+^_`{|}~.-]+ | "[^"@\[\]]{1,64}" \p{Cf}* )
        (?: @ | %(?:25)*40 | \u{FF20} | \u{FE6B} ) \p{Cf}*
        (?: [\p{L}\p{N}] (?: [\p{L}\p{N}\p{M}\p{Cf}.-]* [\p{L}\p{N}] )? | \[ [0-9A-Fa-f:.]+ \] )"#,
    )
});

/// Seven or more digits with up to three separators, and any that is not seen, between two of them.
static DIGIT_RUN: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?x)
        (?: \+ \p{Zs}? )? \(?
        \p{Nd} (?: \p{Cf}* (?: [\p{Zs}\t().\-/\u{2010}-\u{2015}] \p{Cf}* ){0,3} \p{Nd} ){6,}",
    )
});

/// Dates at the start of a digit run: ISO, day or month first, and spans of years.
static DATE: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?x)^(?:
        (?:19|20)[0-9]{2} [-/.] [01]?[0-9] [-/.] [0-3]?[0-9]
        | [0-3]?[0-9] [-/.] [0-3]?[0-9] [-/.] (?:19|20)[0-9]{2}
        | (?:19|20)[0-9]{2} \p{Zs}? [-/\u{2010}-\u{2015}] \p{Zs}? (?:19|20)[0-9]{2}
        )(?:[^0-9]|$)",
    )
});

/// A number with or without thousands grouping and cents.
static AMOUNT: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"^(?:[1-9][0-9]{0,2}(?:[\p{Zs}.'][0-9]{3})+|[1-9][0-9]*)(?:\.[0-9]{2})?$")
});

static CURRENCY_BEFORE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?:\p{Sc}|EUR|USD|GBP|CHF)\p{Zs}?$"));
static CURRENCY_AFTER: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^(?:,[0-9]{2}(?:[^0-9]|$)|\p{Zs}?(?:\p{Sc}|EUR|USD|GBP|CHF))"));

/// Written in this file and tested, so it compiles.
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern of this file compiles")
}

/// Masks free text.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if !is_suspicious(text) {
        return Cow::Borrowed(text);
    }
    match EMAIL_ADDRESS.replace_all(text, EMAIL) {
        Cow::Borrowed(text) => phones(text, |_| true),
        Cow::Owned(masked) => Cow::Owned(phones(&masked, |_| true).into_owned()),
    }
}

/// Masks a value that is a token by its source's contract: tokens as a whole, the rest as free text.
pub(super) fn token(value: &str) -> Cow<'_, str> {
    if !is_token(value) {
        return text(value);
    }
    if is_phone_token(value) {
        return Cow::Borrowed(PHONE);
    }
    Cow::Borrowed(value)
}

/// Masks a link's path: each segment as a token, and numbers that a `/` divides.
pub(super) fn path(path: &str) -> Cow<'_, str> {
    if !is_suspicious(path) {
        return Cow::Borrowed(path);
    }
    let segments: Vec<_> = path.split('/').map(token).collect();
    // A path is full of numbers; written as a phone number are those with a prefix.
    let prefixed = |run: &str| run.starts_with(['0', '+', '(']);
    Cow::Owned(phones(&segments.join("/"), prefixed).into_owned())
}

/// Whether a token holds an e-mail address or a phone number.
pub(super) fn is_personal(value: &str) -> bool {
    token(value) != value
}

/// The cheap test that spares most text the expressions.
pub(super) fn is_suspicious(text: &str) -> bool {
    let mut digits = 0;
    for byte in text.bytes() {
        match byte {
            b'@' | b'%' | 0x80.. => return true,
            b'0'..=b'9' => digits += 1,
            _ => {}
        }
    }
    digits >= PHONE_DIGITS
}

/// Masks the digit runs that are no date, no price and pass `counts`. One pass over the text: a run
/// is never searched again, or a text full of dates would cost its length squared.
fn phones(text: &str, counts: impl Fn(&str) -> bool) -> Cow<'_, str> {
    let mut masked = String::new();
    let mut copied = 0;
    for run in DIGIT_RUN.find_iter(text) {
        let number = after_dates(run.as_str());
        let start = run.end() - number.len();
        let digits = number.chars().filter(|c| c.is_numeric()).count();
        if digits < PHONE_DIGITS || !counts(number) || is_price(text, start..run.end()) {
            continue;
        }
        masked.push_str(&text[copied..start]);
        masked.push_str(PHONE);
        copied = run.end();
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    masked.push_str(&text[copied..]);
    Cow::Owned(masked)
}

/// A digit run without the dates that it begins with.
fn after_dates(mut run: &str) -> &str {
    while let Some(date) = DATE.find(run) {
        // The expression takes one character more to see that the date ends there.
        let date = date
            .as_str()
            .trim_end_matches(|c: char| !c.is_ascii_digit());
        run =
            run[date.len()..].trim_start_matches(|c: char| !c.is_numeric() && c != '+' && c != '(');
    }
    run
}

fn is_price(text: &str, run: Range<usize>) -> bool {
    AMOUNT.is_match(&text[run.clone()])
        && (CURRENCY_AFTER.is_match(&text[run.end..])
            || CURRENCY_BEFORE.is_match(&text[..run.start]))
}

fn is_token(value: &str) -> bool {
    value
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:~|=".contains(&byte))
}

/// Digits with `-` or `.` between them, written as a local number (leading 0) or in the North
/// American 3-3-4 form. Digits alone without a leading 0 are an id.
fn is_phone_token(value: &str) -> bool {
    let value = match value.split_once(':') {
        Some(("tel" | "sms" | "callto" | "whatsapp", number)) => number,
        _ => value,
    };
    let mut groups = [0_usize; 4];
    let mut count = 0;
    for group in value.split(['-', '.']) {
        if group.is_empty() || !group.bytes().all(|byte| byte.is_ascii_digit()) {
            return false;
        }
        if let Some(length) = groups.get_mut(count) {
            *length = group.len();
        }
        count += 1;
    }
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    let decimal = count == 2 && value.starts_with("0.");
    let local = value.starts_with('0') && (9..=17).contains(&digits) && !decimal;
    let north_american = matches!((count, groups), (3, [3, 3, 4, _]) | (4, [1, 3, 3, 4]));
    local || north_american
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_and_numbers_are_masked_in_free_text() {
        for (from, to) in [
            ("write to jane.doe+x@example.co.uk.", "write to [email]."),
            ("JANE@EXAMPLE.COM", "[email]"),
            ("email=jane@example.com&x", "email=[email]&x"),
            ("jane%40example.com", "[email]"),
            ("jane%2540example.com", "[email]"),
            ("jane＠example.com", "[email]"),
            ("müller@bücher.de", "[email]"),
            ("\"Jane Doe\"@example.com", "[email]"),
            ("jane@[192.168.0.1]", "[email]"),
            ("a@b@c", "[email]@c"),
            ("call +49 151 23456789 now", "call [phone] now"),
            ("+4915123456789", "[phone]"),
            ("+49 (0) 151 / 234 567-89", "[phone]"),
            ("0049 151 23456789", "[phone]"),
            ("Tel.0151-23456789", "Tel.[phone]"),
            ("Handy01512345678", "Handy[phone]"),
            ("(030) 123 45 67", "[phone]"),
            ("(555) 123-4567", "[phone]"),
            ("555.123.4567", "[phone]"),
            ("1-800-555-0199", "[phone]"),
            ("01 23 45 67 89", "[phone]"),
            ("+49\u{a0}151\u{a0}2345678", "[phone]"),
            ("٠١٥١٢٣٤٥٦٧٨", "[phone]"),
            ("jane@x.de or 0151 2345678", "[email] or [phone]"),
            ("2026-01-15 0151 2345678", "2026-01-15 [phone]"),
            ("order 12345678", "order [phone]"),
        ] {
            assert_eq!(text(from), to);
        }
    }

    #[test]
    fn dates_prices_and_short_numbers_stay() {
        for kept in [
            "2026-01-15",
            "2026-01-15T10:30:00Z",
            "2026-01-15 10:30",
            "2026-01-15 - 2026-01-20",
            "15.01.2026",
            "1/15/2026",
            "2025-2026",
            "1.234.567,00 €",
            "€ 1234567",
            "1 234 567 EUR",
            "$1234567.00",
            "24/7",
            "3-5 Werktage",
            "100 % @ home",
            "@handle",
            "Version 1.2.3",
        ] {
            assert_eq!(text(kept), kept);
        }
    }

    #[test]
    fn a_text_full_of_dates_is_masked_in_one_pass() {
        let dates = "2026-01-15 ".repeat(5000);
        let masked = text(&format!("{dates}0151 2345678")).into_owned();
        assert_eq!(masked, format!("{dates}[phone]"));
    }

    #[test]
    fn tokens_stay_unless_the_whole_of_them_is_personal() {
        for kept in [
            "1234567890",
            "1768471200000",
            "550e8400-e29b-41d4-a716-446655440000",
            "a1b2c3d4-0123-4567-8901-abcdefabcdef",
            "c-2026-01-15-0001234",
            "0.12345678",
            "de-DE",
            "conv_01234567",
            "01234567",
        ] {
            assert_eq!(token(kept), kept);
            assert!(!is_personal(kept));
        }
        for personal in [
            "01512345678",
            "0151-2345678",
            "555-123-4567",
            "1-800-555-0199",
            "tel:01512345678",
            "+4915123456789",
            "jane@example.com",
            "4915123456789@s.whatsapp.net",
            "call 0151 2345678",
        ] {
            assert!(is_personal(personal), "{personal}");
        }
    }

    proptest! {
        #[test]
        fn masking_twice_is_masking_once(input in "[a-c0-9@%+()./ €,\\-\"\\[\\]]{0,60}|\\PC{0,60}") {
            let once = text(&input).into_owned();
            prop_assert_eq!(text(&once), once.as_str());
            let once = token(&input).into_owned();
            prop_assert_eq!(token(&once), once.as_str());
        }

        #[test]
        fn an_address_is_masked_wherever_it_stands(before in "\\PC{0,20}", after in "\\PC{0,20}") {
            let masked = text(&format!("{before} jane.doe@example.com {after}")).into_owned();
            prop_assert!(!masked.contains("jane.doe"));
        }

        #[test]
        fn a_number_is_masked_wherever_it_stands(before in "\\PC{0,20}", after in "\\PC{0,20}") {
            let masked = text(&format!("{before} +49 151 23456789 {after}")).into_owned();
            prop_assert!(!masked.contains("23456789"));
        }
    }
}
