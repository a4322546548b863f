//! `dynamicfs plan`: the placement of reactors and lanes, before anything is opened.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use dynamicfs::machine::device::{QueueOwner, probe};
use dynamicfs::machine::topology::Topology;
use dynamicfs::placement::{DiskRequest, HardwareThreads, PlacementRequest, ReactorChoice, plan};
use serde::Serialize;

use super::{Exit, Failure, Report, json};

#[derive(Debug, Args)]
pub(crate) struct PlanArguments {
    /// Block devices or files; with --topology, names of its disks (none means all of them).
    #[arg(value_name = "DEV")]
    devices: Vec<PathBuf>,
    /// Number of reactors; by default one per lane, up to the number of cores.
    #[arg(long, value_name = "N", conflicts_with = "cpus",
        value_parser = clap::value_parser!(u32).range(1..))]
    reactors: Option<u32>,
    /// CPUs to run reactors on, one each: numbers and ranges, as in 0,2,8-11.
    #[arg(long, value_name = "LIST", value_parser = parse_cpus)]
    cpus: Option<CpuList>,
    /// Lanes per disk: how many reactors drive it at the same time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    lanes: Option<u32>,
    /// Hardware threads of a core that may run reactors.
    #[arg(long, value_enum, default_value_t = Threads::One)]
    hardware_threads: Threads,
    /// Plan for a recorded machine (`lstopo --whole-io --disallowed FILE.xml`), not this one.
    #[arg(long, value_name = "XML")]
    topology: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Threads {
    /// One per core.
    One,
    /// Every one.
    All,
}

#[derive(Clone, Debug)]
struct CpuList(Vec<u32>);

#[derive(Serialize)]
struct Output<'a> {
    topology: &'a Topology,
    placement: &'a dynamicfs::placement::Placement,
}

pub(crate) fn run(arguments: &PlanArguments) -> Result<Report, Failure> {
    let (topology, mut disks) = match &arguments.topology {
        Some(file) => {
            let topology = Topology::from_xml_file(file)?;
            let disks = recorded_disks(&topology, &arguments.devices)?;
            (topology, disks)
        }
        None => {
            let topology = Topology::detect()?;
            let disks = probed_disks(&topology, &arguments.devices)?;
            (topology, disks)
        }
    };
    for disk in &mut disks {
        disk.lanes = arguments.lanes;
    }
    let request = PlacementRequest {
        disks,
        reactors: match (&arguments.cpus, arguments.reactors) {
            (Some(CpuList(cpus)), _) => ReactorChoice::Cpus(cpus.clone()),
            (None, Some(count)) => ReactorChoice::Count(count),
            (None, None) => ReactorChoice::Auto,
        },
        hardware_threads: match arguments.hardware_threads {
            Threads::One => HardwareThreads::OnePerCore,
            Threads::All => HardwareThreads::All,
        },
    };
    let placement = plan(&topology, &request)?;
    if arguments.json {
        return json(&Output { topology: &topology, placement: &placement }).map(Report::from);
    }
    Ok(format!("{topology}\n{placement}").into())
}

/// Disks of this machine, each probed for its node and kind.
fn probed_disks(topology: &Topology, devices: &[PathBuf]) -> Result<Vec<DiskRequest>, Failure> {
    if devices.is_empty() {
        return Err(Failure {
            exit: Exit::Usage,
            message: String::from("name at least one device or file"),
            help: Some(String::from("`dynamicfs devices` lists the block devices")),
        });
    }
    let disks = devices.iter().map(|path| {
        let info = probe(path)?;
        info.check_size()?;
        // A file is known by its path; its place is that of the disk below it.
        let path = info.resolved_path.display().to_string();
        let (name, disk) = match &info.queue_owner {
            QueueOwner::Backing(disk) => (path, disk.as_str()),
            QueueOwner::Unknown => (path, ""),
            QueueOwner::Itself | QueueOwner::ParentDisk(_) => (info.name.clone(), &*info.name),
        };
        let node = info.numa_node.or_else(|| topology.node_of_disk(disk));
        let rotational = info.is_rotational();
        let interrupt_cpus = info.interrupt_cpus;
        Ok(DiskRequest { name, node, rotational, interrupt_cpus, ..DiskRequest::default() })
    });
    disks.collect()
}

/// Disks of a recorded machine, by name; `/dev/` before the name is allowed.
fn recorded_disks(topology: &Topology, devices: &[PathBuf]) -> Result<Vec<DiskRequest>, Failure> {
    let request = |name: &str| DiskRequest { name: name.to_owned(), ..DiskRequest::default() };
    if devices.is_empty() {
        return Ok(topology.disk_names_in_order().into_iter().map(request).collect());
    }
    let disks = devices.iter().map(|path| {
        let name = path.strip_prefix("/dev").unwrap_or(path).display().to_string();
        if topology.disks.contains_key(&name) {
            return Ok(request(&name));
        }
        let known = topology.disk_names_in_order();
        Err(Failure {
            exit: Exit::Device,
            message: format!("the recorded machine has no disk {}", Path::new(&name).display()),
            help: Some(match known.is_empty() {
                true => String::from("it was recorded without disks; use `lstopo --whole-io`"),
                false => format!("it has {}", known.join(", ")),
            }),
        })
    });
    disks.collect()
}

/// Reads `0,2,8-11`.
fn parse_cpus(text: &str) -> Result<CpuList, String> {
    /// More than any kernel is built for; keeps `0-4294967295` from filling memory.
    const CPU_MAX: u32 = 1 << 16;
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |word: &str| {
            word.trim()
                .parse::<u32>()
                .ok()
                .filter(|cpu| *cpu < CPU_MAX)
                .ok_or_else(|| format!("`{part}` is not a CPU number or a range such as 8-11"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("`{part}` runs backwards"));
        }
        cpus.extend(first..=last);
    }
    Ok(CpuList(cpus))
}

#[cfg(test)]
mod tests {
    use super::parse_cpus;

    #[test]
    fn cpu_lists_are_the_kernels() {
        assert_eq!(parse_cpus("0,2,8-11").unwrap().0, [0, 2, 8, 9, 10, 11]);
        for bad in ["", "a", "1,", "3-1", "1-2-3", "-1", "0-4294967295"] {
            assert!(parse_cpus(bad).is_err(), "{bad}");
        }
    }
}
