//! `page MODULE FOLDER`: makes `leveret_explain.js` and its `.wasm`, for programs, and `index.html`, for people, with both inside.

use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use wasm_bindgen_cli_support::Bindgen;

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [module, folder] = &arguments[..] else { bail!("page MODULE FOLDER") };
    let folder = Path::new(folder);
    let mut bindgen = Bindgen::new();
    bindgen.input_path(module).out_name(NAME).web(true)?;
    bindgen.remove_name_section(true).generate(folder)?;
    // Node before 20.19 takes a script for a module only where this says so.
    fs::write(folder.join("package.json"), "{ \"type\": \"module\" }\n")?;

    let javascript = fs::read_to_string(folder.join(format!("{NAME}.js")))?;
    // What would end the script, or the comments in front of its functions, which are this crate's documentation.
    ensure!(
        !javascript.contains("</script") && !javascript.contains("<!--"),
        "the script would end the page's"
    );
    let module = STANDARD.encode(fs::read(folder.join(format!("{NAME}_bg.wasm")))?);
    let (head, rest) = PAGE.split_once("/* leveret_explain.js */").context("no place for the script")?;
    let (middle, end) =
        rest.split_once("/* leveret_explain_bg.wasm */").context("no place for the module")?;
    Ok(fs::write(folder.join("index.html"), [head, &javascript, middle, &module, end].concat())?)
}

const NAME: &str = "leveret_explain";
const PAGE: &str = include_str!("../page.html");
