//! Short rounds in which everybody has a turn.

use crate::bench::statistics::median;
use anyhow::Result;
use serde::Serialize;
use std::time::Duration;

/// How the turns are laid out.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Plan {
    /// Rounds; in each everybody has one turn.
    pub rounds: usize,
    /// How long the runs of a turn shall take together.
    #[serde(rename = "turn_ms", serialize_with = "milliseconds")]
    pub turn: Duration,
}

fn milliseconds<S: serde::Serializer>(turn: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(turn.as_secs_f64() * 1e3)
}

/// Runs of a turn: at least and at most.
const RUNS: [usize; 2] = [2, 2000];
/// Runs of the two turns that do not count; the second one tells how long a run takes.
const WARM_UP: [usize; 2] = [2, 3];

/// Nanoseconds of so many runs, after one that does not count.
pub type Turn<'a> = Box<dyn FnMut(usize) -> Result<Vec<u64>> + 'a>;

/// Milliseconds of each round, the median of its runs; or why there are none.
pub type Rounds = Result<Vec<f64>>;

/// Lets everybody run by turns; the order is rotated from round to round. Who fails is left out from then on.
pub fn alternate(sides: Vec<Turn<'_>>, plan: Plan) -> Vec<Rounds> {
    let mut sides: Vec<Side<'_>> = sides.into_iter().map(|turn| Side::warm_up(turn, plan.turn)).collect();
    for round in 0..plan.rounds {
        for i in 0..sides.len() {
            let at = (round + i) % sides.len();
            sides[at].turn();
        }
    }
    sides.into_iter().map(|s| s.rounds).collect()
}

struct Side<'a> {
    turn: Turn<'a>,
    /// Runs in a turn.
    runs: usize,
    rounds: Rounds,
}

impl<'a> Side<'a> {
    fn warm_up(mut turn: Turn<'a>, wanted: Duration) -> Side<'a> {
        let mut taken = Ok(Vec::new());
        for runs in WARM_UP {
            taken = taken.and_then(|_| turn(runs));
        }
        match taken {
            Ok(ns) => Side { turn, runs: runs(&ns, wanted), rounds: Ok(Vec::new()) },
            Err(error) => Side { turn, runs: 0, rounds: Err(error) },
        }
    }

    fn turn(&mut self) {
        let Ok(rounds) = &mut self.rounds else { return };
        match (self.turn)(self.runs) {
            Ok(ns) => rounds.push(median(&ns.iter().map(|&t| t as f64 / 1e6).collect::<Vec<_>>())),
            Err(error) => self.rounds = Err(error),
        }
    }
}

/// How many runs fit into a turn, from the times of a few.
fn runs(ns: &[u64], wanted: Duration) -> usize {
    let fastest = ns.iter().copied().min().unwrap_or(u64::MAX).max(1);
    let fit = wanted.as_nanos() / u128::from(fastest);
    usize::try_from(fit).unwrap_or(RUNS[1]).clamp(RUNS[0], RUNS[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::cell::RefCell;

    const PLAN: Plan = Plan { rounds: 4, turn: Duration::from_millis(10) };

    #[test]
    fn everybody_has_a_turn_in_each_round_and_the_order_rotates() {
        let order = RefCell::new(String::new());
        let side = |name: char, ns: u64| -> Turn<'_> {
            let order = &order;
            Box::new(move |runs| {
                order.borrow_mut().push(name);
                Ok(vec![ns; runs])
            })
        };
        let rounds = alternate(vec![side('a', 1_000_000), side('b', 3_000_000), side('c', 2_000_000)], PLAN);
        // two turns each to warm up
        assert_eq!(order.borrow().as_str(), "aabbccabcbcacababc");
        let figures: Vec<Vec<f64>> = rounds.into_iter().map(Result::unwrap).collect();
        assert_eq!(figures, [vec![1.0; 4], vec![3.0; 4], vec![2.0; 4]]);
    }

    #[test]
    fn who_fails_is_left_out_and_the_others_go_on() {
        let calls = RefCell::new(0);
        let failing: Turn<'_> = Box::new(|runs| {
            *calls.borrow_mut() += 1;
            if *calls.borrow() == 4 { bail!("tired") } else { Ok(vec![1; runs]) }
        });
        let steady: Turn<'_> = Box::new(|runs| Ok(vec![2; runs]));
        let never: Turn<'_> = Box::new(|_| bail!("no"));
        let rounds = alternate(vec![failing, steady, never], PLAN);
        assert_eq!(rounds[0].as_ref().unwrap_err().to_string(), "tired");
        assert_eq!(rounds[1].as_ref().unwrap().len(), PLAN.rounds);
        assert!(rounds[2].is_err());
        assert_eq!(*calls.borrow(), 4);
    }

    #[test]
    fn as_many_runs_as_fit() {
        assert_eq!(runs(&[5_000_000, 2_000_000], PLAN.turn), 5);
        assert_eq!(runs(&[300_000_000], PLAN.turn), 2);
        assert_eq!(runs(&[0], PLAN.turn), 2000);
    }
}
