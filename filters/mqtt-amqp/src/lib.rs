//! Leveret as a proxy-wasm network filter: what connects the core to Envoy, and nothing that decides.
//!
//! `root` is one plugin configuration on one worker, `stream` one client connection, `due` what is done for connections a little at a
//! time, `builds` this module among those before and after it, `estate` the metrics that outlive it, `memory` what is in use of the
//! module's, `host` the calls to the proxy. Envoy's words (downstream, upstream) end here: the
//! core speaks of client and broker.
#![expect(missing_docs, reason = "the SDK's macro exports its entry point without a word")]

mod builds;
mod due;
mod estate;
mod host;
mod memory;
mod root;
mod stream;

use host::Level;

/// Name, version and build, said once by every virtual machine. `build.sh` sets the build.
const STAMP: &str = concat!("leveret ", env!("CARGO_PKG_VERSION"), " build ");
const BUILD: &str = match option_env!("LEVERET_BUILD") {
    Some(build) => build,
    None => "unknown",
};

proxy_wasm::main! {{
    // Without this a panic, which is a bug, would be a trap without a word.
    std::panic::set_hook(Box::new(|panic| host::log(Level::Critical, &panic.to_string())));
    proxy_wasm::set_root_context(|_| Box::new(root::Root::default()));
}}
