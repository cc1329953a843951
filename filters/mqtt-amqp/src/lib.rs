//! Leveret as a proxy-wasm network filter.
