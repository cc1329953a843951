//! What `./build.sh page` makes, in Node: that it says what the same code says natively, and what the page shows.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere, in its own helpers too")]

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use leveret_explain::{amqp, mqtt};
use serde_json::{Value, json};

/// CONNECT, a PUBLISH to `cities/london`, PINGREQ, and a packet that only a server sends.
const DEVICE: &str =
    "10100004 4d515454 0402003c 0004 64656d6f 3014 000d 6369746965732f6c6f6e646f6e 3138c2b043 c000 2002";
/// basic.deliver of the routing key `a.b`, and the beginning of a content header.
const BROKER: &str =
    "01000100 00001e00 3c003c02 302d0000 00000000 00050109 616d712e 746f7069 6303612e 62ce 02000100";

#[test]
fn node_hears_what_the_same_code_says_natively() -> Result<()> {
    let script = "import { initSync, mqtt, amqp } from './leveret_explain.js';
        import { readFileSync } from 'node:fs';
        initSync({ module: readFileSync('leveret_explain_bg.wasm') });
        const [device, broker] = process.argv.slice(1);
        const thrown = (read, ...input) => { try { read(...input) } catch (error) { return error.message } };
        console.log(JSON.stringify({
            mqtt: JSON.parse(mqtt(device, '{\"topic_mapping\": \"reversible\"}')), amqp: JSON.parse(amqp(broker, '')),
            errors: [thrown(mqtt, 'c0 0', ''), thrown(amqp, '', '{\"prefetch\": -1}')],
        }))";
    let heard = node(script, &[DEVICE, BROKER])?;
    let natively =
        |answer: Result<String, _>| answer.map(|it| serde_json::from_str::<Value>(&it).unwrap()).ok();
    assert_eq!(heard["mqtt"], natively(mqtt(DEVICE, r#"{"topic_mapping": "reversible"}"#)).unwrap());
    assert_eq!(heard["amqp"], natively(amqp(BROKER, "")).unwrap());
    assert_eq!(heard["mqtt"][1]["routing_key"], "cities.london");
    assert_eq!(heard["mqtt"][3]["error"], "client: malformed packet: packet type is reserved or a server's");
    assert_eq!(heard["amqp"][0]["arguments"]["topic"], "a/b");
    assert_eq!(heard["amqp"][1], json!({ "at": 38, "incomplete": 4 }));
    assert_eq!(heard["errors"][0], "line 1: one digit by itself, and a byte has two");
    let error = heard["errors"][1].as_str().context("an error")?;
    assert!(error.starts_with("configuration key `prefetch`: expected"), "{error}");
    Ok(())
}

/// The page's own script, with so much of a document as it asks for.
#[test]
fn the_page_shows_what_is_typed_and_what_is_wrong() -> Result<()> {
    let script = "import { readFileSync } from 'node:fs';
        const page = readFileSync('index.html', 'utf8');
        const fields = {}, listeners = {};
        for (const [, id, text] of page.matchAll(/<(?:textarea|pre) id=\"(\\w+)\"[^>]*>([^<]*)</g))
            fields[id] = { value: text, textContent: '', classList: { toggle(name, is) { fields[id][name] = is } } };
        globalThis.document = { getElementById: id => fields[id], addEventListener: (name, it) => listeners[name] = it };
        await import('data:text/javascript,' + encodeURIComponent(page.match(/<script type=\"module\">([^]*)<\\/script>/)[1]));
        const shown = () => ['packets', 'frames'].map(id => [fields[id].textContent, fields[id].wrong]);
        const first = shown();
        [fields.mqtt.value, fields.amqp.value] = process.argv.slice(1);
        listeners.input();
        const second = shown();
        fields.configuration.value = '{';
        listeners.input();
        console.log(JSON.stringify([first, second, shown()]))";
    let shown = node(script, &[DEVICE, BROKER])?;
    let text = |round: usize, output: usize| shown[round][output][0].as_str().unwrap_or_default().to_owned();
    let wrong = |round: usize| [&shown[round][0][1], &shown[round][1][1]];
    assert!(text(0, 0).contains(r#""routing_key": "cities.london""#), "{shown:#}");
    assert!(text(0, 1).contains(r#""topic": "cities/london""#), "{shown:#}");
    assert_eq!(wrong(0), [&json!(false), &json!(false)]);
    assert!(text(1, 0).contains("or a server's") && text(1, 1).contains("incomplete"), "{shown:#}");
    assert_eq!(wrong(1), [&json!(true), &json!(false)]);
    assert!(text(2, 0).contains("configuration"), "{shown:#}");
    assert_eq!(wrong(2), [&json!(true), &json!(true)]);
    Ok(())
}

/// What a script says, in the folder of what was made.
fn node(script: &str, arguments: &[&str]) -> Result<Value> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/explain"));
    let output = Command::new("node")
        .args(["--input-type=module", "--eval", script, "--"])
        .args(arguments)
        .current_dir(&folder)
        .output()
        .context("node")?;
    ensure!(output.status.success(), "{}: {}", folder.display(), String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}
