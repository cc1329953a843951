//! The grammar of the lines.

/// What a line says.
pub(super) enum Item {
    /// `key = value`.
    Setting { key: Vec<String>, value: String, quoted: bool, line: usize },
    /// `include file`.
    Include { pattern: String, line: usize },
}

/// Reads `text` item by item; an error is a line's number and what is wrong with it.
pub(super) fn parse(text: &str) -> impl Iterator<Item = Result<Item, (usize, &'static str)>> {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut number = 0;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            number += 1;
            let (line, next) = split_line(rest);
            rest = next;
            let line = line.trim_matches(BLANK);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let first = number;
            if let Some(pattern) = include(line) {
                return Some(Ok(Item::Include { pattern, line: first }));
            }
            let Some((key, value)) = key_and_value(line) else {
                return Some(Err((first, "expected `key = value`")));
            };
            if let Some(start) = value.strip_prefix("'''") {
                // Over as many lines as it takes to close it.
                let (value, lines, after) = match start.split_once("'''") {
                    Some((value, after)) => (value.to_owned(), 0, after),
                    None => {
                        let Some((more, after)) = rest.split_once("'''") else {
                            return Some(Err((first, "''' is not closed")));
                        };
                        let (after, next) = split_line(after);
                        rest = next;
                        (format!("{start}\n{more}"), more.matches('\n').count() + 1, after)
                    }
                };
                number += lines;
                let value = value.trim_matches(['\r', '\n']).to_owned();
                return Some(quoted(key, value, after, first));
            }
            // A quote that is never closed is a character like any other.
            if let Some((value, after)) = value.strip_prefix('\'').and_then(|value| value.split_once('\'')) {
                return Some(quoted(key, value.to_owned(), after, first));
            }
            let value = value.split('#').next().unwrap_or_default().trim_matches(BLANK);
            if value.is_empty() {
                return Some(Err((first, "expected a value")));
            }
            return Some(Ok(Item::Setting { key, value: value.to_owned(), quoted: false, line: first }));
        }
        None
    })
}

fn quoted(key: Vec<String>, value: String, after: &str, line: usize) -> Result<Item, (usize, &'static str)> {
    let after = after.trim_matches(BLANK);
    if after.is_empty() || after.starts_with('#') {
        Ok(Item::Setting { key, value, quoted: true, line })
    } else {
        Err((line, "expected nothing behind the closing quote"))
    }
}

fn include(line: &str) -> Option<String> {
    let pattern = line.strip_prefix("include")?.strip_prefix(BLANK)?;
    let pattern = pattern.split('#').next()?.trim_matches(BLANK);
    (!pattern.is_empty() && !pattern.starts_with('=')).then(|| pattern.to_owned())
}

/// A key is words of letters, digits, `_` and `-` with dots between them; `\.` is a dot in a word.
fn key_and_value(line: &str) -> Option<(Vec<String>, &str)> {
    let (key, value) = line.split_once('=')?;
    let mut words = vec![String::new()];
    let mut characters = key.trim_matches(BLANK).chars();
    while let Some(c) = characters.next() {
        match c {
            '.' => words.push(String::new()),
            '\\' if characters.next() == Some('.') => words.last_mut()?.push('.'),
            c if c.is_ascii_alphanumeric() || c == '_' || c == '-' => words.last_mut()?.push(c),
            _ => return None,
        }
    }
    words.iter().all(|word| !word.is_empty()).then(|| (words, value.trim_start_matches(BLANK)))
}

fn split_line(text: &str) -> (&str, &str) {
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    (line.strip_suffix('\r').unwrap_or(line), rest)
}

const BLANK: [char; 2] = [' ', '\t'];

#[cfg(test)]
mod tests {
    use super::*;

    /// Key and value of the only line; nothing when it is wrong.
    fn one(text: &str) -> Option<(String, String)> {
        match parse(text).next() {
            Some(Ok(Item::Setting { key, value, .. })) => Some((key.join("|"), value)),
            _ => None,
        }
    }

    /// RabbitMQ 3.10's own reader says the same of all but the quoted ones, which it takes with their quotes.
    #[test]
    fn values_are_rabbitmq_s() {
        for (text, key, value) in [
            ("a.b = 1   # tail", "a|b", "1"),
            ("\t a.b=1", "a|b", "1"),
            ("f.g\\.h.i = v", "f|g.h|i", "v"),
            ("n =   spaced out value\t ", "n", "spaced out value"),
            ("l = foo#bar", "l", "foo"),
            ("d = it's # k", "d", "it's"),
            ("e = 'open", "e", "'open"),
            ("m = a=b", "m", "a=b"),
            ("c = 'x # y'  # z", "c", "x # y"),
            ("k=' lead '", "k", " lead "),
            ("k = ''", "k", ""),
            ("k = '''x'''", "k", "x"),
            ("k = '''\none\n two # 2\n''' # z\r\nb = 1", "k", "one\n two # 2"),
            ("a = b\r\n", "a", "b"),
            ("\u{feff}a = b", "a", "b"),
            ("included = b", "included", "b"),
            ("include = b", "include", "b"),
        ] {
            assert_eq!(one(text), Some((key.to_owned(), value.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn what_rabbitmq_refuses_is_refused() {
        for text in [
            "a", "a =", "a = # c", "= b", ".a = b", "a. = b", "a b = c", "ä = b", "a\\b = c", "a = 'x'y",
            "a = '''x",
        ] {
            assert!(parse(text).any(|item| item.is_err()), "{text:?}");
        }
    }

    #[test]
    fn lines_are_counted_behind_a_value_of_several() {
        let last = parse("a = '''\n1\n2\n'''\nb").last().unwrap();
        assert_eq!(last.err().map(|(line, _)| line), Some(5));
    }

    #[test]
    fn nothing_makes_it_panic_or_go_on_for_ever() {
        let pieces = ["a", ".", "\\", "=", "'", "'''", "\n", "\r", "#", " ", "include", "ü", "$(", "\u{0}"];
        let mut random = fastrand::Rng::with_seed(4);
        for _ in 0..20_000 {
            let text: String = (0..random.usize(..20)).filter_map(|_| random.choice(pieces)).collect();
            assert!(parse(&text).count() <= 20);
        }
    }
}
