//! `dynamicfs inspect`: what lies on a disk of a pool, decoded. Nothing is written, and what is
//! damaged is shown as far as it can be read.

mod show;
mod views;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use dynamicfs::check::domain::DomainView;
use dynamicfs::check::label::LabelView;
use dynamicfs::check::report::{Findings, Severity};
use dynamicfs::check::{Image, read_members};
use dynamicfs::format::label::Label;
use dynamicfs::machine::device::Exclusive;

use self::show::Shown;
use super::check::Disks;
use super::{Exit, Failure, Report};

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    #[command(subcommand)]
    what: What,
}

/// Which disk, and how to show it.
#[derive(Debug, Args)]
struct Target {
    /// The disk or file of the pool.
    #[arg(value_name = "DEV|FILE")]
    device: PathBuf,
    /// Another disk of the pool; repeatable. What lies on a disk that is not named is not shown.
    #[arg(long = "disk", value_name = "DEV|FILE")]
    disks: Vec<PathBuf>,
    /// The commit domain.
    #[arg(long, value_name = "D", default_value_t = 0)]
    domain: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The four copies of the label.
    Labels {
        #[command(flatten)]
        target: Target,
    },
    /// Every record of a domain's journal.
    Journal {
        #[command(flatten)]
        target: Target,
    },
    /// One record: its head, and what it changes.
    Record {
        /// Its sequence.
        #[arg(value_name = "N")]
        sequence: u64,
        #[command(flatten)]
        target: Target,
    },
    /// The pages of the newest durable checkpoint.
    Pages {
        #[command(flatten)]
        target: Target,
    },
    /// One page of level 0: its inodes, or its groups of extents.
    Page {
        /// Its number.
        #[arg(value_name = "N")]
        number: u32,
        #[command(flatten)]
        target: Target,
    },
    /// An inode and its extents; its id says which domain.
    Inode {
        /// Its id.
        #[arg(value_name = "ID")]
        id: u64,
        #[command(flatten)]
        target: Target,
    },
    /// Every block of an extent.
    Extent {
        /// Its inode.
        #[arg(value_name = "INODE")]
        inode: u64,
        /// Its index.
        #[arg(value_name = "INDEX")]
        index: u64,
        #[command(flatten)]
        target: Target,
    },
}

impl What {
    fn target(&self) -> &Target {
        match self {
            What::Labels { target }
            | What::Journal { target }
            | What::Record { target, .. }
            | What::Pages { target }
            | What::Page { target, .. }
            | What::Inode { target, .. }
            | What::Extent { target, .. } => target,
        }
    }

    /// The domain that it is about.
    fn domain(&self, label: &Label) -> u16 {
        let domains = u64::from(label.layout.domains());
        match self {
            What::Inode { id, .. } => (id % domains) as u16,
            What::Extent { inode, .. } => (inode % domains) as u16,
            _ => self.target().domain,
        }
    }
}

pub(crate) fn run(arguments: &InspectArguments) -> Result<Report, Failure> {
    let target = arguments.what.target();
    let disks: Vec<PathBuf> = [&target.device].into_iter().chain(&target.disks).cloned().collect();
    Disks::open(&disks, Exclusive::No)?.look(|image| look(image, &arguments.what))
}

fn look(image: &mut Image<'_>, what: &What) -> Result<Report, Failure> {
    let labels = LabelView::read(image, 0);
    let json = what.target().json;
    if let What::Labels { .. } = what {
        return views::labels(&labels).report(json);
    }
    let path = what.target().device.display();
    let none = || {
        let message = format!("{path}: no label that two copies agree on");
        let help = Some("`dynamicfs inspect labels` shows each copy".to_owned());
        Failure { exit: Exit::Device, message, help }
    };
    labels.label().ok_or_else(none)?;
    let mut findings = Findings::default();
    let members = read_members(image, &mut findings).ok_or_else(none)?;
    let label = members.label();
    let (domain, domains) = (what.domain(label), label.layout.domains());
    if domain >= domains {
        let message = format!("domain {domain} of a pool that has {domains}");
        return Err(Failure::new(Exit::Usage, message));
    }
    let view = DomainView::read(image, &members, domain, &mut findings);
    let shown = show(image, what, &view).map_err(|missing| why(missing, &findings))?;
    shown.report(json)
}

fn show(image: &mut Image<'_>, what: &What, view: &DomainView) -> Result<Shown, String> {
    match what {
        What::Labels { .. } => unreachable!("labels need no domain"),
        What::Journal { .. } => Ok(views::journal(&view.journal)),
        What::Record { sequence, .. } => views::record(image, &view.journal, *sequence),
        What::Pages { .. } => Ok(views::pages(&view.tree)),
        What::Page { number, .. } => views::page(&view.tree, *number),
        What::Inode { id, .. } => views::inode(&view.state, *id),
        What::Extent { inode, index, .. } => views::extent(&view.state, (*inode, *index)),
    }
}

/// What is not there may be so because something else is damaged.
fn why(missing: String, findings: &Findings) -> Failure {
    let error = findings.list().iter().find(|finding| finding.severity == Severity::Error);
    let help = error.map(|error| format!("the pool is damaged: {error}"));
    Failure { exit: Exit::Runtime, message: missing, help }
}
