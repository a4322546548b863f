//! A toy key-value store: a key is an inode's tag, its value the inode's content.
//!
//! It shows what the engine gives (values that are replaced whole or not at all, an index that can
//! be made again from the tags) and what it leaves to you (the index itself).
//!
//! `cargo run --example key_value [FILE]`; without a name it makes a file and removes it.

// An example shows its result.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use dynamicfs::{EngineConfig, FormatOptions, InodeId, InodeOptions, StorageEngine, StoreError};

struct KeyValue {
    engine: StorageEngine,
    index: BTreeMap<[u8; 64], InodeId>,
}

impl KeyValue {
    /// Opens a pool and reads the keys from its inodes.
    fn open(config: EngineConfig) -> Result<KeyValue, Box<dyn Error>> {
        let engine = StorageEngine::open(config)?;
        let mut index = BTreeMap::new();
        let mut from = InodeId(0);
        loop {
            let page = engine.list(from, 1000).wait()?;
            let Some(last) = page.last() else { break };
            from = InodeId(last.id.0 + 1);
            index.extend(page.iter().map(|inode| (inode.tag, inode.id)));
        }
        Ok(KeyValue { engine, index })
    }

    /// Replaces a value: after a crash there is the old one or the new one.
    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Box<dyn Error>> {
        let options = InodeOptions::tagged(key.as_bytes()).ok_or("a key has up to 64 bytes")?;
        let inode = match self.index.get(&options.tag) {
            Some(inode) => *inode,
            None => {
                let inode = self.engine.create_inode(options).wait()?;
                self.index.insert(options.tag, inode);
                inode
            }
        };
        let mut whole = self.engine.transaction(inode);
        whole.truncate(0).write(0, value);
        whole.commit().wait()?;
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let tag = InodeOptions::tagged(key.as_bytes()).unwrap_or_default().tag;
        let Some(inode) = self.index.get(&tag) else { return Ok(None) };
        let size = self.engine.stat(*inode).wait()?.size_bytes;
        Ok(Some(self.engine.read(*inode, 0..size).wait()?.to_vec()))
    }

    fn remove(&mut self, key: &str) -> Result<bool, StoreError> {
        let tag = InodeOptions::tagged(key.as_bytes()).unwrap_or_default().tag;
        let Some(inode) = self.index.remove(&tag) else { return Ok(false) };
        self.engine.delete(inode).wait()?;
        Ok(true)
    }
}

pub(crate) fn run(file: &Path) -> Result<(), Box<dyn Error>> {
    let config = EngineConfig::on_disk(file);
    let new_file = FormatOptions { create_bytes: Some(64 << 20), ..FormatOptions::default() };
    StorageEngine::format(&config, new_file)?;
    let mut store = KeyValue::open(config.clone())?;
    store.put("colour", b"green")?;
    store.put("weather", b"rain")?;
    store.put("colour", b"blue")?;
    store.remove("weather")?;
    // Dropped without a close, as by a crash that is kind: what was acknowledged is there.
    drop(store);
    let store = KeyValue::open(config)?;
    assert_eq!(store.get("colour")?.as_deref(), Some(&b"blue"[..]));
    assert_eq!(store.get("weather")?, None);
    println!("colour is blue, and nobody knows the weather");
    store.engine.close(Duration::from_secs(10))?;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args_os().nth(1) {
        Some(file) => run(file.as_ref()),
        None => {
            let name = format!("dynamicfs-kv-{}", std::process::id());
            let file = std::env::temp_dir().join(name);
            let outcome = run(&file);
            std::fs::remove_file(&file)?;
            outcome
        }
    }
}
