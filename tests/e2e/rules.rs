//! `docs/rules.md` and the tests say the same.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

#[test]
fn each_rule_of_the_table_has_a_test_of_its_name() -> Result<()> {
    let table = fs::read_to_string(support::root().join("docs/rules.md"))?;
    let rows = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| rule |"));
    let mut rules = 0;
    for row in rows {
        let columns: Vec<&str> = row.trim_matches(['|', ' ']).split(" | ").collect();
        let [rule, _, tests] = *columns else { bail!("three columns: {row}") };
        let name = rule.to_lowercase().replace([' ', '-'], "_");
        let mut has_its_name = false;
        for test in tests.split_whitespace().map(|test| test.trim_matches('`')) {
            let (module, function) = test.rsplit_once("::").with_context(|| format!("{rule}: {test}"))?;
            let file = support::root().join("tests/e2e").join(module.replace("::", "/"));
            let source =
                fs::read_to_string(file.with_extension("rs")).with_context(|| format!("{rule}: {test}"))?;
            ensure!(source.contains(&format!("#[test]\nfn {function}()")), "{rule}: there is no {test}");
            has_its_name |= function.starts_with(&name);
        }
        ensure!(has_its_name, "{rule}: no test's name starts with {name}");
        rules += 1;
    }
    ensure!(rules > 30, "{rules} rules: is the table read?");
    Ok(())
}
