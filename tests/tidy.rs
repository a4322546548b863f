//! Rules of the house that the compiler does not know, checked over the source itself.
//!
//! Each rule is a function from one file to complaints. Each test first shows the rule a fixture
//! that breaks it: a check that cannot fail is no check.

// Only the test functions themselves are exempt by clippy.toml, not what they call.
#![allow(clippy::unwrap_used)]

use std::path::Path;

/// What each module of `src/` may name, besides itself. Lowest layer first; a new entry is a
/// design change and wants its reason here.
///
/// Edges that look odd and why they are there:
/// - `io` → `concurrency`: an operation remembers the call that it answers (`Origin::Call`).
/// - `scheduler` → `concurrency`: its lists end with the call table's `NIL`.
/// - `concurrency` → `machine`, `memory`: locks and generations lie in huge-page memory, and a
///   reader asks whether the thread that left a cell half written still lives.
/// - `reactor` → `machine`: it publishes its thread's CPU time.
/// - `sim` → `engine`: the simulated world submits through the engine's own gate and tickets.
const LAYERS: &[(&str, &[&str])] = &[
    ("machine", &[]),
    ("metrics", &[]),
    ("format", &[]),
    ("check", &["format"]),
    ("memory", &["machine"]),
    ("concurrency", &["format", "machine", "metrics", "memory"]),
    ("placement", &["machine"]),
    ("io", &["machine", "metrics", "memory", "concurrency"]),
    ("scheduler", &["io", "concurrency"]),
    ("reactor", &["machine", "concurrency", "memory", "io", "metrics", "scheduler"]),
    ("store", &["machine", "metrics", "format", "memory", "concurrency", "io", "reactor"]),
    (
        "engine",
        &[
            "machine",
            "metrics",
            "format",
            "memory",
            "concurrency",
            "placement",
            "io",
            "scheduler",
            "reactor",
            "store",
        ],
    ),
    (
        "sim",
        &[
            "machine",
            "concurrency",
            "memory",
            "placement",
            "io",
            "metrics",
            "scheduler",
            "reactor",
            "engine",
        ],
    ),
    (
        "cli",
        &[
            "machine",
            "format",
            "check",
            "memory",
            "placement",
            "io",
            "metrics",
            "scheduler",
            "store",
            "engine",
        ],
    ),
];

/// Edges upward that exist in test code alone: tests of what lies below the simulator take their
/// memory from below, and their seeds and random numbers from the simulator. The store's tests ask
/// the checker what the store has left.
const TEST_EDGES: &[(&str, &str)] = &[
    ("scheduler", "memory"),
    ("scheduler", "machine"),
    ("scheduler", "sim"),
    ("store", "sim"),
    ("store", "scheduler"),
    ("store", "check"),
    ("check", "sim"),
];

const LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;

/// Where `unsafe` may stand: a name that ends with `/` is a folder.
const UNSAFE_PLACES: &[&str] = &[
    "src/machine/",
    "src/memory/",
    "src/concurrency/",
    "src/io/uring_backend.rs",
    "src/engine/thread.rs",
    "bench/src/bare_ring.rs",
    "bench/src/bare_ring/",
    "tests/loom/extent_locks.rs",
    "tests/loom/planted.rs",
    "tests/loom/planted_locks.rs",
    "tests/allocations.rs",
    "tests/it/mounted.rs",
    "tests/locks/foreign.rs",
    "tests/locks/plain.rs",
];

/// Where something may be printed in `src/`: by the admin tool, and by the simulator the seed of
/// a run that fails.
const PRINTING_PLACES: &[&str] = &["src/cli.rs", "src/cli/", "src/main.rs", "src/sim/seeds.rs"];

/// Names that say nothing.
const EMPTY_WORDS: &[&str] =
    &["util", "utils", "helper", "helpers", "common", "core", "base", "inner", "handler"];

/// Texts of unfinished work, cut in two so that this file is not its own finding.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("for ", "now"),
    concat!("simpl", "ified"),
    concat!("db", "g!"),
    concat!("unimple", "mented!"),
    concat!("to", "do!"),
];

/// Roots of somebody's machine.
const PRIVATE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/tmp/", "target"),
    concat!("/Us", "ers/"),
];

/// One file: its path from the root of the repository, and what is in it.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_under(&self, places: &[&str]) -> bool {
        places.iter().any(|place| match place.strip_suffix('/') {
            Some(_) => self.path.starts_with(place),
            None => self.path == *place,
        })
    }

    /// A file of tests alone.
    fn is_test_file(&self) -> bool {
        let stem = self.path.trim_end_matches(".rs");
        self.path.starts_with("tests/")
            || self.path.starts_with("bench/tests/")
            || stem.ends_with("tests")
            || stem.contains("/tests/")
            || stem.ends_with("/scratch")
    }

    /// The code without comments and without what strings say; lines keep their numbers.
    fn code(&self) -> String {
        blank_comments_and_strings(&self.text)
    }

    /// As [`Source::code`], up to the file's own `mod tests`.
    fn production_code(&self) -> String {
        let code = self.code();
        let tests = code.find("#[cfg(test)]\nmod tests {");
        code[..tests.unwrap_or(code.len())].to_owned()
    }

    fn complain(&self, line: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, line + 1)
    }
}

/// Replaces comments and the insides of literals by spaces.
fn blank_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out: Vec<u8> = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end == at {
            at += 1;
            continue;
        }
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out).expect("whole characters were replaced by spaces")
}

/// Where the comment or literal that begins at `at` ends; `at` when none does.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        let end = rest.windows(2).position(|pair| pair == b"*/");
        return end.map_or(bytes.len(), |end| at + end + 2);
    }
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest[0] == b'r' && !in_word {
        let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let mut close = vec![b'"'];
            close.extend(std::iter::repeat_n(b'#', hashes));
            let from = 2 + hashes;
            let end = rest[from..].windows(close.len()).position(|window| window == close);
            return end.map_or(bytes.len(), |end| at + from + end + close.len());
        }
    }
    match rest[0] {
        b'"' => at + quoted_len(rest, b'"'),
        // A character, not a lifetime: it is closed after one (perhaps escaped) character.
        b'\'' if rest.get(1) == Some(&b'\\') => at + quoted_len(rest, b'\''),
        b'\'' => {
            let closed = rest.iter().skip(2).take(4).position(|b| *b == b'\'');
            let one = |end: usize| {
                std::str::from_utf8(&rest[1..end + 2]).is_ok_and(|s| s.chars().count() == 1)
            };
            closed.filter(|end| one(*end)).map_or(at, |end| at + end + 3)
        }
        _ => at,
    }
}

fn quoted_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Every place where `word` stands as a whole word, by line.
fn lines_with<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bounded = move |line: &str| {
        line.match_indices(word).any(|(at, _)| {
            let apart = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
            apart(line[..at].chars().next_back()) && apart(line[at + word.len()..].chars().next())
        })
    };
    text.lines().enumerate().filter(move |(_, line)| bounded(line)).map(|(number, _)| number)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the repository with one of these endings.
fn files(endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                let skipped = name == "target" || name == ".git" || name == "out";
                folders.extend((!skipped).then_some(path));
            } else if endings.iter().any(|ending| name.ends_with(ending))
                && let Ok(text) = std::fs::read_to_string(&path)
            {
                let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push(Source { path, text });
            }
        }
    }
    assert!(found.len() > 5, "only {} files were found: the walk is broken", found.len());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Shows that `rule` refuses the fixture, then that it accepts the repository.
fn hold(rule: fn(&Source) -> Vec<String>, broken: &[Source]) {
    for fixture in broken {
        assert!(!rule(fixture).is_empty(), "the rule accepts a broken {}", fixture.path);
    }
    let complaints: Vec<String> = files(&[".rs"]).iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

// ---- the rules

fn names_only_lower_layers(file: &Source) -> Vec<String> {
    let Some(rest) = file.path.strip_prefix("src/") else { return Vec::new() };
    let module = rest.split(['/', '.']).next().unwrap_or_default();
    if ["lib", "main"].contains(&module) {
        return Vec::new();
    }
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
        return vec![file.complain(0, "this module has no row in LAYERS")];
    };
    let (code, production) = (file.code(), file.production_code());
    let mut complaints = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let in_tests = file.is_test_file() || number >= production.lines().count();
        for prefix in ["crate::", "dynamicfs::"] {
            for (at, _) in line.match_indices(prefix) {
                let name: String = line[at + prefix.len()..]
                    .chars()
                    .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                    .collect();
                let tolerated = in_tests && TEST_EDGES.contains(&(module, name.as_str()));
                if name != module && !allowed.contains(&name.as_str()) && !tolerated {
                    let what = if name.is_empty() {
                        "names a re-export or a list; name the module".to_owned()
                    } else {
                        format!("`{module}` must not name `{name}`")
                    };
                    complaints.push(file.complain(number, &what));
                }
            }
        }
    }
    complaints
}

fn is_of_readable_size(file: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let count = file.text.lines().count();
    if count > LINES_MAX {
        complaints.push(file.complain(count, &format!("{count} lines, more than {LINES_MAX}")));
    }
    for (number, line) in file.text.lines().enumerate() {
        let columns = line.chars().count();
        // A row of a table in the documentation cannot be broken.
        if columns > COLUMNS_MAX && !line.starts_with("//! |") {
            complaints.push(file.complain(number, &format!("{columns} columns")));
        }
    }
    for (number, lines) in functions(&file.code()) {
        if lines > FUNCTION_LINES_MAX {
            let what = format!("a function of {lines} lines, more than {FUNCTION_LINES_MAX}");
            complaints.push(file.complain(number, &what));
        }
    }
    complaints
}

/// Where functions begin, and how many lines are between their braces.
fn functions(code: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let line_of = |at: usize| code[..at].matches('\n').count();
    for (at, _) in code.match_indices("fn ") {
        let joined = code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric());
        let body = code[at..].find(['{', ';']).map(|offset| at + offset);
        let Some(open) = body.filter(|open| !joined && code[*open..].starts_with('{')) else {
            continue;
        };
        let mut depth = 0;
        for (offset, c) in code[open..].char_indices() {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            if depth == 0 {
                let lines = code[open..open + offset].matches('\n').count();
                found.push((line_of(at), lines.saturating_sub(1)));
                break;
            }
        }
    }
    found
}

fn opens_with_its_description(file: &Source) -> Vec<String> {
    let first = file.text.lines().find(|line| !line.starts_with("#!"));
    match first {
        Some(line) if line.starts_with("//! ") => Vec::new(),
        _ => vec![file.complain(0, "does not open with `//!`")],
    }
}

fn keeps_unsafe_in_its_place(file: &Source) -> Vec<String> {
    if file.is_under(UNSAFE_PLACES) {
        return Vec::new();
    }
    let code = file.code();
    lines_with(&code, "unsafe")
        .map(|line| file.complain(line, "`unsafe` outside its files"))
        .collect()
}

fn has_telling_names(file: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let stem = file.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    if stem == "mod" {
        complaints.push(file.complain(0, "is a mod.rs: `thing.rs` is the face of `thing/`"));
    }
    let folders = file.path.split('/').rev().skip(1);
    for name in folders.chain([stem]) {
        if name.split(['_', '-']).any(|word| EMPTY_WORDS.contains(&word)) {
            complaints.push(file.complain(0, &format!("`{name}` says nothing")));
        }
    }
    let code = file.code();
    for (number, line) in code.lines().enumerate() {
        let declared =
            line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        let Some(name) = declared.strip_prefix("mod ") else { continue };
        let name = name.trim_end_matches([';', ' ', '{']);
        if name.split('_').any(|word| EMPTY_WORDS.contains(&word)) {
            complaints.push(file.complain(number, &format!("`mod {name}` says nothing")));
        }
    }
    complaints
}

fn is_finished(file: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for text in UNFINISHED {
        for line in lines_with(&file.text, text) {
            complaints.push(file.complain(line, &format!("says `{text}`")));
        }
    }
    complaints
}

fn imports_by_name(file: &Source) -> Vec<String> {
    if file.is_test_file() {
        return Vec::new();
    }
    let code = file.production_code();
    let globs = code.lines().enumerate().filter(|(_, line)| line.contains("::*"));
    globs.map(|(line, _)| file.complain(line, "a glob import")).collect()
}

fn prints_in_its_place(file: &Source) -> Vec<String> {
    if !file.path.starts_with("src/") || file.is_under(PRINTING_PLACES) || file.is_test_file() {
        return Vec::new();
    }
    let code = file.production_code();
    let words = ["println!", "eprintln!", "print!", "eprint!"];
    let lines = words.iter().flat_map(|word| lines_with(&code, word));
    lines.map(|line| file.complain(line, "the library never prints")).collect()
}

fn names_no_private_path(file: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for path in PRIVATE_PATHS {
            // A path, not the end of a longer one such as `sys/home/`.
            let starts = |at: usize| {
                !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-/}".contains(c))
            };
            if line.match_indices(path).any(|(at, _)| starts(at)) {
                complaints.push(file.complain(number, &format!("names {path}")));
            }
        }
    }
    complaints
}

// ---- held against the repository

#[test]
fn modules_name_only_the_layers_below() {
    hold(
        names_only_lower_layers,
        &[
            Source::new("src/io/a.rs", "use crate::reactor::Reactor;"),
            Source::new("src/machine.rs", "fn f() { crate::engine::open() }"),
            Source::new("src/io/a.rs", "use crate::{reactor, machine};"),
            Source::new("src/invented.rs", "//! A module without a row."),
        ],
    );
    let fine = Source::new("src/io/a.rs", "use crate::machine::x; // crate::engine\n");
    assert!(names_only_lower_layers(&fine).is_empty());
}

#[test]
fn the_table_of_layers_has_no_edge_upward() {
    for (position, (module, allowed)) in LAYERS.iter().enumerate() {
        for name in *allowed {
            let below = LAYERS[..position].iter().any(|(lower, _)| lower == name);
            assert!(below, "`{module}` may name `{name}`, which is not below it");
        }
    }
}

#[test]
fn files_functions_and_lines_are_of_readable_size() {
    let long = |body: usize| format!("fn f() {{\n{}}}\n", "    g();\n".repeat(body));
    hold(
        is_of_readable_size,
        &[
            Source::new("src/a.rs", &"// line\n".repeat(LINES_MAX + 1)),
            Source::new("src/a.rs", &"x".repeat(COLUMNS_MAX + 1)),
            Source::new("src/a.rs", &long(FUNCTION_LINES_MAX + 1)),
            Source::new("src/a.rs", &format!("fn g() {{ '{{'; }}\n{}", long(71))),
        ],
    );
    assert!(is_of_readable_size(&Source::new("a.rs", &long(FUNCTION_LINES_MAX))).is_empty());
}

#[test]
fn every_file_says_what_it_is() {
    hold(opens_with_its_description, &[Source::new("src/a.rs", "use std::fmt;\n")]);
}

#[test]
fn unsafe_code_is_in_the_listed_files() {
    hold(keeps_unsafe_in_its_place, &[Source::new("src/cli.rs", "fn f() { unsafe { g() } }")]);
    let spoken = Source::new("src/cli.rs", "// unsafe\nfn f() { g(\"unsafe\", r#\"unsafe\"#) }");
    assert!(keeps_unsafe_in_its_place(&spoken).is_empty());
}

#[test]
fn names_of_files_and_modules_say_something() {
    hold(
        has_telling_names,
        &[
            Source::new("src/io/mod.rs", ""),
            Source::new("src/io_util.rs", ""),
            Source::new("src/common/io.rs", ""),
            Source::new("src/io.rs", "pub(crate) mod helper;"),
            Source::new("src/io.rs", "mod inner {"),
        ],
    );
}

#[test]
fn nothing_is_left_unfinished() {
    for text in UNFINISHED {
        let fixture = Source::new("src/a.rs", &format!("// {text} later"));
        assert!(!is_finished(&fixture).is_empty(), "{text} is not found");
    }
    hold(is_finished, &[]);
}

#[test]
fn imports_name_what_they_import() {
    hold(imports_by_name, &[Source::new("src/a.rs", "use std::fmt::*;")]);
}

#[test]
fn the_library_never_prints() {
    hold(prints_in_its_place, &[Source::new("src/io.rs", "fn f() { println!(\"x\") }")]);
}

#[test]
fn no_file_names_a_place_of_one_machine() {
    for path in PRIVATE_PATHS {
        let fixture = Source::new("run", &format!("cd {path}x"));
        assert!(!names_no_private_path(&fixture).is_empty(), "{path} is not found");
    }
    let all = files(&[".rs", ".toml", ".md", ".sh", "run", ".fio", ".txt"]);
    let complaints: Vec<String> = all.iter().flat_map(names_no_private_path).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}
