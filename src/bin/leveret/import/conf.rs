//! `rabbitmq.conf`: lines of `key = value`, as RabbitMQ's own reader (cuttlefish) takes them.

mod line;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, Result};
use leveret::policy::pattern::Glob;

use crate::{Wrong, document};

/// One key and its value.
#[derive(Clone)]
pub(super) struct Setting {
    /// The words between the dots; one may hold a dot itself, which is written `\.`.
    pub(super) key: Box<[String]>,
    /// Where it was said.
    pub(super) place: Place,
    value: String,
    /// The value stood in quotes.
    pub(super) quoted: bool,
}

/// A line of a file.
#[derive(Clone)]
pub(super) struct Place {
    file: Rc<str>,
    line: usize,
}

/// The settings of all files.
pub(super) struct Conf {
    /// In the order of their keys: what RabbitMQ does with numbered keys.
    pub(super) settings: Vec<Setting>,
    /// Those that a later one of the same key overrides.
    pub(super) overridden: Vec<Setting>,
}

impl Conf {
    /// Reads files one after the other, with the files that they include. Of a key that is said twice the last counts.
    pub(super) fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut all = Vec::new();
        for path in paths {
            read_file(path, 0, &mut all)?;
        }
        Ok(Self::new(all)?)
    }

    fn new(all: Vec<Setting>) -> Result<Self, Wrong> {
        let mut settings = BTreeMap::new();
        let mut overridden = Vec::new();
        for setting in all {
            overridden.extend(settings.insert(setting.key.clone(), setting));
        }
        let settings =
            settings.values().map(|setting| substituted(setting, &settings)).collect::<Result<_, _>>()?;
        Ok(Self { settings, overridden })
    }
}

impl Setting {
    /// The key's words, to be matched on.
    pub(super) fn path(&self) -> Vec<&str> {
        self.key.iter().map(String::as_str).collect()
    }

    pub(super) fn text(&self) -> &str {
        &self.value
    }

    pub(super) fn boolean(&self) -> Result<bool, Wrong> {
        match &*self.value {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.wrong("expected true or false")),
        }
    }

    pub(super) fn number(&self) -> Result<u64, Wrong> {
        self.value.parse().map_err(|_| self.wrong("expected a whole number"))
    }

    /// `None` is one of `words`, which stand for no number.
    pub(super) fn number_or(&self, words: &[&str]) -> Result<Option<u64>, Wrong> {
        if words.contains(&&*self.value) { Ok(None) } else { self.number().map(Some) }
    }

    /// The value, if it is one of `words`.
    pub(super) fn one_of<'a>(&self, words: &[&'a str]) -> Result<&'a str, Wrong> {
        let known = words.iter().find(|word| **word == self.value);
        known.copied().ok_or_else(|| self.wrong(&format!("expected {}", words.join(", "))))
    }

    /// The value is not quoted in it: it may be a password.
    pub(super) fn wrong(&self, problem: &str) -> Wrong {
        Wrong(format!("{}: {self}: {problem}", self.place))
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.key.iter().map(|word| word.replace('.', "\\.")).collect();
        f.write_str(&words.join("."))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

fn read_file(path: &Path, depth: usize, all: &mut Vec<Setting>) -> Result<()> {
    let text = document::read(path)?;
    let file = Rc::from(path.display().to_string());
    for item in line::parse(&text) {
        match item.map_err(|(line, problem)| Wrong(format!("{file}:{line}: {problem}")))? {
            line::Item::Setting { key, value, quoted, line } => {
                let place = Place { file: Rc::clone(&file), line };
                all.push(Setting { key: key.into(), place, value, quoted });
            }
            line::Item::Include { pattern, line } => {
                if depth == MAX_INCLUDES {
                    return Err(Wrong(format!("{file}:{line}: files include each other")).into());
                }
                for included in included(path, &pattern).with_context(|| format!("{file}:{line}"))? {
                    read_file(&included, depth + 1, all)?;
                }
            }
        }
    }
    Ok(())
}

/// The files that `pattern` names, seen from the file that includes them; `*` may stand in the last part.
fn included(from: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    let path = from.parent().unwrap_or(Path::new("")).join(pattern);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !name.contains('*') {
        return Ok(vec![path]);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let pattern = Glob::new(&name);
    let entries = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        if pattern.matches(&entry.file_name().to_string_lossy()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// `$(other.key)` in a value is that key's value.
fn substituted(setting: &Setting, all: &BTreeMap<Box<[String]>, Setting>) -> Result<Setting, Wrong> {
    let mut value = setting.value.clone();
    // Bounded, since keys can name each other and grow.
    for _ in 0..MAX_SUBSTITUTIONS {
        let Some((before, after, key)) = reference(&value) else {
            return Ok(Setting { value, ..setting.clone() });
        };
        let key: Box<[String]> = key.split('.').map(str::to_owned).collect();
        let other = all.get(&key).ok_or_else(|| setting.wrong("the key that `$(…)` names is not there"))?;
        value = format!("{before}{}{after}", other.value);
    }
    Err(setting.wrong("keys name each other by `$(…)`"))
}

fn reference(value: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = value.split_once("$(")?;
    let (key, after) = rest.split_once(')')?;
    Some((before, after, key))
}

const MAX_INCLUDES: usize = 8;
const MAX_SUBSTITUTIONS: usize = 16;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn conf(text: &str) -> Result<Vec<(String, String)>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("rabbitmq.conf");
        fs::create_dir(folder.path().join("conf.d"))?;
        fs::write(folder.path().join("conf.d/10-a.conf"), "inc.a = 1\nmqtt.vhost = included\n")?;
        fs::write(folder.path().join("conf.d/20-b.conf"), "inc.b = 2")?;
        fs::write(folder.path().join("conf.d/other.txt"), "not = read")?;
        fs::write(&path, text)?;
        let conf = Conf::read(&[path])?;
        Ok(conf.settings.iter().map(|setting| (setting.to_string(), setting.text().to_owned())).collect())
    }

    fn value(text: &str, key: &str) -> String {
        let all = conf(text).unwrap();
        all.into_iter().find(|(found, _)| found == key).map(|(_, value)| value).unwrap_or_default()
    }

    #[test]
    fn the_last_of_a_key_counts_and_files_are_included_where_they_stand() {
        assert_eq!(value("a.b = 1\na.b = 2", "a.b"), "2");
        let text = "mqtt.vhost = first\ninclude conf.d/*.conf\n";
        assert_eq!(value(text, "mqtt.vhost"), "included");
        assert_eq!(value(text, "inc.b"), "2");
        assert_eq!(value("include conf.d/10-a.conf\nmqtt.vhost = last\n", "mqtt.vhost"), "last");
        assert!(conf("include rabbitmq.conf").unwrap_err().to_string().contains("include each other"));
        assert!(conf("include nowhere.conf").unwrap_err().to_string().contains("cannot read"));
    }

    #[test]
    fn values_name_other_keys() {
        assert_eq!(value("a.b = 1\nc = $(a.b)/$(a.b)", "c"), "1/1");
        assert_eq!(value("c = $(\n", "c"), "$(");
        for text in ["c = $(no.such)", "a = $(b)\nb = $(a)", "a = $(a)$(a)"] {
            assert!(conf(text).unwrap_err().to_string().contains("rabbitmq.conf:1: "), "{text}");
        }
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, line) in [("a = 1\nb\nc = 2", 2), ("a =\n", 1), ("\n\na = b\n= c", 4)] {
            let error = conf(text).unwrap_err().to_string();
            assert!(error.contains(&format!("rabbitmq.conf:{line}: ")), "{text:?}: {error}");
        }
    }
}
