//! The examples do what they say, each on a file of its own.

// The examples' own `main` is not called here.
#![allow(dead_code)]

use std::error::Error;
use std::path::Path;

#[path = "../examples/async_tokio.rs"]
mod async_tokio;
#[path = "../examples/embed.rs"]
mod embed;
#[path = "../examples/key_value.rs"]
mod key_value;
#[path = "../examples/raw_io.rs"]
mod raw_io;

fn on_a_file(name: &str, example: fn(&Path) -> Result<(), Box<dyn Error>>) {
    let name = format!("dynamicfs-example-{name}-{}", std::process::id());
    let file = std::env::temp_dir().join(name);
    let outcome = example(&file);
    std::fs::remove_file(&file).expect("the example has made its file");
    outcome.expect("the example succeeds");
}

#[test]
fn embed_runs() {
    on_a_file("embed", embed::run);
}

#[test]
fn async_tokio_runs() {
    on_a_file("async", async_tokio::run);
}

#[test]
fn key_value_runs() {
    on_a_file("kv", key_value::run);
}

#[test]
fn raw_io_runs() {
    on_a_file("raw", raw_io::run);
}
