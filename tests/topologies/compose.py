#!/usr/bin/env python3
"""Puts NVMe disks into a synthetic hwloc topology, because `lstopo` synthesizes no I/O objects.

Usage: compose.py IN.xml OUT.xml DISKS_PER_NODE

IN.xml is from `lstopo --input "pack:2 [numa] core:64 pu:2" --of xml`. To each package a host bridge
is added with DISKS_PER_NODE root ports, and below each an NVMe controller with its block device.
Disk names count through the packages: nvme0n1 ... on the first.
"""

import sys
import xml.etree.ElementTree as ET


def bridge(parent, index, kind, attributes):
    return ET.SubElement(
        parent, "object", type="Bridge", gp_index=str(index), bridge_type=kind, **attributes
    )


def add_disks(package, bus, first_disk, count, index):
    """Adds `count` disks to `package` on PCI buses from `bus`; returns the next free gp_index."""
    host = bridge(
        package, index, "0-1",
        {"depth": "0", "bridge_pci": f"0000:[{bus:02x}-{bus + count:02x}]"},
    )
    index += 1
    for port in range(count):
        below = bus + 1 + port
        root_port = bridge(
            host, index, "1-1",
            {
                "depth": "1",
                "bridge_pci": f"0000:[{below:02x}-{below:02x}]",
                "pci_busid": f"0000:{bus:02x}:{port:02x}.0",
                "pci_type": "0604 [1b36:000c] [0000:0000] 00",
                "pci_link_speed": "7.876923",
            },
        )
        controller = ET.SubElement(
            root_port, "object", type="PCIDev", gp_index=str(index + 1),
            pci_busid=f"0000:{below:02x}:00.0", pci_type="0108 [1b36:0010] [1af4:1100] 02",
            pci_link_speed="7.876923",
        )
        disk = ET.SubElement(
            controller, "object", type="OSDev", gp_index=str(index + 2),
            name=f"nvme{first_disk + port}n1", subtype="Disk", osdev_type="0",
        )
        ET.SubElement(disk, "info", name="Size", value="3750738264")
        ET.SubElement(disk, "info", name="SectorSize", value="512")
        index += 3
    return index


def main():
    source, target, per_node = sys.argv[1], sys.argv[2], int(sys.argv[3])
    tree = ET.parse(source)
    index = 1 + max(int(node.get("gp_index", "0")) for node in tree.iter("object"))
    packages = [node for node in tree.iter("object") if node.get("type") == "Package"]
    for position, package in enumerate(packages):
        index = add_disks(package, 0x20 + 0x40 * position, position * per_node, per_node, index)
    with open(target, "wb") as out:
        out.write(b'<?xml version="1.0" encoding="UTF-8"?>\n')
        out.write(b'<!DOCTYPE topology SYSTEM "hwloc2.dtd">\n')
        tree.write(out, encoding="UTF-8")
        out.write(b"\n")


if __name__ == "__main__":
    main()
