//! The structures of the format as facts.

use dynamicfs::check::Image;
use dynamicfs::check::journal::Journal;
use dynamicfs::check::label::{LabelCopy, LabelView};
use dynamicfs::check::state::{ExtentKey, Source, State};
use dynamicfs::check::tree::{Group, Slots, Tree, TreePage};
use dynamicfs::format::extent::Extent;
use dynamicfs::format::fragment::Fragment;
use dynamicfs::format::layout::{BLOCK_BYTES, EXTENT_BYTES};
use dynamicfs::format::mirror_set::MirrorSet;
use dynamicfs::format::page::{EXTENTS_PER_GROUP, InodeRecord};
use dynamicfs::format::record::{Body, Changes, CheckpointBody, RecordHead, decode_body};
use serde_json::{Value, json};

use super::show::{Facts, Shown};

fn hex(number: u64) -> Value {
    Value::String(format!("{number:016x}"))
}

fn bytes_hex(bytes: &[u8]) -> Value {
    Value::String(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Bytes that are mostly text: without the zeroes at their end.
fn text(bytes: &[u8]) -> Value {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    Value::String(bytes[..end].escape_ascii().to_string())
}

/// The mirrors that have something, by their numbers; `all`.
fn mirrors_of(set: MirrorSet) -> String {
    let numbers = (0..8).filter(|number| set.includes(*number)).map(|n: u16| n.to_string());
    if set.is_all() { "all".to_owned() } else { numbers.collect::<Vec<_>>().join(",") }
}

/// `slot:block+blocks`, or `slot.mirrors:block+blocks` where not all mirrors have it.
fn fragment(fragment: &Fragment) -> Value {
    let (slot, set) = MirrorSet::of_target(fragment.target());
    let (block, blocks) = (fragment.start_block(), fragment.blocks());
    let mirrors = if set.is_all() { String::new() } else { format!(".{}", mirrors_of(set)) };
    Value::String(format!("{slot}{mirrors}:{block}+{blocks}"))
}

fn fragments(extent: &Extent) -> Value {
    extent.fragments().as_slice().iter().map(fragment).collect()
}

fn mask(mask: u16) -> Value {
    Value::String(format!("{mask:016b}"))
}

fn source(source: Source) -> Value {
    Value::String(match source {
        Source::Page(page) => format!("page {page}"),
        Source::Record(sequence) => format!("record {sequence}"),
    })
}

pub(super) fn labels(view: &LabelView) -> Shown {
    let mut shown = Shown::list("copies", view.copies.iter().map(copy).collect());
    if let Some(label) = view.label() {
        let layout = &label.layout;
        shown.facts = vec![
            ("pool", bytes_hex(&label.pool)),
            ("disk", bytes_hex(&label.disk)),
            ("slot", json!(label.slot)),
            ("slots", json!(label.slots)),
            ("home_slots", json!(label.home_slots)),
            ("mirror", json!(label.mirror.number)),
            ("mirrors", json!(label.mirror.count)),
            ("in_sync", json!(label.mirror.in_sync.iter().collect::<Vec<_>>())),
            ("epoch", json!(label.epoch)),
            ("copies_that_agree", json!(view.agreeing(&label))),
            ("disk_bytes", json!(layout.disk_bytes())),
            ("domains", json!(layout.domains())),
            ("journal_bytes", json!(layout.journal_bytes())),
            ("group_blocks", json!(layout.group_blocks())),
            ("space_blocks", json!(layout.space_blocks())),
        ];
    }
    shown
}

fn copy(copy: &LabelCopy) -> Facts {
    let label = copy.label();
    vec![
        ("copy", json!(copy.number)),
        ("offset", json!(copy.offset)),
        ("epoch", json!(label.map(|label| label.epoch))),
        ("pool", label.map_or(Value::Null, |label| bytes_hex(&label.pool))),
        ("content", json!(copy.describe())),
    ]
}

fn head(journal: &Journal, head: &RecordHead) -> Facts {
    let needed = journal.needed.iter().any(|record| record.head == *head);
    let state = match (needed, journal.dropped == Some(*head)) {
        (true, _) => "needed",
        (_, true) => "torn",
        _ => "old",
    };
    vec![
        ("sequence", json!(head.sequence)),
        ("kind", json!(format!("{:?}", head.kind).to_lowercase())),
        ("state", json!(state)),
        ("position", json!(head.position)),
        ("offset", json!(journal.id.offset(head.position))),
        ("length", json!(head.length)),
        ("skipped", json!(head.skipped)),
        ("tail", json!(head.tail)),
        ("checkpoint", json!(head.checkpoint)),
        ("accepted", json!(head.accepted)),
        ("incarnation", hex(head.incarnation)),
    ]
}

pub(super) fn journal(journal: &Journal) -> Shown {
    let mut heads: Vec<&RecordHead> = journal.heads.values().collect();
    heads.sort_by_key(|head| (head.sequence, head.position));
    let mut shown =
        Shown::list("records", heads.iter().map(|found| head(journal, found)).collect());
    shown.facts = vec![
        ("start", json!(journal.id.start)),
        ("bytes", json!(journal.id.bytes)),
        ("last", json!(journal.last.map(|last| last.sequence))),
        ("tail", json!(journal.last.map(|last| last.tail))),
        ("unreadable_parts", json!(journal.unreadable.len())),
    ];
    shown
}

pub(super) fn record(
    image: &mut Image<'_>,
    journal: &Journal,
    sequence: u64,
) -> Result<Shown, String> {
    let found = journal.heads.values().find(|head| head.sequence == sequence);
    let found = found.ok_or_else(|| format!("no record {sequence} in the journal"))?;
    let mut shown = Shown { facts: head(journal, found), lists: Vec::new() };
    shown.facts.extend([("previous", hex(found.previous)), ("checksum", hex(found.checksum))]);
    let bytes =
        image.piece(journal.id.disk, journal.id.offset(found.position), u64::from(found.length));
    let body = bytes.map_err(|error| error.to_string()).and_then(|bytes| {
        decode_body(&journal.id, found, &bytes).map_err(|error| error.to_string())
    });
    match body {
        Ok(Body::Changes(changes)) => shown.lists = changes_of(&changes),
        Ok(Body::Checkpoint(body)) => shown.facts.extend(checkpoint(&body)),
        Ok(Body::Nothing) => {}
        Err(error) => shown.facts.push(("body", json!(error))),
    }
    Ok(shown)
}

fn checkpoint(body: &CheckpointBody) -> Facts {
    vec![
        ("through", json!(body.through)),
        ("replay_from", json!(body.replay_from)),
        ("next_inode", json!(body.next_inode)),
        ("pages", json!(body.pages)),
        ("levels", json!(body.levels)),
        ("root_homes", body.root.homes.iter().map(fragment).collect()),
        ("root_checksum", hex(body.root.checksum)),
        ("commits_so_far", json!(body.lifetime.group_commits)),
        ("bytes_so_far", json!(body.lifetime.caller_bytes)),
    ]
}

fn changes_of(changes: &Changes) -> Vec<(&'static str, Vec<Facts>)> {
    let cuts = changes.cuts.iter();
    let cuts = cuts.map(|cut| {
        vec![("inode", json!(cut.inode)), ("from", json!(cut.from)), ("to", json!(cut.to))]
    });
    let deletes = changes.deletes.iter().map(|inode| vec![("inode", json!(inode))]);
    let extents = changes.extents.iter().map(|put| {
        vec![
            ("inode", json!(put.inode)),
            ("index", json!(put.index)),
            ("mask", mask(put.extent.mask())),
            ("fresh", mask(put.fresh)),
            ("inline", mask(put.inline)),
            ("fragments", fragments(&put.extent)),
        ]
    });
    vec![
        ("cuts", cuts.collect()),
        ("deletes", deletes.collect()),
        ("inodes", changes.inodes.iter().map(inode_facts).collect()),
        ("extents", extents.collect()),
    ]
}

fn inode_facts(inode: &InodeRecord) -> Facts {
    vec![
        ("id", json!(inode.id)),
        ("size_bytes", json!(inode.size_bytes)),
        ("generation", json!(inode.generation)),
        ("created", json!(inode.created)),
        ("tag", text(&inode.tag)),
    ]
}

pub(super) fn pages(tree: &Tree) -> Shown {
    let mut pages: Vec<&TreePage> = tree.pages.iter().collect();
    pages.sort_by_key(|page| (std::cmp::Reverse(page.level), page.number));
    Shown::list("pages", pages.into_iter().map(page_facts).collect())
}

fn page_facts(page: &TreePage) -> Facts {
    let kind = page.kind.map_or("damaged".to_owned(), |kind| format!("{kind:?}").to_lowercase());
    vec![
        ("level", json!(page.level)),
        ("number", json!(page.number)),
        ("kind", json!(kind)),
        ("sequence", json!(page.sequence)),
        ("home", fragment(&page.child.homes[0])),
        ("other_home", fragment(&page.child.homes[1])),
        ("checksum", hex(page.child.checksum)),
    ]
}

pub(super) fn page(tree: &Tree, number: u32) -> Result<Shown, String> {
    let page = tree.pages.iter().find(|page| (page.level, page.number) == (0, number));
    let page = page.ok_or_else(|| format!("the checkpoint has no page {number}"))?;
    let inodes = tree.inodes.iter().filter(|(page, _)| *page == number);
    let groups = tree.groups.iter().filter(|group| group.page == number);
    let lists = vec![
        ("inodes", inodes.map(|(_, inode)| inode_facts(inode)).collect()),
        ("slots", groups.flat_map(slots).collect()),
    ];
    Ok(Shown { facts: page_facts(page), lists })
}

fn slots(group: &Group) -> Vec<Facts> {
    let first = u64::from(group.header.group) * EXTENTS_PER_GROUP as u64;
    let row = |slot: usize, generation: u64, blocks: Value, fragments: usize| {
        vec![
            ("inode", json!(group.header.inode)),
            ("index", json!(first + slot as u64)),
            ("part", json!(group.header.part)),
            ("generation", json!(generation)),
            ("mask", blocks),
            ("fragments", json!(fragments)),
        ]
    };
    let rows = (0..EXTENTS_PER_GROUP).filter_map(|slot| match &group.slots {
        Slots::First(slots) => {
            let found = &slots[slot];
            let wanted = found.mask() != 0;
            wanted.then(|| row(slot, found.generation, mask(found.mask()), found.fragment_count()))
        }
        Slots::Second(slots) => {
            let found = &slots[slot];
            (!found.is_empty()).then(|| row(slot, found.generation, Value::Null, 0))
        }
    });
    rows.collect()
}

pub(super) fn inode(state: &State, id: u64) -> Result<Shown, String> {
    let held = state.inodes.get(&id).ok_or_else(|| format!("no inode {id}"))?;
    let mut facts = inode_facts(&held.record);
    facts.push(("said_by", source(held.source)));
    let extents = state.extents.range((id, 0)..=(id, u64::MAX)).map(|((_, index), held)| {
        vec![
            ("index", json!(index)),
            ("offset", json!(index.saturating_mul(EXTENT_BYTES))),
            ("generation", json!(held.generation)),
            ("mask", mask(held.extent.mask())),
            ("said_by", source(held.source)),
            ("fragments", fragments(&held.extent)),
        ]
    });
    Ok(Shown { facts, lists: vec![("extents", extents.collect())] })
}

pub(super) fn extent(state: &State, key: ExtentKey) -> Result<Shown, String> {
    let (id, index) = key;
    let held = state.extents.get(&key);
    let held = held.ok_or_else(|| format!("no extent {index} of inode {id}: it is a hole"))?;
    let facts = vec![
        ("inode", json!(id)),
        ("index", json!(index)),
        ("generation", json!(held.generation)),
        ("said_by", source(held.source)),
        ("mask", mask(held.extent.mask())),
    ];
    let blocks = held.extent.places.iter().enumerate().filter(|(_, place)| !place.is_nowhere());
    let blocks = blocks.map(|(block, place)| {
        vec![
            ("block", json!(block)),
            ("disk", json!(place.slot())),
            ("mirrors", json!(mirrors_of(place.mirrors()))),
            ("offset", json!(place.block() * BLOCK_BYTES)),
            ("checksum", json!(format!("{:08x}", held.extent.checksums[block]))),
        ]
    });
    Ok(Shown { facts, lists: vec![("blocks", blocks.collect())] })
}
