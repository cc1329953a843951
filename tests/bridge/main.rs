//! Conversations that run unchanged against the native core and against the built module, and hostile bytes.
// A test says what is wrong by panicking, its helpers too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cuts;
mod deliver;
mod dollar;
mod ends;
mod errors;
mod hostile;
mod login;
mod publish;
mod retained;
mod session;
mod share;
mod subscribe;
mod takeover;
mod timers;
mod unauthorized;
mod will;

use support::{
    module,
    talk::{Input, Talk, with_both},
};

/// Has a conversation with both subjects. Retained messages have conversations of their own.
fn both(config_json: &str, talk: impl Fn(&mut Talk)) -> [Vec<Input>; 2] {
    with_both(module::shipped(), &without_retained(config_json), talk)
}

/// A configuration in which messages are not retained.
fn without_retained(config_json: &str) -> String {
    let rest = config_json.trim_start_matches('{');
    format!(r#"{{"retained": false{}{rest}"#, if rest == "}" { "" } else { ", " })
}
