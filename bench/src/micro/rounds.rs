//! Turns, medians and ratios.
//!
//! A [`Subject`] runs for a window and returns one number per [`Figure`] of its case; the first
//! figure is the one compared. A number that does not exist for a subject is NaN, and stays so.

use std::time::Duration;

use serde::Serialize;

use super::Options;
use crate::compare::median;

/// Whether a subject is the code under test or what it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// dynamicfs.
    Ours,
    /// Somebody else's code.
    Rival,
}

/// Which of two figures is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// A rate.
    Higher,
    /// A time.
    Lower,
}

/// One number that a case measures.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figure {
    /// Name with unit, as the table's head shows it: `ns/pair`.
    pub name: &'static str,
    /// Which way is better.
    pub better: Better,
    /// Digits after the point.
    pub digits: usize,
}

impl Figure {
    /// A time, printed with one digit after the point.
    #[must_use]
    pub const fn time(name: &'static str) -> Figure {
        Figure { name, better: Better::Lower, digits: 1 }
    }

    /// A rate or a share, printed with `digits` after the point.
    #[must_use]
    pub const fn rate(name: &'static str, digits: usize) -> Figure {
        Figure { name, better: Better::Higher, digits }
    }
}

/// One participant of a case.
pub struct Subject<'a> {
    /// Name in the table.
    pub name: &'static str,
    /// Ours or a rival.
    pub side: Side,
    run: Box<dyn FnMut(Duration) -> Vec<f64> + 'a>,
}

impl<'a> Subject<'a> {
    /// A subject whose turn is `run`: it is told for how long, and returns the case's figures.
    pub fn new(
        name: &'static str,
        side: Side,
        run: impl FnMut(Duration) -> Vec<f64> + 'a,
    ) -> Subject<'a> {
        Subject { name, side, run: Box::new(run) }
    }
}

/// What is measured under one name.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    /// Parts of the name joined by `/`: what `--only` looks at.
    pub name: String,
    /// What every subject returns, the compared figure first.
    pub figures: Vec<Figure>,
}

/// What one subject came to in one case.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Name of the subject.
    pub subject: &'static str,
    /// Ours or a rival.
    pub side: Side,
    /// Medians over the rounds, one per figure of the case.
    pub medians: Vec<f64>,
    /// How many times better than the best rival (where there are none, than the best of all),
    /// round by round; above one is better. For the best itself it is one.
    pub ratio: Spread,
    /// The compared figure of every round, so that a report can be worked out again.
    pub rounds: Vec<f64>,
}

/// A median with the least and the greatest of what it was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Spread {
        Spread {
            median: median(values.clone()),
            min: values.clone().fold(f64::NAN, f64::min),
            max: values.fold(f64::NAN, f64::max),
        }
    }
}

impl Case {
    /// A case of this name.
    #[must_use]
    pub fn new(name: String, figures: &[Figure]) -> Case {
        Case { name, figures: figures.to_vec() }
    }

    /// Gives every subject its turn in every round, and sums up.
    ///
    /// # Panics
    /// When a subject returns another number of figures than the case has: a bug of the bench.
    #[must_use]
    pub fn measure(&self, subjects: &mut [Subject<'_>], options: &Options) -> Vec<Row> {
        let count = subjects.len();
        // Subject, round, figure.
        let mut seen: Vec<Vec<Vec<f64>>> = vec![Vec::new(); count];
        for round in 0..options.rounds {
            for turn in 0..count {
                let index = (round + turn) % count;
                let figures = (subjects[index].run)(options.window);
                assert_eq!(figures.len(), self.figures.len(), "figures of {}", self.name);
                seen[index].push(figures);
            }
        }
        let compared = |index: usize| seen[index].iter().map(|figures| figures[0]);
        let better = self.figures[0].better;
        let measured_by = measured_by(subjects);
        let among = (0..count).filter(|index| subjects[*index].side == measured_by);
        let best = best_of(among.map(|index| (index, median(compared(index)))), better);
        let rows = subjects.iter().enumerate().map(|(index, subject)| Row {
            subject: subject.name,
            side: subject.side,
            medians: (0..self.figures.len())
                .map(|figure| median(seen[index].iter().map(|figures| figures[figure])))
                .collect(),
            ratio: Spread::of(compared(index).zip(compared(best.unwrap_or(index))).map(
                |(own, rival)| match better {
                    Better::Higher => own / rival,
                    Better::Lower => rival / own,
                },
            )),
            rounds: compared(index).collect(),
        });
        rows.collect()
    }
}

/// Whose best the ratios are taken to: the rivals', if there are any.
pub(super) fn measured_by(subjects: &[Subject<'_>]) -> Side {
    let rivals = subjects.iter().any(|subject| subject.side == Side::Rival);
    if rivals { Side::Rival } else { Side::Ours }
}

fn best_of(medians: impl Iterator<Item = (usize, f64)>, better: Better) -> Option<usize> {
    let order = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1);
    let best = match better {
        Better::Higher => medians.max_by(order),
        Better::Lower => medians.min_by(order),
    };
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(rounds: usize) -> Options {
        Options {
            rounds,
            window: Duration::from_millis(1),
            only: None,
            quick: false,
            json: false,
            bench: false,
        }
    }

    fn scripted<'a>(name: &'static str, side: Side, values: &'a [f64]) -> Subject<'a> {
        let mut values = values.iter().copied();
        Subject::new(name, side, move |_| vec![values.next().unwrap()])
    }

    #[test]
    fn a_ratio_is_taken_inside_its_round_and_against_the_best_rival() {
        // The machine is ten times slower in the second round: the ratio does not notice.
        let mut subjects = [
            scripted("slow", Side::Rival, &[30.0, 300.0, 30.0]),
            scripted("fast", Side::Rival, &[20.0, 200.0, 20.0]),
            scripted("ours", Side::Ours, &[10.0, 100.0, 5.0]),
        ];
        let case = Case::new("case".to_owned(), &[Figure::time("ns")]);
        let rows = case.measure(&mut subjects, &options(3));
        assert_eq!(rows[1].ratio, Spread { median: 1.0, min: 1.0, max: 1.0 });
        assert_eq!(rows[2].ratio, Spread { median: 2.0, min: 2.0, max: 4.0 });
        assert_eq!(rows[2].medians, [10.0]);
    }

    #[test]
    fn of_rates_the_higher_is_better() {
        let mut subjects = [
            scripted("slow", Side::Rival, &[1.0]),
            scripted("fast", Side::Rival, &[2.0]),
            scripted("ours", Side::Ours, &[3.0]),
        ];
        let case = Case::new("case".to_owned(), &[Figure::rate("ops/s", 0)]);
        let rows = case.measure(&mut subjects, &options(1));
        assert!((rows[2].ratio.median - 1.5).abs() < 1e-9);
        assert!((rows[0].ratio.median - 0.5).abs() < 1e-9);
    }

    #[test]
    fn without_rivals_the_best_of_all_is_the_measure() {
        let mut subjects =
            [scripted("16", Side::Ours, &[1.0, 2.0]), scripted("64", Side::Ours, &[2.0, 4.0])];
        let case = Case::new("case".to_owned(), &[Figure::rate("ops/s", 0)]);
        let rows = case.measure(&mut subjects, &options(2));
        assert!((rows[0].ratio.median - 0.5).abs() < 1e-9);
        assert!((rows[1].ratio.median - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_order_rotates() {
        let order = std::cell::RefCell::new(String::new());
        let subject = |name: &'static str| {
            Subject::new(name, Side::Rival, |_| {
                order.borrow_mut().push_str(name);
                vec![1.0]
            })
        };
        let mut subjects = [subject("a"), subject("b"), subject("c")];
        let case = Case::new("case".to_owned(), &[Figure::time("ns")]);
        assert_eq!(case.measure(&mut subjects, &options(3)).len(), 3);
        drop(subjects);
        assert_eq!(order.into_inner(), "abcbcacab");
    }
}
