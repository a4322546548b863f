//! `dynamicfs devices`: what disks there are, and what they can do.

use std::path::PathBuf;

use clap::Args;
use dynamicfs::machine::device::{
    BlockNode, DeviceInfo, DeviceKind, QueueInfo, QueueOwner, Sysfs, WriteCache,
    list_block_devices, probe,
};
use dynamicfs::machine::topology::Topology;

use super::table::{or_dash, size, table, yes_no};
use super::{Exit, Failure, Report, json};

#[derive(Debug, Args)]
pub(crate) struct DevicesArguments {
    /// Block devices or files to tell everything about; without any, all block devices are listed.
    paths: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &DevicesArguments) -> Result<Report, Failure> {
    if arguments.paths.is_empty() {
        return list(arguments.json);
    }
    let mut report = Report::default();
    let mut infos = Vec::new();
    for path in &arguments.paths {
        match probe(path) {
            Ok(info) => infos.push(with_node(info)),
            Err(error) => report.failures.push(error.into()),
        }
    }
    if arguments.json {
        report.text = json(&infos)?;
    } else {
        report.text = infos.iter().map(describe).collect::<Vec<_>>().join("\n");
    }
    Ok(report)
}

/// Fills in a node that sysfs does not know and hwloc does. Without hwloc's answer it stays
/// unknown.
fn with_node(mut info: DeviceInfo) -> DeviceInfo {
    if info.numa_node.is_none()
        && let Ok(topology) = Topology::detect()
    {
        let name = match &info.queue_owner {
            QueueOwner::Backing(name) => name,
            _ => &info.name,
        };
        info.numa_node = topology.node_of_disk(name);
    }
    info
}

fn list(as_json: bool) -> Result<Report, Failure> {
    let mut nodes = list_block_devices(&Sysfs::system()).map_err(|error| Failure {
        exit: Exit::Runtime,
        message: format!("cannot list block devices: {error}"),
        help: Some(String::from("is sysfs mounted on /sys?")),
    })?;
    if let Ok(topology) = Topology::detect() {
        for node in &mut nodes {
            node.numa_node = node.numa_node.or_else(|| topology.node_of_disk(&node.name));
        }
    }
    if as_json {
        return json(&nodes).map(Report::from);
    }
    let heading = [
        "NAME",
        "KIND",
        "SIZE",
        "LOG",
        "PHYS",
        "REQS",
        "SCHEDULER",
        "CACHE",
        "FUA",
        "POLL",
        "NODE",
        "MODEL",
        "SERIAL",
    ];
    // Unbound loop devices and the like are noise here; `--json` has them.
    let shown = nodes.iter().filter(|node| node.size_bytes > 0);
    let rows: Vec<Vec<String>> = shown.map(row).collect();
    let hidden = nodes.len() - rows.len();
    let mut text = table(&heading, &rows);
    if hidden > 0 {
        text.push_str(&format!("({hidden} without a medium not shown)\n"));
    }
    Ok(text.into())
}

fn row(node: &BlockNode) -> Vec<String> {
    let queue = &node.queue;
    vec![
        node.name.clone(),
        String::from(if node.parent_disk.is_some() { "part" } else { "disk" }),
        size(node.size_bytes),
        queue.logical_block_bytes.to_string(),
        queue.physical_block_bytes.to_string(),
        or_dash(queue.nr_requests.as_ref()),
        or_dash(queue.scheduler.as_ref()),
        String::from(match queue.write_cache {
            WriteCache::WriteBack => "back",
            WriteCache::WriteThrough => "through",
            WriteCache::Unknown => "-",
        }),
        yes_no(queue.fua),
        yes_no(Some(queue.io_poll)),
        or_dash(node.numa_node.as_ref()),
        or_dash(node.model.as_ref()),
        or_dash(node.serial.as_ref()),
    ]
}

/// Everything about one device, a line each.
fn describe(info: &DeviceInfo) -> String {
    let kind = match (info.kind, &info.parent_disk) {
        (DeviceKind::Block, Some(disk)) => format!("partition of {disk}"),
        (DeviceKind::Block, None) => String::from("block device"),
        (DeviceKind::File, _) => String::from("file"),
    };
    let mut lines = vec![
        ("kind", kind),
        ("resolved path", info.resolved_path.display().to_string()),
        (
            if info.kind == DeviceKind::File { "file system number" } else { "number" },
            info.number.to_string(),
        ),
        ("size", format!("{} ({} bytes)", size(info.size_bytes), info.size_bytes)),
        ("logical block", format!("{} bytes", info.logical_block_bytes)),
        ("physical block", format!("{} bytes", info.physical_block_bytes)),
        ("memory alignment", format!("{} bytes", info.memory_align_bytes)),
        ("NUMA node", or_dash(info.numa_node.as_ref())),
        ("model", or_dash(info.model.as_ref())),
        ("serial", or_dash(info.serial.as_ref())),
        (
            "queue",
            match &info.queue_owner {
                QueueOwner::Itself => String::from("its own"),
                QueueOwner::ParentDisk(disk) => format!("that of {disk}"),
                QueueOwner::Backing(disk) => format!("that of {disk}, below the file system"),
                QueueOwner::Unknown => String::from("unknown"),
            },
        ),
    ];
    if let Some(queue) = &info.queue {
        lines.extend(queue_lines(queue));
    }
    let mut text = format!("{}\n", info.path.display());
    for (name, value) in lines {
        text.push_str(&format!("  {name:<20}{value}\n"));
    }
    text
}

fn queue_lines(queue: &QueueInfo) -> Vec<(&'static str, String)> {
    let limit = |bytes: u64| match bytes {
        0 => String::from("none"),
        bytes => size(bytes),
    };
    vec![
        ("requests", or_dash(queue.nr_requests.as_ref())),
        (
            "largest request",
            queue.max_sectors_kb.map_or_else(|| "-".into(), |kib| size(u64::from(kib) * 1024)),
        ),
        ("scheduler", or_dash(queue.scheduler.as_ref())),
        (
            "write cache",
            String::from(match queue.write_cache {
                WriteCache::WriteBack => "write back (volatile)",
                WriteCache::WriteThrough => "write through",
                WriteCache::Unknown => "unknown",
            }),
        ),
        ("FUA", yes_no(queue.fua)),
        ("rotational", yes_no(queue.rotational)),
        ("poll queues", yes_no(Some(queue.io_poll))),
        ("atomic write", limit(queue.atomic_write_unit_max_bytes)),
        ("discard", limit(queue.discard_max_bytes)),
        ("discard unit", limit(queue.discard_granularity_bytes)),
        ("write zeroes", limit(queue.write_zeroes_max_bytes)),
    ]
}
