//! Reads a configuration file: text to checked values.
//!
//! The text is parsed once, with the place of every name and value. Those are held against the
//! table of fields first, in the order in which they stand in the file, so that the first mistake
//! is the one reported; only then is it turned into structs, which by then cannot fail. All that
//! can go wrong is the file's fault and a [`ConfigError`].

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use crate::engine::config::{ConfigError, IoConfig, Place};
use crate::engine::engine_config::fields::{
    Bounds, FIELDS, Field, INCLUDED, Kind, join, nearest, nearest_word,
};
use crate::engine::engine_config::{
    BatcherConfig, CheckpointConfig, CommitConfig, ControlConfig, EngineConfig, JournalConfig,
    OperationsConfig, PoolConfig, TableConfig,
};

/// Characters of a value that an error repeats, at most.
const SHOWN_MAX: usize = 60;

/// Reads a file and what it includes.
pub(super) fn read(path: &Path) -> Result<EngineConfig, ConfigError> {
    read_below(path, &mut Vec::new())
}

/// Reads a text that belongs to no file.
pub(super) fn parse(text: &str) -> Result<EngineConfig, ConfigError> {
    Document { text, origin: Origin::Text }.config()
}

fn read_below(path: &Path, above: &mut Vec<PathBuf>) -> Result<EngineConfig, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let canonical = path.canonicalize().map_err(failed)?;
    if above.contains(&canonical) {
        return Err(ConfigError::Cycle { path: path.to_owned() });
    }
    let text = std::fs::read_to_string(&canonical).map_err(failed)?;
    let origin = if above.is_empty() { Origin::File(path) } else { Origin::Included(path) };
    let mut config = Document { text: &text, origin }.config()?;
    let folder = canonical.parent().unwrap_or(Path::new("/")).to_owned();
    above.push(canonical);
    for include in std::mem::take(&mut config.io.include) {
        let included = read_below(&folder.join(include), above)?;
        config.io.calibration.extend(included.io.calibration);
        config.io.disks.extend(included.io.disks);
    }
    above.pop();
    Ok(config)
}

/// Where a text comes from.
#[derive(Clone, Copy)]
enum Origin<'a> {
    Text,
    File(&'a Path),
    Included(&'a Path),
}

struct Document<'a> {
    text: &'a str,
    origin: Origin<'a>,
}

impl Document<'_> {
    fn config(&self) -> Result<EngineConfig, ConfigError> {
        let table = DeTable::parse(self.text).map_err(|error| self.syntax(&error))?;
        self.section("", FIELDS, table.get_ref())?;
        let config = build(table.clone()).map_err(|error| self.syntax(&error))?;
        config.check_together().map_err(|error| self.placed(error, table.get_ref()))?;
        Ok(config)
    }

    fn section(
        &self,
        section: &str,
        fields: &'static [Field],
        table: &DeTable<'_>,
    ) -> Result<(), ConfigError> {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name = key.get_ref().as_ref();
            let shown = join(section, name);
            let Some(field) = fields.iter().find(|field| field.name == name) else {
                let nearest = nearest(section, fields, name);
                return Err(ConfigError::Unknown { at: self.at(key), field: shown, nearest });
            };
            if section.is_empty() {
                self.check_position(field, key, value)?;
            }
            self.value(&shown, &field.kind, value)?;
        }
        Ok(())
    }

    /// Whether a field at the top of the file has an effect there.
    fn check_position<K>(
        &self,
        field: &Field,
        key: &Spanned<K>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        let named = value.get_ref().as_array().is_some_and(|files| !files.is_empty());
        let reason = match self.origin {
            Origin::Included(_) if !INCLUDED.contains(&field.name) => {
                "of an included file only disks and calibration are taken"
            }
            Origin::Text if field.name == "include" && named => {
                "a text that is no file has no folder for the paths to start from"
            }
            _ => return Ok(()),
        };
        Err(ConfigError::Misplaced { at: self.at(key), field: field.name.to_owned(), reason })
    }

    fn value(
        &self,
        shown: &str,
        kind: &'static Kind,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        match (kind, value.get_ref()) {
            (Kind::Number(bounds), DeValue::Integer(_)) => self.number(shown, *bounds, value),
            (Kind::Numbers(count, bounds), DeValue::Array(numbers))
                if count.is_none_or(|count| count == numbers.len())
                    && numbers.iter().all(|number| number.get_ref().is_integer()) =>
            {
                numbers.iter().try_for_each(|number| self.number(shown, *bounds, number))
            }
            (Kind::Fraction, DeValue::Integer(number)) if number.as_str().starts_with('-') => {
                Err(self.out_of_range(shown, value, kind.to_string()))
            }
            (Kind::Fraction, DeValue::Float(number)) => {
                let is_measured = number.as_str().parse().is_ok_and(|number: f64| number >= 0.0);
                let refused = || self.out_of_range(shown, value, kind.to_string());
                if is_measured { Ok(()) } else { Err(refused()) }
            }
            (Kind::Words(words), DeValue::String(word)) if !words.contains(&word.as_ref()) => {
                let range = format!("{kind}; the nearest is \"{}\"", nearest_word(words, word));
                Err(self.out_of_range(shown, value, range))
            }
            (Kind::Fraction, DeValue::Integer(_))
            | (Kind::Switch, DeValue::Boolean(_))
            | (Kind::Text | Kind::Words(_), DeValue::String(_)) => Ok(()),
            (Kind::Texts, DeValue::Array(texts))
                if texts.iter().all(|text| text.get_ref().is_str()) =>
            {
                Ok(())
            }
            (Kind::Section(fields), DeValue::Table(table)) => self.section(shown, fields, table),
            (Kind::Sections(fields), DeValue::Array(tables))
                if tables.iter().all(|table| table.get_ref().is_table()) =>
            {
                let tables = tables.iter().filter_map(|table| table.get_ref().as_table());
                tables.enumerate().try_for_each(|(index, table)| {
                    self.section(&format!("{shown}[{index}]"), fields, table)
                })
            }
            _ => Err(ConfigError::WrongType {
                at: self.at(value),
                field: shown.to_owned(),
                value: self.written(value),
                expected: kind.to_string(),
            }),
        }
    }

    fn number(
        &self,
        shown: &str,
        bounds: Bounds,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        let number = value.get_ref().as_integer().and_then(|number| {
            // As wide as the file's own integers, so that what is read is what was checked.
            let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
            u64::try_from(number).ok()
        });
        if number.is_some_and(|number| bounds.holds(number)) {
            return Ok(());
        }
        Err(self.out_of_range(shown, value, bounds.to_string()))
    }

    fn out_of_range(
        &self,
        shown: &str,
        value: &Spanned<DeValue<'_>>,
        range: String,
    ) -> ConfigError {
        let (field, written) = (shown.to_owned(), self.written(value));
        ConfigError::Range { at: Some(self.at(value)), field, value: written, range }
    }

    /// What stands in the text for a value: its first line, or the beginning of that.
    fn written(&self, value: &Spanned<DeValue<'_>>) -> String {
        let text = self.text.get(value.span()).unwrap_or_default();
        let mut shown: String =
            text.lines().next().unwrap_or_default().chars().take(SHOWN_MAX).collect();
        if shown.len() < text.len() {
            shown.push_str(" ...");
        }
        shown
    }

    fn at<T>(&self, spanned: &Spanned<T>) -> Place {
        self.at_offset(spanned.span().start)
    }

    fn at_offset(&self, offset: usize) -> Place {
        let file = match self.origin {
            Origin::Text => None,
            Origin::File(path) | Origin::Included(path) => Some(path.to_owned()),
        };
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        Place { file, line: 1 + before.iter().filter(|byte| **byte == b'\n').count() }
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let offset = error.span().unwrap_or_default().start;
        ConfigError::Syntax { at: self.at_offset(offset), text: error.message().to_owned() }
    }

    /// Adds to what several values together break the line of its field, or, where the file does
    /// not give that field, of its section.
    fn placed(&self, error: ConfigError, table: &DeTable<'_>) -> ConfigError {
        match error {
            ConfigError::Range { at: None, field, value, range } => {
                let at = Some(self.at_offset(span_of(&field, table).start));
                ConfigError::Range { at, field, value, range }
            }
            other => other,
        }
    }
}

/// Where the name stands, or the last of the sections that it is in.
fn span_of(dotted: &str, table: &DeTable<'_>) -> Range<usize> {
    let (mut span, mut table) = (0..0, Some(table));
    for name in dotted.split('.') {
        let found = table.and_then(|table| table.iter().find(|(key, _)| key.get_ref() == name));
        let Some((key, value)) = found else { break };
        span = key.span();
        table = value.get_ref().as_table();
    }
    span
}

/// The sections that a raw engine does not have.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StoreSections {
    pool: PoolConfig,
    journal: JournalConfig,
    commit: CommitConfig,
    batcher: BatcherConfig,
    checkpoint: CheckpointConfig,
    table: TableConfig,
    operations: OperationsConfig,
    control: ControlConfig,
}

const STORE_SECTIONS: &[&str] =
    &["pool", "journal", "commit", "batcher", "checkpoint", "table", "operations", "control"];

/// Turns a table into structs. Each knows its own names, so the table is divided among them;
/// serde's `flatten` would let unknown names through.
pub(super) fn build(table: Spanned<DeTable<'_>>) -> Result<EngineConfig, toml::de::Error> {
    let span = table.span();
    let of_store = |name: &str| STORE_SECTIONS.contains(&name);
    let (store, raw): (Vec<_>, Vec<_>) =
        table.into_inner().into_iter().partition(|(key, _)| of_store(key.get_ref()));
    let deserializer = |entries: Vec<_>| {
        Deserializer::from(Spanned::new(span.clone(), entries.into_iter().collect::<DeTable<'_>>()))
    };
    let io = IoConfig::deserialize(deserializer(raw))?;
    let store = StoreSections::deserialize(deserializer(store))?;
    Ok(EngineConfig {
        io,
        pool: store.pool,
        journal: store.journal,
        commit: store.commit,
        batcher: store.batcher,
        checkpoint: store.checkpoint,
        table: store.table,
        operations: store.operations,
        control: store.control,
    })
}
