//! `page MODULE FOLDER`: makes `leveret_explain.js` and its `.wasm`, for programs, and `index.html`, for people, with both inside.

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use wasm_bindgen_cli_support::Bindgen;

fn main() -> Result<()> {
    let [module, folder] = {
        let mut arguments = env::args_os().skip(1).map(PathBuf::from);
        [arguments.next(), arguments.next()].map(|it| it.context("page MODULE FOLDER"))
    };
    let (module, folder) = (module?, folder?);
    let mut bindgen = Bindgen::new();
    bindgen.input_path(module).out_name(NAME).web(true)?;
    bindgen.remove_name_section(true).generate(&folder)?;

    let javascript = fs::read_to_string(folder.join(format!("{NAME}.js")))?;
    let module = STANDARD.encode(fs::read(folder.join(format!("{NAME}_bg.wasm")))?);
    let page = PAGE
        .replace("/* leveret_explain.js */", &javascript)
        .replace("/* leveret_explain_bg.wasm */", &module);
    Ok(fs::write(folder.join("index.html"), page)?)
}

const NAME: &str = "leveret_explain";
const PAGE: &str = include_str!("../page.html");
