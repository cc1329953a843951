//! Files of JSON or YAML.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::Wrong;

/// The text of a file.
pub(crate) fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    String::from_utf8(bytes).map_err(|e| {
        let good = e.as_bytes().get(..e.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + good.iter().filter(|&&byte| byte == b'\n').count();
        Wrong(format!("{}:{line}: not UTF-8", path.display())).into()
    })
}

/// The documents in `text`: one of JSON, or any number of YAML.
///
/// The message says where, and quotes nothing: what stands there may be a password.
pub(crate) fn parse(text: &str) -> Result<Vec<Value>, Wrong> {
    let json_error = match serde_json::from_str(text) {
        Ok(value) => return Ok(vec![value]),
        Err(e) => e,
    };
    serde_saphyr::from_multiple(text).map_err(|e| {
        // Who began with a brace meant JSON.
        if text.trim_start().starts_with('{') {
            return Wrong(format!("not JSON: {json_error}"));
        }
        match e.location() {
            Some(at) => Wrong(format!("not YAML or JSON at line {} column {}", at.line(), at.column())),
            None => Wrong("not YAML or JSON".to_owned()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_where_and_quotes_nothing() {
        for text in [
            "a: 1\nb: \"geheim",
            "a: 1\nb: [geheim",
            "{\n\"a\": geheim",
            "geheim: 1\ngeheim: 2",
            "a: &x [*x, geheim]",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("line ") && !error.contains("geheim"), "{text:?}: {error}");
        }
    }

    #[test]
    fn nesting_and_aliases_have_an_end() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000))).is_err());
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let list = vec![format!("*a{}", n - 1); 10].join(", ");
            bomb += &format!("a{n}: &a{n} [{list}]\n");
        }
        assert!(parse(&bomb).is_err());
    }
}
