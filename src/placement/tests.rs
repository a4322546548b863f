//! Rules by example, by property, and on recorded machines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;

use super::*;
use crate::machine::topology::{Core, NumaNode};

/// `nodes` nodes of `cores` cores of `threads` threads, threads numbered as on a usual server:
/// first threads of all cores, then second ones. Two caches per node where it has several cores.
fn machine(nodes: u32, cores: u32, threads: u32) -> Topology {
    let total = nodes * cores;
    let all: Vec<Core> = (0..total)
        .map(|core| Core {
            package: Some(core / cores),
            node: Some(core / cores),
            l3_group: core * 2 / cores,
            cpus: (0..threads).map(|thread| core + thread * total).collect(),
        })
        .collect();
    let node = |index: u32| {
        let own = all.iter().filter(|core| core.node == Some(index));
        let mut cpus: Vec<u32> = own.flat_map(|core| core.cpus.clone()).collect();
        cpus.sort_unstable();
        NumaNode { os_index: index, memory_bytes: 1 << 30, cpus }
    };
    let nodes_list = (0..nodes).map(node).collect();
    Topology { packages: nodes, nodes: nodes_list, cores: all, ..Topology::default() }
}

fn disk(name: &str, node: Option<u32>) -> DiskRequest {
    DiskRequest { name: name.to_owned(), node, ..DiskRequest::default() }
}

fn request(disks: &[DiskRequest]) -> PlacementRequest {
    PlacementRequest { disks: disks.to_vec(), ..PlacementRequest::default() }
}

fn cpus_of(placement: &Placement) -> Vec<u32> {
    placement.reactors.iter().map(|reactor| reactor.cpu).collect()
}

/// (disk, reactor) of each lane.
fn pairs(placement: &Placement) -> Vec<(usize, usize)> {
    placement.lanes.iter().map(|lane| (lane.disk, lane.reactor)).collect()
}

#[test]
fn one_reactor_per_lane_on_the_disks_nodes() {
    let disks = [disk("a", Some(1)), disk("b", Some(0)), disk("c", Some(1))];
    let plan = plan(&machine(2, 4, 2), &request(&disks)).unwrap();
    assert_eq!(cpus_of(&plan), [0, 4, 6], "node 1's two reactors are on different caches");
    assert_eq!(pairs(&plan), [(0, 1), (1, 0), (2, 2)]);
    assert!(plan.lanes.iter().all(|lane| lane.local == Locality::Local));
    assert_eq!(plan.notes, [] as [&str; 0]);
}

#[test]
fn reactors_sit_where_their_disks_interrupt() {
    let single =
        |name: &str, cpu: u32| DiskRequest { interrupt_cpus: vec![cpu], ..disk(name, Some(0)) };
    // CPU 7 is the second thread of the core of CPU 3.
    let own = plan(&machine(1, 4, 2), &request(&[single("a", 7)])).unwrap();
    assert_eq!(cpus_of(&own), [7]);
    let two = plan(&machine(1, 4, 2), &request(&[single("a", 2), single("b", 1)])).unwrap();
    assert_eq!(cpus_of(&two), [1, 2]);
    assert_eq!(pairs(&two), [(0, 1), (1, 0)], "each has its disk's");
    // Two disks with one CPU: the other reactor is anywhere else.
    let same = plan(&machine(1, 4, 2), &request(&[single("a", 3), single("b", 3)])).unwrap();
    assert_eq!(cpus_of(&same), [0, 3]);
}

#[test]
fn more_disks_than_cores_share_evenly_without_second_threads() {
    let disks: Vec<_> = (0..9).map(|index| disk(&index.to_string(), Some(index % 2))).collect();
    let plan = plan(&machine(2, 2, 2), &request(&disks)).unwrap();
    assert_eq!(cpus_of(&plan), [0, 1, 2, 3]);
    assert_eq!(loads(&plan), [3, 2, 2, 2]);
}

#[test]
fn a_node_with_disks_gets_a_reactor_before_another_gets_two() {
    let mut disks: Vec<_> = (0..20).map(|index| disk(&index.to_string(), Some(0))).collect();
    disks.push(disk("alone", Some(1)));
    let mut request = request(&disks);
    request.reactors = ReactorChoice::Count(2);
    let two = plan(&machine(2, 8, 1), &request).unwrap();
    assert_eq!(cpus_of(&two), [0, 8]);
    request.reactors = ReactorChoice::Count(4);
    let four = plan(&machine(2, 8, 1), &request).unwrap();
    assert_eq!(cpus_of(&four), [0, 1, 4, 8]);
}

#[test]
fn a_disk_far_from_all_reactors_is_noted() {
    let mut request = request(&[disk("far", Some(1))]);
    request.reactors = ReactorChoice::Cpus(vec![1, 0]);
    let plan = plan(&machine(2, 2, 1), &request).unwrap();
    assert_eq!(cpus_of(&plan), [1, 0], "the user's order");
    assert_eq!(plan.lanes[0].local, Locality::Remote);
    assert!(plan.notes[0].contains("far is on node 1, where there is no reactor"), "{plan}");
    assert!(plan.notes[1].contains("1 reactor(s) have no disk"), "{plan}");
    assert!(plan.to_string().contains("far(remote)"), "{plan}");
}

#[test]
fn lanes_overflow_to_other_nodes_and_say_so() {
    let mut wide = disk("wide", Some(0));
    wide.lanes = Some(3);
    let mut request = request(&[wide, disk("b", Some(1))]);
    request.reactors = ReactorChoice::Count(4);
    let plan = plan(&machine(2, 2, 1), &request).unwrap();
    let local: Vec<Locality> = plan.lanes.iter().map(|lane| lane.local).collect();
    use Locality::{Local, Remote};
    assert_eq!(local, [Local, Local, Remote, Local]);
    assert_eq!(pairs(&plan)[2], (0, 3), "the overflow goes to the reactor that is still free");
    assert!(plan.notes[0].contains("1 of 3 lanes are away from its node 0"), "{plan}");
}

#[test]
fn disks_without_a_node_are_spread_and_noted() {
    let disks: Vec<_> = (0..6).map(|index| disk(&index.to_string(), None)).collect();
    let mut request = request(&disks);
    request.reactors = ReactorChoice::Count(4);
    let plan = plan(&machine(2, 4, 1), &request).unwrap();
    assert_eq!(cpus_of(&plan), [0, 2, 4, 6]);
    assert_eq!(loads(&plan), [2, 2, 1, 1]);
    assert!(plan.lanes.iter().all(|lane| lane.local == Locality::Unknown));
    assert!(plan.notes[0].starts_with("The platform does not say"), "{plan}");
}

#[test]
fn no_disks_is_one_idle_reactor() {
    let plan = plan(&machine(1, 2, 1), &PlacementRequest::default()).unwrap();
    assert_eq!((plan.reactors.len(), plan.lanes.len(), plan.notes.len()), (1, 0, 0));
}

#[test]
fn all_threads_are_used_after_all_cores() {
    let mut request = PlacementRequest {
        hardware_threads: HardwareThreads::All,
        reactors: ReactorChoice::Count(2),
        ..PlacementRequest::default()
    };
    assert_eq!(cpus_of(&plan(&machine(1, 2, 2), &request).unwrap()), [0, 1]);
    request.reactors = ReactorChoice::Count(3);
    let three = plan(&machine(1, 2, 2), &request).unwrap();
    assert_eq!(cpus_of(&three), [0, 1, 2]);
    assert!(three.notes[0].contains("CPUs 0,2 are threads of one core"), "{three}");
}

#[test]
fn what_cannot_be_done_is_refused_with_the_numbers() {
    let topology = machine(1, 2, 2);
    let refused = |change: &dyn Fn(&mut PlacementRequest)| {
        let mut request = request(&[disk("a", Some(0))]);
        change(&mut request);
        plan(&topology, &request).unwrap_err().to_string()
    };
    let listed = |cpus: &[u32]| {
        let cpus = cpus.to_vec();
        refused(&move |request| request.reactors = ReactorChoice::Cpus(cpus.clone()))
    };
    assert_eq!(
        listed(&[0, 9]),
        "CPU 9 does not exist or may not be used by this process; usable are 0-3"
    );
    assert!(listed(&[1, 1]).contains("CPU 1 is listed twice"));
    assert!(listed(&[]).contains("at least one reactor"));
    let count = |asked| refused(&move |request| request.reactors = ReactorChoice::Count(asked));
    assert!(count(3).contains("3 reactors do not fit: there are 2 usable cores"));
    assert!(count(0).contains("at least one reactor"));
    let lanes = |asked| refused(&move |request| request.disks[0].lanes = Some(asked));
    assert!(lanes(3).contains("disk a asks for 3 lanes, each on its own reactor, but there are 2"));
    assert!(lanes(0).contains("disk a asks for 0 lanes"));
    let twice = refused(&|request| request.disks.push(disk("a", None)));
    assert!(twice.contains("disk a is listed twice"));
    let error = plan(&Topology::default(), &PlacementRequest::default()).unwrap_err();
    assert_eq!(error, PlacementError::NoCpus);
}

/// Lanes per reactor.
fn loads(placement: &Placement) -> Vec<u32> {
    let mut loads = vec![0; placement.reactors.len()];
    for lane in &placement.lanes {
        loads[lane.reactor] += 1;
    }
    loads
}

/// What holds for every plan, whatever the machine and the request.
fn check_plan(
    topology: &Topology,
    request: &PlacementRequest,
    plan: &Placement,
) -> Result<(), TestCaseError> {
    let usable: BTreeSet<u32> = topology.cpus().into_iter().collect();
    let taken: BTreeSet<u32> = cpus_of(plan).into_iter().collect();
    prop_assert_eq!(taken.len(), plan.reactors.len(), "two reactors on one CPU");
    prop_assert!(taken.is_subset(&usable));
    let mut wanted = Vec::new();
    for (index, disk) in request.disks.iter().enumerate() {
        wanted.extend((0..disk.lanes.unwrap_or(1)).map(|lane| (index, lane)));
        let own = || plan.lanes.iter().filter(move |lane| lane.disk == index);
        let distinct: BTreeSet<usize> = own().map(|lane| lane.reactor).collect();
        prop_assert_eq!(distinct.len(), own().count(), "two lanes of a disk on one reactor");
        let node = disk.node.or_else(|| topology.node_of_disk(&disk.name));
        let near = plan.reactors.iter().filter(|at| node.is_some() && at.node == node).count();
        let local = own().filter(|lane| lane.local == Locality::Local).count();
        prop_assert_eq!(local, near.min(own().count()), "a lane is needlessly away");
    }
    let placed: Vec<(usize, u32)> = plan.lanes.iter().map(|lane| (lane.disk, lane.lane)).collect();
    prop_assert_eq!(placed, wanted, "each lane once, in order");
    check_balance(topology, request, plan)
}

/// Reactors of one node differ by at most one in the local lanes they have; when no disk has a
/// place, or there is one node, all reactors differ by at most one in all their lanes.
fn check_balance(
    topology: &Topology,
    request: &PlacementRequest,
    plan: &Placement,
) -> Result<(), TestCaseError> {
    let mut local: BTreeMap<Option<u32>, Vec<u32>> = BTreeMap::new();
    for (index, reactor) in plan.reactors.iter().enumerate() {
        let own = plan.lanes.iter().filter(|lane| lane.reactor == index);
        let count = own.filter(|lane| lane.local == Locality::Local).count();
        local.entry(reactor.node).or_default().push(count as u32);
    }
    for loads in local.values() {
        prop_assert!(spread(loads) <= 1, "{loads:?}\n{plan}");
    }
    let node = |disk: &DiskRequest| disk.node.or_else(|| topology.node_of_disk(&disk.name));
    if topology.nodes.len() <= 1 || request.disks.iter().all(|disk| node(disk).is_none()) {
        prop_assert!(spread(&loads(plan)) <= 1, "{plan}");
    }
    Ok(())
}

fn spread(loads: &[u32]) -> u32 {
    loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0)
}

fn any_request() -> impl Strategy<Value = (Topology, PlacementRequest)> {
    let shape = (1u32..=4, 1u32..=6, 1u32..=2);
    let disks = proptest::collection::vec((proptest::option::of(0u32..5), 1u32..=4), 0..14);
    let reactors = prop_oneof![
        Just(ReactorChoice::Auto),
        (1u32..=24).prop_map(ReactorChoice::Count),
        proptest::collection::hash_set(0u32..24, 1..8)
            .prop_map(|cpus| ReactorChoice::Cpus(cpus.into_iter().collect())),
    ];
    (shape, disks, reactors, any::<bool>()).prop_map(
        |((nodes, cores, threads), disks, reactors, all)| {
            let disks = disks.into_iter().enumerate().map(|(index, (node, lanes))| DiskRequest {
                name: format!("disk{index}"),
                node: node.filter(|node| nodes > 1 || *node == 0),
                lanes: Some(lanes).filter(|lanes| *lanes > 1),
                ..DiskRequest::default()
            });
            let hardware_threads =
                if all { HardwareThreads::All } else { HardwareThreads::OnePerCore };
            let request = PlacementRequest { disks: disks.collect(), reactors, hardware_threads };
            (machine(nodes, cores, threads), request)
        },
    )
}

proptest! {
    #[test]
    fn every_plan_obeys_the_rules((topology, request) in any_request()) {
        match plan(&topology, &request) {
            Ok(placement) => {
                check_plan(&topology, &request, &placement)?;
                prop_assert_eq!(&plan(&topology, &request).unwrap(), &placement);
                if let ReactorChoice::Cpus(cpus) = &request.reactors {
                    prop_assert_eq!(&cpus_of(&placement), cpus);
                }
            }
            Err(error) => {
                let lanes = request.disks.iter().map(|disk| disk.lanes.unwrap_or(1)).max();
                let is_due = match (&error, &request.reactors) {
                    (PlacementError::TooManyReactors { asked, available, .. }, _) => {
                        asked > available
                    }
                    (PlacementError::TooManyLanes { reactors, .. }, _) => lanes > Some(*reactors),
                    (PlacementError::UnknownCpu { cpu, .. }, ReactorChoice::Cpus(_)) => {
                        topology.core_of(*cpu).is_none()
                    }
                    _ => false,
                };
                prop_assert!(is_due, "{error}");
            }
        }
    }
}

fn recorded(name: &str) -> Topology {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/topologies");
    Topology::from_xml_file(&folder.join(name)).unwrap()
}

/// All disks of a topology whose name begins so.
fn disks_named(topology: &Topology, prefix: &str) -> PlacementRequest {
    let names = topology.disks.keys().filter(|name| name.starts_with(prefix));
    request(&names.map(|name| disk(name, None)).collect::<Vec<_>>())
}

/// The name, how many packages, nodes, usable cores and threads, and how many NVMe disks.
const RECORDED: [(&str, u32, usize, usize, usize, usize); 9] = [
    ("firecracker-2c.xml", 1, 1, 2, 2, 0),
    ("opteron-8n16c-cpuset.xml", 8, 8, 10, 10, 0),
    ("opteron-8n32c-cgroup2.xml", 4, 8, 6, 6, 0),
    ("qemu-2s4c-4nvme.xml", 2, 2, 4, 4, 4),
    ("qemu-2s128c-24nvme.xml", 2, 2, 128, 128, 24),
    ("qemu-2s4c-4nvme-no-node.xml", 2, 2, 4, 4, 4),
    ("synthetic-2s128c-24nvme.xml", 2, 2, 128, 256, 24),
    ("xeon-2s16c-nvme-sda-pmem.xml", 2, 2, 16, 16, 1),
    ("xeon-4n40c-sda.xml", 4, 4, 40, 40, 0),
];

#[test]
fn every_recorded_machine_is_read_and_plans_obey_the_rules() {
    for (name, packages, nodes, cores, threads, nvme) in RECORDED {
        let topology = recorded(name);
        let seen = (
            topology.packages,
            topology.nodes.len(),
            topology.cores.len(),
            topology.cpus().len(),
            disks_named(&topology, "nvme").disks.len(),
        );
        assert_eq!(seen, (packages, nodes, cores, threads, nvme), "{name}");
        for lanes in [1, 2] {
            for reactors in [ReactorChoice::Auto, ReactorChoice::Count(2)] {
                let mut request = disks_named(&topology, "");
                request.reactors = reactors;
                for disk in &mut request.disks {
                    disk.lanes = Some(lanes);
                }
                if request.disks.is_empty() && lanes == 2 {
                    continue;
                }
                let placement = plan(&topology, &request).unwrap();
                check_plan(&topology, &request, &placement).unwrap();
            }
        }
    }
}

#[test]
fn four_nvme_disks_on_two_nodes_are_all_local() {
    let topology = recorded("qemu-2s4c-4nvme.xml");
    let nodes: Vec<Option<u32>> =
        topology.disk_names_in_order().iter().map(|name| topology.node_of_disk(name)).collect();
    // The order in which the kernel found the controllers.
    assert_eq!(nodes, [Some(1), Some(1), Some(0), Some(0)]);
    let four = plan(&topology, &disks_named(&topology, "nvme")).unwrap();
    assert_eq!(cpus_of(&four), [0, 1, 2, 3]);
    assert_eq!(pairs(&four), [(0, 2), (1, 3), (2, 0), (3, 1)]);
    assert!(four.lanes.iter().all(|lane| lane.local == Locality::Local));
    assert_eq!(four.notes, [] as [&str; 0]);
    let mut request = disks_named(&topology, "nvme");
    request.reactors = ReactorChoice::Count(2);
    let two = plan(&topology, &request).unwrap();
    assert_eq!((cpus_of(&two), loads(&two)), (vec![0, 2], vec![2, 2]));
    assert!(two.lanes.iter().all(|lane| lane.local == Locality::Local));
}

#[test]
fn big_servers_use_first_threads_near_their_disks() {
    for name in ["qemu-2s128c-24nvme.xml", "synthetic-2s128c-24nvme.xml"] {
        let topology = recorded(name);
        let first_threads: BTreeSet<u32> = topology.cores.iter().map(|core| core.cpus[0]).collect();
        let all_local = |plan: &Placement| {
            assert!(plan.reactors.iter().all(|slot| first_threads.contains(&slot.cpu)), "{plan}");
            assert!(plan.lanes.iter().all(|lane| lane.local == Locality::Local), "{plan}");
        };
        let mut request = disks_named(&topology, "nvme");
        let auto = plan(&topology, &request).unwrap();
        all_local(&auto);
        assert_eq!(loads(&auto), [1; 24]);
        request.reactors = ReactorChoice::Count(16);
        let sixteen = plan(&topology, &request).unwrap();
        all_local(&sixteen);
        assert_eq!(sixteen.reactors.iter().filter(|slot| slot.node == Some(0)).count(), 8);
        for disk in &mut request.disks {
            disk.lanes = Some(4);
        }
        request.reactors = ReactorChoice::Auto;
        let wide = plan(&topology, &request).unwrap();
        all_local(&wide);
        assert_eq!((wide.reactors.len(), wide.lanes.len()), (96, 96));
    }
}

#[test]
fn a_container_keeps_to_its_cores() {
    let topology = recorded("opteron-8n32c-cgroup2.xml");
    assert_eq!(topology.cpus(), [0, 1, 2, 3, 4, 5]);
    let topology = recorded("opteron-8n16c-cpuset.xml");
    assert_eq!(topology.cpus(), [0, 1, 2, 3, 5, 6, 12, 13, 14, 15]);
    assert_eq!(topology.nodes[4].cpus, [] as [u32; 0], "a node without usable CPUs is kept");
    let mut request = request(&[disk("here", Some(6)), disk("there", Some(4))]);
    let placed = plan(&topology, &request).unwrap();
    assert_eq!(cpus_of(&placed), [12, 13], "near the disk that has a usable node");
    assert!(placed.notes[0].contains("there is on node 4, where there is no reactor"), "{placed}");
    request.reactors = ReactorChoice::Cpus(vec![4]);
    let error = plan(&topology, &request).unwrap_err().to_string();
    assert!(error.ends_with("usable are 0-3,5-6,12-15"), "{error}");
}

#[test]
fn a_server_that_does_not_place_its_disks_spreads_them() {
    let topology = recorded("xeon-4n40c-sda.xml");
    assert_eq!(topology.disks.get("sda"), Some(&None));
    let placed = plan(&topology, &disks_named(&topology, "s")).unwrap();
    assert_eq!(cpus_of(&placed), [0, 1], "node numbers alternate over CPUs here");
    assert!(placed.lanes.iter().all(|lane| lane.local == Locality::Unknown));
    assert!(placed.notes[0].starts_with("The platform does not say"), "{placed}");
    let topology = recorded("qemu-2s4c-4nvme-no-node.xml");
    let mut request = disks_named(&topology, "nvme");
    request.reactors = ReactorChoice::Count(3);
    let placed = plan(&topology, &request).unwrap();
    assert_eq!((cpus_of(&placed), loads(&placed)), (vec![0, 1, 2], vec![2, 1, 1]));
    assert!(placed.lanes.iter().all(|lane| lane.local == Locality::Unknown));
}
